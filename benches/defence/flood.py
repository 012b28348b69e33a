"""Sign-ins by the hundred each second, of strangers from everywhere, and what those notice who only want through."""

import http.client
import json
import pathlib
import statistics
import tempfile
import time

from sidecar import PASSWORD, Sidecar, cpu_seconds, most_rss_kib
from traffic import Child, application, probe, quantile, strangers

# How much longer the slowest hundredth may take, and how much memory there may be.
RATIO, MEMORY = 2.0, 200.0
# As many as can have a place in the queue, and some to be turned away.
AT_ONCE = 200
OWNER = "owner@example.com"
# Each client comes from the address that it is said to come from.
BELIEVING = {"server": 'trusted_proxies = ["127.0.0.1/32"]'}


def flood(asked):
    seconds = asked.seconds or (1.0 if asked.quick else 20.0)
    app, url = application()
    with app, tempfile.TemporaryDirectory(prefix="np-flood-") as folder:
        with Sidecar(pathlib.Path(folder), url, sections=BELIEVING, access=False) as sidecar:
            token = sidecar.ready().token(OWNER)
            cookie = device(sidecar.port)
            with Child(probe, sidecar.port, token) as others:
                loaded(others, min(seconds, 2))
                quiet = loaded(others, seconds)
                idle = most_rss_kib(sidecar.pid) / 1024
                before = cpu_seconds(sidecar.pid)
                with Child(strangers, sidecar.port, asked.rate, int(asked.rate * (seconds + 1)), AT_ONCE, elsewhere=True) as crowd:
                    crowd.told(30)
                    others.pipe.send(seconds)
                    owner = [signs_in(sidecar.port, cookie) for _ in range(5)]
                    under = others.told(seconds + 60)
                    statuses, unsent, took = crowd.told(120)
                most = most_rss_kib(sidecar.pid) / 1024
                used = (cpu_seconds(sidecar.pid) - before) / took
    p99 = [quantile(took_ms, 0.99) for took_ms, _ in (quiet, under)]
    ratio = p99[1] / p99[0]
    sent = sum(statuses.values())
    print(f"{asked.rate} sign-ins a second for {took:.0f} s, each for another address from another client; {used:.2f} cores used\n")
    print("| proxied requests, 200 a second | p50, ms | p99, ms | failed | most memory, MiB |\n| --- | ---: | ---: | ---: | ---: |")
    for name, (times, failed), memory in (("quietly", quiet, idle), ("under the flood", under, most)):
        print(f"| {name} | {statistics.median(times):.2f} | {quantile(times, 0.99):.2f} | {failed} | {memory:.1f} |")
    print(f"\np99: {ratio:.2f} x (goal: at most {RATIO:g}); most memory {most:.0f} MiB (goal: under {MEMORY:g})")
    parts = ", ".join(f"{count} x {status}" for status, count in sorted(statuses.items()))
    right = [ms for status, ms in owner if status == 200]
    print(f"the {sent} sign-ins: {parts}; not sent for want of a connection: {unsent}")
    print(f"the owner, from a browser that is known: {len(right)} of {len(owner)} sign-ins, median {statistics.median([ms for _, ms in owner]):.0f} ms")
    told = {"p99_quiet_ms": p99[0], "p99_flood_ms": p99[1], "ratio": ratio, "failed": [quiet[1], under[1]], "rss_mib": [idle, most], "statuses": statuses, "unsent": unsent, "owner": owner}
    missed = [] if ratio <= RATIO else [f"flood: p99 {ratio:.2f} x, goal {RATIO:g}"]
    missed += [] if most < MEMORY else [f"flood: {most:.0f} MiB, goal under {MEMORY:g}"]
    missed += [] if quiet[1] + under[1] == 0 else [f"flood: {quiet[1]} and {under[1]} proxied requests failed"]
    missed += [] if len(right) == len(owner) else [f"flood: the owner signed in {len(right)} of {len(owner)} times"]
    return told, missed


def loaded(others, seconds):
    others.pipe.send(seconds)
    return others.told(seconds + 60)


def device(port):
    """Signs the owner in with a browser, and gives what that browser is known by afterwards."""
    status, headers, _ = signed_in(port, {"cookie": True}, {})
    cookie = next((cookie.split(";")[0] for cookie in headers if cookie.startswith("nullpass-device=")), None)
    if status != 200 or cookie is None:
        raise SystemExit(f"the owner could not sign in: {status} {headers!r}")
    return cookie


def signed_in(port, more, headers):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    body = json.dumps({"email": OWNER, "password": PASSWORD} | more)
    begin = time.monotonic()
    connection.request("POST", "/_auth/api/auth/login", body, {"Content-Type": "application/json"} | headers)
    answer = connection.getresponse()
    answer.read()
    took = (time.monotonic() - begin) * 1000
    connection.close()
    return answer.status, answer.headers.get_all("Set-Cookie") or [], took


def signs_in(port, cookie):
    status, _, took = signed_in(port, {}, {"Cookie": cookie})
    return status, took
