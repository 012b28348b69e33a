"""What only one client can show: interim answers, trailers, pipelines, HTTP/1.0, CONNECT and TRACE, streams event by
event, load on many streams at once.
"""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import socket
import ssl
import subprocess
import threading
import time

import aiohttp
import h2.config
import h2.connection
import h2.events
import h11
import httpx
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect
from websockets.sync.server import serve

from clients import Authority, Curl, TlsNullpass
from harness import Account, Nullpass, clean_environment, free_port, register
from wire_upstream import WireUpstream

MIB = 1 << 20


@pytest.fixture(scope="module")
def upstream():
    with WireUpstream() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def server(upstream, start_module) -> Nullpass:
    return start_module(upstream.url)


@pytest.fixture(scope="module")
def account(server) -> Account:
    return register(server, "ada")


class Raw:
    """A connection whose bytes the test writes and reads itself."""

    def __init__(self, server: Nullpass):
        self.socket = socket.create_connection(("127.0.0.1", server.port), timeout=15)
        self.reader = self.socket.makefile("rb")

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, *_: object) -> None:
        self.reader.close()
        self.socket.close()

    def send(self, *lines: str, body: bytes = b"") -> None:
        self.socket.sendall("\r\n".join((*lines, "", "")).encode("latin-1") + body)

    def answer(self, method: str = "GET") -> tuple[str, dict[str, str], bytes]:
        """The next answer: status line, headers, body."""
        line = self.reader.readline().decode("latin-1").rstrip()
        headers = {}
        while (field := self.reader.readline()) not in (b"\r\n", b""):
            name, _, value = field.decode("latin-1").partition(":")
            headers[name.lower()] = value.strip()
        if method == "HEAD" or " 204 " in line or " 304 " in line:
            return line, headers, b""
        if "chunked" in headers.get("transfer-encoding", ""):
            body = b""
            while size := int(self.reader.readline(), 16):
                body += self.reader.read(size)
                self.reader.readline()
            self.reader.readline()
            return line, headers, body
        if "content-length" in headers:
            return line, headers, self.reader.read(int(headers["content-length"]))
        return line, headers, self.reader.read()

    def is_closed(self) -> bool:
        return self.reader.read(1) == b""


# --- Expect and interim answers ------------------------------------------------------------------------------------


class Expecting:
    """curl with a body of a mebibyte that it sends only after a 100, for which it waits longer than the test does."""

    def __init__(self, server: Nullpass, token: str | None, path: str, version: str):
        auth = ["--header", f"Authorization: Bearer {token}"] if token else []
        done = Curl(server, version).run(
            *auth, "--header", "Expect: 100-continue", "--expect100-timeout", "25", "--verbose", "--data-binary", "@-",
            "--write-out", "\n%{http_code} %{size_upload}", server.url + path, body=b"x" * MIB,
        )  # fmt: skip
        self.log = done.stderr.decode(errors="replace")
        self.body, _, told = done.stdout.decode().rpartition("\n")
        self.status, self.sent = (int(n) for n in told.split())

    @property
    def was_asked(self) -> bool:
        return re.search(r"< HTTP/[\d.]+ 100", self.log) is not None


def test_a_body_is_asked_for_when_the_upstream_asks(server, account, upstream):
    done = Expecting(server, account.token, "/wanted", "--http1.1")
    assert done.was_asked and (done.status, done.sent) == (200, MIB)
    assert json.loads(done.body)["bodyBytes"] == MIB and upstream.last().get("expect") == "100-continue"


def test_our_refusal_comes_before_any_100(server, upstream):
    arrived = len(upstream.received)
    done = Expecting(server, None, "/wanted", "--http1.1")
    assert (done.status, done.sent, done.was_asked) == (401, 0, False)
    assert len(upstream.received) == arrived


def test_the_upstreams_refusal_comes_instead_of_the_100(server, account):
    done = Expecting(server, account.token, "/refused?status=413", "--http1.1")
    assert (done.status, done.sent, done.was_asked, done.body) == (413, 0, False, "refused")


