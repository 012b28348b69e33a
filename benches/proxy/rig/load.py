"""Running a load generator on the load's core and reading what it says. Whatever is not a good answer ends the run."""

import json
import re
import statistics
import time
from dataclasses import dataclass

from .processes import pinned, run

# More than that and something hangs.
SLACK = 60
UNITS = {"us": 0.001, "ms": 1.0, "s": 1000.0}


@dataclass(frozen=True)
class Target:
    """Where a load goes. `tokens` is a file with one token a line, of which most loads take the first; `start` is with
    which of them a load begins that takes them in turn."""

    port: int
    token: str
    tokens: object
    start: int
    tls: bool
    cores: list
    folder: object
    tools: dict

    def url(self, path):
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}{path}"


@dataclass(frozen=True)
class Outcome:
    """Requests (or messages, or handshakes), the seconds they took, and latencies in ms where the tool tells them."""

    count: int
    seconds: float
    p50: float = None
    p99: float = None


def wrk(target, seconds, path, connections, script=""):
    """HTTP/1.1 as fast as it goes."""
    lua = target.folder / "wrk.lua"
    lua.write_text(script)
    command = [target.tools["wrk"], "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "-s", lua]
    command += ["-H", f"Authorization: Bearer {target.token}", target.url(path)]
    output = run(pinned(target.cores, *command), seconds + SLACK)
    errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", output)
    # wrk calls it a read error when a server closes a connection of its own accord.
    if "Non-2xx" in output or (errors and any(int(errors[at]) for at in (1, 3, 4))):
        raise SystemExit(f"wrk met errors on {target.url(path)}:\n{output}")
    found = re.search(r"(\d+) requests in ([\d.]+)(s|m)", output)
    quantiles = [float(m[1]) * UNITS[m[2]] for m in (re.search(rf"{q}%\s+([\d.]+)(us|ms|s)", output) for q in (50, 99))]
    return Outcome(int(found[1]), float(found[2]) * (60 if found[3] == "m" else 1), *quantiles)


def h2load(target, seconds, path, connections, streams):
    """HTTP/2 as fast as it goes."""
    log = target.folder / "h2load.log"
    log.unlink(missing_ok=True)
    command = [target.tools["h2load"], "-t1", f"-c{connections}", f"-m{streams}", f"-D{seconds}s", f"--log-file={log}"]
    command += ["-H", f"Authorization: Bearer {target.token}", target.url(path)]
    output = run(pinned(target.cores, *command), seconds + SLACK)
    if "Application protocol: h2\n" not in output:
        raise SystemExit(f"no HTTP/2 on {target.url(path)}:\n{output}")
    good = answered(output, target)
    rows = [line.split("\t") for line in open(log)]
    latencies = sorted(int(row[2]) for row in rows if row[1].strip() == "200")
    quantile = lambda q: latencies[min(len(latencies) - 1, int(len(latencies) * q))] / 1000  # noqa: E731
    return Outcome(good, seconds, quantile(0.5), quantile(0.99))


def handshakes(target, seconds, path, batch):
    """A new TLS connection for each request, without resumption: h2load knows no session tickets."""
    command = [target.tools["h2load"], "--h1", "-t1", f"-n{batch}", f"-c{batch}", "-H", f"Authorization: Bearer {target.token}"]
    count, began = 0, time.monotonic()
    while (took := time.monotonic() - began) < seconds:
        count += answered(run(pinned(target.cores, *command, target.url(path)), SLACK), target)
    return Outcome(count, took)


def answered(output, target):
    """How many requests h2load saw answered with 2xx, when there was nothing else."""
    requests = re.search(r"(\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout", output)
    codes = re.search(r"status codes: (\d+) 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx", output)
    if not requests or not codes or any(int(codes[at]) for at in (2, 3, 4)) or any(int(requests[at]) for at in (2, 3, 4)):
        raise SystemExit(f"h2load met errors on port {target.port}:\n{output}")
    if int(requests[1]) == 0:
        raise SystemExit(f"h2load got no answer:\n{output}")
    return int(requests[1])


def own(target, seconds, mode, path, connections, *more):
    """`load.rs`: ws, turn or rate."""
    command = [target.tools["load"], mode, target.port, path, connections, seconds, target.tokens, *more]
    figures = json.loads(run(pinned(target.cores, *command), seconds + SLACK))
    if figures["count"] == 0:
        raise SystemExit(f"load {mode} got no answer")
    return Outcome(figures["count"], figures["seconds"], figures["p50_us"] / 1000, figures["p99_us"] / 1000)


def median(values):
    """Of those that are there; None when none is."""
    there = [value for value in values if value is not None]
    return statistics.median(there) if there else None
