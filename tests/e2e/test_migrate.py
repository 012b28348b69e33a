"""`nullpass migrate`: the whole state goes from the data folder to the database and back, and nobody notices."""

from __future__ import annotations

import base64
import json
import os
import pty
import re
import secrets
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness import (
    PASSWORD, Account, Browser, Nullpass, bearer, binary, call, clean_environment, create_api_token, enable_2fa, login, new_email, profile, register, rows,
)  # fmt: skip

DIGEST = re.compile(r"^everything is in (\w+), sha256 ([0-9a-f]{64})$", re.M)
LAST = "everything is in"
ELSEWHERE = {"X-Forwarded-For": "192.0.2.9"}


@dataclass
class Ends:
    """A data folder and a schema, and a configuration that names both."""

    url: str
    schema: str
    folder: Path
    data: Path
    key: Path

    def storage(self, backend: str = "postgres", **more: object) -> dict:
        both = {"backend": backend, "path": str(self.data), "master_key_file": str(self.key)}
        return both | ({"url": self.url, "schema": self.schema} if backend == "postgres" else {}) | more

    def config(self, **more: object) -> Path:
        file = self.folder / f"migrate-{secrets.token_hex(4)}.toml"
        lines = [f"{key} = {json.dumps(value)}" for key, value in self.storage(**more).items()]
        file.write_text("[storage]\n" + "\n".join(lines) + "\n")
        return file

    def command(self, start: str, end: str, *words: str, **more: object) -> list:
        return [binary(), "migrate", "--from", start, "--to", end, "--config", self.config(**more), *words]

    def migrate(self, start: str, end: str, *words: str, expect: int | None = 0, **more: object) -> subprocess.CompletedProcess:
        done = subprocess.run(
            self.command(start, end, *words, **more), capture_output=True, text=True, timeout=240, cwd=self.folder, env=clean_environment(), stdin=subprocess.DEVNULL, check=False
        )
        assert expect is None or done.returncode == expect, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done


@pytest.fixture
def ends(tmp_path, postgres):
    data = tmp_path / "state"
    return Ends(postgres.url(sslmode="disable"), f"t_{secrets.token_hex(8)}", tmp_path, data, data / "master.key")


@pytest.fixture
def serve(ends, start):
    """A server on one of the ends, always under the same name, which is the tokens' issuer."""

    def make(upstream: str, backend: str) -> Nullpass:
        server = start(upstream, run=False, config={"server": {"public_url": "http://app.test", "trusted_proxies": ["127.0.0.1/32"]}, "limits": {"account_backoff": {"after": 4, "base": "10m", "max": "10m"}}})
        server.config["storage"] = ends.storage(backend)
        if backend == "sled" and not ends.key.exists():
            # As it is by default: the key is made in the data folder.
            del server.config["storage"]["master_key_file"]
        server.write_config()
        return server

    return make


def counts(said: str) -> dict[str, list[str]]:
    """The table: for each kind its cells."""
    lines = [re.split(r"\s{2,}", line.strip()) for line in said.splitlines() if re.search(r"\s{2,}\d", line)]
    return {cells[0]: cells[1:] for cells in lines}


def digest(done: subprocess.CompletedProcess) -> str:
    return DIGEST.search(done.stdout).group(2)


def refuses_to_start(server: Nullpass) -> str:
    """The log of a server that ends by itself with an error."""
    process = server.spawn()
    assert process.wait(30) == 1, server.log
    server.process = None
    return server.log


def audit(server: Nullpass, token: str) -> list[dict]:
    return call(server, "GET", "/audit", token=token, params={"limit": 100}, expect=200).json()


def small_state(ends: Ends, serve, echo) -> Account:
    with serve(echo.url, "sled") as server:
        return register(server)


