"""wsgidav, a WebDAV server with locks, behind nullpass as docs/applications.md sets it up; used by a WebDAV client that
knows Basic only, with an API token as its password.
"""

from __future__ import annotations

import re
import secrets
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import httpx
import pytest
from webdav3.client import Client
from webdav3.exceptions import ResourceLocked

import documented
from clients import Authority, TlsNullpass
from harness import Account, Nullpass, clean_environment, create_api_token, enable_2fa, end, free_port, python_module, register, wait_for_port

LOCK = '<?xml version="1.0"?><D:lockinfo xmlns:D="DAV:"><D:lockscope><D:exclusive/></D:lockscope><D:locktype><D:write/></D:locktype><D:owner>{owner}</D:owner></D:lockinfo>'
PROPPATCH = '<?xml version="1.0"?><D:propertyupdate xmlns:D="DAV:"><D:set><D:prop><x:colour xmlns:x="urn:x">blue</x:colour></D:prop></D:set></D:propertyupdate>'


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("files")


@pytest.fixture(scope="module")
def server(root, tmp_path_factory, start_module) -> Nullpass:
    folder, port = tmp_path_factory.mktemp("wsgidav"), free_port()
    changes = {"8081": str(port), "/srv/files": str(root), "what `openssl rand -hex 32` prints": secrets.token_hex(32)}
    (folder / "wsgidav.yaml").write_text(documented.file("wsgidav.yaml", **changes), encoding="utf-8")
    process = python_module("wsgidav.server.server_cli", "--config", str(folder / "wsgidav.yaml"), folder=folder, log="wsgidav.log")
    wait_for_port(port, process)
    server = start_module(config=documented.config("nullpass-wsgidav.toml", **{"8081": str(port)}))
    server.application_log = folder / "wsgidav.log"
    yield server
    end(process)


@pytest.fixture(scope="module")
def person(server) -> tuple[Account, str]:
    """Somebody with a second factor, and the API token for the WebDAV program."""
    account = register(server, "ada")
    enable_2fa(server, account)
    return account, create_api_token(server, account, "files")["token"]


@pytest.fixture
def dav(server, person) -> Client:
    account, token = person
    return Client({"webdav_hostname": server.url, "webdav_login": account.email, "webdav_password": token, "webdav_timeout": 30})


@pytest.fixture
def http(server, person):
    account, token = person
    with server.client(auth=(account.email, token)) as client:
        yield client


def test_a_webdav_client_works_with_files(dav, root, tmp_path, server, person):
    (tmp_path / "up.bin").write_bytes(bytes(range(256)) * 8192)
    dav.mkdir("Zoë's files")
    assert dav.check("Zoë's files") and not dav.check("nowhere")
    dav.upload_sync(remote_path="Zoë's files/a b.bin", local_path=str(tmp_path / "up.bin"))
    assert (root / "Zoë's files" / "a b.bin").stat().st_size == 2 << 20
    assert "a b.bin" in dav.list("Zoë's files") and int(dav.info("Zoë's files/a b.bin")["size"]) == 2 << 20
    dav.move(remote_path_from="Zoë's files/a b.bin", remote_path_to="Zoë's files/moved.bin")
    dav.copy(remote_path_from="Zoë's files/moved.bin", remote_path_to="copied.bin")
    dav.download_sync(remote_path="copied.bin", local_path=str(tmp_path / "down.bin"))
    assert person[0].email in server.application_log.read_text(encoding="utf-8"), "wsgidav was not told who it is"
    assert (tmp_path / "down.bin").read_bytes() == (tmp_path / "up.bin").read_bytes()
    dav.clean("Zoë's files")
    dav.clean("copied.bin")
    assert list(root.iterdir()) == []


def test_a_lock_holds_until_it_is_given_back(dav, http):
    http.put("/locked.txt", content=b"one").raise_for_status()
    lock = dav.lock("locked.txt", timeout=60)
    refused = http.put("/locked.txt", content=b"two")
    assert refused.status_code == 423, refused.text
    with pytest.raises(ResourceLocked):
        dav.move(remote_path_from="locked.txt", remote_path_to="elsewhere.txt")
    with lock:
        pass  # leaving it unlocks
    assert http.put("/locked.txt", content=b"three").status_code in (200, 204)
    assert http.get("/locked.txt").text == "three"


