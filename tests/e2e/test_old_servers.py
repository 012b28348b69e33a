"""Applications that speak HTTP/1.0, and ones that hang up on idle connections."""

from __future__ import annotations

import shutil
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from clients import Curl
from harness import clean_environment, end, free_port, register, wait_for_port


class OldHandler(BaseHTTPRequestHandler):
    """Python's `http.server` as it is: HTTP/1.0, a connection for each request; some answers as a CGI program gives them."""

    protocol_version = "HTTP/1.0"

    def do_GET(self) -> None:
        if self.path.startswith("/cgi"):
            # No length: the end of the connection is the end of the answer.
            self.send_response(200)
            self.send_header("Content-Type", "text/plain")
            self.end_headers()
            for n in range(100):
                self.wfile.write(f"{n} {'x' * 1000}\n".encode())
                self.wfile.flush()
        elif self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "/cgi")
            self.end_headers()
        elif self.path == "/nothing":
            self.send_response(204)
            self.end_headers()
        else:
            self._say(f"{self.request_version} {self.headers['X-Forwarded-User']}".encode())

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "12345")
        self.end_headers()

    def do_POST(self) -> None:
        self._say(f"{len(self.rfile.read(int(self.headers['Content-Length'])))}".encode())

    def _say(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def old(start):
    upstream = ThreadingHTTPServer(("127.0.0.1", 0), OldHandler)
    threading.Thread(target=upstream.serve_forever, daemon=True).start()
    yield start(f"http://127.0.0.1:{upstream.server_address[1]}")
    upstream.shutdown()
    upstream.server_close()


@pytest.mark.parametrize("version", ["1.1", "2"])
def test_a_server_of_http_1_0(old, version):
    account = register(old, "ada")
    lines = b"".join(f"{n} {'x' * 1000}\n".encode() for n in range(100))
    with old.client(headers=account.bearer, **({"http1": False, "http2": True} if version == "2" else {})) as client:
        for _ in range(3):
            assert client.get("/cgi").content == lines
            assert client.get("/who").text == f"HTTP/1.1 {account.email}"
            assert client.post("/post", content=b"x" * 100_000).text == "100000"
            assert client.head("/x").headers["content-length"] == "12345"
            assert client.get("/moved").headers["location"] == "/cgi"
            assert client.get("/nothing").status_code == 204
    assert Curl(old, "--http1.0").request("GET", "/cgi", headers=account.bearer).body == lines


def test_many_requests_at_once_to_a_server_of_http_1_0(old):
    account = register(old, "ada")
    with old.client(headers=account.bearer) as client, ThreadPoolExecutor(8) as pool:
        texts = list(pool.map(lambda n: client.get(f"/who?{n}").text, range(200)))
    assert set(texts) == {f"HTTP/1.1 {account.email}"}


NODE = """
const http = require('node:http');
let served = 0;
const server = http.createServer((request, response) => {
  let size = 0;
  request.on('data', (block) => { size += block.length; });
  request.on('end', () => { served += 1; response.end(JSON.stringify({ served, size, user: request.headers['x-forwarded-user'] })); });
});
server.keepAliveTimeout = Number(process.argv[3]);
// Node adds a second of its own to what it promises; here it hangs up when it says.
server.keepAliveTimeoutBuffer = 0;
server.listen(Number(process.argv[2]), '127.0.0.1');
"""


@pytest.fixture
def node(start, tmp_path):
    """Node's own server, which hangs up on a connection that was idle for a second (its default is five)."""
    if not (program := shutil.which("node")):
        pytest.skip("node is not installed")
    port = free_port()
    script = tmp_path / "app.js"
    script.write_text(NODE, encoding="utf-8")
    process = subprocess.Popen([program, script, str(port), "1000"], stdin=subprocess.DEVNULL, env=clean_environment())
    wait_for_port(port, process)
    yield start(f"http://127.0.0.1:{port}")
    end(process)


# The moment in which one side hangs up and the other one writes.
def test_no_request_is_lost_when_the_upstream_hangs_up_on_idle_connections(node):
    account = register(node, "ada")
    statuses: list[tuple[str, int]] = []

    def person(shift: float) -> None:
        with node.client(headers=account.bearer) as client:
            # Pauses that end just before, at and just after the second.
            for n in range(6):
                time.sleep(0.97 + shift + 0.01 * n)
                method = "POST" if n % 2 and shift > 0.04 else "GET"
                statuses.append((method, client.request(method, f"/{n}", content=b"x" * 10 if method == "POST" else None).status_code))

    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(person, 0.01 * k) for k in range(8)]:
            done.result()
    lost = [s for s in statuses if s[1] != 200 and s[0] == "GET"]
    assert len(statuses) == 48 and not lost, statuses
    # What changes something is never sent twice; where it is cut in that very moment there is an honest 502.
    assert all(status in (200, 502) for _, status in statuses), statuses
