"""The benches that compare still work: that they start everything, check it, print whole tables, and end what they started.
What the figures are is nobody's business here."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from harness import ROOT, binary, clean_environment

PROXY = ROOT / "benches/proxy/run"
INSTRUCTIONS = ROOT / "benches/instructions/run"
DEFENCE = ROOT / "benches/defence/run"
# Without the two that fill a store, for which cargo builds what fills it.
SHAPES = {"get", "post", "down", "connect", "ws", "rate", "tls", "handshake", "h2", "two"}


def command(script: Path, *arguments: str) -> list[str]:
    return [sys.executable, str(script), "--binary", str(binary()), *arguments]


def run(script: Path, *arguments: str) -> str:
    """What it prints. Skips the test where a tool is missing, which is an error in continuous integration."""
    done = subprocess.run(command(script, *arguments), capture_output=True, text=True, timeout=600, env=clean_environment())
    if done.returncode == 2 and "missing" in done.stderr:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def processes_with(text: str) -> list[str]:
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if text in line:
            found.append(line)
    return found


def test_every_peer_and_shape_gives_figures(tmp_path):
    peers = {"nullpass", "nginx", "nginx-auth", "haproxy", "envoy", "caddy"}
    figures = tmp_path / "figures.json"
    output = run(PROXY, "--quick", "--shapes", ",".join(SHAPES), "--json", str(figures))
    told = json.loads(figures.read_text())
    assert {(row["shape"], row["peer"]) for row in told["figures"]} == {(shape, peer) for shape in SHAPES for peer in peers}
    assert all(sample["count"] > 0 and sample["cpu"] > 0 for row in told["figures"] for sample in row["rounds"])
    assert peers - {"nginx-auth"} <= told["versions"].keys()
    # Every cell of the first table, the costs, is a number.
    costs = output.split("µs a request")[1].split("÷")[0]
    cells = [cell.strip() for line in costs.splitlines() if line.startswith("|") for cell in line.split("|")[2:-1]]
    assert len(cells) == len(peers) * (len(SHAPES) + 2) and "–" not in cells


def test_a_peer_that_is_absent_is_an_error_and_says_how_to_get_it(tmp_path):
    # With no program in the PATH at all.
    environment = clean_environment() | {"PATH": str(tmp_path)}
    done = subprocess.run(command(PROXY, "--quick", "--peers", "nullpass,haproxy"), capture_output=True, text=True, timeout=60, env=environment)
    assert done.returncode == 2 and done.stdout == ""
    assert "apt-get install" in done.stderr and "haproxy" in done.stderr


@pytest.fixture
def short():
    """A folder with a short path: pytest's own are too long for sockets in them."""
    with tempfile.TemporaryDirectory(prefix="np-") as folder:
        yield Path(folder)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_nothing_behind(short, how):
    environment = clean_environment() | {"TMPDIR": str(short)}
    arguments = command(PROXY, "--quick", "--seconds", "20", "--shapes", "get", "--peers", "nullpass,nginx,haproxy")
    # A shell that runs something in the background sets SIGINT to be ignored, and that is inherited.
    bench = subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    try:
        for line in bench.stdout:
            if line.startswith("- haproxy:"):
                break
        else:
            errors = bench.stderr.read()
            if bench.wait(60) == 2 and "missing" in errors:
                pytest.skip(errors.strip())
            pytest.fail(errors)
        assert processes_with(str(short))
        os.kill(bench.pid, how)
        assert bench.wait(60) == 128 + how
    finally:
        if bench.poll() is None:
            bench.kill()
            bench.wait()
        bench.stdout.close()
        bench.stderr.close()
    end = time.monotonic() + 10
    while (left := processes_with(str(short))) and time.monotonic() < end:
        time.sleep(0.1)
    assert left == [] and list(short.iterdir()) == []


def test_instructions_are_counted_the_same_each_time(tmp_path):
    figures = tmp_path / "figures.json"
    output = run(INSTRUCTIONS, "--by-function", "20", "--json", str(figures))
    told = json.loads(figures.read_text())
    assert "instructions a request" in output and told["instructions"] > 10_000
    assert told["spread"] < 0.05
    # The parts are the whole, but for what rounds to nothing.
    assert abs(sum(told["by"].values()) / told["instructions"] - 1) < 0.05
    assert subprocess.run(command(INSTRUCTIONS, "--max", "1000"), capture_output=True, env=clean_environment()).returncode == 1


def test_every_attack_is_carried_out_and_measured(tmp_path):
    figures = tmp_path / "figures.json"
    output = run(DEFENCE, "--quick", "--json", str(figures))
    told = json.loads(figures.read_text())
    assert told["timing"].keys() == {"unknown", "wrong", "disabled", "second", "older"}
    assert all(row["count"] == 8 and row["median_ms"] > 0 for row in told["timing"].values())
    flood = told["flood"]
    assert sum(flood["statuses"].values()) > 100 and set(flood["statuses"]) <= {"401", "429", "503"} and flood["p99_flood_ms"] > 0
    assert sum(told["names"]["statuses"].values()) == told["names"]["names"] == 300
    assert all(status == 200 for status, _ in told["names"]["owner"])
    assert len(told["greedy"]) == 10 and all(row["failed"] == 0 and min(row["p99_ms"]) > 0 for row in told["greedy"].values())
    assert output.count("\n## ") == 4
