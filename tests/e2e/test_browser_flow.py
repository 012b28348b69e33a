"""A person with a browser that runs no JavaScript: register, sign in by both steps, prove it again, sign out."""

from __future__ import annotations

import re
import time
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from harness import API, PREFIX, Browser, Nullpass, call, enable_2fa, hidden_names, new_email, profile, register

PASSWORD = "violet-harbour-42-lantern"
FOREIGN = ["https://evil.example/", "//evil.example/", "/\\evil.example/", "\\\\evil.example", "javascript:alert(1)", "/\t/evil.example", "https:evil.example", "/%09/evil.example", "http://127.0.0.1:1/", ""]


@pytest.fixture(scope="module")
def server(echo, start_module) -> Nullpass:
    rules = [{"path": "/fresh/**", "policy": "authenticated", "max_auth_age": "3s"}, {"path": "/strong/**", "policy": "two_factor"}, {"path": "/staff/**", "policy": "authenticated", "groups": ["staff"]}]
    return start_module(echo.url, config={"rules": rules})


@pytest.fixture
def browser(server):
    with Browser(server.url) as browser:
        yield browser


def sign_in(browser: Browser, email: str, path: str = "/", password: str = PASSWORD) -> httpx.Response:
    page = browser.get(path)
    assert urlsplit(str(page.url)).path == f"{PREFIX}/login"
    return browser.submit(page, {"email": email, "password": password}, follow=False)


def test_a_navigation_is_sent_to_the_sign_in_page_and_back(server, browser):
    account = register(server, "ada")
    first = browser.get("/reports?year=2026&q=a%20b", follow=False)
    assert first.status_code == 302
    where = urlsplit(first.headers["location"])
    assert where.path == f"{PREFIX}/login" and parse_qs(where.query)["rd"] == ["/reports?year=2026&q=a%20b"]
    assert "no-store" in first.headers["cache-control"]
    done = sign_in(browser, account.email, "/reports?year=2026&q=a%20b")
    assert done.status_code in (302, 303) and done.headers["location"] == "/reports?year=2026&q=a%20b"
    assert browser.get("/reports?year=2026&q=a%20b").json()["line"] == "GET /reports?year=2026&q=a%20b HTTP/1.1"


def test_what_is_no_navigation_gets_401(server):
    with server.client() as client:
        for headers in ({}, {"Accept": "application/json"}, {"Accept": "text/html", "X-Requested-With": "XMLHttpRequest"}, {"Accept": "text/html", "Sec-Fetch-Mode": "cors", "Sec-Fetch-Dest": "empty"}):
            answer = client.get("/x", headers=headers)
            assert answer.status_code == 401 and answer.json()["loginUrl"].startswith(f"{PREFIX}/login"), headers
            assert "bearer" in answer.headers["www-authenticate"].lower() and "no-store" in answer.headers["cache-control"]
        for headers in (Browser.NAVIGATION | {"Sec-Fetch-Dest": "iframe"},):
            frame = client.get("/x", headers=headers)
            assert frame.status_code == 401 and frame.headers["content-type"].startswith("text/html")
        posted = client.post("/x", headers=Browser.NAVIGATION, content=b"")
        assert posted.status_code == 401 and posted.headers["content-type"].startswith("text/html")
        assert client.get("/x", headers={"Accept": "text/html"}).status_code == 302


def test_registering_signs_in(server, browser):
    page = browser.get(f"{PREFIX}/register")
    email = new_email("grace")
    browser.submit(page, {"email": email, "password": PASSWORD})
    assert browser.get("/").json()["line"].startswith("GET / ")
    assert email in str(browser.get("/").json()["headers"])


def test_the_cookie(server, browser):
    account = register(server, "joan")
    done = sign_in(browser, account.email)
    cookies = [c for c in done.headers.get_list("set-cookie") if c.startswith("nullpass=")]
    assert len(cookies) == 1
    attributes = [a.strip().lower() for a in cookies[0].split(";")[1:]]
    assert {"httponly", "samesite=lax", "path=/"} <= set(attributes)
    assert "secure" not in attributes and not [a for a in attributes if a.startswith("domain")]


def test_the_cookie_on_https_is_a_host_cookie(echo, start):
    server = start(echo.url, config={"server": {"public_url": "https://app.example.test"}})
    account = register(server, "lin")
    origin = {"Origin": "https://app.example.test", "Host": "app.example.test"}
    done = call(server, "POST", "/auth/login", {"email": account.email, "password": PASSWORD, "cookie": True}, headers=origin, expect=200)
    cookie = next(c for c in done.headers.get_list("set-cookie") if c.startswith("__Host-nullpass="))
    attributes = {a.strip().lower() for a in cookie.split(";")[1:]}
    assert {"secure", "httponly", "samesite=lax", "path=/"} <= attributes
    assert "token" not in done.json(), "the page behind must not be able to carry the session away"
    with server.client() as client:
        value = cookie.split(";")[0]
        assert client.get("/", headers={"Cookie": value, "Host": "app.example.test"}).status_code == 200
        assert "nullpass" not in str(echo.last().all("cookie"))
        # On https the plain name is not the session.
        assert client.get("/", headers={"Cookie": value.removeprefix("__Host-"), "Host": "app.example.test"}).status_code == 401


