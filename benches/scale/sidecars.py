"""One instance with many live sessions, and one that does nothing but check passwords."""

import base64
import contextlib
import http.client
import json
import os
import pathlib
import resource
import shutil
import statistics
import subprocess
import tempfile
import threading
import time

from postgres import Postgres
from rig import backend, tools
from rig.keys import ISSUER
from rig.processes import Placement, Server, pinned, run
from sidecar import PASSWORD, call, cpu_seconds, free_port, rss_kib

CONNECTIONS = 16
STARTS = 3
# Each of them once: what a table in memory that fills itself takes for so many is known then, and a million would take minutes.
MOST_COLD = 100_000
# What hashing at the same time keeps one core busy.
AT_ONCE = 3


def live(asked, built):
    """Memory, disk, start and throughput, for each number of sessions in each store."""
    found = tools.find(["nginx", "taskset"])
    found["load"] = tools.load_generator()
    place = Placement()
    if len(place.cores) < 2:
        raise tools.Missing("two cores are needed: one for the sidecar, one for the load")
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    fill, rows = built("fill", asked.profile), []
    with contextlib.ExitStack() as stack:
        folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="np-scale-")))
        server = stack.enter_context(database())
        upstream = stack.enter_context(backend.upstream(found["nginx"], place.load(), folder))
        for count in asked.sessions:
            kept = filled(fill, count)
            for kind in ("sled", "postgres"):
                rows.append(one(asked, folder / f"{kind}-{count}", kind, kept, count, server, upstream.port, place, found))
                print(f"- {kind}, {count:,} sessions: measured", flush=True)
    print("\n| store | live sessions | on disk, MiB | first answer, s | processor until then, s | MiB then | MiB when all were seen | a session's first look, µs of processor | requests a second of one core |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for r in rows:
        cold = f"{r['cold'] * 1e6:.0f}" if r["cold"] else "–"
        print(f"| {r['kind']} | {r['count']:,} | {r['disk'] / 1048576:.1f} | {r['first']:.2f} | {r['cpu']:.2f} | {r['then'] / 1024:.1f} | {r['seen'] / 1024:.1f} | {cold} | {r['rate']:,.0f} |")
    least, most = asked.sessions[0], asked.sessions[-1]
    for kind in ("sled", "postgres"):
        small, large = (next(r for r in rows if (r["kind"], r["count"]) == (kind, count)) for count in (least, most))
        looked = min(most, MOST_COLD) if kind == "postgres" else most
        print(f"\n{kind}: {(large['seen'] - small['seen']) * 1024 / max(looked - least, 1):,.0f} bytes of memory and {(large['disk'] - small['disk']) / max(most - least, 1):,.0f} on disk for a session and its account")


def database():
    try:
        return Postgres(settings={"shared_buffers": "512MB", "max_wal_size": "4GB"}, durable=True)
    except RuntimeError as error:
        raise tools.Missing(f"missing: {error}") from None


def filled(program, count):
    """A data folder with so many sessions of as many people, and their tokens; made once and kept."""
    folder = tools.CACHE / f"bench/live-{count}"
    made = (folder / "tokens").stat().st_mtime if (folder / "tokens").exists() else 0
    if time.time() - made > tools.TOKENS_LAST:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        print(f"- filling {folder} with {count:,} sessions", flush=True)
        subprocess.run([program, folder / "data", str(count), str(count), folder / "tokens.new"], check=True, stdout=subprocess.DEVNULL, timeout=7200)
        (folder / "tokens.new").rename(folder / "tokens")
    return folder


def configured(folder, storage, upstream):
    port = free_port()
    (folder / "nullpass.toml").write_text(
        f'[server]\nlisten = ["127.0.0.1:{port}"]\nworkers = 1\n[admin]\nlisten = ""\n[accounts]\nregistration = "open"\n'
        f'[limits]\nregister_per_ip = ""\nauth_per_ip = ""\n[tokens]\nissuer = "{ISSUER}"\n{storage}[log]\naccess = false\n'
        f'[[upstreams]]\nname = "app"\nurl = "http://127.0.0.1:{upstream}"\n'
    )
    return port


def start(asked, folder, port, core):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("NULLPASS")}
    # A million sessions are read before it listens.
    return Server(pinned(core, asked.binary, "serve", "--config", folder / "nullpass.toml"), port, folder / "log", environment, seconds=300)