@pytest.mark.parametrize("status", [413, 417])
def test_a_refusal_by_the_upstream_byte_by_byte(server, account, status):
    """curl asks again without the expectation after a 417, so this one is not curl."""
    with Raw(server) as raw:
        raw.send(f"POST /refused?status={status} HTTP/1.1", "Host: x", f"Authorization: Bearer {account.token}", "Expect: 100-continue", f"Content-Length: {MIB}")
        line, _, body = raw.answer()
        assert line.startswith(f"HTTP/1.1 {status}") and body == b"refused"


def test_an_expectation_nobody_knows(server, account):
    with Raw(server) as raw:
        raw.send("POST /x HTTP/1.1", "Host: x", f"Authorization: Bearer {account.token}", "Expect: a-miracle", "Content-Length: 1", body=b"x")
        line, _, _ = raw.answer()
        # RFC 9110, section 10.1.1: 417 is allowed, and so is to go on as if it had not been said.
        assert line.split()[1] in ("200", "417")


# --- Trailers ------------------------------------------------------------------------------------------------------


def test_curl_sees_the_trailers(server, account):
    for version in ("--http1.1", "--http2-prior-knowledge"):
        answer = Curl(server, version).request("GET", "/trailers", headers=account.bearer | {"TE": "trailers"})
        assert answer.body == b"hello" and answer.trailers == {"x-checksum": "abc"}, version


def test_h11_sends_and_gets_trailers(server, account, upstream):
    peer = h11.Connection(h11.CLIENT)
    with Raw(server) as raw:

        def exchange(path: str) -> list:
            head = [("Host", "x"), ("Authorization", f"Bearer {account.token}"), ("Transfer-Encoding", "chunked"), ("TE", "trailers"), ("Connection", "TE"), ("Trailer", "X-Sum")]
            raw.socket.sendall(peer.send(h11.Request(method="POST", target=path, headers=head)))
            raw.socket.sendall(peer.send(h11.Data(data=b"abc")))
            raw.socket.sendall(peer.send(h11.EndOfMessage(headers=[("X-Sum", "123"), ("X-Forwarded-User", "root@example.com")])))
            seen = []
            while not seen or not isinstance(seen[-1], h11.EndOfMessage):
                event = peer.next_event()
                if event is h11.NEED_DATA:
                    peer.receive_data(raw.socket.recv(65536))
                else:
                    seen.append(event)
            peer.start_next_cycle()
            return seen

        first = exchange("/sums")
        assert first[0].status_code == 200
        assert upstream.last().trailers and {n.lower(): v for n, v in upstream.last().trailers} == {"x-sum": "123"}  # HDR-1
        # The same connection, and trailers the other way.
        assert list(exchange("/trailers")[-1].headers) == [(b"x-checksum", b"abc")]


def test_http_2_sends_and_gets_trailers(server, account, upstream):
    with H2(server) as peer:
        stream = peer.request("POST", "/sums", account, ("trailer", "x-sum"), end=False)
        peer.connection.send_data(stream, b"abc")
        peer.connection.send_headers(stream, [("x-sum", "123"), ("x-forwarded-user", "root@example.com")], end_stream=True)
        peer.flush()
        answer = peer.answer(stream)
        assert answer["status"] == "200"
        assert {n.lower(): v for n, v in upstream.last().trailers} == {"x-sum": "123"}  # HDR-1
        down = peer.answer(peer.request("GET", "/trailers", account, ("te", "trailers")))
        assert down["body"] == b"hello" and down["trailers"] == {"x-checksum": "abc"}


