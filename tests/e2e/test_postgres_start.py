"""What is wrong with a database is said at the start: clearly, by its cause, without the password, and before a port is bound.
And TLS towards it, with a certificate of the test's own authority.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import pytest

from authority import Authority
from harness import Nullpass, call, can_connect, free_port, merged, postgres_storage, register
from postgres import Postgres, programs


@pytest.fixture(scope="module")
def authority(tmp_path_factory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def database(authority, tmp_path_factory):
    """With TLS for the name `localhost`; with roles and databases that are no good for nullpass."""
    if programs() is None:
        pytest.skip("there is no PostgreSQL server here: apt-get install postgresql")
    certificate = authority.issue(tmp_path_factory.mktemp("certificate"), "server", "localhost")
    with Postgres(certificate=certificate, durable=False) as database:
        database.ask(f"CREATE ROLE guest LOGIN PASSWORD '{database.password}'")
        database.ask("CREATE DATABASE other")
        database.ask("CREATE SCHEMA taken; CREATE TABLE taken.users (name text); GRANT ALL ON SCHEMA taken TO nullpass; ALTER TABLE taken.users OWNER TO nullpass", database="nullpass")
        database.ask("CREATE SCHEMA locked; REVOKE CREATE ON DATABASE nullpass FROM PUBLIC", database="nullpass")
        yield database


def fails(folder: Path, upstream: str, storage: dict, *words: str, secret: str) -> str:
    """Starts it, and holds that it says these words and ends."""
    server = Nullpass(folder / "one", upstream, config={"storage": storage})
    process = server.spawn()
    try:
        assert process.wait(40) in (1, 2), server.log
    finally:
        server.stop()
    for word in words:
        assert word.lower() in server.log.lower(), f"{word!r} is not in: {server.log}"
    assert secret not in server.log and "panicked" not in server.log
    assert not can_connect(server.port)
    return server.log


WRONG = {
    "nobody there": (lambda d, at: postgres_storage(d.url(host=f"127.0.0.1:{at}", sslmode="disable")), ["127.0.0.1:{at}"]),
    "an unknown name": (lambda d, _: postgres_storage(d.url(host="no-such-host.invalid:5432", sslmode="disable")), ["no-such-host.invalid"]),
    "a wrong password": (lambda d, _: postgres_storage(d.url(password="wr0ng-canary", sslmode="disable")), ["password"]),
    "an unknown role": (lambda d, _: postgres_storage(d.url(user="stranger", sslmode="disable")), ["stranger"]),
    "an unknown database": (lambda d, _: postgres_storage(d.url(database="nowhere", sslmode="disable")), ["nowhere"]),
    "a role without rights": (lambda d, _: postgres_storage(d.url(user="guest", sslmode="disable")), ["guest"]),
    "a schema of another program": (lambda d, _: postgres_storage(d.url(sslmode="disable"), schema="taken"), ["taken"]),
    "a schema of somebody else": (lambda d, _: postgres_storage(d.url(sslmode="disable"), schema="locked"), ["locked"]),
    "an authority nobody knows": (lambda d, _: postgres_storage(d.url(host=f"localhost:{d.port}", sslmode="verify-full")), ["certificate"]),
    "no key": (lambda d, _: {k: v for k, v in postgres_storage(d.url(sslmode="disable")).items() if k != "master_key"}, ["master_key"]),
    "no address": (lambda d, _: {k: v for k, v in postgres_storage("x").items() if k != "url"}, ["storage.url"]),
    "an address of another kind": (lambda d, _: postgres_storage(f"mysql://nullpass:{d.password}@127.0.0.1/nullpass"), ["storage.url"]),
    "a schema that is no name": (lambda d, _: postgres_storage(d.url(sslmode="disable"), schema='x"; drop'), ["storage.schema"]),
}


@pytest.mark.parametrize("wrong", list(WRONG))
def test_it_says_what_is_wrong(database, echo, tmp_path, wrong):
    storage, words = WRONG[wrong]
    at = free_port()
    fails(tmp_path, echo.url, storage(database, at), *(word.format(at=at) for word in words), secret=database.password)


def test_a_certificate_for_another_name(database, authority, echo, tmp_path):
    """`verify-full` looks at the name, `verify-ca` at the authority alone."""
    storage = postgres_storage(database.url(sslmode="verify-full", sslrootcert=authority.file))
    fails(tmp_path, echo.url, storage, "certificate", secret=database.password)
    storage["url"] = database.url(sslmode="verify-ca", sslrootcert=authority.file)
    with Nullpass(tmp_path / "two", echo.url, config={"storage": storage}) as server:
        register(server)


def test_an_authority_that_did_not_sign_it(database, echo, tmp_path):
    other = Authority(tmp_path, "other")
    for mode in ("verify-ca", "verify-full"):
        storage = postgres_storage(database.url(host=f"localhost:{database.port}", sslmode=mode, sslrootcert=other.file))
        fails(tmp_path / mode, echo.url, storage, "certificate", secret=database.password)


@pytest.mark.parametrize("mode", ["require", "verify-ca", "verify-full"])
def test_tls(database, authority, echo, tmp_path, mode):
    """Every connection is encrypted, the listener's too."""
    roots = {"sslrootcert": authority.file} if mode != "require" else {}
    name = f"by_{secrets.token_hex(4)}"
    url = database.url(host=f"localhost:{database.port}", sslmode=mode, application_name=name, **roots)
    with Nullpass(tmp_path / "one", echo.url, config={"storage": postgres_storage(url)}) as server:
        account = register(server)
        assert call(server, "GET", "/auth/me", token=account.token).status_code == 200
        said = database.ask(f"SELECT ssl, count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE application_name = '{name}' GROUP BY ssl")
        assert said.startswith("t|"), said


def test_a_server_without_tls_is_not_spoken_to_in_clear(postgres, echo, tmp_path):
    storage = postgres_storage(postgres.url(sslmode="require"))
    fails(tmp_path, echo.url, storage, "tls", secret=postgres.password)


def test_the_address_and_the_password_come_from_files(database, echo, tmp_path):
    """`url_file` as other secrets, the password from a passfile that nobody else may read."""
    file, passfile = tmp_path / "url", tmp_path / "passfile"
    file.write_text(f"postgres://nullpass@127.0.0.1:{database.port}/nullpass?sslmode=disable&passfile={passfile}\n")
    file.chmod(0o600)
    passfile.write_text(f"127.0.0.1:{database.port}:nullpass:nullpass:{database.password}\n")
    storage = merged(postgres_storage("x"), {"url_file": str(file)})
    del storage["url"]
    passfile.chmod(0o644)
    fails(tmp_path / "open", echo.url, storage, "passfile", secret=database.password)
    passfile.chmod(0o600)
    with Nullpass(tmp_path / "private", echo.url, config={"storage": storage}) as server:
        register(server)
        assert database.password not in server.cli("config", "check").stdout
    assert os.environ.get("PGPASSWORD") is None
