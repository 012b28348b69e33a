"""Killed at any moment, a full disk, files that are gone: what was acknowledged holds, or there is a clear word."""

from __future__ import annotations

import os
import random
import secrets
import shutil
import subprocess
import tarfile
import time

import httpx
import pytest

from harness import API, PASSWORD, ROOT, Account, Nullpass, bearer, call, create_api_token, login, new_email, profile, register
from killing import CONFIG, Crowd

POSTGRES = os.environ.get("NULLPASS_TEST_BACKEND") == "postgres"
ROUNDS = 4 if POSTGRES else 20


def test_twenty_kills_lose_nothing_and_leave_nothing_half_done(echo, start):
    server = start(echo.url, config=CONFIG)
    seed = int(os.environ.get("NULLPASS_TEST_SEED", secrets.randbelow(10**6)))
    print(f"NULLPASS_TEST_SEED={seed}")
    crowd, dice = Crowd(server, seed), random.Random(seed)
    for round in range(ROUNDS):
        crowd.work_until_killed(dice.randint(1, 16), dice.uniform(0, 0.03))
        server.start()
        assert crowd.check(everybody=round == ROUNDS - 1) == []
    assert crowd.acknowledged >= 3 * ROUNDS and crowd.unanswered >= ROUNDS, "it was in the middle of writing"
    assert "panicked" not in server.log


# --- Folders that something is wrong with --------------------------------------------------------------------------


def refused(server: Nullpass, *words: str) -> None:
    """It does not start: exit code 1, a word that says why, nothing of a panic, and no port."""
    before = len(server.log)
    process = server.spawn()
    assert process.wait(60) == 1, server.log
    said = server.log[before:]
    server.process = None
    for word in words:
        assert word in said, said
    assert "panicked" not in said and "RUST_BACKTRACE" not in said, said
    done = server.cli("user", "list", check=False)
    assert done.returncode == 1 and "panicked" not in done.stderr and done.stderr.startswith("error: "), done.stderr


def test_keys_and_files_that_are_gone_are_named(echo, start):  # NP-4, CFG-3
    server = start(echo.url, config=CONFIG)
    account = register(server, "ada")
    server.restart()
    server.stop()
    good, data = server.folder / "good", server.data
    shutil.copytree(data, good)

    def again() -> None:
        shutil.rmtree(data)
        shutil.copytree(good, data)

    (data / "master.key").unlink()
    refused(server, "master.key is missing")
    assert not (data / "master.key").exists(), "no other key is in the way of the right one"
    again()
    (data / "master.key").write_bytes((good / "master.key").read_bytes()[::-1].strip() + b"\n")
    refused(server)
    again()
    other = start(echo.url, config=CONFIG)
    other.stop()
    shutil.copy(other.data / "master.key", data / "master.key")
    refused(server, "the master key is not the one")
    again()
    (data / "db").unlink()
    refused(server, "missing or empty")
    again()
    with (data / "db").open("r+b") as file:
        file.truncate(0)
    refused(server, "missing or empty")
    again()
    with (data / "db").open("r+b") as file:
        file.truncate(3000)
    refused(server, "database")
    again()
    (data / "durable").write_text("00000000000000999999 ffff\n")
    refused(server, "`durable` is damaged")
    again()
    server.start()
    login(server, account)
    # The mark alone may go: what is there was all there is, and that is said.
    server.kill()
    (data / "durable").unlink()
    server.start()
    assert "file `durable` is gone" in server.log
    login(server, account)


def test_a_folder_that_can_only_be_read_is_said_to_be(echo, start):
    server = start(echo.url, config=CONFIG)
    server.stop()
    if os.getuid() != 0:
        server.data.chmod(0o500)
        for file in server.data.iterdir():
            file.chmod(0o400)
        refused(server, "may not be read and written")
        return
    with mounted(server.data, "-t", "tmpfs", "-o", "size=2m", "nullpass-test"):
        subprocess.run(["mount", "-o", "remount,ro", str(server.data)], check=True)
        refused(server, "read-only", str(server.data))


