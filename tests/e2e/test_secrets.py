"""The canary: everything secret of a whole life with nullpass, looked for in all it says and keeps, in every spelling.

What is looked for is raw text and bytes, base64 and base64url at all three alignments, hexadecimal and percent-encoding.
Marks that are no secrets are looked for in the same way and must be found, or the search itself is broken.
"""

from __future__ import annotations

import base64
import re
import secrets
import subprocess
from urllib.parse import quote, quote_plus

import httpx
import pytest

from harness import (
    API, PREFIX, Account, Authenticator, Browser, Nullpass, bearer, call, create_api_token, enable_2fa, login, register,
)  # fmt: skip
from killing import CONFIG

# Shorter texts are found by chance.
SHORTEST = 10


def spellings(thing: bytes) -> set[bytes]:
    """How a text may be written so that it can be had back."""
    found = {thing, thing.hex().encode(), thing.hex().upper().encode(), quote(thing, safe="").encode(), quote_plus(thing).encode()}
    # All alternatives to the characters that need no escape.
    found.add("".join(f"%{byte:02X}" for byte in thing).encode())
    for before in range(3):
        for encode in (base64.standard_b64encode, base64.urlsafe_b64encode):
            text = encode(bytes(before) + thing + bytes(2 - (before + len(thing) + 2) % 3))
            # Without the characters at either end that hold bits of the neighbours.
            start, end = (before * 8 + 5) // 6, (before + len(thing)) * 8 // 6
            found.add(text[start:end])
    return {one for one in found if len(one) >= SHORTEST}


def hits(needles: dict[str, bytes], places: dict[str, bytes]) -> list[str]:
    """Which of these are where, and how they are written there."""
    return sorted(f"{name} in {place}" for name, thing in needles.items() for place, content in places.items() if any(one in content for one in spellings(thing)))


@pytest.mark.parametrize("write", [lambda t: t, lambda t: t.hex().encode(), lambda t: quote(t, safe="").encode(), base64.b64encode, base64.urlsafe_b64encode, lambda t: base64.b64encode(b"x" + t), lambda t: base64.urlsafe_b64encode(b"xy" + t + b"zzz")])  # fmt: skip
def test_the_search_finds_what_is_there(write):
    thing = b"canary+/?" + secrets.token_bytes(12) + b"-password"
    for around in (b"", b'{"a":"', b"\0\1"):
        assert hits({"it": thing}, {"log": around + write(thing) + around}) == ["it in log"]
    assert hits({"it": thing}, {"log": write(thing[:-4])[:-6]}) == []


class Told:
    """What is secret, and everything that was said."""

    def __init__(self) -> None:
        self.secrets: dict[str, bytes] = {}
        self.said: dict[str, bytes] = {}

    def secret(self, name: str, thing: str | bytes) -> str | bytes:
        self.secrets[name] = thing if isinstance(thing, bytes) else thing.encode()
        return thing

    def keep(self, name: str, text: str | bytes) -> None:
        self.said[name] = text if isinstance(text, bytes) else text.encode()


