"""JupyterLab in a real browser behind nullpass, as docs/applications.md sets it up: sign in on nullpass's page, run a
cell over the kernel's WebSocket, and be cut off when the session ends.
"""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pytest
from playwright.sync_api import Page, WebSocket, expect, sync_playwright

import documented
from harness import ROOT, Account, Nullpass, end, free_port, python_module, register, rows, wait_for_http

SHOTS = ROOT / ".cache" / "shots"
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"]
PATIENCE = 60_000  # milliseconds: JupyterLab is some megabytes of script, and the machine may be busy
# The promise is two seconds; a loaded machine may wake a thread late.
CUT_OFF_SECONDS = 4
NOTEBOOK = {
    "cells": [{"cell_type": "code", "id": "one", "execution_count": None, "metadata": {}, "outputs": [], "source": []}],
    "metadata": {"kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}},
    "nbformat": 4,
    "nbformat_minor": 5,
}


@pytest.fixture(scope="module")
def jupyter(tmp_path_factory):
    folder: Path = tmp_path_factory.mktemp("jupyter")
    root = folder / "notebooks"
    root.mkdir()
    (root / "sum.ipynb").write_text(json.dumps(NOTEBOOK), encoding="utf-8")
    # Otherwise it looks for a newer version of itself, away from this machine.
    settings = folder / "settings" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    (settings / "notification.jupyterlab-settings").write_text(json.dumps({"checkForUpdates": False, "fetchNews": "false"}), encoding="utf-8")
    port = free_port()
    shown = documented.file("jupyter_server_config.py", **{"8888": str(port), "/srv/notebooks": str(root)})
    # Whoever runs this in a container is root, which Jupyter would refuse.
    (folder / "jupyter_server_config.py").write_text(shown + "c.ServerApp.allow_root = True\n", encoding="utf-8")
    own = {f"JUPYTER_{kind}_DIR": str(folder / kind.lower()) for kind in ("RUNTIME", "DATA")}
    own |= {"JUPYTER_CONFIG_DIR": str(folder), "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"), "JUPYTERLAB_WORKSPACES_DIR": str(folder / "workspaces"), "IPYTHONDIR": str(folder / "ipython")}
    process = python_module("jupyterlab", folder=folder, log="jupyter.log", env=own)
    url = f"http://127.0.0.1:{port}"
    wait_for_http(f"{url}/api/status", process, lambda: (folder / "jupyter.log").read_text(), seconds=90)
    yield url
    end(process)


@pytest.fixture(scope="module")
def server(jupyter, start_module) -> Nullpass:
    return start_module(config=documented.config("nullpass-jupyter.toml", **{"http://127.0.0.1:8888": jupyter}))


@pytest.fixture(scope="module")
def browser():
    if not (program := shutil.which("chromium")):
        pytest.skip("chromium is not installed")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=FLAGS)
        yield browser
        browser.close()


class Seen:
    """The WebSockets of a page, and when they closed."""

    def __init__(self, page: Page):
        self.open: list[WebSocket] = []
        self.closed: dict[str, float] = {}
        page.on("websocket", self._opened)

    def _opened(self, one: WebSocket) -> None:
        self.open.append(one)
        one.on("close", lambda _: self.closed.setdefault(one.url, time.monotonic()))

    def kernels(self) -> list[WebSocket]:
        return [one for one in self.open if "/channels" in one.url]


def sign_in(page: Page, server: Nullpass, account: Account, path: str) -> None:
    page.goto(server.url + path)
    assert "/_auth/login" in page.url, page.url
    page.fill("input[name=email]", account.email)
    page.fill("input[name=password]", account.password)
    page.click("main button[type=submit], form button[type=submit]")
    page.wait_for_url(f"**{path}*", timeout=PATIENCE)


def test_a_notebook_runs_and_ends_with_the_session(server, browser):
    account = register(server, "ada")
    # Registering began a session of its own, which the browser does not use.
    server.cli("session", "revoke", "--user", account.email)
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    expect.set_options(timeout=PATIENCE)
    seen = Seen(page)
    sign_in(page, server, account, "/lab/tree/sum.ipynb")

    cell = page.locator(".jp-Notebook .jp-Cell .cm-content").first
    cell.click()
    page.keyboard.type("print(6*7)")
    # Running it before the kernel has said that it is there would lose it.
    page.wait_for_selector('.jp-Notebook-ExecutionIndicator[data-status="idle"]', state="attached")
    page.keyboard.press("Shift+Enter")
    expect(page.locator(".jp-OutputArea-output").first).to_have_text("42\n")
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SHOTS / "jupyterlab.png")

    (kernel,) = seen.kernels()
    assert kernel.url.startswith(server.url.replace("http", "ws")) and not kernel.is_closed()
    (session,) = rows(server.cli("session", "list", account.email, "--json").stdout)
    server.cli("session", "revoke", session["id"])
    ended = time.monotonic()
    while kernel.url not in seen.closed and time.monotonic() < ended + 10:
        page.wait_for_timeout(50)
    assert kernel.url in seen.closed, "the kernel's WebSocket stayed open"
    assert seen.closed[kernel.url] - ended < CUT_OFF_SECONDS

    # What JupyterLab tries by itself from here on is refused, and so is a reload.
    assert context.request.get(f"{server.url}/api/status").status == 401
    page.screenshot(path=SHOTS / "jupyterlab-cut-off.png")
    page.on("dialog", lambda dialog: dialog.accept())
    page.goto(f"{server.url}/lab")
    assert "/_auth/login" in page.url
    context.close()


def test_nobody_else_gets_at_the_kernels(server):
    with server.client() as client:
        for path in ("/api/kernels", "/api/contents", "/lab", "/terminals/websocket/1", "/static/lab/index.html"):
            assert client.get(path).status_code == 401, path
        upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA=="}
        assert client.get("/api/kernels/x/channels", headers=upgrade).status_code == 401
