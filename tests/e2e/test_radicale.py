"""Radicale, a real CalDAV server, behind nullpass as docs/radicale.md sets it up.

Two people, two calendars; calendar programs that know Basic only; one person with a second factor and an API token.
"""

from __future__ import annotations

import subprocess
import time
import uuid
from pathlib import Path

import caldav
import httpx
import pytest

from harness import PASSWORD, Account, Nullpass, call, clean_environment, create_api_token, enable_2fa, end, free_port, login, python_module, register, wait_for_http

FORGED = ["Remote-User", "remote_user", "REMOTE-USER", "REMOTE_USER", "Remote.User", "X-Remote-User", "x_remote_user", "X-Remote.User"]
EVENT = """BEGIN:VCALENDAR\r
VERSION:2.0\r
PRODID:-//example//EN\r
BEGIN:VEVENT\r
UID:{uid}\r
DTSTAMP:20260101T000000Z\r
DTSTART:20260102T090000Z\r
DTEND:20260102T100000Z\r
SUMMARY:{summary}\r
END:VEVENT\r
END:VCALENDAR\r
"""
MKCALENDAR = '<?xml version="1.0"?><C:mkcalendar xmlns:D="DAV:" xmlns:C="urn:ietf:params:xml:ns:caldav"><D:set><D:prop><D:displayname>by curl</D:displayname></D:prop></D:set></C:mkcalendar>'
REPORT = '<?xml version="1.0"?><C:calendar-query xmlns:D="DAV:" xmlns:C="urn:ietf:params:xml:ns:caldav"><D:prop><D:getetag/><C:calendar-data/></D:prop><C:filter><C:comp-filter name="VCALENDAR"/></C:filter></C:calendar-query>'


class Person:
    """Somebody with an address and the secret that their calendar program uses."""

    def __init__(self, server: Nullpass, account: Account, secret: str):
        self.server, self.account, self.secret = server, account, secret
        self.home = f"/{account.email}/"

    @property
    def auth(self) -> tuple[str, str]:
        return self.account.email, self.secret

    def dav(self) -> caldav.DAVClient:
        """A client that sends its password only after a challenge."""
        return caldav.DAVClient(url=self.server.url + "/", username=self.account.email, password=self.secret)

    def request(self, method: str, path: str, **options) -> httpx.Response:
        with self.server.client() as client:
            return client.request(method, path, auth=self.auth, **options)

    def curl(self, *args: str, path: str) -> tuple[int, str]:
        """`curl -u` of one URL: status and body."""
        done = subprocess.run(
            ["curl", "--silent", "--show-error", "--max-time", "30", "--user", f"{self.account.email}:{self.secret}", "--write-out", "\n%{http_code}", *args, self.server.url + path],
            capture_output=True, text=True, timeout=60, env=clean_environment(), check=True,
        )  # fmt: skip
        body, _, status = done.stdout.rpartition("\n")
        return int(status), body


@pytest.fixture(scope="module", params=["http_x_remote_user", "http_remote_user"])
def radicale(request, tmp_path_factory):
    """Radicale on loopback, believing the header that its configuration names."""
    folder: Path = tmp_path_factory.mktemp("radicale")
    port = free_port()
    (folder / "radicale.conf").write_text(
        f"[server]\nhosts = 127.0.0.1:{port}\n"
        f"[auth]\ntype = {request.param}\n"
        "[rights]\ntype = owner_only\n"
        f"[storage]\nfilesystem_folder = {folder / 'collections'}\n",
        encoding="utf-8",
    )
    process = python_module("radicale", "--config", str(folder / "radicale.conf"), folder=folder, log="radicale.log")
    url = f"http://127.0.0.1:{port}"
    wait_for_http(url, process, lambda: (folder / "radicale.log").read_text(), accept=lambda status: status < 500)
    yield request.param, url
    end(process)


@pytest.fixture(scope="module")
def server(radicale, start_module) -> Nullpass:
    kind, url = radicale
    identity = {"preset": "remote"}
    return start_module(url, config={"identity": identity, "rules": [{"path": "/**", "policy": "authenticated", "basic": True}]})


@pytest.fixture(scope="module")
def ada(server) -> Person:
    """Has a password and nothing else."""
    account = register(server, "ada")
    return Person(server, account, account.password)


