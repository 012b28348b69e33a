"""The live cut-off: whatever is open for a session ends within two seconds of it, on the client's side and on the
application's, however the session ended; and no connection carries another request of it.
"""

from __future__ import annotations

import http.client
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect
from websockets.sync.server import serve

from harness import Account, Nullpass, bearer, call, create_api_token, free_port, register, rows
from wire_upstream import WireUpstream

# The promise is two seconds; a loaded machine may wake a thread late.
SECONDS = 4
WAIT = 15


@pytest.fixture(scope="module")
def upstream():
    with WireUpstream() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def server(upstream, start_module) -> Nullpass:
    """An application of HTTP and one of WebSockets, by path."""

    def talk(connection) -> None:
        try:
            for message in connection:
                connection.send(message)
        finally:
            upstream.gone.append(connection.request.path)

    port = free_port()
    with serve(talk, "127.0.0.1", port) as sockets:
        threading.Thread(target=sockets.serve_forever, daemon=True).start()
        yield start_module(config={"upstreams": [{"name": "app", "url": upstream.url}, {"name": "sockets", "url": f"http://127.0.0.1:{port}", "path": "/ws"}]})
        sockets.shutdown()


# --- What is open --------------------------------------------------------------------------------------------------


class Open:
    """Something that goes on; `wait` returns when, by the monotonic clock, the client saw its end."""

    def __init__(self, name: str):
        self.name = name

    def wait(self) -> float:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError


class WebSocket(Open):
    def __init__(self, server: Nullpass, token: str, name: str):
        super().__init__(f"/ws?id={name}")
        self.one = connect(server.url.replace("http", "ws") + self.name, additional_headers=bearer(token), proxy=None)
        self.one.send("open")
        assert self.one.recv(timeout=10) == "open"

    def wait(self) -> float:
        with pytest.raises(ConnectionClosed):
            self.one.recv(timeout=WAIT)
        return time.monotonic()

    def close(self) -> None:
        self.one.close()


class Down(Open):
    """A download: silent after its first event (`/hold`), or as fast as it goes (`/drip`)."""

    def __init__(self, server: Nullpass, token: str, path: str, name: str, http2: bool):
        super().__init__(f"{path}?id={name}")
        self.client = server.client(headers=bearer(token), timeout=WAIT, **({"http1": False, "http2": True} if http2 else {}))
        self.context = self.client.stream("GET", self.name)
        self.blocks = self.context.__enter__().iter_raw()
        assert next(self.blocks).startswith(b"data: first")

    def wait(self) -> float:
        # A cut answer must not look like a whole one: the end of a chunked body or of a stream would be a lie.
        with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
            deadline = time.monotonic() + WAIT
            for _ in self.blocks:
                assert time.monotonic() < deadline, f"{self.name} went on"
        return time.monotonic()

    def close(self) -> None:
        self.client.close()


class Up(Open):
    """An upload that sends a little every now and then."""

    def __init__(self, server: Nullpass, token: str, name: str):
        super().__init__(f"/upload-hold?id={name}")
        self.socket = socket.create_connection(("127.0.0.1", server.port), timeout=WAIT)
        self.socket.sendall(f"PUT {self.name} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nContent-Length: 1000000000\r\n\r\n".encode() + b"x" * 1000)

    def wait(self) -> float:
        deadline = time.monotonic() + WAIT
        self.socket.settimeout(0.1)
        while time.monotonic() < deadline:
            try:
                self.socket.sendall(b"x" * 1000)
                answer = self.socket.recv(4096)
            except TimeoutError:
                continue
            except OSError:
                return time.monotonic()
            # Either an answer that says no, or the end.
            assert answer == b"" or answer.startswith(b"HTTP/1.1 4"), answer
            return time.monotonic()
        raise AssertionError("the upload went on")

    def close(self) -> None:
        self.socket.close()


def open_everything(server: Nullpass, token: str, name: str) -> list[Open]:
    return [
        WebSocket(server, token, name),
        Down(server, token, "/hold", f"{name}-h1", False),
        Down(server, token, "/hold", f"{name}-h2", True),
        Down(server, token, "/drip", f"{name}-h1", False),
        Down(server, token, "/drip", f"{name}-h2", True),
        Up(server, token, name),
    ]


# --- How a session ends --------------------------------------------------------------------------------------------


def logout(server: Nullpass, account: Account) -> None:
    call(server, "POST", "/auth/logout", token=account.token)


def revoke(server: Nullpass, account: Account) -> None:
    (session,) = rows(server.cli("session", "list", account.email, "--json").stdout)
    server.cli("session", "revoke", session["id"])


def disable(server: Nullpass, account: Account) -> None:
    server.cli("user", "disable", account.email)


