"""A database that fails: stopped, killed, frozen, cut off, full, read-only, out of connections, or replaced by another.

In each case three instances are asked all the time by people with good sessions, by people without, by people who sign in
and register (`replicas.Watch`). Nobody may ever be taken for somebody else, for signed in or for signed out by mistake;
what can't be known is 503 with `Retry-After`, never a wrong word; and all is well again without a hand.
"""

from __future__ import annotations

import contextlib
import random
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from conftest import need_postgres
from cutter import Cutter
from harness import PASSWORD, Account, Nullpass, new_email, postgres_storage, register, rows
from postgres import ROLE, Postgres
from replicas import Replicas, Watch, some_people, status_of

POOL = 4
STALE = 2
# How soon all must be well again when the database is: waits between tries grow to a few seconds.
RECOVERY = 15
# Once an instance knows that the database is away, it says so at once.
AT_ONCE = 3.0
CONFIG = {"sessions": {"stale_ttl": f"{STALE}s"}, "storage": {"pool": POOL}}


@contextlib.contextmanager
def others_hold_all_connections(database: Postgres):
    """`max_connections` reached, and none of them ours."""
    with database.hold_connections(int(database.ask("SHOW max_connections"))):
        deadline = time.monotonic() + 30
        # Even the places that are kept for superusers may be taken for a moment.
        while database.ask(f"SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = '{ROLE}'", check=False) != "0":
            assert time.monotonic() < deadline
            time.sleep(0.2)
        yield


@contextlib.contextmanager
def between(go, back):
    go()
    try:
        yield
    finally:
        back()


WAYS = {
    "frozen": lambda database, cutter: between(database.pause, database.resume),
    "killed": lambda database, cutter: between(database.kill, database.start),
    "stopped": lambda database, cutter: between(database.stop, database.start),
    "refused": lambda database, cutter: between(cutter.refuse, cutter.heal),
    "swallowed": lambda database, cutter: between(cutter.swallow, cutter.heal),
    "full of others": lambda database, cutter: others_hold_all_connections(database),
}


@dataclass
class Site:
    """Three instances and their database, with the proxy between them."""

    database: Postgres
    cutter: Cutter
    replicas: Replicas
    people: list[Account]
    ended: str

    def watch(self) -> Watch:
        return Watch([server.port for server in self.replicas], self.people, self.ended)


@pytest.fixture(scope="module")
def site(echo, tmp_path_factory):
    """One for all that a database and its instances get over again and again."""
    need_postgres()
    with (
        Postgres(settings={"max_connections": 24}) as database,
        Cutter(database.port) as cutter,
        Replicas(tmp_path_factory.mktemp("site"), echo.url, database.url(host=f"127.0.0.1:{cutter.port}", sslmode="disable"), config=CONFIG) as replicas,
    ):
        people, ended = some_people(replicas)
        yield Site(database, cutter, replicas, people, ended)


@pytest.mark.parametrize("way", list(WAYS))
def test_the_database_is_away(site, way):
    replicas, cutter = site.replicas, site.cutter
    with site.watch() as watch:
        watch.wait_until_all_good(30)
        began = time.monotonic()
        with WAYS[way](site.database, cutter):
            red = replicas.wait_until_ready(False, 20)
            # Whoever was seen goes on, for a while.
            assert watch.counts(began, "private")[200] > 0
            time.sleep(STALE + 1.5)
            known = time.monotonic()
            time.sleep(3)
            held(watch, known)
            assert [status_of(f"{server.admin_url}/healthz") for server in replicas] == [200] * 3
            assert replicas.metric("nullpass_store_up") == [0] * 3
            tries = cutter.attempts(known, known + 3) / 3 / 3
            healed = time.monotonic()
        healed = time.monotonic() if way == "full of others" else healed
        green = replicas.wait_until_ready(True, RECOVERY)
        good = watch.wait_until_all_good(RECOVERY)
        rush = cutter.attempts(healed, healed + 1)
        # When all is well, it stays so.
        calm = time.monotonic()
        time.sleep(1)
        assert set(watch.counts(calm, "private")) == {200}, watch.counts(calm, "private")
    slowest = max(one.took for one in watch.asked)
    print(
        f"{way}: red after {red:.1f} s, green {green:.1f} s after it was back, all good {good:.1f} s later, "
        f"{tries:.1f} connections a second an instance while away, {rush} in the first second back, "
        f"slowest answer {slowest:.1f} s, {len(watch.asked)} answers: {dict(watch.counts())}"
    )
    # No herd: a few tries a second however many ask, and no more than the pools and the listeners when it is back.
    assert tries <= 5, tries
    assert rush <= 3 * (POOL + 1) + 15, rush
    assert site.database.connections() <= 3 * (POOL + 1)
    present(replicas, watch.registered)


