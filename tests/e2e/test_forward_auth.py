"""nginx, Apache, HAProxy, Caddy and Envoy in front of an application, each from the file that `deploy/` ships."""

from __future__ import annotations

import http.client
import json
import re
import threading
import time
from dataclasses import dataclass
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
import websockets
import websockets.sync.client
import websockets.sync.server

from harness import PASSWORD, Account, Browser, Nullpass, call, register, run_cli
from proxies import DEPLOY, KINDS, OtherProxy, program
from upstreams import EchoUpstream

RULES = [
    {"path": "/public/**", "policy": "public"},
    {"path": "/admin/**", "policy": "authenticated", "groups": ["admins"]},
]
# Every identity header of every preset.
PRESET = ["X-Forwarded-User", "X-Forwarded-Email", "X-Forwarded-Preferred-Username", "X-Forwarded-User-Id", "X-Forwarded-Name", "X-Forwarded-Groups"]
OTHERS = ["Remote-User", "X-Remote-User", "Remote-Email", "Remote-Name", "Remote-Groups"]
OTHERS += [f"X-Auth-Request-{n}" for n in ("User", "Email", "Preferred-Username", "Groups")]
OTHERS += [f"X-Authentik-{n}" for n in ("Username", "Email", "Name", "Uid", "Groups")] + ["X-Nullpass-Assertion"]
IDENTITY = PRESET + OTHERS
NAVIGATION = {"Accept": "text/html", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document", "Sec-Fetch-Site": "none"}
FORGED = "mallory@evil.example"


@dataclass
class Answer:
    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def get(self, name: str) -> str | None:
        return next((v for n, v in self.headers if n.lower() == name.lower()), None)


def send(port: int, method: str, target: str, headers=(), body: bytes | None = None) -> Answer:
    """One request with exactly this target and these header lines, which may repeat."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
        lines = list(headers.items() if isinstance(headers, dict) else headers)
        if not any(name.lower() == "host" for name, _ in lines):
            lines.insert(0, ("Host", f"127.0.0.1:{port}"))
        for name, value in lines:
            connection.putheader(name, value)
        if body is not None:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        answer = connection.getresponse()
        return Answer(answer.status, answer.getheaders(), answer.read())
    except (http.client.HTTPException, OSError) as error:
        # Hung up on: refused, whatever the words.
        return Answer(0, [], str(error).encode())
    finally:
        connection.close()


def folded(name: str) -> str:
    """The name as an application that follows CGI reads it."""
    return re.sub(r"[_.]", "-", name.lower())


def identity_of(request) -> dict[str, str]:
    """What an application can read as an identity, without what is empty."""
    names = {folded(n) for n in IDENTITY}
    return {folded(n): v for n, v in request.headers if folded(n) in names and v}


@pytest.fixture(scope="module")
def app():
    with EchoUpstream() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def nullpass(start_module, app) -> Nullpass:
    return start_module(app.url, config={"server": {"trusted_proxies": ["127.0.0.1"]}, "rules": RULES})


@pytest.fixture(scope="module")
def ada(nullpass) -> Account:
    return register(nullpass, "ada")


@pytest.fixture(scope="module", params=KINDS)
def proxy(request, nullpass, app):
    if not program(request.param):
        pytest.skip(f"{request.param} is not installed")
    with OtherProxy(request.param, nullpass.port, app.port) as running:
        yield running


@pytest.fixture(autouse=True)
def forget(app):
    app.received.clear()


# FWD-6: the application gets who it is, all of it.
def test_a_signed_in_request_arrives_with_the_identity(proxy, app, ada):
    answer = send(proxy.port, "GET", "/private?a=b", ada.bearer)
    assert answer.status == 200, (answer, proxy.log)
    got = app.last()
    assert got.target == "/private?a=b"
    expected = {"x-forwarded-user": ada.email, "x-forwarded-email": ada.email, "x-forwarded-preferred-username": ada.email, "x-forwarded-user-id": ada.id}
    assert identity_of(got) == expected


def test_groups_and_the_name_arrive(proxy, app, nullpass):
    user = register(nullpass, "grace")
    done = run_cli("user", "set-groups", "--config", str(nullpass.config_path), user.email, "staff", "admins", cwd=nullpass.folder)
    assert done.returncode == 0, done
    call(nullpass, "PATCH", "/auth/me", {"displayName": "Grace H"}, token=user.token, expect=200)
    assert send(proxy.port, "GET", "/admin/x", user.bearer).status == 200
    assert app.last().get("X-Forwarded-Groups") == "admins,staff"
    assert app.last().get("X-Forwarded-Name") == "Grace H"


def spellings(name: str) -> list[str]:
    return [name, name.upper(), name.lower(), name.replace("-", "_"), name.replace("-", "."), name.replace("-", "_", 1), name.lower().replace("-", "_")]


# HDR-1, FWD-6, CVE-2026-30851: nobody can say who they are, on protected paths or on public ones.
@pytest.mark.parametrize("target", ["/public/x", "/private"])
@pytest.mark.parametrize("signed_in", [False, True])
def test_no_identity_of_the_clients_making_arrives(proxy, app, ada, target, signed_in):
    bearer = ada.bearer if signed_in else {}
    allowed = {"", ada.email, ada.id} if signed_in else {""}
    arrived = 0
    for name in IDENTITY:
        for spelling in spellings(name):
            for lines in ([(spelling, FORGED)], [(spelling, FORGED), (spelling, FORGED)]):
                app.received.clear()
                answer = send(proxy.port, "GET", target, [*lines, *bearer.items()])
                assert answer.status == 200 or not app.received or target == "/private", (spelling, answer)
                for request in app.received:
                    arrived += 1
                    assert FORGED not in str(request.headers), (spelling, request.headers)
                    assert set(identity_of(request).values()) <= allowed, (spelling, request.headers)
    if target == "/public/x" or signed_in:
        # The plain spellings at least are no reason to refuse.
        assert arrived >= len(IDENTITY), arrived
    else:
        assert arrived == 0


# HDR-3: `Connection` can't name ours away.
def test_connection_does_not_name_the_identity_away(proxy, app, ada):
    lines = [*ada.bearer.items(), ("Connection", "close, X-Forwarded-User, X-Forwarded-Groups, Authorization")]
    send(proxy.port, "GET", "/private", lines)
    for request in app.received:
        assert request.get("X-Forwarded-User") == ada.email


# FWD-2: what the client says was asked changes nothing.
def test_the_client_can_not_put_the_question(proxy, app):
    public = [
        ("X-Forwarded-Method", "GET"),
        ("X-Forwarded-Uri", "/public/x"),
        ("X-Original-URL", "http://127.0.0.1/public/x"),
        ("X-Original-Method", "GET"),
        ("X-Original-URI", "/public/x"),
        ("X-Forwarded-Host", "public.example"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Prefix", "/public"),
        ("X-Rewrite-URL", "/public/x"),
        ("X_Forwarded_Uri", "/public/x"),
        ("Forwarded", "for=127.0.0.1;host=public.example"),
    ]
    for lines in [[line] for line in public] + [public, public[:2], public[2:4], public[:2] * 2]:
        answer = send(proxy.port, "GET", "/private", lines)
        assert answer.status in (0, 400, 401, 403, 500), (lines, answer)
        assert not app.received, lines
    # Nor can it ask by itself through the proxy.
    for target in ("/_auth/forward-auth", "/_auth/forward-auth/public/x", "/_auth/forward-auth?mode=status"):
        answer = send(proxy.port, "GET", target, public[:2] + [("X-Forwarded-Host", "a.example"), ("X-Forwarded-Proto", "http")])
        assert answer.status in (400, 403, 404), (target, answer)
        assert not answer.get("X-Forwarded-User"), target


def test_without_a_session_people_sign_in_and_programs_are_told(proxy, app, nullpass):
    answer = send(proxy.port, "GET", "/private?a=b&c=%20d", NAVIGATION)
    assert answer.status == 302, (answer, proxy.log)
    to = urlsplit(answer.get("Location"))
    assert to.path == "/_auth/login" and parse_qs(to.query) == {"rd": ["/private?a=b&c=%20d"]}
    assert to.netloc in ("", f"127.0.0.1:{proxy.port}")
    for headers in ({}, {"Accept": "application/json"}, {"Sec-Fetch-Mode": "cors", "Accept": "text/html"}):
        answer = send(proxy.port, "GET", "/private", headers)
        assert answer.status == 401, (headers, answer)
        assert json.loads(answer.body)["code"] == "sign_in_required"
        assert answer.get("WWW-Authenticate") == "Bearer"
        assert "no-store" in answer.get("Cache-Control")
    assert send(proxy.port, "POST", "/private", {}, b"x=1").status == 401
    assert not app.received
    # The page is there, through the proxy, and signing in leads back.
    page = send(proxy.port, "GET", answer_path(to), NAVIGATION)
    assert page.status == 200 and b"<form" in page.body


def answer_path(url) -> str:
    return url.path + ("?" + url.query if url.query else "")


def test_a_browser_signs_in_through_the_proxy(proxy, app, ada):
    with Browser(f"http://127.0.0.1:{proxy.port}") as browser:
        page = browser.get("/private?a=b")
        assert page.url.path == "/_auth/login", page.text
        done = browser.submit(page, {"email": ada.email, "password": PASSWORD})
        assert done.status_code == 200 and str(done.url).endswith("/private?a=b"), (done.url, done.text)
        assert identity_of(app.last())["x-forwarded-user"] == ada.email
        # With the cookie, another site's page can't act.
        refused = browser.client.post("/private", data={"a": "b"}, headers={"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"})
        assert refused.status_code in (401, 403)
        accepted = browser.client.post("/private", data={"a": "b"}, headers={"Origin": browser.origin, "Sec-Fetch-Site": "same-origin"})
        assert accepted.status_code == 200 and app.last().body == b"a=b"


def test_who_may_not_gets_403(proxy, app, ada):
    answer = send(proxy.port, "GET", "/admin/x", ada.bearer)
    assert answer.status == 403, answer
    assert json.loads(answer.body)["code"] == "forbidden"
    assert not app.received


# PATH-*: whatever a path looks like, a protected one's content does not come out.
@pytest.mark.parametrize("who", ["nobody", "ada"])
def test_no_spelling_of_a_path_gets_past_the_rules(proxy, app, ada, who):
    headers = ada.bearer if who == "ada" else {}
    targets = """
        /admin/x /Admin/x /ADMIN/x /admin //admin/x ///admin/x /public/../admin/x /public/./../admin/x /./admin/x
        /public/%2e%2e/admin/x /public/%2E%2E/admin/x /public/.%2e/admin/x /public/..%2fadmin/x /public/..%2Fadmin/x
        /public%2f..%2fadmin/x /public/%252e%252e/admin/x /public/..%252fadmin/x /public/..;/admin/x /public/..;a=b/admin/x
        /public;/../admin/x /public/;/../admin/x /admin;/x /admin;a=b/x /admin/;x /%61dmin/x /%61%64%6d%69%6e/x /admin%2fx
        /admin%2Fx /admin%252fx /%2fadmin/x /public/..\\admin\\x /public/..%5cadmin/x /\\admin/x /%5cadmin/x /admin\\x
        /public/../../admin/x /public//../admin/x /public/%2e%2e%2fadmin/x /admin/x#/public/ /admin/x?/public/x
        /public/%c0%ae%c0%ae/admin/x /public/..%00/admin/x /admin%00/x /admin/%2e/x /admin/./x /admin%20/x
        /_auth/../admin/x /_auth/%2e%2e/admin/x /_auth/..%2fadmin/x /_auth/..;/admin/x /_auth//../admin/x
        /_auth/forward-auth/../../admin/x /_auth%2f../admin/x //_auth/../admin/x /_AUTH/../admin/x
        http://127.0.0.1/admin/x http://public.example/../admin/x *
    """.split()
    for target in targets:
        for method in ("GET", "POST"):
            app.received.clear()
            answer = send(proxy.port, method, target, headers, b"" if method == "POST" else None)
            for request in app.received:
                # What arrived is a path that the person may have, whatever the application makes of it.
                assert who == "ada", (target, request.line)
                assert not names_admin(request.target), (target, request.line, answer)


def names_admin(target: str) -> bool:
    """Whether any application could find /admin in it."""
    path = target.split("?")[0].split("#")[0]
    for _ in range(3):
        cut = re.sub(r";[^/]*", "", path).replace("\\", "/")
        segments: list[str] = []
        for segment in cut.split("/"):
            if segment == "..":
                segments = segments[:-1]
            elif segment not in ("", "."):
                segments.append(segment)
        if segments and segments[0].lower() == "admin" and len(segments) > 1:
            return True
        path = unquote(path, "latin-1")
    return False


# HOST-1: the host that is asked about is the host that arrives.
def test_the_host_is_the_same_for_both(proxy, app, ada):
    for host in ("App.Example.com", "app.example.com:8443", "app.example.com."):
        assert send(proxy.port, "GET", "/public/x", {"Host": host}).status == 200, host
        # Case, the port and a last dot are one host's spellings.
        name = lambda text: text.lower().split(":")[0].rstrip(".")  # noqa: E731
        assert name(app.last().get("Host")) == name(host)
    for lines in ([("Host", "a.example"), ("Host", "b.example")], [("Host", "a@b.example")], [("Host", "a.example, b.example")]):
        app.received.clear()
        assert send(proxy.port, "GET", "/public/x", lines).status not in range(200, 300), lines
        assert not app.received


def test_bodies_and_methods_arrive_unharmed(proxy, app, ada):
    body = bytes(range(256)) * 120
    for method in ("POST", "PUT", "PATCH", "DELETE", "PROPFIND"):
        answer = send(proxy.port, method, "/private", ada.bearer | {"Content-Type": "application/octet-stream"}, body)
        assert answer.status == 200, (method, answer)
        got = app.last()
        assert (got.method, got.body_bytes, got.body) == (method, len(body), body)
        assert got.get("Content-Type") == "application/octet-stream"
    large = b"x" * 800_000
    assert send(proxy.port, "POST", "/public/x", {}, large).status == 200
    assert app.last().body_bytes == len(large)
    # The connection goes on after each.
    connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=30)
    for n in range(5):
        connection.request("POST", f"/private?{n}", body=body, headers=ada.bearer)
        answer = connection.getresponse()
        assert answer.status == 200 and json.loads(answer.read())["line"].startswith(f"POST /private?{n} ")
    connection.close()


def test_an_ended_session_ends_at_the_next_request(proxy, app, nullpass):
    user = register(nullpass, "eve")
    assert send(proxy.port, "GET", "/private", user.bearer).status == 200
    call(nullpass, "POST", "/auth/logout", {}, token=user.token)
    app.received.clear()
    assert send(proxy.port, "GET", "/private", user.bearer).status == 401
    assert not app.received


# Fails closed: nothing gets through while nullpass is away.
@pytest.mark.parametrize("kind", KINDS)
def test_without_nullpass_nothing_gets_through(kind, start, app):
    if not program(kind):
        pytest.skip(f"{kind} is not installed")
    server = start(app.url, config={"server": {"trusted_proxies": ["127.0.0.1"]}, "rules": RULES})
    user = register(server, "ada")
    with OtherProxy(kind, server.port, app.port) as proxy:
        assert send(proxy.port, "GET", "/private", user.bearer).status == 200, proxy.log
        assert send(proxy.port, "GET", "/public/x").status == 200
        server.stop()
        app.received.clear()
        for method, target, headers in [
            ("GET", "/private", {}),
            ("GET", "/private", NAVIGATION | user.bearer),
            ("POST", "/private", user.bearer),
            ("HEAD", "/public/x", {}),
            ("GET", "/public/x", user.bearer),
            ("GET", "/_auth/login", NAVIGATION),
        ]:
            answer = send(proxy.port, method, target, headers, b"" if method == "POST" else None)
            assert answer.status >= 400, (method, target, answer)
        assert not app.received


# The cookie renews itself through each of them, and a WebSocket needs the session and our own origin.
@pytest.mark.parametrize("kind", KINDS)
def test_a_renewed_cookie_comes_through(kind, start, app):
    if not program(kind):
        pytest.skip(f"{kind} is not installed")
    server = start(app.url, config={"server": {"trusted_proxies": ["127.0.0.1"]}, "tokens": {"ttl": "6s", "leeway": "0s"}})
    user = register(server, "ada")
    said = call(server, "POST", "/auth/login", {"email": user.email, "password": PASSWORD, "cookie": True}, expect=200)
    cookie = f"nullpass={said.cookies['nullpass']}"
    with OtherProxy(kind, server.port, app.port) as proxy:
        time.sleep(3.1)
        answer = send(proxy.port, "GET", "/private", NAVIGATION | {"Cookie": cookie})
        assert answer.status == 200, (answer, proxy.log)
        renewed = answer.get("Set-Cookie")
        assert renewed and renewed.startswith("nullpass=ey") and "HttpOnly" in renewed, answer
        assert send(proxy.port, "GET", "/private", {"Cookie": renewed.split(";")[0]}).status == 200
        # Nothing is set where there is nothing to set.
        assert send(proxy.port, "GET", "/private", NAVIGATION | {"Cookie": renewed.split(";")[0]}).get("Set-Cookie") is None


@pytest.mark.parametrize("kind", KINDS)
def test_websockets_need_the_session_and_our_origin(kind, start, app):
    if not program(kind):
        pytest.skip(f"{kind} is not installed")
    server = start(app.url, config={"server": {"trusted_proxies": ["127.0.0.1"]}})
    user = register(server, "ada")
    said = call(server, "POST", "/auth/login", {"email": user.email, "password": PASSWORD, "cookie": True}, expect=200)
    cookie = {"Cookie": f"nullpass={said.cookies['nullpass']}"}

    def echo(socket) -> None:
        socket.send(socket.request.headers.get("X-Forwarded-User", "nobody"))
        for message in socket:
            socket.send(message)

    with websockets.sync.server.serve(echo, "127.0.0.1", 0) as application:
        threading.Thread(target=application.serve_forever, daemon=True).start()
        with OtherProxy(kind, server.port, application.socket.getsockname()[1]) as proxy:
            url, ours = f"ws://127.0.0.1:{proxy.port}/socket", f"http://127.0.0.1:{proxy.port}"
            connect = lambda headers, origin: websockets.sync.client.connect(url, additional_headers=headers, origin=origin, proxy=None, open_timeout=15)  # noqa: E731
            for headers, origin in [(cookie, ours), (user.bearer, None)]:
                with connect(headers, origin) as socket:
                    assert socket.recv(timeout=15) == user.email
                    socket.send("hello")
                    assert socket.recv(timeout=15) == "hello"
            for headers, origin, status in [({}, ours, 401), (cookie, "https://evil.example", 403)]:
                with pytest.raises(websockets.exceptions.InvalidStatus) as refused:
                    connect(headers, origin)
                assert refused.value.response.status_code == status, (headers, origin)
        application.shutdown()


# A proxy that nobody declared learns nothing, so nothing gets through.
@pytest.mark.parametrize("kind", KINDS)
def test_an_undeclared_proxy_gets_nothing_through(kind, start, app):
    if not program(kind):
        pytest.skip(f"{kind} is not installed")
    server = start(app.url, config={"rules": RULES})
    user = register(server, "ada")
    with OtherProxy(kind, server.port, app.port) as proxy:
        for target in ("/private", "/public/x"):
            assert send(proxy.port, "GET", target, user.bearer).status == 403, proxy.log
    assert not app.received


def test_every_shipped_file_names_every_identity_header():
    """A name that a file forgets is one that a client can send."""
    for path in [*DEPLOY.glob("nginx/*.conf"), *DEPLOY.glob("*/nullpass.lua"), *DEPLOY.glob("envoy/*.yaml"), *DEPLOY.glob("traefik/*.yml")]:
        text = path.read_text(encoding="utf-8").lower()
        for name in IDENTITY:
            assert name.lower() in text or (name.startswith("X-Nullpass") and "x-nullpass-" in text), (path, name)