@pytest.fixture(scope="module")
def grace(server) -> Person:
    """Has a second factor, and an API token for the calendar program."""
    account = register(server, "grace", password="another-Harbour-77-lamp")
    enable_2fa(server, account)
    return Person(server, account, create_api_token(server, account, "calendar")["token"])


def test_without_credentials_there_is_a_challenge_that_names_both_schemes(server):
    with server.client() as client:
        for method in ("PROPFIND", "MKCALENDAR", "PUT", "REPORT", "DELETE", "OPTIONS", "GET"):
            answer = client.request(method, "/")
            assert answer.status_code == 401, method
            challenge = ", ".join(answer.headers.get_list("www-authenticate")).lower()
            assert "bearer" in challenge and "basic realm=" in challenge, challenge


def test_both_make_calendars_and_see_only_their_own(server, ada, grace):
    for person, other in ((ada, grace), (grace, ada)):
        principal = person.dav().principal()
        name = f"Work of {person.account.email}"
        calendar = principal.make_calendar(name=name, cal_id=f"work-{uuid.uuid4().hex[:6]}")
        uid = uuid.uuid4().hex
        calendar.add_event(EVENT.format(uid=uid, summary=f"Tea with {person.account.email}"))
        found = calendar.search(event=True)
        assert [uid] == [e.icalendar_component["UID"] for e in found]
        mine = person.dav().principal().calendars()
        assert name in [c.get_display_name() for c in mine]
        assert all(other.account.email not in str(c.url).replace("%40", "@") for c in mine)
        path = httpx.URL(str(calendar.url)).path
        assert person.request("PROPFIND", path).status_code == 207
        assert other.request("PROPFIND", path).status_code in (403, 404)
        found[0].delete()
        assert calendar.search(event=True) == []


@pytest.mark.parametrize("who", ["ada", "grace"])
def test_curl_does_all_of_caldav(who, ada, grace):
    person: Person = {"ada": ada, "grace": grace}[who]
    calendar = f"{person.home}curl-{uuid.uuid4().hex[:6]}/"
    event = f"{calendar}tea.ics"
    xml = ["--header", "Content-Type: application/xml; charset=utf-8", "--header", "Depth: 1"]
    status, body = person.curl("--anyauth", "--request", "PROPFIND", *xml, path="/")  # asks first, answers the challenge
    assert status == 207 and "multistatus" in body
    assert person.curl("--request", "MKCALENDAR", *xml, "--data", MKCALENDAR, path=calendar)[0] == 201
    put = ["--request", "PUT", "--header", "Content-Type: text/calendar", "--data-binary", EVENT.format(uid="tea", summary="Tee für zwei")]
    assert person.curl(*put, path=event)[0] == 201
    status, body = person.curl("--request", "REPORT", *xml, "--data", REPORT, path=calendar)
    assert status == 207 and "Tee für zwei" in body
    assert person.curl("--request", "DELETE", path=event)[0] in (200, 204)
    status, body = person.curl("--request", "REPORT", *xml, "--data", REPORT, path=calendar)
    assert status == 207 and "Tee" not in body
    assert person.curl("--request", "DELETE", path=calendar)[0] in (200, 204)


# HDR-1, HDR-3: nobody becomes somebody else by a header, however it is spelt.
@pytest.mark.parametrize("forged", FORGED + ["Connection"])
def test_forged_identities_change_nothing(server, ada, grace, forged):
    mkcalendar = ada.request("MKCALENDAR", f"{ada.home}private-{uuid.uuid4().hex[:6]}/", content=MKCALENDAR)
    assert mkcalendar.status_code == 201
    headers = {forged: "Remote-User, X-Remote-User, keep-alive"} if forged == "Connection" else {forged: ada.account.email}
    propfind = grace.request("PROPFIND", "/", headers=headers | {"Depth": "0"})
    assert propfind.status_code == 207
    principal = propfind.text.replace("%40", "@")
    assert grace.account.email in principal and ada.account.email not in principal
    assert grace.request("PROPFIND", ada.home, headers=headers | {"Depth": "1"}).status_code in (403, 404)
    assert grace.request("PUT", f"{ada.home}x.ics", headers=headers, content="x").status_code in (403, 404, 409)
    with server.client() as client:
        assert client.request("PROPFIND", ada.home, headers=headers).status_code == 401