def held(watch: Watch, since: float) -> None:
    """What must hold while an instance knows that the database is away, and nobody's session was seen lately."""
    for what in ("private", "login", "register"):
        assert set(watch.counts(since, what)) == {503}, (what, watch.counts(since, what))
    assert set(watch.counts(since, "public")) == {200}
    slow = [one for one in watch.since(since) if one.took > AT_ONCE]
    assert not slow, f"{len(slow)} answers took longer than {AT_ONCE} s: {slow[:3]}"


def present(replicas: Replicas, emails: list[str]) -> None:
    """What was answered with 201 is there."""
    known = {row["email"] for row in rows(replicas[0].cli("user", "list", "--json").stdout)}
    assert emails and set(emails) <= known, f"{len(set(emails) - known)} of {len(emails)} acknowledged accounts are lost"


def test_connections_are_cut_in_the_middle_of_answers(site):
    """Again and again, after so many bytes as chance wills; then it heals."""
    chance = random.Random(7)
    with site.watch() as watch:
        watch.wait_until_all_good(30)
        before = len(site.cutter.came)
        for most in (50, 500, 5000, 5000, 5000):
            site.cutter.cut_in_the_middle(lambda most=most: chance.randrange(2, most))
            time.sleep(1.5)
            site.cutter.heal()
            time.sleep(0.5)
        good = watch.wait_until_all_good(RECOVERY)
        print(f"cut in the middle: {len(site.cutter.came) - before} connections, all good after {good:.1f} s, {dict(watch.counts())}")
    site.replicas.wait_until_ready(True, RECOVERY)
    present(site.replicas, watch.registered)


def test_a_slow_database_is_not_away(site):
    """Some 60 ms for each answer, as from another region: it is slow, and all goes on."""
    with site.watch() as watch:
        watch.wait_until_all_good(30)
        site.cutter.delay(0.03)
        time.sleep(1)
        slow = time.monotonic()
        time.sleep(5)
        ready = site.replicas.ready()
        site.cutter.heal()
        assert ready == [200] * 3
        said = watch.counts(slow, "private")
        # Whoever's account changed at that moment is looked up again, and may meet a pool that is busy.
        assert said[200] > 100 * said[503], said
        assert watch.counts(slow, "login")[200] > 0


def test_a_database_that_only_reads(site):
    """As connections see it that outlived a failover: reads work, every write is refused. It is left for one that writes."""
    with site.watch() as watch:
        watch.wait_until_all_good(30)
        began = time.monotonic()
        site.database.ask("ALTER SYSTEM SET default_transaction_read_only = on")
        site.database.ask("SELECT pg_reload_conf()")
        red = site.replicas.wait_until_ready(False, 20)
        time.sleep(1)
        assert watch.counts(began, "register")[503] > 0
        site.database.ask("ALTER SYSTEM RESET default_transaction_read_only")
        site.database.ask("SELECT pg_reload_conf()")
        green = site.replicas.wait_until_ready(True, RECOVERY)
        good = watch.wait_until_all_good(RECOVERY)
        print(f"read-only: red after {red:.1f} s, green {green:.1f} s after it took writes again, all good {good:.1f} s later")
    present(site.replicas, watch.registered)


def test_a_full_disk(new_postgres, echo, tmp_path):
    """The disk under the database fills up: first writes fail, then PostgreSQL gives up."""
    try:
        database = new_postgres(disk_mib=80)
    except Exception as error:  # noqa: BLE001
        pytest.skip(f"no small disk can be mounted here (that needs root): {error}")
    with Replicas(tmp_path, echo.url, database.url(sslmode="disable"), config=CONFIG) as replicas:
        people, ended = some_people(replicas)
        with Watch([server.port for server in replicas], people, ended) as watch:
            watch.wait_until_all_good(30)
            ballast = database.data / "ballast"
            # Unbuffered: what a buffer still held would be written, and fail, once more when the file is closed.
            with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
                while True:
                    file.write(bytes(65536))
            full = time.monotonic()
            # Others write as well; the log of the database needs room too.
            writing = threading.Thread(target=write_until_it_fails, args=(database,), daemon=True)
            writing.start()
            red = replicas.wait_until_ready(False, 60)
            time.sleep(STALE + 1)
            assert watch.counts(full, "register")[503] > 0
            assert set(watch.counts(full, "public")) == {200}
            died = not database.is_running()
            ballast.unlink()
            writing.join(30)
            if died:
                # PostgreSQL can't be without its log, and waits for an operator who makes room.
                database.kill()
                database.start()
            print(f"full disk: red after {red:.1f} s, PostgreSQL {'ended itself' if died else 'went on'}, all good {watch.wait_until_all_good(RECOVERY + 5):.1f} s after there was room")
            replicas.wait_until_ready(True, RECOVERY)
        present(replicas, watch.registered)


