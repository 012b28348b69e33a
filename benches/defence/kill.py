#!/usr/bin/env python3
"""kill -9 under a mixed write load, again and again: every acknowledged write is there, nothing is half written.

    cargo build --release && .cache/venv/bin/python benches/defence/kill.py [--rounds 200] [--backend sled|postgres] [--seed N]

Eight clients register, sign in and out, refresh, change passwords, turn the second factor on and off, use recovery codes,
make and end API tokens and delete accounts, all at once. After a random number of answers the process gets SIGKILL, is
started again without a hand, and everybody who wrote is asked for: sessions and API tokens that were acknowledged live,
those that were ended do not, exactly one password holds, used codes stay used, no account is half there. A write without
an answer may have happened or not. Every tenth round, and at the end, all accounts of all rounds are looked at, and the
list of accounts is held against what is known. The same seed makes the same people want the same things.

The environment is the one that `tests/run e2e` makes. Exit 1 on a finding. The same code runs twenty times in `tests/run` (tests/e2e/test_killed.py).
"""

import argparse
import contextlib
import pathlib
import random
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "benches/common"), str(ROOT / "tests/e2e")]
sys.dont_write_bytecode = True
import harness  # noqa: E402
from killing import CONFIG, Crowd  # noqa: E402
from postgres import Postgres  # noqa: E402
from sidecar import machine  # noqa: E402
from upstreams import EchoUpstream  # noqa: E402


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--backend", choices=("sled", "postgres"), default="sled")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


def main():
    options = arguments()
    print(f"{harness.binary().parent.name} build, {options.backend}, {options.rounds} rounds, seed {options.seed}; {machine()}")
    with contextlib.ExitStack() as stack:
        folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        upstream = stack.enter_context(EchoUpstream())
        config = CONFIG
        if options.backend == "postgres":
            database = stack.enter_context(Postgres(durable=False))
            config = CONFIG | {"storage": harness.postgres_storage(database.url())}
        server = stack.enter_context(harness.Nullpass(folder, upstream.url, config=config))
        return run(server, options)


def run(server, options):
    crowd, dice, findings, starts = Crowd(server, options.seed), random.Random(options.seed), [], []
    for number in range(1, options.rounds + 1):
        crowd.work_until_killed(dice.randint(1, 60), dice.uniform(0, 0.05))
        began = time.monotonic()
        server.start()
        starts.append(time.monotonic() - began)
        found = crowd.check(everybody=number % 10 == 0 or number == options.rounds)
        findings += found
        for finding in found:
            print(f"round {number}: {finding}")
        if number % 10 == 0:
            print(f"round {number}: {crowd.acknowledged} writes acknowledged, {crowd.unanswered} cut off, {sum(map(len, crowd.people))} accounts, {len(findings)} findings", flush=True)
    panics = server.log.count("panicked")
    print(f"kills {options.rounds}, acknowledged {crowd.acknowledged}, cut off {crowd.unanswered}, accounts {sum(map(len, crowd.people))}")
    print(f"start after a kill: median {sorted(starts)[len(starts) // 2] * 1000:.0f} ms, longest {max(starts) * 1000:.0f} ms")
    print(f"findings: {len(findings)}; panics: {panics}")
    return 1 if findings or panics else 0


if __name__ == "__main__":
    sys.exit(main())
