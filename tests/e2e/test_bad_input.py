"""What clients get wrong, or try: a clear 4xx that names the field, nothing stored, nothing logged that should not be."""

from __future__ import annotations

import re
import secrets
import socket

import pytest

from harness import API, PASSWORD, Nullpass, call, login, new_email, profile, register, rows

LONG = "".join(f"{n * 7919 % 9973:04}" for n in range(400))  # digits without a pattern that a password meter would see


@pytest.fixture(scope="module")
def server(echo, start_module) -> Nullpass:
    return start_module(echo.url, config={"log": {"level": "debug"}, "limits": {"auth_per_ip": "1000/m", "register_per_ip": "1000/h", "account_backoff": {"after": 1000}}})


@pytest.fixture(scope="module")
def account(server):
    return register(server, "ada")


def refused(answer, field: str | None = None, statuses=(400,)) -> dict:
    """Asserts the shape of an error."""
    assert answer.status_code in statuses, f"{answer.status_code} {answer.text}"
    assert answer.headers["content-type"].startswith("application/json")
    said = answer.json()
    assert {"error", "code", "requestId"} <= set(said), said
    assert said["error"] and re.fullmatch(r"[a-z0-9_]+", said["code"])
    if field:
        assert said.get("field") == field, said
    return said


def count(server: Nullpass) -> int:
    return len(rows(server.cli("user", "list", "--json").stdout))


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"nul", b"[]", b'"text"', b"1", b'{"email":"a@example.com",}', b"{'email':'a'}", b'{"email":"a@example.com"} trailing', b"\x00", b'{"email":"a\xff\xfe@example.com","password":"x"}', b"[" * 60_000],
    ids=["empty", "open", "word", "array", "string", "number", "comma", "quotes", "trailing", "nul", "not-utf8", "deep"],
)  # fmt: skip
def test_malformed_json(server, body):
    with server.client() as client:
        for path in ("/auth/register", "/auth/login"):
            refused(client.post(API + path, content=body, headers={"Content-Type": "application/json"}))


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"email": 7}, "email"),
        ({"email": None}, "email"),
        ({"email": ["a@example.com"]}, "email"),
        ({"password": 12345678}, "password"),
        ({"password": {"a": 1}}, "password"),
        ({"displayName": 1}, "displayName"),
        ({"email": ...}, "email"),
        ({"password": ...}, "password"),
        ({"role": "admin"}, "role"),
        ({"groups": ["nullpass-admin"]}, "groups"),
        ({"Email": "b@example.com"}, "Email"),
    ],
)
def test_wrong_types_missing_and_unknown_fields_are_named(server, change, field):
    body = {"email": new_email(), "password": PASSWORD} | change
    body = {k: v for k, v in body.items() if v is not ...}
    before = count(server)
    refused(call(server, "POST", "/auth/register", body), field)
    assert count(server) == before


@pytest.mark.parametrize(
    "email",
    ["", "a", "@", "a@", "@example.com", "a@b@example.com", "a@evil.org@example.com", "a b@example.com", "a@exa mple.com", "a@example.com\n", "a\r\nX: y@example.com", "a\0@example.com", "a\u202e@example.com", "a\u200b@example.com", "<a@example.com>", "A <a@example.com>", "a@[127.0.0.1]", "a,b@example.com", "a@example..com", "x" * 300 + "@example.com"],
)  # fmt: skip
def test_addresses_that_are_none(server, email):  # EML-1
    before = count(server)
    said = refused(call(server, "POST", "/auth/register", {"email": email, "password": PASSWORD}), "email")
    assert count(server) == before
    if len(email) > 3:
        assert email not in said["error"], "what was sent is not said back"


@pytest.mark.parametrize("name", ["a\0b", "a\nb", "a\r\nSet-Cookie: x", "\x1b[31mred", "a\u202eb", "a\u2066b", "a\u200bb", "\x7f", "   ", "n" * 129])
def test_names_with_what_a_reader_cannot_see(server, account, name):
    before = count(server)
    refused(call(server, "POST", "/auth/register", {"email": new_email(), "password": PASSWORD, "displayName": name}), "displayName")
    assert count(server) == before
    was = profile(server, account.token)
    refused(call(server, "PATCH", "/auth/me", {"displayName": name}, token=account.token), "displayName")
    assert profile(server, account.token) == was


