"""Whether the time of a sign-in that fails tells why it did."""

import base64
import hashlib
import hmac
import json
import math
import pathlib
import random
import socket
import statistics
import struct
import subprocess
import tempfile
import time

import sidecar
from sidecar import PASSWORD, Sidecar, call
from traffic import sign_in

# How far the medians may be apart.
GOAL = 0.05
PEOPLE = 8
# Nobody is to be locked out here: that is another answer, and a quick one.
PATIENT = {"limits": 'account_backoff = { after = 1000000, base = "1s", max = "1s" }'}
# What the operator raised the cost of a hash to, from the default. Everything is measured with this.
RAISED = "28MiB"
DEARER = PATIENT | {"accounts": f'argon2 = {{ memory = "{RAISED}", iterations = 2, parallelism = 1, max_concurrent = 0 }}'}
KINDS = {
    "unknown": "nobody has the address",
    "wrong": "wrong password",
    "disabled": "wrong password of a disabled account",
    "second": "wrong password of an account with a second factor",
    "older": "wrong password, hashed when it cost 19MiB",
}


def timing(asked):
    with tempfile.TemporaryDirectory(prefix="np-timing-") as folder:
        folder = pathlib.Path(folder)
        with Sidecar(folder, sections=PATIENT) as before:
            before.ready()
            people(before, "older")
        with Sidecar(folder, sections=DEARER) as now:
            now.ready()
            for kind in ("wrong", "disabled", "second"):
                for email, token in people(now, kind):
                    if kind == "disabled":
                        command = [sidecar.BINARY, "user", "disable", email, "--config", now.config_path]
                        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=30)
                    if kind == "second":
                        enrol(now.port, token)
            took = measured(now.port, asked.count)
    base = statistics.median(took["unknown"])
    print(f"{asked.count} sign-ins of each kind on one connection, one after the other, in random order; argon2id with {RAISED} and 2 passes\n")
    print("| why it fails | median, ms | middle half, ms | ÷ nobody has it (95 % of resamplings) | Mann-Whitney p |")
    print("| --- | ---: | ---: | ---: | ---: |")
    told, missed = {}, []
    for kind, why in KINDS.items():
        values = took[kind]
        low, middle, high = statistics.quantiles(values, n=4)
        ratio, p = statistics.median(values) / base, mann_whitney(values, took["unknown"])
        least, most = resampled(values, took["unknown"])
        told[kind] = {"median_ms": middle, "quartiles_ms": [low, high], "ratio": ratio, "ratio_95": [least, most], "p": p, "count": len(values)}
        compared = "1 | –" if kind == "unknown" else f"{ratio:.4f} ({least:.4f}–{most:.4f}) | {p:.2f}"
        print(f"| {why} | {middle:.2f} | {low:.2f}–{high:.2f} | {compared} |", flush=True)
        if abs(ratio - 1) > GOAL:
            missed.append(f"timing: {why}: {ratio:.3f}, goal within {GOAL:.0%} of 1")
    return told, missed


def people(running, kind):
    """Registers some, and gives their addresses and tokens."""
    emails = [f"{kind}-{number}@example.com" for number in range(PEOPLE)]
    return [(email, running.token(email)) for email in emails]


def enrol(port, token):
    """Turns the second factor on (RFC 6238)."""
    bearer = {"Authorization": f"Bearer {token}"}
    status, _, body = call(port, "POST", "/_auth/api/auth/2fa", {"enable": True}, bearer)
    if status != 200:
        raise SystemExit(f"enrolling failed: {status} {body[:200]!r}")
    secret = json.loads(body)["secret"]
    key = base64.b32decode(secret + "=" * (-len(secret) % 8))
    digest = hmac.digest(key, struct.pack(">Q", int(time.time()) // 30), hashlib.sha1)
    at = digest[-1] & 15
    code = f"{(struct.unpack('>I', digest[at : at + 4])[0] & 0x7FFFFFFF) % 1_000_000:06d}"
    status, _, body = call(port, "POST", "/_auth/api/auth/2fa", {"enable": True, "verificationCode": code}, bearer)
    if status != 200:
        raise SystemExit(f"enrolling failed: {status} {body[:200]!r}")


def measured(port, count):
    """The times in ms, by kind."""
    order = [kind for kind in KINDS for _ in range(count)]
    random.shuffle(order)
    # The first ones warm up what there is to warm up.
    order = random.sample(list(KINDS), len(KINDS)) * 2 + order
    took = {kind: [] for kind in KINDS}
    with socket.create_connection(("127.0.0.1", port), 60) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for number, kind in enumerate(order):
            # Addresses of one length, so that nothing but their owners differ.
            email = f"{kind}-{number % PEOPLE}@example.com" if kind != "unknown" else f"wrong-{100 + number}@example.com"
            request = sign_in(email, PASSWORD[:-2] + "xx")
            begin = time.perf_counter()
            connection.sendall(request)
            answer = connection.recv(65536)
            spent = time.perf_counter() - begin
            if not answer.startswith(b"HTTP/1.1 401"):
                raise SystemExit(f"{kind}: {answer[:200]!r}")
            if number >= 2 * len(KINDS):
                took[kind].append(spent * 1000)
    return took


def mann_whitney(one, other):
    """The probability of a difference in ranks as large as this if there is none (two-sided, normal approximation)."""
    ordered = sorted([(value, True) for value in one] + [(value, False) for value in other])
    ranks = sum(rank for rank, (_, of_one) in enumerate(ordered, 1) if of_one)
    n, m = len(one), len(other)
    u = ranks - n * (n + 1) / 2
    z = (u - n * m / 2) / math.sqrt(n * m * (n + m + 1) / 12)
    return math.erfc(abs(z) / math.sqrt(2))


def resampled(one, other, times=1000):
    """Between which ratios of the medians 95 % of resamplings are."""
    ratios = sorted(statistics.median(random.choices(one, k=len(one))) / statistics.median(random.choices(other, k=len(other))) for _ in range(times))
    return ratios[int(times * 0.025)], ratios[int(times * 0.975)]