# SES-1: the session of before is not the session of after.
def test_a_new_session_at_each_sign_in(server):
    account = register(server, "ivy")
    body = {"email": account.email, "password": PASSWORD, "cookie": True}
    values: list[str] = []
    for _ in range(2):
        cookie = {"Cookie": f"nullpass={values[-1]}"} if values else {}
        said = call(server, "POST", "/auth/login", body, headers={"Origin": server.url, "Sec-Fetch-Site": "same-origin"} | cookie, expect=200)
        values.append(said.cookies["nullpass"])
    with server.client() as client:
        answers = [client.get("/", headers={"Cookie": f"nullpass={value}"}).status_code for value in values]
    assert answers == [401, 200]


def test_signing_out_ends_the_session(server, browser):
    account = register(server, "max")
    sign_in(browser, account.email)
    old = browser.cookies["nullpass"]
    assert browser.get("/").status_code == 200
    page = browser.get(f"{PREFIX}/logout")
    assert browser.get("/", follow=False).status_code == 200, "asking for the page signs nobody out"
    done = browser.submit(page, {}, follow=False)
    assert done.status_code in (200, 302, 303)
    assert browser.cookies.get("nullpass", "") == ""
    assert browser.get("/", follow=False).status_code == 302
    with server.client() as client:  # SES-3
        assert client.get("/", headers={"Cookie": f"nullpass={old}"}).status_code == 401


def test_a_wrong_password_says_so_and_no_more(server, browser):
    account = register(server, "amy")
    page = browser.get(f"{PREFIX}/login?rd=/x")
    wrong = browser.submit(page, {"email": account.email, "password": "not-this-one"}, follow=False)
    unknown = browser.submit(wrong, {"email": new_email(), "password": "not-this-one"}, follow=False)
    assert wrong.status_code == unknown.status_code and wrong.status_code in (400, 401, 403, 422)
    assert "nullpass" not in browser.cookies and "not-this-one" not in wrong.text
    # The page that comes back can be used at once, and still knows where to go.
    right = browser.submit(unknown, {"email": account.email, "password": PASSWORD}, follow=False)
    assert right.headers["location"] == "/x"


def test_the_second_step(server, browser):
    account = register(server, "kim")
    authenticator = enable_2fa(server, account)
    step = sign_in(browser, account.email, "/after")
    page = browser.get(step.headers["location"]) if step.status_code in (302, 303) else step
    assert browser.get("/", follow=False).status_code == 302, "half a sign-in is none"  # NP-1
    wrong = browser.submit(page, {"code": authenticator.wrong_code()}, follow=False)
    assert wrong.status_code in (400, 401, 403, 422), wrong.status_code
    done = browser.submit(wrong, {"code": authenticator.code()}, follow=False)
    assert done.status_code in (302, 303) and done.headers["location"] == "/after"
    assert browser.get("/strong/x").status_code == 200


def test_a_rule_asks_for_the_password_again(server, browser):
    account = register(server, "eve")
    sign_in(browser, account.email, "/fresh/page?a=1")
    assert browser.get("/fresh/page?a=1").status_code == 200
    time.sleep(3.5)
    asked = browser.get("/fresh/page?a=1", follow=False)
    assert asked.status_code == 302 and urlsplit(asked.headers["location"]).path == f"{PREFIX}/reauth"
    with server.client() as client:
        program = client.get("/fresh/page", headers={"Cookie": f"nullpass={browser.cookies['nullpass']}"})
        assert program.status_code == 403 and program.json()["code"] == "fresh_password_required"
    old = browser.cookies["nullpass"]
    page = browser.get("/fresh/page?a=1")
    done = browser.submit(page, {"password": PASSWORD}, follow=False)
    assert done.status_code in (302, 303) and done.headers["location"] == "/fresh/page?a=1"
    assert browser.get("/fresh/page?a=1", follow=False).status_code == 200
    assert browser.cookies["nullpass"] != old
    assert browser.get("/other").status_code == 200


def test_a_rule_that_wants_more_than_there_is(server, browser):
    account = register(server, "tom")
    sign_in(browser, account.email)
    assert browser.get("/staff/x", follow=False).status_code == 403
    strong = browser.get("/strong/x", follow=False)
    assert strong.status_code in (302, 403)
    with server.client() as client:
        program = client.get("/strong/x", headers=account.bearer)
        assert program.status_code == 403 and program.json()["code"] in ("second_factor_required", "second_factor_enrolment_required")