def test_locks_byte_by_byte(http, person):
    """What `If`, `Lock-Token`, `Depth`, `Timeout` and `Destination` say must arrive, or nobody can ever unlock again."""
    http.put("/paper.txt", content=b"draft").raise_for_status()
    locked = http.request("LOCK", "/paper.txt", content=LOCK.format(owner=person[0].email), headers={"Depth": "0", "Timeout": "Second-120", "Content-Type": "application/xml"})
    assert locked.status_code in (200, 201), locked.text
    token = locked.headers["lock-token"]
    assert re.fullmatch(r"<opaquelocktoken:[^>]+>", token)
    assert http.put("/paper.txt", content=b"stolen").status_code == 423
    assert http.put("/paper.txt", content=b"mine", headers={"If": f"({token})"}).status_code in (200, 204)
    refreshed = http.request("LOCK", "/paper.txt", headers={"If": f"({token})", "Timeout": "Second-600"})
    assert refreshed.status_code == 200 and "lockdiscovery" in refreshed.text
    assert http.request("UNLOCK", "/paper.txt", headers={"Lock-Token": "<opaquelocktoken:wrong>"}).status_code in (400, 403, 409, 412)
    assert http.request("UNLOCK", "/paper.txt", headers={"Lock-Token": token}).status_code == 204
    assert http.put("/paper.txt", content=b"anybody").status_code in (200, 204)
    moved = http.request("MOVE", "/paper.txt", headers={"Destination": str(http.base_url.join("/moved.txt")), "Overwrite": "F"})
    assert moved.status_code == 201, moved.text
    assert http.get("/moved.txt").text == "anybody"
    found = http.request("PROPFIND", "/", headers={"Depth": "1"})
    assert found.status_code == 207 and "moved.txt" in [n.text.rpartition("/")[2] for n in ElementTree.fromstring(found.text).iter("{DAV:}href")]
    assert http.request("PROPPATCH", "/moved.txt", content=PROPPATCH).status_code == 207
    assert http.delete("/moved.txt").status_code == 204


def test_curl_uploads_and_fetches_a_part(server, person, tmp_path):
    account, token = person
    (tmp_path / "file").write_bytes(b"0123456789" * 100_000)
    curl = ["curl", "--silent", "--show-error", "--fail", "--max-time", "30", "--user", f"{account.email}:{token}"]
    subprocess.run([*curl, "--upload-file", str(tmp_path / "file"), server.url + "/big.bin"], check=True, env=clean_environment(), timeout=60, capture_output=True)
    part = subprocess.run([*curl, "--range", "10-29", server.url + "/big.bin"], check=True, env=clean_environment(), timeout=60, capture_output=True)
    assert part.stdout == b"01234567890123456789"


def test_nobody_gets_in_without_a_credential(server, person):
    account, _ = person
    with server.client() as client:
        for method in ("PROPFIND", "PUT", "LOCK", "MOVE", "OPTIONS", "GET"):
            answer = client.request(method, "/paper.txt")
            assert answer.status_code == 401 and "Basic" in str(answer.headers.get_list("www-authenticate"))
        # The second factor makes the password useless here, and a header makes nobody anybody.
        assert client.get("/", auth=(account.email, account.password)).status_code == 401
        assert client.get("/", headers={"Remote-User": account.email}).status_code == 401


def test_moves_behind_tls(server, root, tmp_path):
    """`Destination` is a whole URL: wsgidav compares it with what nullpass says of the scheme and the host in front."""
    shown = {name: server.config[name] for name in ("upstreams", "rules", "identity")}
    with TlsNullpass(tmp_path / "tls", None, Authority(tmp_path), config=shown) as front:
        account = register(front, "joan")
        with front.client(auth=(account.email, account.password)) as client:
            client.put("/from.txt", content=b"x").raise_for_status()
            moved = client.request("MOVE", "/from.txt", headers={"Destination": f"{front.url}/to.txt"})
            assert moved.status_code == 201, moved.text
            assert client.request("MOVE", "/to.txt", headers={"Destination": "https://elsewhere.example/to.txt"}).status_code == 502
            assert client.delete("/to.txt").status_code == 204


def test_a_token_that_was_ended_ends_the_mount(server):
    account = register(server, "bob")
    made = create_api_token(server, account, "files")
    dav = Client({"webdav_hostname": server.url, "webdav_login": account.email, "webdav_password": made["token"]})
    assert dav.check("/")
    server.cli("token", "revoke", made["id"])
    with httpx.Client(base_url=server.url, trust_env=False) as client:
        assert client.request("PROPFIND", "/", auth=(account.email, made["token"]), headers={"Depth": "0"}).status_code == 401