def test_the_connection_header_leaves_the_name_in_place(ada):
    answer = ada.request("PROPFIND", ada.home, headers={"Connection": "Remote-User, X-Remote-User", "Depth": "0"})
    assert answer.status_code in (207, 404), answer.text  # 404 only while the home has never been opened


def test_a_second_factor_makes_the_plain_password_useless_for_basic(server, ada, grace):
    with server.client() as client:
        refused = client.request("PROPFIND", "/", auth=(grace.account.email, grace.account.password))
        assert refused.status_code == 401
        assert client.request("PROPFIND", "/", auth=(ada.account.email, ada.account.password), headers={"Depth": "0"}).status_code == 207
        assert client.request("PROPFIND", "/", auth=(ada.account.email, PASSWORD + "x")).status_code == 401
        # The token works under its owner's name and no other.
        assert client.request("PROPFIND", "/", auth=(ada.account.email, grace.secret)).status_code == 401


def test_tokens_work_as_bearer_too(server, grace):
    with server.client() as client:
        for token in (grace.secret, grace.account.token):
            answer = client.request("PROPFIND", "/", headers={"Authorization": f"Bearer {token}", "Depth": "0"})
            assert answer.status_code == 207 and grace.account.email in answer.text.replace("%40", "@")


def test_what_was_ended_is_refused_at_the_very_next_request(server):
    account = register(server, "joan")
    login(server, account)
    made = create_api_token(server, account, "phone")
    with server.client() as client:

        def by_token() -> int:
            return client.request("PROPFIND", "/", auth=(account.email, made["token"]), headers={"Depth": "0"}).status_code

        def by_session(token: str) -> int:
            return client.request("PROPFIND", "/", headers={"Authorization": f"Bearer {token}", "Depth": "0"}).status_code

        assert (by_token(), by_session(account.token)) == (207, 207)
        listed = call(server, "GET", "/auth/tokens", token=account.token, expect=200).json()["tokens"]
        assert [(t["id"], t["name"]) for t in listed] == [(made["id"], "phone")] and made["token"] not in str(listed)
        ended = call(server, "DELETE", "/auth/tokens", token=account.token, params={"id": made["id"]})
        assert ended.status_code in (200, 204), ended.text
        assert (by_token(), by_session(account.token)) == (401, 207)
        call(server, "POST", "/auth/logout", token=account.token)
        assert by_session(account.token) == 401
        # A changed password ends what Basic had learnt of the old one.
        login(server, account)
        old = account.password
        assert client.request("PROPFIND", "/", auth=(account.email, old), headers={"Depth": "0"}).status_code == 207
        body = {"currentPassword": old, "newPassword": "Brand-new-Orchard-19"}
        call(server, "POST", "/auth/password", body, token=account.token, expect=200)
        assert by_session(account.token) == 401
        assert client.request("PROPFIND", "/", auth=(account.email, old)).status_code == 401
        assert client.request("PROPFIND", "/", auth=(account.email, body["newPassword"]), headers={"Depth": "0"}).status_code == 207


def test_a_token_ends_by_itself(server):
    account = register(server, "jean")
    soon = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 3))
    made = create_api_token(server, account, "short", expiresAt=soon)
    with server.client() as client:
        ask = lambda: client.request("PROPFIND", "/", auth=(account.email, made["token"]), headers={"Depth": "0"}).status_code  # noqa: E731
        assert ask() == 207
        time.sleep(4)
        assert ask() == 401


def test_tokens_are_held_to_their_scope(server):
    account = register(server, "mary")
    made = create_api_token(server, account, "reader", methods=["PROPFIND", "REPORT", "GET"], paths=[f"/{account.email}/**"])
    with server.client() as client:
        auth = (account.email, made["token"])
        outside = client.request("PROPFIND", "/", auth=auth, headers={"Depth": "0"})
        assert outside.status_code in (401, 403)
        writing = client.request("MKCALENDAR", f"/{account.email}/c/", auth=auth, content=MKCALENDAR)
        assert writing.status_code in (401, 403)
        made = client.request("MKCALENDAR", f"/{account.email}/c/", auth=(account.email, account.password), content=MKCALENDAR)
        assert made.status_code == 201
        assert client.request("PROPFIND", f"/{account.email}/", auth=auth, headers={"Depth": "0"}).status_code == 207