def test_forms_without_their_token_are_refused(server):
    account = register(server, "sam")
    for path, values in ((f"{PREFIX}/login", {"email": account.email, "password": PASSWORD}), (f"{PREFIX}/register", {"email": new_email(), "password": PASSWORD})):
        with Browser(server.url) as browser:
            page = browser.get(path)
            hidden = tuple(n for n in hidden_names(page, values) if n != "rd")
            assert hidden, "a form carries a token"
            refused = browser.submit(page, values, follow=False, drop=hidden)
            assert refused.status_code in (400, 403), path
            assert "nullpass" not in browser.cookies
        with Browser(server.url) as browser:  # the token of another browser
            other = browser.submit(page, values, follow=False)
            assert other.status_code in (400, 403), path
        with Browser(server.url) as browser:  # the right token from the wrong place
            page = browser.get(path)
            foreign = browser.submit(page, values, follow=False, Origin="https://evil.example", Sec_Fetch_Site="cross-site")
            assert foreign.status_code in (400, 403), path
            assert "nullpass" not in browser.cookies


def test_signing_out_needs_the_token_too(server, browser):
    account = register(server, "pat")
    sign_in(browser, account.email)
    page = browser.get(f"{PREFIX}/logout")
    assert browser.submit(page, {}, follow=False, drop=hidden_names(page, {})).status_code in (400, 403, 415)
    assert browser.submit(page, {}, follow=False, Origin="https://evil.example", Sec_Fetch_Site="cross-site").status_code in (400, 403)
    assert browser.get("/").status_code == 200


def test_the_json_api_with_the_cookie_wants_json_from_the_same_origin(server, browser):
    account = register(server, "kay")
    sign_in(browser, account.email)
    cookie = {"Cookie": f"nullpass={browser.cookies['nullpass']}"}
    name = {"displayName": "Kay"}
    with server.client() as client:
        same = {"Sec-Fetch-Site": "same-origin", "Origin": server.url}
        path = f"{API}/auth/me"
        assert client.patch(path, json=name, headers=cookie | {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}).status_code == 403
        assert client.patch(path, json=name, headers=cookie).status_code == 403
        assert client.patch(path, content='{"displayName":"Kay"}', headers=cookie | same | {"Content-Type": "text/plain"}).status_code in (403, 415)
        assert profile(server, account.token)["displayName"] is None
        assert client.patch(path, json=name, headers=cookie | same).status_code == 200
        # Unsafe requests to the application from elsewhere do not get the cookie's identity either.
        assert client.post("/transfer", headers=cookie | {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}).status_code in (401, 403)
        assert client.post("/transfer", headers=cookie | same).status_code == 200


# RED-1: nobody is led astray after signing in.
@pytest.mark.parametrize("rd", FOREIGN)
def test_rd_stays_here(server, rd):
    account = register(server, "zoe")
    with Browser(server.url) as browser:
        page = browser.client.get(f"{PREFIX}/login", params={"rd": rd}, headers={"Sec-Fetch-Site": "cross-site"})
        done = browser.submit(page, {"email": account.email, "password": PASSWORD}, follow=False)
        assert done.status_code in (302, 303) and done.headers["location"] == "/", done.headers["location"]


def test_pages_are_safe_to_show(server, browser):
    for path in ("login", "register"):
        page = browser.get(f"{PREFIX}/{path}?rd=%22%3E%3Cscript%3Ealert(1)%3C/script%3E")
        assert page.status_code == 200
        csp = page.headers["content-security-policy"]
        assert "unsafe-inline" not in csp and "frame-ancestors 'none'" in csp
        assert "no-store" in page.headers["cache-control"] and page.headers["x-content-type-options"] == "nosniff"
        scripts = re.findall(r"<script[^>]*>", page.text.lower())
        assert all(re.match(rf'<script src="{PREFIX}/static/[0-9a-f]+\.js"', script) for script in scripts), scripts
        assert "alert(1)</script>" not in page.text
        assert not re.search(r"""(?:src|href|action)=["']?(?:https?:)?//(?!127\.0\.0\.1)""", page.text), "no third party"


def test_closed_registration_has_no_form(echo, start):
    server = start(echo.url, config={"accounts": {"registration": "closed"}})
    with Browser(server.url) as browser:
        page = browser.get(f"{PREFIX}/register")
        assert page.status_code in (403, 404) or 'name="password"' not in page.text
    assert call(server, "POST", "/auth/register", {"email": new_email(), "password": PASSWORD}).status_code == 403