def test_everything_goes_there_and_back(echo, ends, serve):
    with serve(echo.url, "sled") as server:
        plain, second = register(server, "plain"), register(server, "second")
        enable_2fa(server, second)
        used, unused = second.recovery_codes[:2]
        pending = call(server, "POST", "/auth/login", {"email": second.email, "password": PASSWORD}, expect=200).json()["pendingToken"]
        call(server, "POST", "/auth/login/2fa", {"pendingToken": pending, "recoveryCode": used}, expect=200)
        spent = second.authenticator._totp.at(second.authenticator._last * 30)
        refreshed = call(server, "POST", "/auth/refresh", {}, token=plain.token, expect=200).json()["token"]
        token = create_api_token(server, plain)["token"]
        disabled, deleted, locked = (register(server, name) for name in ("disabled", "deleted", "locked"))
        server.cli("user", "disable", disabled.email)
        server.cli("user", "delete", deleted.email, "--yes")
        server.cli("user", "set-groups", plain.email, "staff")
        # From another address than the others, whose own is not to be locked.
        for _ in range(5):
            call(server, "POST", "/auth/login", {"email": locked.email, "password": "wrong"}, headers=ELSEWHERE)
        assert call(server, "POST", "/auth/login", {"email": locked.email, "password": PASSWORD}).status_code == 429
        browser = Browser(server.url)
        page = browser.submit(browser.get("/_auth/login"), {"email": plain.email, "password": PASSWORD})
        assert page.status_code == 200 and browser.cookies
        before = profile(server, plain.token), audit(server, plain.token), call(server, "GET", "/auth/sessions", token=plain.token, expect=200).json()

    def same_as_before(server: Nullpass) -> None:
        """Nobody is signed out, and nothing that was used up can be used again."""
        assert (profile(server, plain.token), audit(server, plain.token)) == before[:2]
        sessions = call(server, "GET", "/auth/sessions", token=plain.token, expect=200).json()["sessions"]
        assert [s["id"] for s in sessions] == [s["id"] for s in before[2]["sessions"]] and sessions[0]["ip"]
        with server.client() as client:
            for given in (plain.token, token):
                answer = client.get("/x", headers=bearer(given))
                assert answer.status_code == 200 and "staff" in answer.text, answer.text
            assert client.get("/x", headers=bearer(disabled.token)).status_code == 401
            assert client.get("/x", cookies=browser.cookies).status_code == 200
        for code in ({"verificationCode": spent}, {"recoveryCode": used}):
            pending = call(server, "POST", "/auth/login", {"email": second.email, "password": PASSWORD}, expect=200).json()["pendingToken"]
            assert call(server, "POST", "/auth/login/2fa", {"pendingToken": pending, **code}).status_code == 401
        assert call(server, "POST", "/auth/login", {"email": locked.email, "password": PASSWORD}).status_code == 429
        assert call(server, "POST", "/auth/register", {"email": deleted.email, "password": PASSWORD}).status_code in (403, 409)

    there = ends.migrate("sled", "postgres")
    table = counts(there.stdout)
    assert table["accounts"][:2] == ["4", "4"] and table["addresses of deleted accounts"][:2] == ["1", "1"]
    assert table["spent TOTP steps"][:2] == ["1", "1"] and table["API tokens"][:2] == ["1", "1"]
    assert all(cells[-1] == "same" for cells in table.values()) and len(table) == 11

    # Back at once, to a folder of its own: it is the same state.
    first = ends.data
    ends.data = ends.folder / "back"
    back = ends.migrate("postgres", "sled")
    assert digest(back) == digest(there) and counts(back.stdout) == table
    with serve(echo.url, "sled") as server:
        same_as_before(server)
    ends.data = first

    with serve(echo.url, "postgres") as server:
        same_as_before(server)
        # The generation went along: the one before is honoured for its grace, the one after is a real one.
        assert profile(server, refreshed)["email"] == plain.email
        login(server, second)
        pending = call(server, "POST", "/auth/login", {"email": second.email, "password": PASSWORD}, expect=200).json()["pendingToken"]
        call(server, "POST", "/auth/login/2fa", {"pendingToken": pending, "recoveryCode": unused}, expect=200)
        newcomer = register(server, "newcomer")
        call(server, "POST", "/auth/logout", {}, token=plain.token, expect=200)

    # And back once more with what has happened since.
    ends.data = ends.folder / "again"
    again = ends.migrate("postgres", "sled")
    assert digest(again) != digest(there) and counts(again.stdout)["accounts"][:2] == ["5", "5"]
    with serve(echo.url, "sled") as server:
        assert profile(server, newcomer.token)["email"] == newcomer.email
        call(server, "GET", "/auth/me", token=plain.token, expect=401)
        listed = {row["email"] for row in rows(server.cli("user", "list", "--json").stdout)}
        assert listed == {a.email for a in (plain, second, disabled, locked, newcomer)}


