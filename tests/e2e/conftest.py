"""Fixtures of the black-box tests, and the rule that continuous integration skips nothing."""

from __future__ import annotations

import os
from contextlib import ExitStack

import pytest

from harness import ROOT, Nullpass
from postgres import Postgres, programs
from upstreams import EchoUpstream


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: moves gigabytes or waits for clocks")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out what `tests/sled_only.txt` names when the run is another backend's; each name there must exist."""
    if os.environ.get("NULLPASS_TEST_BACKEND", "sled") == "sled":
        return
    lines = [line.split("#")[0].split() for line in (ROOT / "tests/sled_only.txt").read_text(encoding="utf-8").splitlines()]
    named = {line[1] for line in lines if len(line) == 2 and line[0] == "e2e"}
    left_out = {item for item in items if f"{item.path.stem}::{item.originalname}" in named}
    collected = {item.path.stem for item in items}
    unknown = {name for name in named if name.split("::")[0] in collected} - {f"{item.path.stem}::{item.originalname}" for item in left_out}
    if unknown and not config.option.keyword and not any("::" in argument for argument in config.args):
        raise pytest.UsageError(f"tests/sled_only.txt names what is not there: {sorted(unknown)}")
    config.hook.pytest_deselected(items=list(left_out))
    items[:] = [item for item in items if item not in left_out]


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
def postgres():
    """A PostgreSQL server that a module shares; each test has a schema of its own in it."""
    need_postgres()
    with Postgres(settings={"max_connections": 200}, durable=False) as server:
        yield server


@pytest.fixture
def new_postgres():
    """Makes and starts servers that a test may do anything to."""
    need_postgres()
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(Postgres(**options))


def need_postgres() -> None:
    if programs() is None:
        pytest.skip("there is no PostgreSQL server here: apt-get install postgresql")


@pytest.fixture(scope="module")
def echo():
    """An upstream that records what it gets byte by byte."""
    with EchoUpstream() as upstream:
        yield upstream