def test_a_full_disk_costs_nothing_and_heals(echo, start):
    """Who is signed in goes on; what can't be kept is refused with 503; with room again all is well, without a hand."""
    server = start(echo.url, config=CONFIG, run=False)
    server.data.mkdir()
    with mounted(server.data, "-t", "tmpfs", "-o", "size=6m,mode=0700", "nullpass-test"):
        server.start()
        account = register(server, "ada")
        ballast = server.data / "ballast"
        fill_up(ballast)
        kept, answer = [account], None
        body = {"name": "x" * 60, "currentPassword": PASSWORD}
        tokens = []
        for _ in range(2000):
            answer = call(server, "POST", "/auth/tokens", body, token=account.token)
            if answer.status_code != 201:
                break
            tokens.append(answer.json()["token"])
        assert answer.status_code == 503 and "retry-after" in answer.headers, answer.text
        with server.client(headers=account.bearer) as client:
            assert client.get("/").status_code == 200, "who is signed in goes on"
        assert call(server, "POST", "/auth/register", {"email": new_email(), "password": PASSWORD}).status_code == 503
        assert "no space is left" in server.log
        assert httpx.get(f"{server.admin_url}/readyz", trust_env=False).status_code == 503
        # Room again: all is well without a restart.
        ballast.unlink()
        deadline = time.monotonic() + 60
        while call(server, "POST", "/auth/tokens", body, token=account.token).status_code != 201 and time.monotonic() < deadline:
            time.sleep(0.2)
        assert httpx.get(f"{server.admin_url}/readyz", trust_env=False).status_code == 200
        assert "opened again after its disk had failed" in server.log
        tokens.append(create_api_token(server, account)["token"])
        login(server, account)
        # And full when it is killed.
        fill_up(ballast)
        server.kill()
        # Whether it can start on what is left of the disk or not, it says so.
        process = server.spawn()
        try:
            code = process.wait(5)
            assert code == 1 and "no space is left" in server.log, server.log
        except subprocess.TimeoutExpired:
            server.kill()
        ballast.unlink()
        server.start()
        login(server, account)
        with server.client() as client:
            for token in tokens[-50:]:
                assert client.get("/", headers=bearer(token)).status_code == 200, "what was acknowledged is there"
        kept.append(register(server, "bob"))
        assert all(profile(server, one.token)["email"] == one.email for one in kept)
        assert "panicked" not in server.log
        server.stop()


def fill_up(file) -> None:
    """To the last byte of the disk."""
    with file.open("wb", buffering=0) as ballast, pytest.raises(OSError):
        while True:
            ballast.write(bytes(4096))


class mounted:
    """Something mounted at a folder; where that is not allowed the test is skipped."""

    def __init__(self, place, *how: str):
        self.place, self.how = str(place), how

    def __enter__(self) -> None:
        if os.getuid() != 0 or subprocess.run(["mount", *self.how, self.place], capture_output=True, check=False).returncode != 0:
            pytest.skip("mounting is not allowed here")

    def __exit__(self, *_: object) -> None:
        subprocess.run(["umount", "-l", self.place], check=True)


# --- Older releases ------------------------------------------------------------------------------------------------


def test_a_folder_of_an_older_release_opens(echo, start):
    server = start(echo.url, config=CONFIG, run=False)
    with tarfile.open(ROOT / "tests/fixtures/data-schema-1.tar.gz") as archive:
        archive.extractall(server.folder, filter="data")
    server.data.chmod(0o700)
    for _ in range(2):
        server.start()
        for name in ("bob", "carol"):
            number = {"bob": 2, "carol": 4}[name]
            login(server, Account(f"{name}@example.com", f"old-Orchard-{name}-{number}", "", ""))
        assert call(server, "POST", "/auth/login", {"email": "gone@example.com", "password": "old-Orchard-gone-3"}).status_code == 401
        with server.client() as client:
            told = client.get("/", headers=bearer("np_XMOYeh9Rg0oZgzJuwyMFwX9rUBSTIfdTeRPBrFG6jGh3xyxMi"))
            assert told.status_code == 200 and "ada@example.com" in told.text, "an API token"
        server.kill()
    server.start()
    pending = call(server, "POST", "/auth/login", {"email": "ada@example.com", "password": "old-Orchard-ada-1"}, expect=200).json()["pendingToken"]
    call(server, "POST", "/auth/login/2fa", {"pendingToken": pending, "recoveryCode": "09n0s-w58fx"}, expect=200)
    assert '"staff"' in server.cli("user", "show", "bob@example.com", "--json").stdout
    assert (server.data / "durable").exists()