def one(asked, folder, kind, kept, count, server, upstream, place, found):
    folder.mkdir()
    shutil.copytree(kept / "data", folder / "data")
    schema = f"live{count}"
    both = f'[storage]\npath = "{folder}/data"\nmaster_key_file = "{folder}/data/master.key"\n'
    storage = both
    if kind == "postgres":
        storage += f'backend = "postgres"\nurl = "{server.url(sslmode="disable")}"\nschema = "{schema}"\n'
    port = configured(folder, storage, upstream)
    if kind == "postgres":
        run([asked.binary, "migrate", "--from", "sled", "--to", "postgres", "--config", folder / "nullpass.toml"], 7200)
        server.ask("VACUUM ANALYZE", database="nullpass", check=False)
        disk = int(server.ask(f"SELECT sum(pg_total_relation_size(c.oid)) FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace WHERE nspname = '{schema}' AND relkind = 'r'"))
    else:
        disk = sum(file.stat().st_size for file in (folder / "data").rglob("*") if file.is_file())
    token = (kept / "tokens").open().readline().strip()
    core, starts = place.proxy(1), []
    for nth in range(STARTS):
        began = time.monotonic()
        sidecar = start(asked, folder, port, core)
        try:
            status, _, _ = call(port, "GET", "/1k", headers={"Authorization": f"Bearer {token}"})
            starts.append((time.monotonic() - began, cpu_seconds(sidecar.pid)))
            if status != 200:
                raise SystemExit(f"a stored session is not honoured: {status}")
            if nth == STARTS - 1:
                return measured(asked, kind, count, kept, sidecar, place, found) | {
                    "kind": kind,
                    "count": count,
                    "disk": disk,
                    "first": statistics.median(first for first, _ in starts),
                    "cpu": statistics.median(cpu for _, cpu in starts),
                }
        finally:
            sidecar.stop()


def measured(asked, kind, count, kept, sidecar, place, found):
    """Memory at first and when every session (of a million a part) was seen, what seeing one for the first time costs, and
    requests a second of processor time."""
    then = rss_kib(sidecar.pid)
    looked, cold = min(count, MOST_COLD), None
    tokens = kept / "tokens"
    if kind == "postgres" and count > 1:
        part = pathlib.Path(sidecar.out.name).with_name("tokens")
        with tokens.open() as whole:
            part.write_text("".join(line for line, _ in zip(whole, range(looked))))
        tokens = part
        before, went = cpu_seconds(sidecar.pid), 0
        while went < looked:
            told = load(place, found, sidecar.port, tokens, 0.5, went)
            went += told["count"]
        # As many requests cost this much when nothing is new.
        cold = (cpu_seconds(sidecar.pid) - before) / went
    seen = rss_kib(sidecar.pid)
    before = cpu_seconds(sidecar.pid)
    told = load(place, found, sidecar.port, tokens, asked.seconds, 0)
    each = (cpu_seconds(sidecar.pid) - before) / told["count"]
    return {"then": then, "seen": seen, "cold": cold - each if cold else None, "rate": 1 / each}


def load(place, found, port, tokens, seconds, first):
    command = pinned(place.load(), found["load"], "turn", port, "/1k", CONNECTIONS, seconds, tokens, first)
    return json.loads(run(command, seconds + 60))


def logins(asked, _built):
    """How many passwords one core checks, with the parameters that are the default, everything else of a login included."""
    core = Placement().proxy(1)
    with contextlib.ExitStack() as stack:
        folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="np-scale-")))
        server = stack.enter_context(database())
        key = base64.b64encode(os.urandom(32)).decode()
        print("| store | logins a second of one core | ms of processor a login |\n| --- | ---: | ---: |")
        for kind in ("sled", "postgres"):
            place = folder / kind
            place.mkdir()
            storage = f'[storage]\npath = "{place}/data"\nmaster_key = "{key}"\n'
            if kind == "postgres":
                storage += f'backend = "postgres"\nurl = "{server.url(sslmode="disable")}"\nschema = "logins"\n'
            port = configured(place, storage, 9)
            sidecar = start(asked, place, port, core)
            try:
                rate = guess(port, sidecar.pid, asked.seconds)
            finally:
                sidecar.stop()
            print(f"| {kind} | {rate:.1f} | {1000 / rate:.1f} |", flush=True)


def guess(port, pid, seconds):
    """Right passwords, some at a time, each for another account."""
    people = [f"person.{n}@example.com" for n in range(AT_ONCE)]
    for email in people:
        status, _, body = call(port, "POST", "/_auth/api/auth/register", {"email": email, "password": PASSWORD})
        if status != 201:
            raise SystemExit(f"registering failed: {status} {body[:300]!r}")
    counts, end = [0] * AT_ONCE, time.monotonic() + seconds

    def one(nth):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        body = json.dumps({"email": people[nth], "password": PASSWORD})
        while time.monotonic() < end:
            connection.request("POST", "/_auth/api/auth/login", body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            answer.read()
            if answer.status != 200:
                raise SystemExit(f"a login failed: {answer.status}")
            counts[nth] += 1

    before = cpu_seconds(pid)
    threads = [threading.Thread(target=one, args=(nth,)) for nth in range(AT_ONCE)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / (cpu_seconds(pid) - before)
