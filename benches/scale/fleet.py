"""What instances that follow cost one PostgreSQL server, and what ten thousand of them would: a straight line through two
measured sizes, checked against a third."""

import json
import pathlib
import subprocess

from postgres import Postgres
from rig.tools import Missing
from sidecar import cpu_seconds, tree

RATE = 5.0
FUTURE = 10_000
# Sessions ended a second, in a fleet: somebody who signs out, an administrator who disables, a password that changes.
ENDINGS = (1, 10, 100)


def fleet(asked, built):
    program = built("store", asked.profile)
    try:
        server = Postgres(settings={"max_connections": 3 * max(asked.followers) + 50, "shared_buffers": "256MB"}, durable=False)
    except RuntimeError as error:
        raise Missing(f"missing: {error}") from None
    with server:
        measured = [measure(server, program, count, asked.seconds) for count in asked.followers]
        found = misses(server, program, asked.seconds)
    print("| instances | connections | memory a connection, KiB | idle: looks a second | idle: ms of processor a second | a session's end: µs of processor an instance | heard, ms: middle, 99 of 100, last |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for m in measured:
        heard = f"{m['p50']:.1f}, {m['p99']:.1f}, {m['max']:.1f}"
        print(f"| {m['followers']} | {m['connections']} | {m['memory']:.0f} | {m['looks']:.0f} | {m['idle'] * 1000:.1f} | {m['ending'] * 1e6 / m['followers']:.0f} | {heard} |")
    print(f"\nsessions looked up by an instance that has not seen them: {found:,.0f} a second of one core of the server\n")
    model(measured, found)


def measure(server, program, followers, seconds):
    """One size. The server's processor time is that of all its processes, background ones too."""
    pid = server.process.pid
    command = [program, "fleet", server.url(sslmode="disable"), f"fleet{followers}", str(followers), str(seconds), str(RATE)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    m = {"followers": followers}
    try:
        for line in child.stdout:
            told = json.loads(line)
            match told["part"]:
                case "idle":
                    m["connections"], m["memory"] = server.connections(), memory(pid)
                    before = cpu_seconds(pid)
                case "idle ended":
                    m["idle"] = (cpu_seconds(pid) - before) / told["seconds"]
                    m["looks"] = told["answers"] / told["seconds"]
                case "ending":
                    sessions, before = told["sessions"], cpu_seconds(pid)
                case "ending ended":
                    spent = cpu_seconds(pid) - before - m["idle"] * told["seconds"]
                    m["ending"] = max(spent, 0) / sessions
                case "heard":
                    m |= {"p50": told["p50_ms"], "p99": told["p99_ms"], "max": told["max_ms"]}
                    if told["heard"] < told["expected"]:
                        raise SystemExit(f"{told['expected'] - told['heard']} endings were not heard")
        if child.wait(60):
            raise SystemExit(f"{program} ended with {child.returncode}")
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()
    return m


def memory(pid):
    """KiB of its own that a process which serves a connection has, on the average (what several share is divided)."""
    sizes = []
    for one in tree(pid):
        try:
            name = pathlib.Path(f"/proc/{one}/cmdline").read_bytes()
            rollup = pathlib.Path(f"/proc/{one}/smaps_rollup").read_text()
        except OSError:
            continue
        if b"nullpass nullpass" in name:
            sizes.append(int(next(line.split()[1] for line in rollup.splitlines() if line.startswith("Pss:"))))
    return sum(sizes) / len(sizes) if sizes else float("nan")


def misses(server, program, seconds):
    """Look-ups a second of one core, the server's."""
    url, pid = server.url(sslmode="disable"), server.process.pid
    # Somebody with sessions.
    subprocess.run([program, "model", url, "misses"], check=True, stdout=subprocess.DEVNULL, timeout=60)
    child = subprocess.Popen([program, "misses", url, "misses", str(seconds), "8"], stdout=subprocess.PIPE, text=True)
    for line in child.stdout:
        told = json.loads(line)
        if told["part"] == "misses":
            before = cpu_seconds(pid)
        else:
            rate = told["count"] / (cpu_seconds(pid) - before)
    if child.wait(60):
        raise SystemExit(f"{program} ended with {child.returncode}")
    return rate


def line(points):
    """The straight line through two points."""
    (x1, y1), (x2, y2) = points
    slope = (y2 - y1) / (x2 - x1)
    return lambda x: y1 + slope * (x - x1)


def model(measured, found):
    first, second, *_, last = measured
    print("| | by the line through the first two sizes | measured at the last | off by |\n| --- | ---: | ---: | ---: |")
    lines = {}
    for key, words, unit in (("connections", "connections", 1), ("idle", "idle, ms of processor a second", 1000), ("ending", "a session's end, ms of processor", 1000)):
        lines[key] = line([(m["followers"], m[key]) for m in (first, second)])
        said, real = lines[key](last["followers"]), last[key]
        off = f"{(said / real - 1) * 100:+.0f} %" if real else "–"
        print(f"| {words}, {last['followers']} instances | {said * unit:.1f} | {real * unit:.1f} | {off} |")
    # For what is far away all three count.
    steep = lambda key: max(line([(a["followers"], a[key]), (b["followers"], b[key])])(FUTURE) for a, b in ((first, last), (second, last)))  # noqa: E731
    connections, idle, ending = steep("connections"), steep("idle"), steep("ending")
    print(f"\n{FUTURE:,} instances on one server, by the steeper of the lines to the last size:\n")
    print("| what | how much |\n| --- | ---: |")
    print(f"| connections, when nothing but following goes on | {connections:,.0f} |")
    print(f"| memory of their processes, GiB | {connections * last['memory'] / 1024 / 1024:.1f} |")
    print(f"| cores for a look each second | {idle:.1f} |")
    for rate in ENDINGS:
        print(f"| cores more, when {rate} sessions a second end | {rate * ending:.1f} |")
    print(f"| seconds of one core when every instance looks up 1,000 sessions anew | {FUTURE * 1000 / found:,.0f} |")