def test_what_is_there_is_never_written_over(echo, ends, serve):
    small_state(ends, serve, echo)
    there = ends.migrate("sled", "postgres")
    for start, end in (("sled", "postgres"), ("postgres", "sled")):
        done = ends.migrate(start, end, expect=1)
        assert "refusing to overwrite" in done.stderr, done.stderr
    # Both are as they were.
    ends.data = ends.folder / "copy"
    assert digest(ends.migrate("postgres", "sled")) == digest(there)


def many_records(postgres, schema: str, count: int) -> None:
    """So many audit events, written where that is quick; enough for a migration to be killed in the middle."""
    event = """'{"id":"'||id||'","at":'||at||',"action":"LOGIN_FAILED","outcome":"failure"}'"""
    postgres.ask(
        f"""INSERT INTO "{schema}".audit (at, id, user_id, action, record)
            SELECT at, id, NULL, 'LOGIN_FAILED', '\\x01'::bytea || convert_to({event}, 'UTF8')
            FROM (SELECT 1700000000000 + n AS at, gen_random_uuid() AS id FROM generate_series(1, {count}) AS n) AS events"""
    )


@pytest.mark.parametrize("end", ["sled", "postgres"])
def test_killed_anywhere_it_is_finished_by_repeating(echo, ends, serve, postgres, end):
    account = small_state(ends, serve, echo)
    ends.migrate("sled", "postgres")
    many_records(postgres, ends.schema, 20_000)
    key = ends.folder / "kept.key"
    shutil.copy(ends.key, key)
    ends.key, ends.data = key, ends.folder / "whole"
    whole = ends.migrate("postgres", "sled")
    if end == "sled":
        start, ends.data = "postgres", ends.folder / "target"
    else:
        start, ends.schema = "sled", f"t_{secrets.token_hex(8)}"
    # A little later each time, however quick the machine is, until it was hit in the middle a few times.
    patience, half = 0.05, 0
    while half < 3:
        process = subprocess.Popen(ends.command(start, end), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ends.folder, env=clean_environment())
        try:
            out, _ = process.communicate(timeout=patience)
            assert LAST in out, "it ended by itself, and not well"
            break
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
        patience *= 1.15
        done = ends.migrate(end, start, "--dry-run", expect=None)
        if done.returncode == 0:
            break  # It was killed when all was done.
        if "begun and not finished" in done.stderr:
            half += 1
            log = refuses_to_start(serve(echo.url, end))
            assert "begun and not finished" in log and "migrate" in log, log
            listed = serve(echo.url, end).cli("user", "list", check=False)
            assert listed.returncode == 1 and "begun and not finished" in listed.stderr
    else:
        assert digest(ends.migrate(start, end)) == digest(whole)
    assert half > 0, "it was never killed in the middle"
    with serve(echo.url, end) as server:
        assert profile(server, account.token)["email"] == account.email


def test_a_wrong_key_is_noticed_before_anything_is_written(echo, ends, serve, postgres):
    small_state(ends, serve, echo)
    kept = ends.key
    ends.key = ends.folder / "other.key"
    ends.key.write_text(base64.b64encode(secrets.token_bytes(32)).decode())
    ends.key.chmod(0o600)
    done = ends.migrate("sled", "postgres", expect=1)
    assert "master key" in done.stderr and str(kept) in done.stderr, done.stderr
    assert ends.key.read_text().strip() not in done.stderr + done.stdout
    assert postgres.ask(f"SELECT count(*) FROM pg_namespace WHERE nspname = '{ends.schema}'") == "0"
    ends.key = kept
    ends.migrate("sled", "postgres")
    ends.key, ends.data = ends.folder / "other.key", ends.folder / "back"
    done = ends.migrate("postgres", "sled", expect=1)
    assert "master key" in done.stderr and not (ends.data / "db").exists()


