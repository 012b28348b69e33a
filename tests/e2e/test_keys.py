"""`nullpass key`: the signing keys and the storage key are replaced while people come and go, and nobody notices."""

from __future__ import annotations

import base64
import json
import random
import secrets
import signal
import subprocess
import time

import pytest

from harness import PASSWORD, Account, Nullpass, binary, call, clean_environment, enable_2fa, register
from replicas import CHEAP, Replicas, Watch, some_people


def new_key() -> str:
    return base64.b64encode(secrets.token_bytes(32)).decode()


def kid(token: str) -> str:
    head = token.split(".")[0]
    return json.loads(base64.urlsafe_b64decode(head + "=" * (-len(head) % 4)))["kid"]


def published(server: Nullpass) -> list[str]:
    with server.client() as client:
        return [key["kid"] for key in client.get("/_auth/.well-known/jwks.json").json()["keys"]]


def keys(server: Nullpass) -> dict:
    return json.loads(server.cli("key", "list", "--json").stdout)


def give(server: Nullpass, master: str, previous: str | None) -> None:
    """Writes these master keys into the configuration."""
    storage = {name: value for name, value in server.config["storage"].items() if "master_key" not in name}
    server.config["storage"] = storage | {"master_key": master} | ({"previous_master_key": previous} if previous else {})
    server.write_config()


def reload(server: Nullpass) -> None:
    before = server.log.count("the configuration was read again") + server.log.count("is refused")
    server.process.send_signal(signal.SIGHUP)
    deadline = time.monotonic() + 10
    while server.log.count("the configuration was read again") + server.log.count("is refused") == before:
        assert time.monotonic() < deadline, server.log[-2000:]
        time.sleep(0.02)


def is_whole(server: Nullpass, person: Account) -> None:
    """The session, its address, a recovery code (each is good once): all that is sealed opens."""
    sessions = call(server, "GET", "/auth/sessions", token=person.token, expect=200).json()["sessions"]
    assert all(session["ip"] for session in sessions), sessions
    pending = sign_in(server, person)["pendingToken"]
    call(server, "POST", "/auth/login/2fa", {"pendingToken": pending, "recoveryCode": person.recovery_codes.pop()}, expect=200)


def sign_in(server: Nullpass, person: Account) -> dict:
    return call(server, "POST", "/auth/login", {"email": person.email, "password": PASSWORD}, expect=200).json()


def test_keys_are_replaced_under_load(echo, start):
    server = start(echo.url, config={"accounts": CHEAP, "rules": [{"path": "/public/**", "policy": "public"}]})
    people = [register(server) for _ in range(3)]
    gone = register(server)
    call(server, "POST", "/auth/logout", token=gone.token)
    storage = server.config["storage"]
    first = storage.get("master_key")
    if first is None:
        before = (server.data / "master.key").read_bytes()
    listed = server.cli("key", "list").stdout
    assert "signing" in listed and "EdDSA" in listed and "AES-256-GCM" in listed
    with Watch([server.port], people, gone.token) as watch:
        for _ in range(3):
            rows = json.loads(server.cli("key", "rotate", "--json").stdout)["signing"]
            assert rows[0]["status"] == "signing" and {row["status"] for row in rows[1:]} == {"verifying"}
            assert published(server) == [row["kid"] for row in rows]
            assert kid(sign_in(server, people[0])["token"]) == rows[0]["kid"]
        if first is not None:
            refused = server.cli("key", "rotate", "--storage", check=False)
            assert refused.returncode == 1 and "storage.previous_master_key" in refused.stderr
            give(server, new_key(), first)
            reload(server)
        done = server.cli("key", "rotate", "--storage")
        assert "wrapped" in done.stderr and "version 2" in done.stdout, done
        time.sleep(0.5)
    assert {one.status for one in watch.since(0, "private")} == {200}
    assert watch.counts(what="login")[200] > 3 and watch.registered
    after = keys(server)
    assert len(after["signing"]) == 4 and (after["storage"]["version"], after["storage"]["status"]) == (2, "current")
    # No key, sealed or open, is shown by anything.
    assert "private" not in json.dumps(after) and PASSWORD not in server.log
    if first is None:
        assert (server.data / "master.key").read_bytes() != before and not (server.data / "master.key.new").exists()
    else:
        give(server, server.config["storage"]["master_key"], None)
    server.restart()
    with server.client() as client:
        assert all(client.get("/echo", headers=person.bearer).status_code == 200 for person in people)
    assert len(published(server)) == 4