@pytest.mark.parametrize("avatar", ["javascript:alert(1)", "data:text/html,x", "//example.com/x", "/x.png", "ftp://example.com/x", "https://u:p@example.com/", 7, "https://" + "x" * 2000])
def test_pictures_that_are_no_web_address(server, account, avatar):  # NP-12
    refused(call(server, "PATCH", "/auth/me", {"avatar": avatar}, token=account.token), "avatar")


@pytest.mark.parametrize(("length", "fits"), [(0, False), (7, False), (8, True), (1024, True), (1025, False)])
def test_password_lengths_are_bytes_between_8_and_1024(server, length, fits):
    password = LONG[:length] if length > 8 else "qZ7!vX2#"[:length]
    email = new_email()
    before = count(server)
    answer = call(server, "POST", "/auth/register", {"email": email, "password": password})
    if fits:
        assert answer.status_code == 201, answer.text
        assert call(server, "POST", "/auth/login", {"email": email, "password": password}).status_code == 200
        # Not one byte of it is cut off.
        if length == 1024:
            assert call(server, "POST", "/auth/login", {"email": email, "password": password[:-1]}).status_code == 401
    else:
        refused(answer, "password")
        assert count(server) == before


def test_password_bytes_are_counted_not_characters(server):
    refused(call(server, "POST", "/auth/register", {"email": new_email(), "password": "ü" * 513}), "password")


@pytest.mark.parametrize("password", ["password", "12345678", "aaaaaaaaaaaa", "qwertyuiop"])
def test_passwords_anybody_would_guess(server, password):
    refused(call(server, "POST", "/auth/register", {"email": new_email(), "password": password}), "password")


def test_a_wrong_length_at_login_is_no_more_than_a_wrong_password(server, account):
    for password in ("x", LONG[:1024]):
        answer = call(server, "POST", "/auth/login", {"email": account.email, "password": password})
        assert answer.status_code == 401 and answer.json()["code"] == "invalid_credentials"
    assert call(server, "POST", "/auth/login", {"email": account.email, "password": LONG[:1025]}).status_code in (400, 401)


def test_ten_mebibytes_to_an_own_route(server):
    body = b'{"email":"' + b"a" * (10 << 20) + b'"}'
    with server.client() as client:
        for path in (API + "/auth/login", "/_auth/login"):
            kind = "application/json" if path.startswith(API) else "application/x-www-form-urlencoded"
            try:
                answer = client.post(path, content=body, headers={"Content-Type": kind, "Connection": "close"})
                assert answer.status_code == 413, answer.text
            except OSError:
                pass
    # Sent by hand, where a client library would stumble over the early answer.
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as raw:
        raw.sendall(f"POST {API}/auth/login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {10 << 20}\r\n\r\n".encode())
        assert raw.recv(64).startswith(b"HTTP/1.1 413")
    # And without saying how much it is.
    with server.client() as client:
        try:
            answer = client.post(API + "/auth/login", content=(b"x" * 65536 for _ in range(160)), headers={"Content-Type": "application/json"})
            assert answer.status_code == 413
        except Exception as error:  # noqa: BLE001 - the connection may be cut while the client still sends
            assert "rite" in type(error).__name__ or "ead" in type(error).__name__ or "rotocol" in type(error).__name__, error
        assert client.get(API + "/health").status_code == 200


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "application/jsonp"])
def test_wrong_content_type(server, account, kind):
    body = f'{{"email":"{account.email}","password":"{PASSWORD}"}}'.encode()
    with server.client() as client:
        refused(client.post(API + "/auth/login", content=body, headers={"Content-Type": kind} if kind else {}), statuses=(415,))


@pytest.mark.parametrize(("method", "path", "allowed"), [("GET", "/auth/login", "POST"), ("DELETE", "/auth/register", "POST"), ("PUT", "/auth/me", "PATCH"), ("POST", "/auth/sessions", "DELETE"), ("BREW", "/health", "GET")])
def test_wrong_method(server, account, method, path, allowed):
    answer = call(server, method, path, token=account.token)
    refused(answer, statuses=(405,))
    assert allowed in [m.strip() for m in answer.headers["allow"].split(",")]


def test_unknown_routes_are_404_in_json(server):
    for path in ("/auth/nothing", "/", "/auth/login/", "/auth//login"):
        answer = call(server, "GET", path)
        assert answer.status_code in (400, 404), f"{path}: {answer.status_code}"
        assert answer.json()["code"]


