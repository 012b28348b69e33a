"""HTTP/2 by programs of other people: h2load, httpx, and WebSocket over HTTP/2 by Node."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import threading
from pathlib import Path

import httpx
import pytest
from websockets.sync.server import serve

from harness import Nullpass, call, clean_environment, register
from test_grpc import Upstream

HERE = Path(__file__).resolve().parent
RULES = [{"path": "/public/**", "policy": "public"}]


@pytest.fixture(scope="module")
def server(echo, start_module) -> Nullpass:
    return start_module(echo.url, config={"rules": RULES})


def need(program: str) -> str:
    found = shutil.which(program)
    if not found:
        pytest.skip(f"{program} is not installed")
    return found


def h2load(*args: str) -> str:
    done = subprocess.run([need("h2load"), *args], capture_output=True, text=True, timeout=300, env=clean_environment())
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_h2load_gets_an_answer_to_every_request(server):
    account = register(server, "load")
    said = h2load("-n", "5000", "-c", "10", "-m", "20", "-H", f"authorization: Bearer {account.token}", f"{server.url}/private")
    assert re.search(r"5000 total, 5000 started, 5000 done, 5000 succeeded, 0 failed, 0 errored, 0 timeout", said), said
    assert re.search(r"status codes: 5000 2xx, 0 3xx, 0 4xx, 0 5xx", said), said


def test_h2load_with_bodies(server, tmp_path):
    (tmp_path / "body").write_bytes(b"x" * 100_000)
    said = h2load("-n", "200", "-c", "4", "-m", "10", "-d", str(tmp_path / "body"), f"{server.url}/public/upload")
    assert "200 succeeded, 0 failed" in said and "status codes: 200 2xx" in said, said


def test_one_client_speaks_both_versions(server):
    account = register(server, "versions")
    for http2 in (False, True):
        with httpx.Client(http1=not http2, http2=http2, base_url=server.url, headers=account.bearer, trust_env=False) as client:
            answer = client.post("/private/x", content=iter([b"one", b"two"]))
            assert (answer.status_code, answer.http_version) == (200, "HTTP/2" if http2 else "HTTP/1.1")
            assert client.get("/private").status_code == 200


# --- WebSocket over HTTP/2 ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chat():
    """A WebSocket server that says back what it hears, and who it was told is there."""

    def handler(connection):
        connection.send(connection.request.headers.get("X-Forwarded-User", "nobody"))
        for message in connection:
            connection.send(message[::-1])

    with serve(handler, "127.0.0.1", 0) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{running.socket.getsockname()[1]}"
        running.shutdown()
        thread.join(10)


class Node:
    """The client in Node, line by line."""

    def __init__(self, url: str, token: str, message: str) -> None:
        args = [need("node"), str(HERE / "websocket_over_http2.mjs"), url, token, message]
        self.process = subprocess.Popen(args, stdout=subprocess.PIPE, text=True, env=clean_environment())

    def __enter__(self) -> Node:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait(10)
        self.process.stdout.close()

    def next(self) -> dict:
        return json.loads(self.process.stdout.readline() or "{}")


def test_a_websocket_over_http2(chat, start):
    server = start(chat)
    account = register(server, "chat")
    with Node(f"{server.url}/chat", account.token, "hello") as node:
        assert [node.next() for _ in range(4)] == [{"settings": True}, {"status": 200}, {"message": account.email}, {"message": "olleh"}]
        call(server, "POST", "/auth/logout", token=account.token, expect=200)
        killer = threading.Timer(15, node.process.kill)
        killer.start()
        ended = node.next()
        killer.cancel()
        assert {"closed", "reset", "opcode"} & set(ended), ended


def test_a_websocket_over_http2_needs_a_session(chat, start):
    server = start(chat)
    with Node(f"{server.url}/chat", "", "hello") as node:
        assert [node.next() for _ in range(2)] == [{"settings": True}, {"status": 401}]


def test_grpc_and_websites_side_by_side(echo, start):
    """One nullpass, HTTP/1.1 and HTTP/2 behind it."""
    upstream = Upstream()
    config = {"rules": [{"path": "/**", "policy": "public"}]}
    config["upstreams"] = [
        {"name": "app", "url": echo.url},
        {"name": "grpc", "url": f"h2c://127.0.0.1:{upstream.port}", "path": "/demo.Public"},
    ]
    server = start(echo.url, config=config)
    with server.client() as client:
        assert client.get("/public/x").status_code == 200
        answer = client.post("/demo.Public/Unary", content=b"\0\0\0\0\x01x", headers={"content-type": "application/grpc", "te": "trailers"})
        assert answer.status_code == 200 and answer.content == b"\0\0\0\0\x01x", "an HTTP/1.1 client of an HTTP/2 service"
    upstream.server.stop(0).wait()