class H2:
    """HTTP/2 frame by frame."""

    def __init__(self, server: Nullpass):
        self.server = server
        self.socket = socket.create_connection(("127.0.0.1", server.port), timeout=15)
        self.connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="utf-8", validate_outbound_headers=False))
        self.connection.initiate_connection()
        self.flush()

    def __enter__(self) -> H2:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def flush(self) -> None:
        self.socket.sendall(self.connection.data_to_send())

    def request(self, method: str, path: str, account: Account | None, *headers: tuple[str, str], end: bool = True) -> int:
        stream = self.connection.get_next_available_stream_id()
        head = [(":method", method), (":scheme", "http"), (":authority", f"127.0.0.1:{self.server.port}"), (":path", path)]
        if method == "CONNECT":
            head = [(":method", method), (":authority", path)]
        if account:
            head.append(("authorization", f"Bearer {account.token}"))
        self.connection.send_headers(stream, [*head, *headers], end_stream=end)
        self.flush()
        return stream

    def answer(self, stream: int) -> dict:
        said: dict = {"status": None, "headers": {}, "body": b"", "trailers": {}, "informational": []}
        while True:
            data = self.socket.recv(65536)
            assert data, "the connection was closed"
            for event in self.connection.receive_data(data):
                if getattr(event, "stream_id", None) != stream:
                    continue
                match event:
                    case h2.events.InformationalResponseReceived():
                        said["informational"].append(dict(event.headers)[":status"])
                    case h2.events.ResponseReceived():
                        said["headers"] = dict(event.headers)
                        said["status"] = said["headers"][":status"]
                    case h2.events.DataReceived():
                        said["body"] += event.data
                        self.connection.acknowledge_received_data(event.flow_controlled_length, stream)
                    case h2.events.TrailersReceived():
                        said["trailers"] = dict(event.headers)
                    case h2.events.StreamReset():
                        said["reset"] = int(event.error_code)
                        return said
                    case h2.events.StreamEnded():
                        self.flush()
                        return said
            self.flush()


def test_a_refusal_that_does_not_wait_for_the_body_over_http_2(server, upstream):
    """RFC 9113, section 8.1: the whole answer first, then NO_ERROR, so that no client takes it for a failure."""
    arrived = len(upstream.received)
    with H2(server) as peer:
        stream = peer.request("POST", "/things", None, ("content-length", "1000000"), end=False)
        answer = peer.answer(stream)
        assert answer["status"] == "401" and json.loads(answer["body"])["code"] == "sign_in_required"
        assert answer.get("reset", 0) == 0
        again = peer.answer(peer.request("HEAD", "/things", None))
        assert (again["status"], again["body"]) == ("401", b"") and int(again["headers"]["content-length"]) > 0
    assert len(upstream.received) == arrived


def test_interim_answers_are_consumed_over_http_2(server, account):
    with H2(server) as peer:
        answer = peer.answer(peer.request("GET", "/interim", account))
        assert (answer["status"], answer["body"], answer["informational"]) == ("200", b"final", [])


def test_interim_answers_never_shift_pipelined_ones(server, account):
    auth = f"Authorization: Bearer {account.token}"
    with Raw(server) as raw:
        for path in ("/interim", "/echo?1", "/etag", "/interim", "/echo?2"):
            raw.send(f"GET {path} HTTP/1.1", "Host: x", auth)
        bodies = [raw.answer()[2] for _ in range(5)]
    assert (bodies[0], bodies[2], bodies[3]) == (b"final", b"whole", b"final")
    assert [json.loads(bodies[i])["line"] for i in (1, 4)] == ["GET /echo?1 HTTP/1.1", "GET /echo?2 HTTP/1.1"]


# --- Connections ---------------------------------------------------------------------------------------------------


def test_pipelined_requests_are_answered_in_order(server, account, upstream):
    auth = f"Authorization: Bearer {account.token}"
    with Raw(server) as raw:
        wanted = [("GET", "/p?0", b""), ("POST", "/p?1", b"abc"), ("HEAD", "/etag", b""), ("GET", "/204", b""), ("PUT", "/p?4", b"x" * 70_000), ("GET", "/chunks", b""), ("GET", "/p?6", b"")]
        whole = b""
        for method, path, body in wanted:
            length = (f"Content-Length: {len(body)}",) if body else ()
            whole += "\r\n".join((f"{method} {path} HTTP/1.1", "Host: x", auth, *length, "", "")).encode() + body
        # One who is nobody in between gets a refusal, in its place.
        whole += b"GET /p?7 HTTP/1.1\r\nHost: x\r\n\r\n" + f"GET /p?8 HTTP/1.1\r\nHost: x\r\n{auth}\r\nConnection: close\r\n\r\n".encode()
        raw.socket.sendall(whole)
        answers = [raw.answer(method) for method, _, _ in wanted] + [raw.answer(), raw.answer()]
        assert raw.is_closed()
    assert [a[0].split()[1] for a in answers] == ["200", "200", "200", "204", "200", "200", "200", "401", "200"]
    for at in (0, 1, 4, 6, 8):
        assert json.loads(answers[at][2])["line"].split()[1] == f"/p?{at}"
    assert answers[5][2] == b"hello world" and answers[2][1]["content-length"] == "5"
    assert all(r.target != "/p?7" for r in upstream.received)