@pytest.mark.parametrize("credential", ["Bearer", "Bearer  x", "Bearer\tx", "bearer np_", "Bearer np_x", "Bearer np_" + "A" * 40, "Bearer a.b.c", "Basic", "Basic !!!", "Bearer " + "x" * 9000])
def test_credentials_that_are_none(server, echo, credential):  # FAIL-1, TOK-2
    arrived = len(echo.received)
    with server.client() as client:
        for path in ("/", API + "/auth/me"):
            assert client.get(path, headers={"Authorization": credential}).status_code in (400, 401, 431), path
    assert len(echo.received) == arrived


@pytest.mark.parametrize("cookie", ["nullpass=", "nullpass=x", "nullpass=a.b.c", "nullpass=\x80\xff", "nullpass=a; nullpass=b", "nullpass=" + "x" * 9000])
def test_cookies_that_are_none(server, echo, cookie):
    arrived = len(echo.received)
    with server.client() as client:
        assert client.get("/", headers={"Cookie": cookie.encode("latin-1")}).status_code in (400, 401, 431)
    assert len(echo.received) == arrived


def test_other_wrong_values_are_named(server, account):
    token = account.token
    refused(call(server, "POST", "/auth/tokens", {"name": "", "currentPassword": PASSWORD}, token=token), "name")
    refused(call(server, "POST", "/auth/tokens", {"name": "x", "expiresAt": "tomorrow", "currentPassword": PASSWORD}, token=token), "expiresAt")
    refused(call(server, "POST", "/auth/tokens", {"name": "x", "expiresAt": "2001-01-01T00:00:00Z", "currentPassword": PASSWORD}, token=token), "expiresAt")
    refused(call(server, "POST", "/auth/tokens", {"name": "x", "networks": ["10.0.0.0/99"], "currentPassword": PASSWORD}, token=token), "networks")
    refused(call(server, "POST", "/auth/2fa", {"enable": "yes", "currentPassword": PASSWORD}, token=token), "enable")
    refused(call(server, "POST", "/auth/password", {"currentPassword": PASSWORD, "newPassword": "short"}, token=token), "newPassword")
    assert call(server, "DELETE", "/auth/sessions", token=token, params={"id": "not-an-id"}).status_code in (400, 404)
    assert call(server, "GET", "/audit", token=token, params={"limit": "many"}).status_code == 400
    assert call(server, "GET", "/auth/tokens", token=token, expect=200).json()["tokens"] == []


def test_the_same_address_twice_in_another_spelling(server, account):
    before = count(server)
    answer = call(server, "POST", "/auth/register", {"email": account.email.upper(), "password": PASSWORD})
    refused(answer, statuses=(409,))
    assert count(server) == before


def test_unknown_addresses_and_wrong_passwords_look_the_same(server, account):  # NP-6
    unknown = call(server, "POST", "/auth/login", {"email": new_email(), "password": PASSWORD})
    wrong = call(server, "POST", "/auth/login", {"email": account.email, "password": PASSWORD + "!"})
    strip = lambda a: {k: v for k, v in a.json().items() if k != "requestId"}  # noqa: E731
    assert unknown.status_code == wrong.status_code == 401 and strip(unknown) == strip(wrong)
    login(server, account)


def test_nothing_of_it_was_logged(server, account):
    """Runs last in the file: no password, no token, no control character of what the tests above sent."""
    canary = "canary-" + secrets.token_hex(12)
    call(server, "POST", "/auth/login", {"email": account.email, "password": canary})
    call(server, "POST", "/auth/register", {"email": f"{canary}@@example.com", "password": canary, canary: 1})
    with server.client() as client:
        client.post(API + "/auth/login", content=b'{"password":"' + canary.encode(), headers={"Content-Type": "application/json"})
        client.get(f"{API}/auth/me?token={canary}")
        client.get(f"/_auth/login?rd=/&code={canary}")
        client.get("/", headers={"Authorization": f"Bearer np_{canary}", "Cookie": f"nullpass={canary}"})
        client.get("/the-last-line")
    assert server.log_lines("/the-last-line")
    log = server.log
    for secret in (canary, PASSWORD, LONG[:200], account.token):
        assert secret not in log
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", log), "control characters reach the log escaped only"