def test_a_replacement_that_is_killed_goes_on(echo, start):
    """Online and offline, at any moment: the next start works without a hand, and so does the same command."""
    server = start(echo.url, config={"accounts": CHEAP})
    people = [register(server) for _ in range(20)]
    enable_2fa(server, people[0])
    chance = random.Random(4)
    current = server.config["storage"].get("master_key")
    rotations = 0
    for round_ in range(8):
        online = round_ % 2 == 0
        if current is not None and "previous_master_key" not in server.config["storage"]:
            give(server, new_key(), current)
            current = server.config["storage"]["master_key"]
            reload(server)
        if not online:
            server.stop()
        rotate = subprocess.Popen(
            [binary(), "key", "rotate", "--storage", "--config", server.config_path],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, cwd=server.folder, env=clean_environment(), text=True,
        )  # fmt: skip
        time.sleep(chance.uniform(0.0, 0.12))
        if online:
            server.kill()
        rotate.kill()
        rotate.communicate(timeout=20)
        server.start()
        is_whole(server, people[0])
        with server.client() as client:
            assert all(client.get("/echo", headers=person.bearer).status_code == 200 for person in people)
        people.append(register(server))
        # Every other time the next one begins before this one has ended.
        if round_ % 4 == 3:
            server.cli("key", "rotate", "--storage")
            rotations += 1
            if current is not None:
                give(server, current, None)
                reload(server)
    assert keys(server)["storage"]["status"] == "current" and keys(server)["storage"]["version"] > rotations >= 2
    server.restart()
    is_whole(server, people[0])


@pytest.fixture
def three(echo, postgres, tmp_path):
    with Replicas(tmp_path, echo.url, postgres.url(sslmode="disable")) as replicas:
        yield replicas


def test_three_that_share_a_database(three):
    people, gone = some_people(three)
    old, new = three.storage["master_key"], new_key()
    with Watch([server.port for server in three], people, gone) as watch:
        # The signing key: whoever makes a token, everybody takes it.
        for server in three:
            server.cli("key", "rotate")
            token = sign_in(server, people[0])["token"]
            for other in three:
                with other.client() as client:
                    assert client.get("/echo", headers={"Authorization": f"Bearer {token}"}).status_code == 200
        # The storage key: first everybody gets both …
        give(three[0], new, old)
        reload(three[0])
        refused = three[0].cli("key", "rotate", "--storage", check=False)
        assert refused.returncode == 1 and "do not have the new master key: 2" in refused.stderr, refused.stderr
        assert keys(three[1])["storage"] | {"canRotate": None} == keys(three[0])["storage"] | {"canRotate": None}
        for server in (three[1], three[2]):
            give(server, new, old)
            reload(server)
        # … then one of them replaces it, and is killed now and then, with whoever asked it …
        rotate = subprocess.Popen([binary(), "key", "rotate", "--storage", "--config", three[1].config_path], stdin=subprocess.DEVNULL, cwd=three[1].folder, env=clean_environment())
        time.sleep(0.03)
        rotate.kill()
        rotate.wait(10)
        three[2].cli("key", "rotate", "--storage")
        assert {keys(server)["storage"]["version"] for server in three} == {2}
        # … then the old one is taken away.
        for server in three:
            give(server, new, None)
            reload(server)
        time.sleep(1)
        assert not any("is refused" in server.log for server in three)
    assert {one.status for one in watch.since(0, "private")} == {200}, watch.counts()
    # With the old key nobody starts, and it says why.
    give(three[0], old, None)
    three[0].stop()
    process = three[0].spawn()
    assert process.wait(30) == 1 and "storage.previous_master_key" in three[0].log
    three[0].process = None
    give(three[0], new, None)
    three[0].start()
    assert call(three[0], "POST", "/auth/login", {"email": people[0].email, "password": PASSWORD}).status_code == 200