@pytest.mark.parametrize("form", ["text", "json"])
def test_no_secret_in_any_output_or_in_clear_where_it_is_kept(echo, start, form):  # TOK-1
    told = Told()
    mark = "canary-" + secrets.token_hex(8)
    boot = told.secret("the password in the configuration", "canary-boot-" + secrets.token_hex(12))
    wrong = told.secret("a wrong password", "canary-wrong-" + secrets.token_hex(12))
    config = {
        "accounts": CONFIG["accounts"] | {"bootstrap_admin": {"email": "ops@example.com", "password": boot}},
        "limits": CONFIG["limits"],
        "log": {"level": "trace", "format": form, "access": True},
        "rules": [{"path": "/dav/**", "policy": "authenticated", "basic": True}, {"path": "/public/**", "policy": "public"}],
    }
    server = start(echo.url, config=config)
    first = told.secret("a password", "canary-first-" + secrets.token_hex(12))
    account = register(server, "ada", password=first, displayName=mark)
    told.secret("the first token", account.token)
    told.secret("the first token's signature", account.token.rsplit(".", 1)[1])
    second = told.secret("the changed password", "canary-next-" + secrets.token_hex(12))
    said = call(server, "POST", "/auth/password", {"currentPassword": first, "newPassword": second}, token=account.token, expect=200).json()
    account.password, account.token = second, told.secret("the token after the change", said["token"])
    authenticator = second_factor(server, account, told)
    api = told.secret("an API token", create_api_token(server, account, mark)["token"])
    use(server, account, api, wrong, told)
    browse(server, account, told, wrong)
    mistakes(server, account, told, wrong)
    administer(server, account, told)
    with httpx.Client(base_url=server.admin_url, trust_env=False) as admin:
        for path in ("/metrics", "/healthz", "/readyz?upstreams", "/upstreams/app/health", f"/{quote(api)}"):
            told.keep(f"admin {path[:20]}", admin.get(path).content)
    with server.client() as client:
        # Whatever is answered to everybody, or to somebody else.
        for path in (f"{PREFIX}/openapi.json", f"{PREFIX}/.well-known/jwks.json", f"{API}/health", f"{PREFIX}/login"):
            told.keep(path, client.get(path).content)
    told.keep("the events", call(server, "GET", "/audit?limit=200", token=account.token, expect=200).content)
    server.restart()
    told.keep("config check", server.cli("config", "check").stdout)
    server.stop()
    told.keep("the log", server.log)
    kept = server.kept()
    if (storage := server.config["storage"]).get("backend") == "postgres":
        dumped = subprocess.run(["pg_dump", "--inserts", "-n", storage["schema"], "-d", storage["url"]], capture_output=True, check=True, timeout=60)
        kept["pg_dump"] = dumped.stdout
        told.secret("the master key", base64.b64decode(storage["master_key"]))
    else:
        # In its own file it is what it is.
        told.secret("the master key", base64.b64decode(kept.pop("master.key")))
    kept = {f"kept: {place}": content for place, content in kept.items()}
    assert hits(told.secrets, told.said | kept) == []
    # Six digits are found by chance, but not as a word of their own; times apart.
    log = re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+Z", "", server.log)
    for code in authenticator.used:
        assert not re.search(rf"(?<![\w.]){code}(?![\w.])", log), "a code is in the log"
    # And that the search can find something in each kind of place.
    assert hits({"mark": mark.encode()}, {"users": told.said["users"]}) == ["mark in users"]
    assert hits({"mark": b"/hello/canary-visible"}, {"log": told.said["the log"]}) == ["mark in log"]
    assert hits({"mark": account.email.encode()}, kept), "addresses are kept in clear"
    assert hits({"mark": b"ops@example.com"}, {"check": told.said["config check"]}) == ["mark in check"]


class Noting(Authenticator):
    """One that remembers its codes."""

    def __init__(self, secret: str):
        super().__init__(secret)
        self.used: list[str] = []

    def code(self) -> str:
        self.used.append(super().code())
        return self.used[-1]


def second_factor(server: Nullpass, account: Account, told: Told) -> Noting:
    """Turned on, with a wrong code first; signed in with a code and with a recovery code."""
    call(server, "POST", "/auth/2fa", {"enable": True, "currentPassword": "canary-typo"}, token=account.token)
    begun = call(server, "POST", "/auth/2fa", {"enable": True, "currentPassword": account.password}, token=account.token, expect=200).json()
    authenticator = Noting(begun["secret"])
    told.secret("the authenticator's secret", begun["secret"])
    told.secret("its bytes", base64.b32decode(begun["secret"] + "=" * (-len(begun["secret"]) % 8)))
    body = {"enable": True, "verificationCode": authenticator.wrong_code(), "currentPassword": account.password}
    call(server, "POST", "/auth/2fa", body, token=account.token, expect=401)
    done = call(server, "POST", "/auth/2fa", body | {"verificationCode": authenticator.code()}, token=account.token, expect=200).json()
    account.authenticator, account.recovery_codes = authenticator, done["recoveryCodes"]
    for number, code in enumerate(done["recoveryCodes"]):
        told.secret(f"recovery code {number}", code)
    for number, proof in enumerate(({"verificationCode": "000000"}, {"recoveryCode": account.recovery_codes[0]})):
        pending = call(server, "POST", "/auth/login", {"email": account.email, "password": account.password}, expect=200).json()["pendingToken"]
        told.secret(f"pending token {number}", pending)
        answer = call(server, "POST", "/auth/login/2fa", {"pendingToken": pending} | proof)
    assert answer.status_code == 200
    account.token = told.secret("the token of the second step", answer.json()["token"])
    return authenticator


def use(server: Nullpass, account: Account, api: str, wrong: str, told: Told) -> None:
    """Every way to present a credential to the application, right, wrong and in the wrong place."""
    refreshed = told.secret("the refreshed token", call(server, "POST", "/auth/refresh", token=account.token, expect=200).json()["token"])
    account.token = refreshed
    with server.client() as client:
        assert client.get("/hello/canary-visible", headers=bearer(account.token)).status_code == 200
        client.get("/", headers=bearer(api))
        client.get("/dav/x", auth=(account.email, api))
        client.get("/dav/x", auth=(account.email, wrong))
        client.get("/", headers={"Cookie": f"nullpass={account.token}"})
        client.get("/", headers={"Cookie": f"nullpass={account.token}; nullpass={account.token}x"})
        client.get("/public/x", headers=bearer(account.token[:-4] + "AAAA"))
        client.get("/", headers={"Authorization": f"Bearer  {account.token}"})
        client.get(f"/private?token={account.token}&password={wrong}")
        client.get(f"{PREFIX}/setup?code={wrong}&token={account.token}")
        client.get(f"{PREFIX}/login?rd=/x%3Fsecret%3D{wrong}")
        client.get(f"{PREFIX}/api/nothing?token={api}")