def write_until_it_fails(database: Postgres) -> None:
    for _ in range(200):
        said = database.ask("SELECT pg_logical_emit_message(false, 'test', repeat('x', 500000)), pg_switch_wal()", check=False)
        if not said:
            return


def test_a_failover(new_postgres, echo, tmp_path):
    """The primary dies, the standby takes over a while later; both are in the URL. Nothing that was acknowledged is lost,
    since the primary waited for its standby."""
    primary = new_postgres()
    standby = new_postgres(like=primary)
    primary.ask("ALTER SYSTEM SET synchronous_standby_names = '*'")
    primary.ask("SELECT pg_reload_conf()")
    # The standby stands first: it takes reads, and is no use before it is promoted.
    url = primary.url(host=f"127.0.0.1:{standby.port},127.0.0.1:{primary.port}", sslmode="disable", target_session_attrs="read-write")
    with Replicas(tmp_path, echo.url, url, config=CONFIG) as replicas:
        people, ended = some_people(replicas)
        with Watch([server.port for server in replicas], people, ended) as watch:
            watch.wait_until_all_good(30)
            primary.kill()
            red = replicas.wait_until_ready(False, 20)
            time.sleep(STALE + 2)
            known = time.monotonic()
            time.sleep(2)
            held(watch, known)
            standby.ask("ALTER SYSTEM SET synchronous_standby_names = ''")
            standby.promote()
            green = replicas.wait_until_ready(True, RECOVERY)
            print(f"failover: red after {red:.1f} s, green {green:.1f} s after the standby was promoted, all good {watch.wait_until_all_good(RECOVERY):.1f} s later")
        assert standby.connections() > 0
        present(replicas, watch.registered)


def test_what_was_acknowledged_outlives_both(new_postgres, echo, tmp_path):
    """`kill -9` of the database and of every nullpass, in the middle of registrations."""
    database = new_postgres()
    chance = random.Random(11)
    with Replicas(tmp_path, echo.url, database.url(sslmode="disable"), config=CONFIG) as replicas:
        acknowledged: list[tuple[str, str]] = []
        for _ in range(3):
            over = threading.Event()

            def go(number: int, over: threading.Event = over) -> None:
                server = replicas[number % 3]
                with server.client() as client:
                    while not over.is_set():
                        email = new_email("kept")
                        with contextlib.suppress(Exception):
                            answer = client.post("/_auth/api/auth/register", json={"email": email, "password": PASSWORD})
                            if answer.status_code == 201:
                                acknowledged.append((email, answer.json()["token"]))

            with ThreadPoolExecutor(6) as pool:
                going = [pool.submit(go, number) for number in range(6)]
                time.sleep(1.5 + chance.random())
                first, second = (database.kill, lambda: [server.kill() for server in replicas])[:: chance.choice((1, -1))]
                first()
                second()
                over.set()
                for one in going:
                    one.result(30)
            database.start()
            with ThreadPoolExecutor(3) as pool:
                list(pool.map(Nullpass.start, replicas))
            present(replicas, [email for email, _ in acknowledged])
            for number, (_, token) in enumerate(acknowledged):
                assert status_of(f"{replicas[number % 3].url}/echo", {"Authorization": f"Bearer {token}"}) == 200, "an acknowledged session is gone"
        print(f"{len(acknowledged)} acknowledged registrations, none lost")


def test_it_does_not_start_without_its_database(new_postgres, echo, tmp_path):
    """A clear word instead of a port that answers nothing; the password stays out of it."""
    database = new_postgres(durable=False)
    server = Nullpass(tmp_path / "one", echo.url, config={"storage": postgres_storage(database.url(sslmode="disable"))})
    database.kill()
    process = server.spawn()
    assert process.wait(60) == 1
    assert database.password not in server.log and "panicked" not in server.log
    assert re.search(rf"(?i)127\.0\.0\.1:{database.port}", server.log), server.log
    assert status_of(f"{server.admin_url}/readyz") == 0
    database.start()
    server.start()
    register(server)
    server.stop()
