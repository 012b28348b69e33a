"""Chromium over TLS and HTTP/2: a page, its WebSocket (RFC 8441), and the end of both with the session."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from http import HTTPStatus

import pytest
from playwright.sync_api import sync_playwright
from websockets.datastructures import Headers
from websockets.http11 import Response
from websockets.sync.server import serve

from authority import Authority
from harness import PASSWORD, new_email, rows
from test_jupyterlab import CUT_OFF_SECONDS, FLAGS

NAME = "app.test"
PAGE = b"""<!doctype html><title>Echo</title><script>
  window.start = () => {
    window.heard = [];
    window.over = false;
    window.socket = new WebSocket(`wss://${location.host}/socket`);
    window.socket.onopen = () => window.socket.send("hello");
    window.socket.onmessage = (event) => window.heard.push(event.data);
    window.socket.onclose = () => { window.over = true; };
  };
</script>"""


@pytest.fixture
def application() -> Iterator[str]:
    """A page at /, and a WebSocket that says who it was told is there and then back what it hears."""

    def page(_connection, request):
        if request.path == "/socket":
            return None
        headers = Headers({"Content-Type": "text/html", "Content-Length": str(len(PAGE)), "Connection": "close"})
        return Response(HTTPStatus.OK, "OK", headers, PAGE)

    def handler(connection):
        connection.send(connection.request.headers.get("X-Forwarded-User", "nobody"))
        for message in connection:
            connection.send(message[::-1])

    with serve(handler, "127.0.0.1", 0, process_request=page) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{running.socket.getsockname()[1]}"
        running.shutdown()
        thread.join(10)


def test_a_websocket_over_http2_ends_with_the_session(application, start, tmp_path):
    if not (program := shutil.which("chromium")):
        pytest.skip("chromium is not installed")
    cert, key = Authority(tmp_path).issue(tmp_path, "app", NAME)
    server = start(application, run=False)
    origin = f"https://{NAME}:{server.port}"
    server.config["server"] |= {"public_url": origin, "tls": {"cert": str(cert), "key": str(key)}}
    server.write_config()
    server.start()
    email = new_email("ada")
    server.cli("user", "add", email, "--password-stdin", stdin=PASSWORD)

    flags = [*FLAGS, f"--host-resolver-rules=MAP {NAME} 127.0.0.1"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=flags)
        page = browser.new_context(ignore_https_errors=True).new_page()
        page.goto(f"{origin}/page")
        page.fill("input[name=email]", email)
        page.fill("input[name=password]", PASSWORD)
        page.click("main button[type=submit], form button[type=submit]")
        page.wait_for_url("**/page")
        assert page.evaluate("performance.getEntriesByType('navigation')[0].nextHopProtocol") == "h2"

        page.evaluate("start()")
        page.wait_for_function("heard.length === 2")
        assert page.evaluate("heard") == [email, "olleh"]
        assert not page.evaluate("over")
        (session,) = rows(server.cli("session", "list", email, "--json").stdout)
        server.cli("session", "revoke", session["id"])
        ended = time.monotonic()
        page.wait_for_function("over", timeout=10_000)
        assert time.monotonic() - ended < CUT_OFF_SECONDS

        # What it tries again is refused.
        page.evaluate("start()")
        page.wait_for_function("over", timeout=10_000)
        assert page.evaluate("heard") == []
        browser.close()

    # An upgrade is a GET; only HTTP/2 opens a WebSocket by CONNECT. One was open, and one was refused.
    # Access lines are written behind.
    found, patience = [], time.monotonic() + 10
    while len(found) < 2 and time.monotonic() < patience:
        time.sleep(0.1)
        found = [line for line in server.log_lines("CONNECT") if "/socket" in line]
    assert len(found) == 2 and " 200 " in found[0] and " 401 " in found[1], server.log
