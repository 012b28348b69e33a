"""Fixtures of the black-box tests, and the rule that continuous integration skips nothing."""

from __future__ import annotations

import os

import pytest

from harness import Nullpass
from upstreams import EchoUpstream


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: moves gigabytes or waits for clocks")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo):
    """With `CI=true`, what can't run has failed."""
    report = yield
    if report.skipped and os.environ.get("CI") == "true" and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped in continuous integration: {report.longrepr}"
    return report


@pytest.fixture
def start(tmp_path):
    """Makes and starts servers, `start(upstream, config={…})`, and ends them after the test."""
    servers: list[Nullpass] = []

    def make(upstream: str | None = None, *, run: bool = True, **options) -> Nullpass:
        server = Nullpass(tmp_path / f"nullpass{len(servers)}", upstream, **options)
        servers.append(server)
        return server.start() if run else server

    yield make
    for server in servers:
        server.stop()


@pytest.fixture(scope="module")
def start_module(tmp_path_factory):
    """As `start`, for servers that a whole module shares."""
    servers: list[Nullpass] = []

    def make(upstream: str | None = None, **options) -> Nullpass:
        server = Nullpass(tmp_path_factory.mktemp("nullpass"), upstream, **options)
        servers.append(server)
        return server.start()

    yield make
    for server in servers:
        server.stop()


@pytest.fixture(scope="module")
def echo():
    """An upstream that records what it gets byte by byte."""
    with EchoUpstream() as upstream:
        yield upstream
