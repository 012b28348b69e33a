"""A rolling upgrade: the next instance starts beside the one that goes, on the same database, and no request is lost."""

from __future__ import annotations

import asyncio
import subprocess
import time

import pytest

from harness import Nullpass, call, end, postgres_storage, register, wait_for_http
from replicas import CHEAP, Watch
from test_drain import hold, spawn_with, under_load


class Pair:
    """Two instances that take turns on a listening socket, which somebody else holds open."""

    def __init__(self, folder, upstream: str, url: str):
        self.held, listen = hold("tcp", folder)
        config = {
            "server": {"listen": [listen], "public_url": "http://nullpass.test", "workers": 1},
            "accounts": CHEAP,
            "storage": postgres_storage(url),
            "rules": [{"path": "/public/**", "policy": "public"}],
        }
        self.servers = [Nullpass(folder / f"instance{n}", upstream, config=config) for n in range(2)]
        self.port = self.held.getsockname()[1]
        for server in self.servers:
            server.port = self.port
        self.running: list[subprocess.Popen] = []
        self.turn = 0

    def next(self) -> None:
        """Starts the one whose turn it is, and waits until it is ready."""
        server = self.servers[self.turn % 2]
        self.turn += 1
        self.running.append(spawn_with(server, self.held))
        wait_for_http(f"{server.admin_url}/readyz", self.running[-1], lambda: server.log)

    def upgrade(self) -> None:
        """Three times: the next beside the one that runs, both for a while, then the older one is told to go."""
        for _ in range(3):
            self.next()
            time.sleep(0.5)
            assert end(self.running.pop(0)) == 0
            time.sleep(0.5)

    def close(self) -> None:
        for process in self.running:
            end(process)
        self.held.close()


@pytest.fixture
def pair(postgres, echo, tmp_path):
    pair = Pair(tmp_path, echo.url, postgres.url(sslmode="disable"))
    pair.next()
    yield pair
    pair.close()


def test_an_upgrade_with_overlap_loses_nothing(pair):
    """As fast as clients can ask, on connections that are kept and on new ones."""
    load = asyncio.run(under_load(pair.port, pair.upgrade, keep_alive=(True, False), path="/public/echo"))
    assert load.lost == [] and load.refused == 0, load
    assert load.answered > 200 and load.told >= 12, load
    print(f"upgrade with overlap: {load.answered} answers, none lost")


def test_an_upgrade_with_overlap_signs_nobody_out(pair):
    """People who are signed in, and who sign in and register meanwhile, whichever instance they meet."""
    [server, _] = pair.servers
    people = [register(server) for _ in range(4)]
    gone = register(server)
    call(server, "POST", "/auth/logout", token=gone.token, expect=200)
    with Watch([pair.port], people, gone.token, pause=0.0) as watch:
        watch.wait_until_all_good()
        began = time.monotonic()
        pair.upgrade()
        watch.wait_until_all_good()
    for what in ("private", "public", "login"):
        assert set(watch.counts(began, what)) == {200}, watch.counts(began, what)
    assert set(watch.counts(began, "register")) == {201}
    assert watch.lost == 0
    print(f"upgrade with overlap: {len(watch.since(began))} answers, none lost, nobody signed out")
