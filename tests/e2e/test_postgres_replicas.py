"""Three instances on one database: what is done at one counts at all of them, within two seconds at the latest."""

from __future__ import annotations

import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect
from websockets.sync.server import serve

from cutter import Cutter
from harness import (
    PASSWORD,
    PREFIX,
    Browser,
    Nullpass,
    bearer,
    call,
    create_api_token,
    enable_2fa,
    free_port,
    login,
    new_email,
    profile,
    register,
    rows,
    run_cli,
)
from replicas import PROMISE, SLACK, Replicas, refused_everywhere
from wire_upstream import WireUpstream

WITHIN = PROMISE + SLACK


@pytest.fixture(scope="module")
def upstream():
    """An application of HTTP, with streams that go on."""
    with WireUpstream() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def sockets():
    """An application of WebSockets."""
    port = free_port()

    def talk(connection) -> None:
        for message in connection:
            connection.send(message)

    with serve(talk, "127.0.0.1", port) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{port}"
        server.shutdown()


@pytest.fixture(scope="module")
def cutter(postgres):
    """All connections of the third instance go through it."""
    with Cutter(postgres.port) as cutter:
        yield cutter


@pytest.fixture(scope="module")
def replicas(postgres, cutter, echo, upstream, sockets, tmp_path_factory):
    config = {
        "upstreams": [{"name": "app", "url": echo.url}, {"name": "streams", "url": upstream.url, "path": "/hold"}, {"name": "sockets", "url": sockets, "path": "/ws"}],
        "accounts": {"registration": "open"},
    }
    direct = postgres.url(sslmode="disable")
    ways = [direct, direct, postgres.url(host=f"127.0.0.1:{cutter.port}", sslmode="disable")]
    with Replicas(tmp_path_factory.mktemp("replicas"), echo.url, direct, config=config, ways=ways) as replicas:
        yield replicas


def seen_by_all(replicas: Replicas, token: str) -> None:
    for server in replicas:
        with server.client() as client:
            assert client.get("/echo", headers=bearer(token)).status_code == 200


def say(words: str, times: list[float]) -> None:
    """Prints what was measured, and holds it against the promise."""
    print(f"{words}: median {sorted(times)[len(times) // 2] * 1000:.0f} ms, latest {max(times) * 1000:.0f} ms of {len(times)} (promised {PROMISE:.0f} s, {SLACK} s allowed to this machine)")
    assert max(times) <= WITHIN, times


# --- Ends ----------------------------------------------------------------------------------------------------------


def ends(replicas: Replicas, account, how: str) -> None:
    """Ends the account's session at the first instance."""
    one = replicas[0]
    match how:
        case "signed out":
            call(one, "POST", "/auth/logout", token=account.token, expect=200)
        case "from another session":
            other = login(one, account)["token"] if (old := account.token) else None
            found = call(one, "GET", "/auth/sessions", token=other, expect=200).json()["sessions"]
            [row] = [row for row in found if not row["current"]]
            call(one, "DELETE", f"/auth/sessions?id={row['id']}", token=other, expect=200)
            account.token = old
        case "password changed":
            body = {"currentPassword": account.password, "newPassword": PASSWORD + "-new"}
            call(one, "POST", "/auth/password", body, token=account.token, expect=200)
        case "disabled":
            one.cli("user", "disable", account.email)
        case "deleted":
            one.cli("user", "delete", account.email, "--yes")
        case "by an operator":
            one.cli("session", "revoke", "--user", account.email)


@pytest.mark.parametrize("how", ["signed out", "from another session", "password changed", "disabled", "deleted", "by an operator"])
def test_a_session_that_ends_at_one_is_refused_at_the_others(replicas, how):
    times = []
    for _ in range(5):
        account = register(replicas[1])
        token = account.token
        seen_by_all(replicas, token)
        ends(replicas, account, how)
        times += refused_everywhere(replicas, token)[1:]
    say(f"refused elsewhere, {how}", times)


def test_an_api_token_that_ends_at_one_is_refused_at_the_others(replicas):
    times = []
    for _ in range(5):
        account = register(replicas[2])
        made = create_api_token(replicas[1], account)
        seen_by_all(replicas, made["token"])
        call(replicas[0], "DELETE", f"/auth/tokens?id={made['id']}", {"currentPassword": account.password}, token=account.token, expect=200)
        times += refused_everywhere(replicas, made["token"])[1:]
    say("API token refused elsewhere", times)