def test_a_newer_schema_is_left_alone(echo, ends, serve, postgres):
    small_state(ends, serve, echo)
    ends.migrate("sled", "postgres")
    postgres.ask(f"""INSERT INTO "{ends.schema}".nullpass_migrations (number, name) VALUES (999, 'later')""")
    before = postgres.ask(f'SELECT count(*) FROM "{ends.schema}".users')
    for start, end in (("sled", "postgres"), ("postgres", "sled")):
        ends.data = ends.data if start == "sled" else ends.folder / "back"
        done = ends.migrate(start, end, expect=1)
        assert "newer" in done.stderr and "version" in done.stderr, done.stderr
    assert postgres.ask(f'SELECT count(*) FROM "{ends.schema}".users') == before


def test_a_server_that_runs_on_the_source_is_noticed(echo, ends, serve):
    with serve(echo.url, "sled"):
        done = ends.migrate("sled", "postgres", expect=1)
        assert "another nullpass uses" in done.stderr and "stop" in done.stderr, done.stderr
    ends.migrate("sled", "postgres")
    ends_back = Ends(ends.url, ends.schema, ends.folder, ends.folder / "back", ends.key)
    with serve(echo.url, "postgres"):
        done = ends_back.migrate("postgres", "sled", expect=1)
        assert "stop" in done.stderr, done.stderr
    ends_back.migrate("postgres", "sled")


def test_a_dry_run_says_what_would_be_done_and_does_nothing(echo, ends, serve, postgres):
    small_state(ends, serve, echo)
    done = ends.migrate("sled", "postgres", "--dry-run")
    assert "CREATE TABLE users" in done.stdout and counts(done.stdout)["accounts"][0] == "1"
    assert "nothing was written" in done.stderr
    assert postgres.ask(f"SELECT count(*) FROM pg_namespace WHERE nspname = '{ends.schema}'") == "0"
    whole = ends.migrate("sled", "postgres")
    ends.data = ends.folder / "back"
    done = ends.migrate("postgres", "sled", "--dry-run")
    assert counts(done.stdout)["accounts"] == [counts(whole.stdout)["accounts"][i] for i in (0, 2)]
    assert not ends.data.exists()


def test_wrong_usage_is_code_two(ends):
    for words in (["--from", "sled"], ["--from", "sled", "--to", "mysql"], ["--from", "sled", "--to", "sled"]):
        done = subprocess.run([binary(), "migrate", *words], capture_output=True, text=True, timeout=30, cwd=ends.folder, env=clean_environment(), check=False)
        assert done.returncode == 2, done.stderr
    done = ends.migrate("sled", "postgres", url="", expect=2)
    assert "storage.url" in done.stderr
    done = ends.migrate("sled", "postgres", expect=2)
    assert "master_key_file" in done.stderr, "there is no such file yet"
    ends.key = ends.folder / "some.key"
    ends.key.write_text(base64.b64encode(secrets.token_bytes(32)).decode())
    ends.key.chmod(0o600)
    done = ends.migrate("sled", "postgres", expect=1)
    assert str(ends.data) in done.stderr and not ends.data.exists(), "an empty source is not made on the way"


def test_a_terminal_gets_a_bar_and_a_file_gets_lines(echo, ends, serve):
    small_state(ends, serve, echo)
    ours, theirs = pty.openpty()
    process = subprocess.Popen(ends.command("sled", "postgres"), stdout=subprocess.DEVNULL, stderr=theirs, cwd=ends.folder, env=clean_environment())
    os.close(theirs)
    said = b""
    while True:
        try:
            some = os.read(ours, 4096)
        except OSError:
            break
        if not some:
            break
        said += some
    os.close(ours)
    assert process.wait(30) == 0
    assert b"\r" in said and b"[########" in said and b"100%" in said
    ends.data = ends.folder / "back"
    done = ends.migrate("postgres", "sled")
    assert "\r" not in done.stderr and "\x1b" not in done.stderr and "100%" in done.stderr