def change_password(server: Nullpass, account: Account) -> None:
    call(server, "POST", "/auth/password", {"currentPassword": account.password, "newPassword": "Brand-new-Orchard-19"}, token=account.token, expect=200)


def end_all(server: Nullpass, account: Account) -> None:
    call(server, "DELETE", "/auth/sessions", token=account.token)


def delete(server: Nullpass, account: Account) -> None:
    call(server, "DELETE", "/auth/me", {"password": account.password}, token=account.token)


@pytest.mark.parametrize("end", [logout, revoke, disable, change_password, end_all, delete], ids=lambda f: f.__name__)
def test_everything_that_is_open_ends_with_its_session(server, upstream, end):
    account, other = register(server, "ada"), register(server, "bob")
    name = f"{end.__name__}-{account.id[-6:]}"
    bystander = WebSocket(server, other.token, f"other-{name}")
    opened = open_everything(server, account.token, name)
    try:
        with ThreadPoolExecutor(len(opened)) as pool:
            waits = [pool.submit(one.wait) for one in opened]
            time.sleep(0.3)
            assert not any(w.done() for w in waits), [one.name for one, w in zip(opened, waits, strict=True) if w.done()]
            end(server, account)
            ended = time.monotonic()
            late = {one.name: round(w.result() - ended, 2) for one, w in zip(opened, waits, strict=True)}
        assert max(late.values()) < SECONDS, late
        deadline = time.monotonic() + SECONDS
        while (still := {one.name for one in opened} - set(upstream.gone)) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not still, "the application still has these"
        # Nobody else notices.
        bystander.one.send("still here")
        assert bystander.one.recv(timeout=10) == "still here"
    finally:
        bystander.close()
        for one in opened:
            one.close()


def test_everything_that_is_open_ends_with_its_api_token(server):
    account = register(server, "grace")
    made = create_api_token(server, account)
    opened = open_everything(server, made["token"], f"token-{account.id[-6:]}")
    try:
        with ThreadPoolExecutor(len(opened)) as pool:
            waits = [pool.submit(one.wait) for one in opened]
            call(server, "DELETE", "/auth/tokens", token=account.token, params={"id": made["id"]})
            ended = time.monotonic()
            late = {one.name: round(w.result() - ended, 2) for one, w in zip(opened, waits, strict=True)}
        assert max(late.values()) < SECONDS, late
    finally:
        for one in opened:
            one.close()


@pytest.mark.parametrize("end", [logout, revoke, disable, change_password], ids=lambda f: f.__name__)
def test_an_idle_connection_carries_no_next_request(server, upstream, end):
    """The same connection, on purpose: what it was good for counts for nothing."""
    account = register(server, "joan")
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    with server.client(http1=False, http2=True, headers=account.bearer) as h2:

        def ask() -> int:
            connection.request("GET", "/echo", headers=account.bearer)
            answer = connection.getresponse()
            answer.read()
            return answer.status

        assert (ask(), h2.get("/echo").status_code) == (200, 200)
        here = connection.sock.getsockname()
        end(server, account)
        arrived = len(upstream.received)
        assert connection.sock.getsockname() == here
        assert (ask(), h2.get("/echo").status_code) == (401, 401)
        assert len(upstream.received) == arrived
    connection.close()


def test_requests_that_were_pipelined_before_the_end_are_refused_after_it(server, upstream):
    """A slow answer is on its way, the next request waits behind it, and then the session ends."""
    account = register(server, "mary")
    auth = f"Host: x\r\nAuthorization: Bearer {account.token}\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(f"GET /slow?seconds=1 HTTP/1.1\r\n{auth}\r\nGET /after-the-end HTTP/1.1\r\n{auth}Connection: close\r\n\r\n".encode())
        time.sleep(0.3)
        logout(server, account)
        answers = connection.makefile("rb").read()
    assert b"HTTP/1.1 401" in answers or answers.count(b"HTTP/1.1 ") <= 1, answers[:500]
    assert all(r.target != "/after-the-end" for r in upstream.received)


def test_nothing_of_all_this_is_left_open(server):
    """After everything above: no request, and no connection but the one that asks."""

    def open_now(name: str) -> float:
        text = httpx.get(f"{server.admin_url}/metrics", trust_env=False).text
        return float(next(line.split()[1] for line in text.splitlines() if line.startswith(f"nullpass_{name} ")))

    deadline = time.monotonic() + WAIT
    while (left := {name: open_now(name) for name in ("requests_in_flight", "connections")}) != {"requests_in_flight": 0, "connections": 0} and time.monotonic() < deadline:
        time.sleep(0.1)
    assert set(left.values()) == {0}, left