def test_what_is_open_ends_at_all_of_them(replicas):
    """WebSockets and streams of the ended session, at every instance; another person's go on."""
    ended, stays = register(replicas[0]), register(replicas[0])

    def open_at(server: Nullpass, token: str, name: str):
        one = connect(server.url.replace("http", "ws") + f"/ws?id={name}", additional_headers=bearer(token), proxy=None)
        one.send("open")
        assert one.recv(timeout=10) == "open"
        return one

    class Stream:
        def __init__(self, server: Nullpass, token: str, name: str):
            self.client = server.client(headers=bearer(token), timeout=15)
            self.context = self.client.stream("GET", f"/hold?id={name}")
            self.blocks = self.context.__enter__().iter_raw()
            assert next(self.blocks).startswith(b"data: first")

        def wait(self) -> float:
            with pytest.raises(Exception, match="."):
                for _ in self.blocks:
                    pass
            return time.monotonic()

    def wait(one) -> float:
        if isinstance(one, Stream):
            return one.wait()
        with pytest.raises(ConnectionClosed):
            one.recv(timeout=15)
        return time.monotonic()

    going = [make(server, ended.token, f"ended{n}") for n, server in enumerate(replicas) for make in (open_at, Stream)]
    others = [open_at(server, stays.token, f"stays{n}") for n, server in enumerate(replicas)]
    with ThreadPoolExecutor(len(going)) as pool:
        waiting = [pool.submit(wait, one) for one in going]
        time.sleep(0.3)
        began = time.monotonic()
        call(replicas[0], "POST", "/auth/logout", token=ended.token, expect=200)
        times = [one.result(20) - began for one in waiting]
    say("open WebSockets and streams cut at all three", times)
    for one in others:
        one.send("still")
        assert one.recv(timeout=5) == "still"
        one.close()
    for one in going:
        (one.client if isinstance(one, Stream) else one).close()


@pytest.mark.parametrize("how", ["terminated by the server", "all of the server's connections terminated", "cut on the way", "swallowed on the way", "all swallowed on the way"])
def test_a_lost_listener_loses_nothing(replicas, postgres, cutter, how):
    """The connection that hears of changes ends just before, while or just after a session does. Where it falls silent
    instead, the database counts as away after the two seconds, and who was seen goes on for `stale_ttl` (3 s here)."""
    times, limit = [], WITHIN + (3 if "swallowed" in how else 0)
    for _ in range(3):
        account = register(replicas[1])
        seen_by_all(replicas, account.token)

        def spoil() -> None:
            match how:
                case "terminated by the server":
                    assert postgres.cut("query ILIKE '%LISTEN%' OR query ILIKE '%changes%'") >= 1
                case "all of the server's connections terminated":
                    assert postgres.cut() >= 3
                case "cut on the way":
                    assert cutter.cut(lambda link: link.listens) >= 1
                case "swallowed on the way":
                    cutter.swallow(lambda link: link.listens)
                case "all swallowed on the way":
                    # New connections go through; those that are there say nothing more, and nobody is told.
                    cutter.swallow(lambda link: True)

        spoiling = threading.Thread(target=spoil)
        spoiling.start()
        time.sleep(0.02)
        # The pool may have lost its connections too: what is not acknowledged is asked again.
        deadline = time.monotonic() + 10
        while call(replicas[0], "POST", "/auth/logout", token=account.token).status_code not in (200, 401):
            assert time.monotonic() < deadline
        began = time.monotonic()
        spoiling.join(20)
        gone = []
        for server in list(replicas)[1:]:
            with server.client(headers=account.bearer) as client:
                # 503: it can't be asked at the moment. Never a yes later than promised.
                while (status := client.get("/echo").status_code) not in (401,):
                    late = time.monotonic() - began
                    assert status == 503 or late < limit, f"{status} after {late:.2f} s"
                    assert late < 20
                    if status == 503:
                        time.sleep(0.05)
                gone.append(time.monotonic() - began)
        cutter.heal()
        cutter.cut(lambda link: link.swallows)
        replicas.wait_until_ready(True, 20)
        times += gone
    print(f"refused elsewhere, listener {how}: latest {max(times) * 1000:.0f} ms")