@pytest.mark.parametrize("path", ["/echo", "/until-close", "/chunks"])
def test_http_1_0_without_keep_alive(server, account, path):
    """As ab and old monitors ask."""
    with Raw(server) as raw:
        raw.send(f"GET {path} HTTP/1.0", "Host: x", f"Authorization: Bearer {account.token}")
        line, headers, body = raw.answer()
        # RFC 9112, section 6.1: no transfer coding to a client of HTTP/1.0, so the end of the connection ends the body.
        assert line.split()[1] == "200" and "transfer-encoding" not in headers and body
        assert raw.is_closed()
    assert body in (b"one two three", b"hello world") or json.loads(body)["line"] == "GET /echo HTTP/1.1"


def test_http_1_0_with_keep_alive(server, account):
    """As `ab -k` asks: three on one connection."""
    with Raw(server) as raw:
        for n in range(3):
            raw.send(f"GET /echo?{n} HTTP/1.0", "Host: x", f"Authorization: Bearer {account.token}", "Connection: Keep-Alive")
            line, headers, body = raw.answer()
            assert line.split()[1] == "200" and headers["connection"].lower() == "keep-alive" and headers["content-length"]
            assert json.loads(body)["line"] == f"GET /echo?{n} HTTP/1.1"


def test_http_1_0_without_a_session(server, upstream):
    arrived = len(upstream.received)
    with Raw(server) as raw:
        raw.send("GET /echo HTTP/1.0", "Host: x")
        line, _, body = raw.answer()
        assert line.split()[1] == "401" and json.loads(body)["code"] == "sign_in_required" and raw.is_closed()
    with Raw(server) as raw:
        # Rules go by host, so a request that names none can't be decided.
        raw.send("GET /echo HTTP/1.0")
        assert raw.answer()[0].split()[1] == "400" and raw.is_closed()
    assert len(upstream.received) == arrived


@pytest.fixture
def h2load() -> str:
    """nghttp2's load generator, which speaks both versions."""
    return shutil.which("h2load") or pytest.skip("h2load is not installed")


def test_h2load_loses_nothing(h2load, server, account, upstream):
    arrived = len(upstream.received)
    for options in (["-c", "4", "-m", "20"], ["--h1", "-c", "8"]):
        done = subprocess.run(
            [h2load, "-n", "800", *options, "-H", f"Authorization: Bearer {account.token}", server.url + "/chunks"], capture_output=True, text=True, timeout=120, env=clean_environment(), check=True
        )
        assert "800 succeeded, 0 failed, 0 errored, 0 timeout" in done.stdout, done.stdout
        assert "status codes: 800 2xx, 0 3xx, 0 4xx, 0 5xx" in done.stdout, done.stdout
    assert len(upstream.received) == arrived + 1600


def test_h2load_posts(h2load, server, account, tmp_path):
    body = tmp_path / "body"
    body.write_bytes(b"x" * 100_000)
    done = subprocess.run(
        [h2load, "-n", "200", "-c", "2", "-m", "10", "-d", str(body), "-H", f"Authorization: Bearer {account.token}", server.url + "/posts"], capture_output=True, text=True, timeout=120, env=clean_environment(), check=True
    )  # fmt: skip
    assert "status codes: 200 2xx, 0 3xx, 0 4xx, 0 5xx" in done.stdout, done.stdout


def test_curl_asks_for_http_2_by_upgrade(server, account, upstream):
    """`curl --http2 http://…` offers h2c (RFC 7540, section 3.2, since withdrawn) and takes HTTP/1.1 for an answer."""
    curl = Curl(server, "--http2")
    for body in (None, b"x" * 1000):
        answer = curl.request("POST" if body else "GET", "/upgrade", headers=account.bearer, body=body)
        assert (answer.status, answer.version) == (200, "1.1")
        got = upstream.last()
        assert not got.get("upgrade") and not got.get("http2-settings") and "upgrade" not in (got.get("connection") or "").lower()
    refused = curl.request("GET", "/upgrade")
    assert refused.status == 401