def browse(server: Nullpass, account: Account, told: Told, wrong: str) -> None:
    """The pages: a wrong password, both steps, a form that was kept, the account."""
    with Browser(server.url) as browser:
        page = browser.get(f"{PREFIX}/login")
        page = browser.submit(page, {"email": account.email, "password": wrong})
        page = browser.submit(browser.get(f"{PREFIX}/login"), {"email": account.email, "password": account.password})
        for name, value in browser.cookies.items():
            told.secret(f"cookie {name} of the first step", value)
        done = browser.submit(page, {"recoveryCode": account.recovery_codes[1]}, follow=False)
        assert done.status_code in (302, 303), done.text[:600]
        for name, value in browser.cookies.items():
            told.secret(f"cookie {name}", value)
        for path in ("", "/password", "/2fa", "/sessions", "/tokens", "/activity"):
            told.keep(f"page {path}", browser.get(f"{PREFIX}/account{path}").content)
        browser.submit(browser.get(f"{PREFIX}/account/password"), {"currentPassword": wrong, "newPassword": wrong})
        # A form that meets a session which is over is sealed into the page, and goes nowhere else.
        text = told.secret("a form that was kept", "canary-kept-" + secrets.token_hex(12))
        browser.client.cookies.clear()
        headers = {"Sec-Fetch-Site": "same-origin", "Origin": server.url}
        page = browser.client.post("/form/canary", data={"text": text}, headers=headers)
        told.keep("the page with a form that was kept", page.content)


def mistakes(server: Nullpass, account: Account, told: Told, wrong: str) -> None:
    """What is refused is not repeated in the answer, nor in the log."""
    answers = [
        call(server, "POST", "/auth/login", {"email": account.email, "password": wrong}),
        call(server, "POST", "/auth/login", {"email": wrong, "password": wrong}),
        call(server, "POST", "/auth/login", {"email": account.email, "password": [wrong]}),
        call(server, "POST", "/auth/register", {"email": f"a@{wrong}@example.com", "password": wrong}),
        call(server, "POST", "/auth/register", {"email": account.email, "password": wrong}),
        call(server, "POST", "/auth/login/2fa", {"pendingToken": account.token, "recoveryCode": wrong}),
        call(server, "POST", "/auth/login/2fa", {"pendingToken": wrong, "verificationCode": wrong}),
        call(server, "POST", "/auth/verify", {"token": account.token + "x"}),
        call(server, "POST", "/auth/password", {"currentPassword": wrong, "newPassword": wrong}, token=account.token),
        call(server, "DELETE", "/auth/me", {"password": wrong}, token=account.token),
        call(server, "POST", "/auth/refresh", token=account.token[:-2] + "zz"),
    ]
    with server.client() as client:
        for body in (f'{{"email":"{account.email}","password":"{wrong}"', f'{{"password":"{wrong}" x', f"{wrong}"):
            answers.append(client.post(f"{API}/auth/login", content=body, headers={"Content-Type": "application/json"}))
        answers.append(client.post(f"{PREFIX}/login", content=f"password={wrong}&password={wrong}", headers={"Content-Type": "application/x-www-form-urlencoded"}))
    for number, answer in enumerate(answers):
        assert answer.status_code >= 400 or "valid" in answer.text, (number, answer.status_code)
        told.keep(f"refusal {number}", answer.content + repr(sorted(answer.headers.items())).encode())


def administer(server: Nullpass, account: Account, told: Told) -> None:
    """What the command line prints about people, over the socket."""
    for name, words in {
        "users": ("user", "list", "--json"),
        "users as a table": ("user", "list"),
        "user": ("user", "show", account.email, "--json"),
        "sessions": ("session", "list", account.email, "--json"),
        "tokens": ("token", "list", account.email, "--json"),
    }.items():
        told.keep(name, server.cli(*words).stdout)
    password = told.secret("a password set by an operator", "canary-cli-" + secrets.token_hex(12))
    done = server.cli("user", "add", "eve@example.com", "--password-stdin", stdin=f"{password}\n")
    told.keep("user add", done.stdout + done.stderr)
    short = told.secret("a password that is refused", "canary" + secrets.token_hex(3))
    done = server.cli("user", "add", "mallory@example.com\n", "--password-stdin", stdin=f"{short}\n", check=False)
    told.keep("user add, refused", done.stdout + done.stderr)
    login(server, Account("eve@example.com", password, "", ""))