# --- One state -----------------------------------------------------------------------------------------------------


def test_a_session_works_everywhere_at_once(replicas):
    """Signed in at one, used at another, refreshed at the third; nobody waits for news of it."""
    for n in range(6):
        first, second, third = (replicas[(n + k) % 3] for k in range(3))
        account = register(first)
        assert profile(second, account.token)["id"] == account.id
        new = call(third, "POST", "/auth/refresh", token=account.token, expect=200).json()["token"]
        assert new != account.token
        for server in replicas:
            assert profile(server, new)["id"] == account.id
        found = call(second, "GET", "/auth/sessions", token=new, expect=200).json()["sessions"]
        assert len(found) == 1


def test_a_token_used_after_its_grace_ends_the_session_everywhere(replicas):
    """A second refresh of the first token is theft, whoever is asked (the successor was seen elsewhere)."""
    account = register(replicas[0])
    tokens = [account.token]
    for n in range(2):
        tokens.append(call(replicas[n], "POST", "/auth/refresh", token=tokens[-1], expect=200).json()["token"])
    assert call(replicas[2], "POST", "/auth/refresh", token=tokens[0]).status_code == 401
    times = refused_everywhere(replicas, tokens[-1])
    say("a stolen session refused everywhere", times)


def test_one_address_is_one_account(replicas):
    """Registered at all three at the same instant."""
    for _ in range(5):
        email = new_email()
        with ThreadPoolExecutor(9) as pool:
            body = {"email": email, "password": PASSWORD}
            answers = list(pool.map(lambda n: call(replicas[n % 3], "POST", "/auth/register", body).status_code, range(9)))
        assert sorted(answers) == [201] + [409] * 8, answers
        assert len([row for row in rows(replicas[0].cli("user", "list", "--json").stdout) if row["email"] == email]) == 1


def test_guesses_count_across_instances(postgres, echo, tmp_path):
    """The fifth wrong password locks, wherever the others were tried; the lock holds everywhere."""
    with Replicas(tmp_path, echo.url, postgres.url(sslmode="disable")) as replicas:
        account = register(replicas[0])
        wrong = {"email": account.email, "password": "wrong-harbour-42"}
        answers = [call(replicas[n % 3], "POST", "/auth/login", wrong).status_code for n in range(12)]
        assert answers[:5] == [401] * 5 and 429 in answers[5:7], answers
        right = {"email": account.email, "password": account.password}
        assert 429 in [call(server, "POST", "/auth/login", right).status_code for server in replicas]


def test_a_code_works_once_anywhere(replicas):
    """A pending login that one began is finished at another, and neither it nor its code works twice."""
    account = register(replicas[0])
    authenticator = enable_2fa(replicas[0], account)
    pending = [call(server, "POST", "/auth/login", {"email": account.email, "password": account.password}, expect=200).json()["pendingToken"] for server in replicas]
    code = authenticator.code()
    with ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(lambda n: call(replicas[(n + 1) % 3], "POST", "/auth/login/2fa", {"pendingToken": pending[n], "verificationCode": code}).status_code, range(3)))
    assert sorted(answers) == [200, 401, 401], answers
    won = answers.index(200)
    again = {"pendingToken": pending[won], "verificationCode": authenticator.code()}
    assert call(replicas[won], "POST", "/auth/login/2fa", again).status_code == 401, "it was spent elsewhere"


def test_the_setup_link_of_the_last_start_works_everywhere_once(postgres, echo, tmp_path):
    config = {"accounts": {"registration": "closed"}}
    with Replicas(tmp_path, echo.url, postgres.url(sslmode="disable"), config=config) as replicas:
        paths = [re.findall(rf"{PREFIX}/setup\?code=\S+", server.log)[-1] for server in replicas]
        email = new_email("admin")
        made = 0
        for path in paths:
            # Each start voids the older links: one of the three is good, at an instance that did not make it.
            with Browser(replicas[2].url) as browser:
                page = browser.get(path)
                if page.status_code != 200 or "password" not in page.text:
                    continue
                done = browser.submit(page, {"email": email, "password": PASSWORD}, follow=False)
                made += done.status_code in (302, 303)
        assert made == 1
        [row] = rows(replicas[1].cli("user", "list", "--json").stdout)
        assert row["email"] == email
        assert call(replicas[0], "POST", "/auth/login", {"email": email, "password": PASSWORD}).status_code == 200