def test_an_early_answer_reaches_a_client_that_still_sends(server, account, tmp_path):
    """The upstream says no to an upload before it has read it, and hangs up."""
    auth = f"Authorization: Bearer {account.token}"
    (tmp_path / "body").write_bytes(bytes(20_000_000))
    done = Curl(server, "--http1.1").run("--header", auth, "--header", "Expect:", "--data-binary", f"@{tmp_path / 'body'}", "--write-out", " %{http_code}", server.url + "/early")
    assert done.stdout == b"early 413", done.stderr.decode()
    # Over HTTP/2 the answer ends its stream, and NO_ERROR asks for no more (RFC 9113, section 8.1). curl 7.88 and httpx
    # take that for a failure, with every server; nghttp does not.
    if nghttp := shutil.which("nghttp"):
        done = subprocess.run([nghttp, "-v", "--no-dep", "-d", tmp_path / "body", "-H", auth, server.url + "/early"], capture_output=True, text=True, timeout=30, env=clean_environment())
        answer, _, after = done.stdout.partition(":status: 413")
        assert after and "recv RST_STREAM" not in answer and "early" in after, done.stdout
        if "recv RST_STREAM" in after:
            assert "error_code=NO_ERROR" in after.partition("recv RST_STREAM")[2].splitlines()[1], done.stdout


# --- CONNECT and TRACE ---------------------------------------------------------------------------------------------


def test_connect_is_refused(server, account, upstream):
    arrived = len(upstream.received)
    done = Curl(server).run("--verbose", "--proxytunnel", "--proxy", server.url, "--proxy-header", f"Authorization: Bearer {account.token}", "--noproxy", "", "http://127.0.0.1:1/")
    assert done.returncode == 56 and re.search(r"< HTTP/1\.1 40[05]", done.stderr.decode()), done.stderr.decode()
    with Raw(server) as raw:
        raw.send("CONNECT example.com:443 HTTP/1.1", "Host: example.com:443", f"Authorization: Bearer {account.token}")
        assert raw.answer()[0].split()[1] in ("400", "405")
    with H2(server) as peer:
        answer = peer.answer(peer.request("CONNECT", "example.com:443", account, end=False))
        assert answer["status"] in ("400", "405") or answer.get("reset") is not None
    assert len(upstream.received) == arrived


def test_trace_never_shows_a_credential(server, account, upstream):
    """RFC 9110, section 9.3.8: what comes back must hold nothing secret. What the upstream gets has no token to show."""
    with Raw(server) as raw:
        raw.send("TRACE /echo HTTP/1.1", "Host: x", f"Authorization: Bearer {account.token}", "Cookie: nullpass=abc; app=1")
        line, _, body = raw.answer()
        assert line.split()[1] in ("200", "405") and account.token.encode() not in body and b"nullpass=" not in body
    with Raw(server) as raw:
        raw.send("TRACE /echo HTTP/1.1", "Host: x", "Max-Forwards: 0")
        assert raw.answer()[0].split()[1] in ("401", "405")


# --- Streams -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["1.1", "2"])
def test_each_event_is_there_before_the_next_is_sent(server, account, upstream, version):
    """The upstream sends the next event only when this one was seen: whoever buffers waits for ever."""
    options = {"http1": False, "http2": True} if version == "2" else {}
    with server.client(headers=account.bearer, **options) as client:
        upstream.event.release()
        with client.stream("GET", "/events?n=10") as answer:
            delays = []
            for line in answer.iter_lines():
                if line:
                    delays.append(time.time() - float(line.split()[2]))
                    upstream.event.release()
    assert len(delays) == 10
    assert sorted(delays)[5] < 0.5, delays


def test_aiohttp_sees_each_event(server, account, upstream):
    async def read() -> int:
        seen = 0
        async with aiohttp.ClientSession(headers=account.bearer) as session, session.get(server.url + "/events?n=5") as answer:
            async for line in answer.content:
                if line.startswith(b"data:"):
                    seen += 1
                    upstream.event.release()
        return seen

    upstream.event = threading.Semaphore(1)
    assert asyncio.run(read()) == 5


