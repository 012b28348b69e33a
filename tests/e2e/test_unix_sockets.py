"""Unix sockets on both sides: clients come in by one, the application listens on another, and no port is open for it."""

from __future__ import annotations

import json
import shutil
import stat
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import httpx
import pytest
from websockets.sync.client import unix_connect
from websockets.sync.server import unix_serve

import documented
from harness import Account, Nullpass, call, clean_environment, register
from wire_upstream import WireUpstream

MIB = 1 << 20


@pytest.fixture(scope="module")
def folder():
    """A short path: a socket's address holds 107 bytes."""
    folder = Path(tempfile.mkdtemp(prefix="np-"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def upstream(folder):
    with WireUpstream(folder / "app.sock") as upstream:
        yield upstream


@pytest.fixture(scope="module")
def server(upstream, folder, start_module) -> Nullpass:
    with unix_serve(lambda one: [one.send(m) for m in one], folder / "ws.sock", max_size=None) as sockets:
        threading.Thread(target=sockets.serve_forever, daemon=True).start()
        shown = documented.config("nullpass-unix.toml", **{"/run/nullpass": str(folder), "/run/app": str(folder)})
        assert shown["upstreams"][0]["url"] == upstream.url
        shown["upstreams"].append({"name": "ws", "url": f"unix:{folder / 'ws.sock'}", "path": "/ws"})
        server = start_module(config={"upstreams": shown["upstreams"]})
        server.stop()
        # The JSON API of the tests goes by TCP; everything else here by the socket.
        server.config["server"]["listen"] += shown["server"]["listen"]
        server.write_config()
        yield server.start()
        sockets.shutdown()


@pytest.fixture(scope="module")
def account(server) -> Account:
    return register(server, "ada")


@pytest.fixture
def path(folder) -> Path:
    return folder / "http.sock"


def client(path: Path, **options) -> httpx.Client:
    headers = options.pop("headers", None)
    return httpx.Client(transport=httpx.HTTPTransport(uds=str(path), **options), base_url="http://app.example.com", headers=headers, timeout=30)


def test_the_socket_is_for_its_owner_and_group(server, path):
    mode = path.stat().st_mode
    assert stat.S_ISSOCK(mode) and stat.S_IMODE(mode) == 0o660


@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/2"])
def test_requests(server, account, path, upstream, version):
    options = {"http1": False, "http2": True} if version == "HTTP/2" else {}
    with client(path, headers=account.bearer, **options) as one:
        answer = one.post("/x?y=1", content=b"abc", headers={"X-Forwarded-For": "203.0.113.9", "X-Forwarded-User": "root@example.com"})
        assert answer.http_version == version and answer.json()["line"] == "POST /x?y=1 HTTP/1.1"
        got = upstream.last()
        assert got.get("x-forwarded-user") == account.email and got.get("host") == "app.example.com"
        # There is no address to tell, and a client that nobody vouches for is not believed either.
        assert "203.0.113.9" not in str(got.headers)
    with client(path, **options) as nobody:
        assert nobody.get("/x").status_code == 401


def test_curl(server, account, path):
    for version in ("--http1.1", "--http2-prior-knowledge"):
        command = ["curl", "--silent", "--max-time", "20", version, "--unix-socket", str(path), "--header", f"Authorization: Bearer {account.token}", "http://x/from-curl"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, env=clean_environment(), check=True)
        assert json.loads(done.stdout)["line"] == "GET /from-curl HTTP/1.1"


@pytest.mark.parametrize("version", ["1.1", "2"])
def test_a_big_body_each_way(server, account, path, version):
    size = 64 * MIB
    before = server.memory_kib()
    with client(path, headers=account.bearer, **({"http1": False, "http2": True} if version == "2" else {})) as one:
        block = bytes(MIB)
        sent = one.put("/up", content=(block for _ in range(size // MIB)))
        assert sent.json()["bodyBytes"] == size
        with one.stream("GET", f"/big?bytes={size}") as answer:
            assert sum(len(b) for b in answer.iter_raw()) == size
    assert server.memory_kib() - before < 32 * 1024


def test_each_event_is_there_before_the_next_is_sent(server, account, path, upstream):
    upstream.event.release()
    with client(path, headers=account.bearer) as one, one.stream("GET", "/events?n=5") as answer:
        seen = 0
        for line in answer.iter_lines():
            if line:
                seen += 1
                upstream.event.release()
    assert seen == 5


def test_a_websocket_and_its_end(server, path):
    account = register(server, "bob")
    with unix_connect(str(path), "ws://app.example.com/ws", additional_headers=account.bearer, max_size=None) as one:
        for message in ("hällo", b"\0" * 3_000_000):
            one.send(message)
            assert one.recv(timeout=10) == message
        call(server, "POST", "/auth/logout", token=account.token)
        began = time.monotonic()
        with pytest.raises(Exception, match="close"):
            one.recv(timeout=10)
        assert time.monotonic() - began < 4


def test_the_socket_is_taken_over_after_a_crash_and_gone_after_a_stop(server, account, path):
    server.kill()
    assert path.exists()
    server.start()
    with client(path, headers=account.bearer) as one:
        assert one.get("/again").status_code == 200
    server.stop()
    assert not path.exists()
    server.start()