def test_a_key_that_one_made_counts_for_all(postgres, echo, tmp_path):
    """Instances change their algorithm one after the other: a token of either key is good at all of them all the time."""
    with Replicas(tmp_path, echo.url, postgres.url(sslmode="disable")) as replicas:
        account = register(replicas[0])
        tokens, times = [account.token], []
        for server in replicas:
            server.config["tokens"] = {"algorithm": "ES256"}
            server.write_config()
            server.restart()
            tokens.append(login(server, account)["token"])
            began = time.monotonic()
            for other in replicas:
                for token in tokens:
                    with other.client(headers=bearer(token)) as client:
                        while (status := client.get("/echo").status_code) != 200:
                            assert time.monotonic() - began < 10, status
                            time.sleep(0.02)
            times.append(time.monotonic() - began)
        say("tokens of a new key good everywhere", times)
        keys = []
        for server in replicas:
            with server.client() as client:
                keys.append(sorted(key["kid"] for key in client.get(f"{PREFIX}/.well-known/jwks.json").json()["keys"]))
        assert len(keys[0]) == 2 and keys == [keys[0]] * 3, keys


# --- Operators -----------------------------------------------------------------------------------------------------


def test_commands_at_one_count_at_all(replicas):
    account = register(replicas[1])
    seen_by_all(replicas, account.token)
    replicas[0].cli("user", "set-groups", account.email, "staff", "night-shift")
    deadline = time.monotonic() + WITHIN
    for server in list(replicas)[1:]:
        with server.client(headers=account.bearer) as client:
            while groups(client) != "night-shift,staff":
                assert time.monotonic() < deadline, groups(client)
                time.sleep(0.01)
    assert account.email in replicas[2].cli("user", "list").stdout


def groups(client) -> str | None:
    return next((value for name, value in client.get("/echo").json()["headers"] if name.lower() == "x-forwarded-groups"), None)


def test_commands_work_where_no_server_runs(replicas, tmp_path):
    """From an operator's machine, with the configuration alone: straight to the database, and the servers hear of it."""
    account = register(replicas[0])
    seen_by_all(replicas, account.token)
    alone = Nullpass(tmp_path / "operator", "http://127.0.0.1:1", config={"storage": replicas.storage, "accounts": {"argon2": {"memory": "7MiB", "iterations": 5}}})
    assert account.email in alone.cli("user", "list").stdout
    alone.cli("user", "disable", account.email)
    say("disabled from elsewhere", refused_everywhere(replicas, account.token))
    alone.cli("user", "enable", account.email)
    login(replicas[2], account)
    email = new_email("added")
    alone.cli("user", "add", email, "--password-stdin", stdin=PASSWORD + "\n")
    assert call(replicas[1], "POST", "/auth/login", {"email": email, "password": PASSWORD}).status_code == 200
    done = run_cli("user", "show", "nobody@example.com", "--config", str(alone.config_path))
    assert done.returncode == 1 and "postgres://" not in done.stderr


# --- Everybody at once ---------------------------------------------------------------------------------------------


def test_parallel_sign_ins_never_swap_identities(replicas):
    """Many people at all instances at the same time, each through all that a session does."""
    with ThreadPoolExecutor(16) as pool:
        people = list(pool.map(lambda n: register(replicas[n % 3], f"many{n}"), range(40)))

        def go(n: int) -> None:
            person, server, other = people[n % len(people)], replicas[n % 3], replicas[(n // 3) % 3]
            said = call(server, "POST", "/auth/login", {"email": person.email, "password": person.password}, expect=200).json()
            assert said["user"]["id"] == person.id
            assert profile(other, said["token"])["id"] == person.id
            with other.client(headers=bearer(said["token"])) as client:
                told = dict((name.lower(), value) for name, value in client.get("/echo").json()["headers"])
            assert (told["x-forwarded-user-id"], told["x-forwarded-email"]) == (person.id, person.email)

        list(pool.map(go, range(300)))