# --- WebSockets ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sockets(start_module, tmp_path_factory):
    """A WebSocket application, plain and with TLS in front."""

    def handler(connection) -> None:
        for message in connection:
            if message == "close":
                connection.close(4001, "as you wish")
                return
            connection.send(message)

    port = free_port()
    with serve(handler, "127.0.0.1", port, max_size=None, subprotocols=["chat.v2", "chat.v1"]) as upstream:
        thread = threading.Thread(target=upstream.serve_forever, daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{port}"
        with TlsNullpass(tmp_path_factory.mktemp("tls"), url, Authority(tmp_path_factory.mktemp("ca"))) as tls:
            yield {"ws": start_module(url), "wss": tls}
        upstream.shutdown()


def _tls_of(server: Nullpass) -> ssl.SSLContext | None:
    return server.authority.context() if isinstance(server, TlsNullpass) else None


@pytest.mark.parametrize("scheme", ["ws", "wss"])
def test_all_of_the_websocket_protocol(sockets, scheme):
    server = sockets[scheme]
    account = register(server, "ada")
    url = server.url.replace("http", "ws", 1) + "/socket?x=1"
    with connect(url, additional_headers=account.bearer, proxy=None, ssl=_tls_of(server), max_size=None, subprotocols=["chat.v1", "chat.v9"]) as one:
        assert one.subprotocol == "chat.v1" and one.protocol.extensions, "the extensions were not agreed on"
        assert one.ping().wait(10)
        one.send(["in ", "several ", "fragments"])
        assert one.recv(timeout=10) == "in several fragments"
        one.send("z" * 1_000_000)
        assert one.recv(timeout=10) == "z" * 1_000_000
        one.send("close")
        with pytest.raises(ConnectionClosed) as closed:
            one.recv(timeout=10)
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4001, "as you wish")


@pytest.mark.parametrize("scheme", ["ws", "wss"])
def test_websockets_by_aiohttp(sockets, scheme):
    server = sockets[scheme]
    account = register(server, "bob")

    async def talk() -> None:
        tls = _tls_of(server) or True
        async with aiohttp.ClientSession(headers=account.bearer) as session, session.ws_connect(server.url + "/socket", ssl=tls, protocols=["chat.v2"]) as one:
            assert one.protocol == "chat.v2"
            await asyncio.gather(*(one.send_bytes(bytes([n]) * 1000) for n in range(50)))
            assert [(await one.receive_bytes(timeout=10))[0] for _ in range(50)] == list(range(50))
            await one.send_str("close")
            message = await one.receive(timeout=10)
            assert message.type is aiohttp.WSMsgType.CLOSE and message.data == 4001
        async with aiohttp.ClientSession() as nobody:
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await nobody.ws_connect(server.url + "/socket", ssl=tls)
            assert refused.value.status == 401

    asyncio.run(talk())


def test_many_websockets_at_once_are_not_mixed_up(sockets):
    server = sockets["ws"]
    account = register(server, "joan")

    async def talk() -> None:
        async with aiohttp.ClientSession(headers=account.bearer) as session:

            async def one(name: int) -> None:
                async with session.ws_connect(server.url + "/socket", protocols=["chat.v1"]) as ws:
                    for n in range(20):
                        await ws.send_str(f"{name}/{n}")
                        assert await ws.receive_str(timeout=20) == f"{name}/{n}"

            await asyncio.gather(*(one(n) for n in range(40)))

    asyncio.run(talk())


def test_a_client_that_leaves_in_the_middle_frees_the_upstream(server, account, upstream):
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(f"GET /hold?id=leaver HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {account.token}\r\n\r\n".encode())
        assert b"200 OK" in connection.recv(4096)
    deadline = time.monotonic() + 10
    while "/hold?id=leaver" not in upstream.gone and time.monotonic() < deadline:
        time.sleep(0.05)
    assert "/hold?id=leaver" in upstream.gone


def test_httpx_reuses_one_connection_after_every_kind_of_answer(server, account):
    """What is left over of one answer would be read as the beginning of the next."""
    with server.client(headers=account.bearer, limits=httpx.Limits(max_connections=1)) as client:
        for _ in range(3):
            for method, path, status in [("GET", "/204", 204), ("HEAD", "/etag", 200), ("GET", "/interim", 200), ("GET", "/trailers", 200), ("GET", "/until-close", 200), ("POST", "/echo", 200), ("GET", "/closes", 200)]:
                assert client.request(method, path).status_code == status, (method, path)
            assert client.get("/etag", headers={"If-None-Match": '"v1"'}).status_code == 304
