"""What operators do: check the configuration, manage accounts, watch, stop, break and recover."""

from __future__ import annotations

import base64
import json
import os
import re
import resource
import secrets
import signal
import subprocess
import threading
import time
import tomllib

import httpx
import pytest

from harness import (
    API, PASSWORD, PREFIX, ROOT, Account, Browser, bearer, binary, call, can_connect, clean_environment, create_api_token, enable_2fa, end, free_port,
    login, new_email, profile, register, rows, run_cli, to_toml, wait_for_port,
)  # fmt: skip

SETUP_LINK = re.compile(r"https?://[^\s\"']+/_auth/setup\?code=[A-Za-z0-9_~.%-]+")


# --- The configuration ---------------------------------------------------------------------------------------------


def test_config_check_prints_what_holds_and_no_secret(echo, start):
    secret = "bootstrap-" + secrets.token_hex(8)
    server = start(echo.url, run=False, config={"accounts": {"bootstrap_admin": {"email": "ops@example.com", "password": secret}}})
    done = server.cli("config", "check")
    assert done.returncode == 0 and "ops@example.com" in done.stdout
    assert secret not in done.stdout + done.stderr


def test_config_check_reports_every_problem_at_once(tmp_path):
    file = tmp_path / "broken.toml"
    file.write_text(
        '[server]\nlisten = ["127.0.0.1:8080"]\nheader_timeout = "soon"\n\n'  # line 3
        '[[upstreams]]\nname = "app"\nurl = "ftp://127.0.0.1/"\n\n'  # line 7
        '[accounts]\nregsitration = "open"\n\n'  # line 10
        '[[rules]]\npath = "/x"\npolicy = "everybody"\n',  # line 14
        encoding="utf-8",
    )
    done = run_cli("config", "check", "--config", str(file))
    said = done.stdout + done.stderr
    assert done.returncode == 2, said
    for line, word in ((3, "header_timeout"), (7, "url"), (10, "regsitration"), (14, "policy")):
        assert re.search(rf"broken\.toml:{line}\b.*", said) and word in said, f"{word} in line {line}:\n{said}"
    assert re.search(r"\bregistration\b", said), "the nearest known key"


@pytest.mark.parametrize(
    ("section", "key"),
    [({"email": {"smtp": "smtps://mail.example.com"}}, "email"), ({"accounts": {"verify_email": True}}, "verify_email"), ({"accounts": {"registration": "invite"}}, "registration"), ({"telemetry": {"otlp": "http://127.0.0.1:4317"}}, "otlp")],
)  # fmt: skip
def test_what_is_not_built_is_refused_not_ignored(echo, start, section, key):
    server = start(echo.url, run=False, config=section)
    done = server.cli("config", "check", check=False)
    assert done.returncode == 2 and key in done.stdout + done.stderr


@pytest.mark.parametrize(
    "section",
    [
        {"server": {"listen": ["0.0.0.0:{port}"]}},
        {"accounts": {"registration": "domains", "allowed_domains": ["example.com"]}},
        {"storage": {"master_key": "c2hvcnQ="}},
        {"storage": {"master_key_file": "/does/not/exist"}},
        {"server": {"tls": {"cert": "/does/not/exist.crt", "key": "/does/not/exist.key"}}},
        {"rules": [{"path": "/x", "policy": "public", "group": ["a"]}]},
        {"default_policy": "public"},
        {"upstreams": []},
    ],
    ids=["plain-http", "unverified-domains", "short-key", "no-key-file", "no-tls-files", "unknown-rule-key", "public-by-default", "no-upstream"],
)
def test_a_wrong_configuration_never_binds_a_port(echo, start, section):  # CFG-1, CFG-3, NP-4
    server = start(echo.url, run=False)
    text = json.dumps(section).replace("{port}", str(server.port))
    server.config = {**server.config, **{k: ({**server.config.get(k, {}), **v} if isinstance(v, dict) else v) for k, v in json.loads(text).items()}}
    server.write_config()
    process = server.spawn()
    bound = False
    while process.poll() is None:
        bound = bound or can_connect(server.port) or can_connect(server.admin_port)
        if bound:
            break
        time.sleep(0.01)
    code = server.stop()
    assert not bound, "a port was bound"
    assert code == 2, f"exit {code}:\n{server.log}"
    assert server.log.strip(), "a word about what is wrong"
    assert not server.data.exists(), "nothing was opened"


def test_config_default_is_complete_and_passes_its_own_check(tmp_path):
    done = run_cli("config", "default")
    assert done.returncode == 0
    sections = tomllib.loads(done.stdout)
    assert {"server", "admin", "identity", "accounts", "tokens", "sessions", "two_factor", "limits", "storage", "ui", "log"} <= set(sections)
    assert sections["server"]["prefix"] == PREFIX and sections["accounts"]["registration"] == "closed"
    file = tmp_path / "nullpass.toml"
    file.write_text(done.stdout, encoding="utf-8")
    checked = run_cli("config", "check", "--config", str(file), env={"NULLPASS__UPSTREAM": "http://127.0.0.1:3000"}, cwd=tmp_path)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    if (kept := ROOT / "config" / "nullpass.toml").is_file():
        assert kept.read_text(encoding="utf-8").strip() == done.stdout.strip()


def test_environment_over_file_and_flags_over_both(echo, start, tmp_path):
    server = start(echo.url, run=False, config={"server": {"prefix": "/_file"}}, env={"NULLPASS__SERVER__PREFIX": "/_env"})
    server.start()
    with server.client() as client:
        assert client.get("/_env/api/health").status_code == 200
        assert client.get("/_file/api/health").status_code == 401
    server.stop()
    port, admin = free_port(), free_port()
    env = {"NULLPASS__STORAGE__PATH": str(tmp_path / "alone"), "NULLPASS__ADMIN__LISTEN": f"127.0.0.1:{admin}", "NULLPASS__SERVER__LISTEN": "127.0.0.1:1"}
    with (tmp_path / "alone.log").open("ab") as log:
        process = subprocess.Popen([binary(), "--listen", f"127.0.0.1:{port}", "--upstream", echo.url], stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=tmp_path, env=clean_environment(env))
    try:
        wait_for_port(port, process)
        assert httpx.get(f"http://127.0.0.1:{port}{API}/health", trust_env=False).json()["status"] == "ok"
    finally:
        assert end(process) == 0


def test_version_help_completions_and_wrong_usage():
    assert run_cli("--version").stdout.startswith("nullpass ")
    assert "serve" in run_cli("--help").stdout
    for shell in ("bash", "zsh", "fish"):
        done = run_cli("completions", shell)
        assert done.returncode == 0 and "nullpass" in done.stdout
    assert run_cli("no-such-command").returncode == 2


# --- Accounts from the command line --------------------------------------------------------------------------------


@pytest.mark.parametrize("running", [True, False], ids=["over the socket", "on the store"])
def test_accounts_by_the_command_line(echo, start, running):
    """Every command, the same with a server and without; where there is none, one is started to see the effect."""
    server = start(echo.url, config={"accounts": {"registration": "closed"}})
    if not running:
        server.stop()

    def look(check) -> None:
        if not running:
            server.start()
        check()
        if not running:
            server.stop()

    def can_log_in(password: str) -> int:
        return call(server, "POST", "/auth/login", {"email": email, "password": password}).status_code

    email = new_email("cli")
    server.cli("user", "add", email, "--password-stdin", stdin=PASSWORD + "\n")
    assert server.cli("user", "add", email, "--password-stdin", stdin=PASSWORD + "\n", check=False).returncode == 1
    assert server.cli("user", "add", new_email(), "--password-stdin", stdin="short\n", check=False).returncode != 0
    listed = rows(server.cli("user", "list", "--json").stdout)
    assert email in [u["email"] for u in listed] and email in server.cli("user", "list").stdout
    assert "argon2" not in server.cli("user", "list", "--json").stdout.lower()  # NP-7
    shown = json.loads(server.cli("user", "show", email, "--json").stdout)
    assert email in str(shown) and "argon2" not in str(shown).lower()
    look(lambda: _equal(can_log_in(PASSWORD), 200))

    server.cli("user", "set-password", email, "--password-stdin", stdin="Brand-new-Orchard-19\n")
    look(lambda: _equal((can_log_in(PASSWORD), can_log_in("Brand-new-Orchard-19")), (401, 200)))

    server.cli("user", "set-groups", email, "staff", "editors")
    assert {"staff", "editors"} <= set(json.loads(server.cli("user", "show", email, "--json").stdout).get("groups", []))

    server.cli("user", "disable", email)
    look(lambda: _equal((can_log_in("Brand-new-Orchard-19"), can_log_in("wrong-password-1")), (403, 401)))  # NP-3
    server.cli("user", "enable", email)
    server.cli("user", "unlock", email)
    look(lambda: _equal(can_log_in("Brand-new-Orchard-19"), 200))
    server.cli("user", "reset-2fa", email)
    # That ended every session.
    look(lambda: _equal(can_log_in("Brand-new-Orchard-19"), 200))

    made = server.cli("token", "create", email, "--name", "backup")
    token = re.search(r"np_\w+", made.stdout).group(0)
    listed = server.cli("token", "list", email, "--json").stdout
    assert token not in listed
    (row,) = rows(listed)
    assert row["name"] == "backup"
    look(lambda: _equal(server.client().get("/", headers=bearer(token)).status_code, 200))
    server.cli("token", "revoke", row["id"])
    look(lambda: _equal(server.client().get("/", headers=bearer(token)).status_code, 401))

    sessions = rows(server.cli("session", "list", email, "--json").stdout)
    assert sessions
    server.cli("session", "revoke", sessions[0]["id"])
    assert sessions[0]["id"] not in [s["id"] for s in rows(server.cli("session", "list", email, "--json").stdout)]

    server.cli("user", "delete", email, "--yes")
    assert email not in server.cli("user", "list", "--json").stdout
    look(lambda: _equal(can_log_in("Brand-new-Orchard-19"), 401))
    assert server.cli("user", "show", email, check=False).returncode == 1


def _equal(left, right) -> None:
    assert left == right


def test_what_the_command_line_ends_is_ended_at_the_next_request(echo, start):
    server = start(echo.url)
    account = register(server, "ada")
    with server.client(headers=account.bearer) as client:
        assert client.get("/").status_code == 200
        (session,) = rows(server.cli("session", "list", account.email, "--json").stdout)
        server.cli("session", "revoke", session["id"])
        assert client.get("/").status_code == 401
        login(server, account)
        assert client.get("/", headers=account.bearer).status_code == 200
        server.cli("user", "disable", account.email)
        assert client.get("/", headers=account.bearer).status_code == 401
        # And groups are read from the account, not from the token.
    server.cli("user", "enable", account.email)
    login(server, account)
    with server.client(headers=account.bearer) as client:
        assert echo_header(client, "x-forwarded-groups") is None
        server.cli("user", "set-groups", account.email, "staff", "nullpass-admin")
        assert echo_header(client, "x-forwarded-groups") == "staff"


def echo_header(client: httpx.Client, name: str) -> str | None:
    return next((v for n, v in client.get("/").json()["headers"] if n.lower() == name), None)


def test_passwords_are_never_arguments_and_the_socket_is_private(echo, start):
    server = start(echo.url)
    assert run_cli("user", "add", new_email(), "--password", PASSWORD, "--config", str(server.config_path)).returncode == 2
    socket = server.data / "admin.sock"
    assert socket.stat().st_mode & 0o777 == 0o600
    for path in server.data.rglob("*"):
        if path.is_file():
            assert path.stat().st_mode & 0o077 == 0, f"others can read {path.name}"


# --- Getting in the first time -------------------------------------------------------------------------------------


def test_the_link_in_the_log_makes_the_first_administrator_once(echo, start):
    server = start(echo.url, config={"accounts": {"registration": "closed"}})
    old = SETUP_LINK.search(server.log).group(0)
    server.restart()
    link = SETUP_LINK.findall(server.log)[-1]
    if os.environ.get("NULLPASS_TEST_BACKEND") == "postgres":
        assert link == old, "those that share a database say the same one, whichever started last"
    else:
        assert link != old, "each start makes a fresh one"
    with Browser(server.url) as browser:
        if link != old:
            assert 'name="password"' not in browser.get(old).text, "the older one is void"
        page = browser.get(link)
        email = new_email("root")
        done = browser.submit(page, {"email": email, "password": PASSWORD}, follow=False)
        assert done.status_code in (200, 302, 303), done.text[:500]
    with Browser(server.url) as browser:
        assert 'name="password"' not in browser.get(link).text, "it works once"
    account = Account(email=email, password=PASSWORD, id="", token="")
    login(server, account)
    assert "nullpass-admin" in profile(server, account.token)["groups"]
    with server.client(headers=account.bearer) as client:
        assert echo_header(client, "x-forwarded-groups") is None, "the administrators' group is not announced"
    links = len(SETUP_LINK.findall(server.log))
    server.restart()
    assert len(SETUP_LINK.findall(server.log)) == links, "an administrator is there: no link"
    server.cli("user", "disable", email)
    server.restart()
    assert len(SETUP_LINK.findall(server.log)) == links + 1, "none that is enabled: a link again"


def test_bootstrap_admin_needs_no_log(echo, start, tmp_path):
    password = "bootstrap-Orchard-" + secrets.token_hex(4)
    file = tmp_path / "password"
    file.write_text(password + "\n")
    file.chmod(0o600)
    server = start(echo.url, config={"accounts": {"registration": "closed", "bootstrap_admin": {"email": "ops@example.com", "password_file": str(file)}}})
    assert not SETUP_LINK.search(server.log)
    account = Account(email="ops@example.com", password=password, id="", token="")
    login(server, account)
    assert profile(server, account.token)["groups"] == ["nullpass-admin"]
    body = {"currentPassword": password, "newPassword": "Changed-Orchard-2026"}
    call(server, "POST", "/auth/password", body, token=account.token, expect=200)
    server.restart()
    account.password = body["newPassword"]
    login(server, account)
    assert password not in server.log


def test_open_registration_is_warned_about_once(echo, start):
    server = start(echo.url)
    assert len(re.findall(r"(?i)warn.*registration", server.log)) == 1, server.log


# --- Watching ------------------------------------------------------------------------------------------------------


def test_the_admin_listener(echo, start):
    server = start(echo.url, config={"upstreams": [{"name": "app", "url": echo.url, "health": {"path": "/healthz", "interval": "1s"}}]})
    with httpx.Client(base_url=server.admin_url, trust_env=False) as admin:
        assert admin.get("/healthz").status_code == 200
        assert admin.get("/readyz").status_code == 200
        assert admin.get("/readyz?upstreams").status_code == 200
        try:
            for status in (200, 500, 503):
                echo.health_status = status
                assert admin.get("/upstreams/app/health").status_code == status
        finally:
            echo.health_status = 200
        assert admin.get("/upstreams/nothing/health").status_code == 404
        assert admin.get("/").status_code == 404
        assert admin.get(f"{API}/health").status_code == 404, "the listeners are apart"
        account = register(server, "ada")
        with server.client(headers=account.bearer) as client:
            client.get("/counted")
            for path in ("/healthz", "/readyz", "/metrics"):
                assert client.get(path).json()["line"].split()[1] == path, "the application's own path"
        metrics = admin.get("/metrics")
        assert metrics.headers["content-type"].startswith(("text/plain", "application/openmetrics-text"))
        samples = [line for line in metrics.text.splitlines() if line and not line.startswith("#")]
        assert samples and all(s.startswith("nullpass_") for s in samples)
        assert account.email not in metrics.text and account.id not in metrics.text
    assert server.cli("health").returncode == 0
    server.stop()
    assert server.cli("health", check=False).returncode == 1


def test_health_of_an_application_that_is_away(start):
    server = start(f"http://127.0.0.1:{free_port()}", run=False, config={})
    server.config["upstreams"][0]["health"] = {"path": "/healthz", "interval": "1s"}
    server.write_config()
    server.start()
    with httpx.Client(base_url=server.admin_url, trust_env=False) as admin:
        assert admin.get("/readyz").status_code == 200, "the sidecar is ready when the application is not"
        assert admin.get("/readyz?upstreams").status_code == 503
        assert admin.get("/upstreams/app/health").status_code in (502, 503, 504)
    account = register(server, "ada")
    with server.client(headers=account.bearer) as client:
        away = client.get("/")
        assert away.status_code == 502 and away.json()["requestId"]
        page = client.get("/", headers={"Accept": "text/html"})
        assert page.status_code == 502 and page.headers["content-type"].startswith("text/html")


@pytest.mark.parametrize("form", ["text", "json"])
def test_the_access_log(echo, start, form):
    server = start(echo.url, config={"log": {"format": form}})
    account = register(server, "ada")
    with server.client() as client:
        answer = client.get("/hello/log?visible=1", headers=account.bearer | {"X-Request-Id": "from-the-client-42"})
        assert answer.status_code == 200
        client.get("/hello/refused")
        client.get(f"{PREFIX}/login?rd=/secret-place&code=one-time-code")
    server.log_lines(f"{PREFIX}/login")
    lines = server.log_lines("/hello/log")
    assert len(lines) == 1, lines
    line = lines[0]
    for part in ("GET", "/hello/log", "200", "app", account.id, "from-the-client-42", "127.0.0.1"):
        assert part in line, f"{part!r} not in {line}"
    if form == "json":
        for every in server.log.splitlines():
            json.loads(every)
    else:
        assert not re.search(r"\x1b\[", server.log), "no colour where there is no terminal"
    assert "secret-place" not in server.log and "one-time-code" not in server.log
    assert any("401" in line for line in server.log_lines("/hello/refused"))


def test_the_access_log_can_be_off(echo, start):
    server = start(echo.url, config={"log": {"access": False}})
    with server.client() as client:
        client.get("/hello/quiet")
    server.stop()
    assert "/hello/quiet" not in server.log


# --- Stopping, breaking, coming back -------------------------------------------------------------------------------


def test_sigterm_lets_requests_in_flight_finish(echo, start):
    server = start(echo.url)
    account = register(server, "ada")
    got: list[int] = []

    def slow() -> None:
        with server.client(headers=account.bearer) as client:
            got.append(client.get("/slow?seconds=2").status_code)

    thread = threading.Thread(target=slow)
    thread.start()
    arrived = time.monotonic() + 5
    while not any(r.target == "/slow?seconds=2" for r in echo.received) and time.monotonic() < arrived:
        time.sleep(0.02)
    process = server.process
    process.terminate()
    time.sleep(0.5)
    assert process.poll() is None, "still busy"
    assert not can_connect(server.port), "but takes nothing new"
    thread.join(15)
    assert got == [200]
    assert process.wait(15) == 0


def test_shutdown_delay_says_not_ready_but_goes_on_serving(echo, start):
    server = start(echo.url, config={"server": {"shutdown_delay": "2s"}})
    account = register(server, "ada")
    process = server.process
    process.terminate()
    time.sleep(0.5)
    assert httpx.get(f"{server.admin_url}/readyz", trust_env=False).status_code == 503
    assert httpx.get(f"{server.admin_url}/healthz", trust_env=False).status_code == 200
    with server.client(headers=account.bearer | {"Connection": "close"}) as client:
        assert client.get("/").status_code == 200
    assert process.wait(15) == 0


def test_a_second_signal_does_not_wait(echo, start):
    server = start(echo.url)
    account = register(server, "ada")

    def slow() -> None:
        try:
            with server.client(headers=account.bearer) as client:
                client.get("/slow?seconds=8")
        except httpx.HTTPError:
            pass

    thread = threading.Thread(target=slow)
    thread.start()
    time.sleep(0.7)
    began = time.monotonic()
    server.process.terminate()
    time.sleep(0.3)
    server.process.terminate()
    server.process.wait(5)
    assert time.monotonic() - began < 5
    thread.join(15)


def test_a_second_process_gets_a_clear_word(echo, start):
    first = start(echo.url)
    second = start(echo.url, run=False, config={"storage": {"path": str(first.data)}})
    process = second.spawn()
    assert process.wait(20) == 1, second.log
    assert re.search(r"(?i)another|already|in use|locked", second.log) and str(first.data) in second.log, second.log
    assert "panicked" not in second.log
    with first.client() as client:
        assert client.get(f"{API}/health").status_code == 200


def test_a_restart_signs_nobody_out(echo, start):
    server = start(echo.url)
    account = register(server, "ada")
    token = create_api_token(server, account)["token"]
    server.restart()
    with server.client() as client:
        for credential in (account.token, token):
            assert client.get("/", headers=bearer(credential)).status_code == 200
    assert profile(server, account.token)["email"] == account.email
    call(server, "POST", "/auth/logout", token=account.token)
    server.restart()
    with server.client() as client:
        assert client.get("/", headers=account.bearer).status_code == 401


def test_a_power_cut_loses_nothing_that_was_acknowledged(echo, start):
    server = start(echo.url)
    accounts: list[Account] = []
    for _ in range(4):
        accounts.append(register(server, "ada"))
        ended = register(server, "bob")
        call(server, "POST", "/auth/logout", token=ended.token)
        server.kill()
        server.start()
        with server.client() as client:
            assert client.get("/", headers=ended.bearer).status_code == 401, "an end holds as well"
        for account in accounts:
            assert profile(server, account.token)["id"] == account.id
            login(server, Account(account.email, account.password, account.id, ""))


def test_demo_prints_a_url_that_works(tmp_path):
    port = free_port()
    log = tmp_path / "demo.log"
    env = {"TMPDIR": str(tmp_path)}
    with log.open("ab") as out:
        process = subprocess.Popen([binary(), "demo", "--listen", f"127.0.0.1:{port}"], stdout=out, stderr=out, stdin=subprocess.DEVNULL, cwd=tmp_path, env=clean_environment(env))
    try:
        wait_for_port(port, process)
        deadline = time.monotonic() + 10
        while not (found := re.search(rf"http://(?:127\.0\.0\.1|localhost):{port}\S*", log.read_text())) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert found, log.read_text()
        url = found.group(0).rstrip(".,)\"'")
        origin = re.match(r"https?://[^/]+", url).group(0)
        with Browser(origin) as browser:
            assert browser.get("/", follow=False).status_code == 302
            assert browser.get(url).status_code == 200
            email = new_email("demo")
            browser.submit(browser.get(f"{PREFIX}/register"), {"email": email, "password": PASSWORD})
            page = browser.get("/")
            assert page.status_code == 200 and email in page.text and "x-forwarded-email" in page.text.lower()
    finally:
        assert end(process) == 0
    assert "panicked" not in log.read_text()


def test_what_happened_is_in_the_audit_log(echo, start):
    server = start(echo.url)
    account = register(server, "ada")
    call(server, "POST", "/auth/login", {"email": account.email, "password": "wrong-password"}, expect=401)
    enable_2fa(server, account)
    create_api_token(server, account)
    events = call(server, "GET", "/audit", token=account.token, params={"limit": 100}, expect=200).json()
    said = json.dumps(events)
    for action in ("USER_REGISTER", "USER_LOGIN", "LOGIN_FAILED", "SESSION_CREATE", "TWO_FACTOR_ENABLE"):
        assert action in said, action
    only = call(server, "GET", "/audit", token=account.token, params={"action": "LOGIN_FAILED", "limit": 1}, expect=200).json()
    assert "LOGIN_FAILED" in json.dumps(only) and "USER_REGISTER" not in json.dumps(only)
    other = register(server, "bob")
    assert account.id not in json.dumps(call(server, "GET", "/audit", token=other.token, expect=200).json())


def test_the_audit_log_is_listed_exported_and_proven_whole(echo, start, tmp_path):
    server = start(echo.url)
    account = register(server, "ada")
    call(server, "POST", "/auth/login", {"email": account.email, "password": "wrong-password"}, headers={"user-agent": "odd\tbrowser"}, expect=401)
    for running in (True, False):
        if not running:
            server.stop()
        listed = server.cli("audit", "list")
        assert "LOGIN_FAILED" in listed.stdout and account.email in listed.stdout and "127.0.0.1" in listed.stdout, listed.stdout
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", listed.stdout), "nothing that a terminal obeys"
        events = [json.loads(line) for line in server.cli("audit", "list", "--json", "--user", account.email).stdout.splitlines()]
        assert [event["action"] for event in events] == ["LOGIN_FAILED", "SESSION_CREATE", "USER_REGISTER"]
        some = server.cli("audit", "list", "--json", "--action", "login_failed", "--since", "1h", "--limit", "5").stdout.splitlines()
        assert len(some) == 1 and json.loads(some[0])["outcome"] == "failure"
        assert server.cli("audit", "list", "--since", "2999-01-01").stdout.count("\n") == 1, "only the headings"
        lines = [json.loads(line) for line in server.cli("audit", "export").stdout.splitlines()]
        assert {line["type"] for line in lines} == {"base", "event", "head"}
        recorded = [line["record"]["action"] for line in lines if line["type"] == "event"]
        assert sorted(recorded) == ["LOGIN_FAILED", "SESSION_CREATE", "USER_REGISTER"]
        assert "127.0.0.1" not in json.dumps(lines), "addresses stay sealed outside"
        whole = server.cli("audit", "verify")
        assert whole.returncode == 0 and "whole" in whole.stdout
    heads = tmp_path / "heads.jsonl"
    heads.write_text(server.cli("audit", "export", "--heads").stdout)
    server.start()
    login(server, account)
    report = json.loads(server.cli("audit", "verify", "--json", "--against", str(heads)).stdout)
    assert report["whole"] and sum(chain["events"] for chain in report["chains"]) == 5
    # The newest events gone: only a head that was kept elsewhere tells.
    later = tmp_path / "later.jsonl"
    later.write_text(re.sub(r'"seq":(\d+)', lambda found: f'"seq":{int(found[1]) + 100}', heads.read_text()))
    cut = server.cli("audit", "verify", "--against", str(later), check=False)
    assert cut.returncode == 1 and "cut off" in cut.stderr, cut.stderr
    heads.write_text("nonsense")
    assert server.cli("audit", "verify", "--against", str(heads), check=False).returncode == 2
    assert server.cli("audit", "list", "--since", "whenever", check=False).returncode == 2


def test_limits_per_address_and_per_account(echo, start):
    server = start(echo.url, config={"limits": {"auth_per_ip": "5/m", "register_per_ip": "3/h"}})
    account = register(server, "ada")
    answers = [call(server, "POST", "/auth/login", {"email": new_email(), "password": "wrong-password"}) for _ in range(8)]
    refused = [a for a in answers if a.status_code == 429]
    assert refused and int(refused[0].headers["retry-after"]) > 0 and "ratelimit" in str(refused[0].headers).lower()
    with server.client(headers=account.bearer) as client:
        assert client.get("/").status_code == 200, "who is signed in is not held up"
    tries = [call(server, "POST", "/auth/register", {"email": new_email(), "password": PASSWORD}).status_code for _ in range(4)]
    assert tries[-1] == 429


def test_the_api_describes_itself(echo, start):
    server = start(echo.url)
    with server.client() as client:
        openapi = client.get(f"{PREFIX}/openapi.json").json()
        assert openapi["openapi"].startswith("3.") and any(path.endswith("/auth/login") for path in openapi["paths"])
        keys = client.get(f"{PREFIX}/.well-known/jwks.json").json()["keys"]
        assert keys and all("d" not in k and "k" not in k and k["kid"] for k in keys)
        health = client.get(f"{API}/health").json()
        assert health["service"] == "nullpass" and health["status"] == "ok" and health["version"]


@pytest.mark.parametrize("algorithm", ["EdDSA", "ES256", "RS256", "HS256"])
def test_every_algorithm_and_a_change_of_it(echo, start, algorithm):
    server = start(echo.url)
    account = register(server, "ada")
    server.stop()
    server.config = {**server.config, "tokens": {"algorithm": algorithm}}
    server.write_config(to_toml(server.config))
    server.start()
    with server.client() as client:
        assert client.get("/", headers=account.bearer).status_code == 200, "a change of algorithm signs nobody out"
        login(server, account)
        header = json.loads(base64.urlsafe_b64decode(account.token.split(".")[0] + "=="))
        assert header["alg"] == algorithm and header["typ"] == "at+jwt" and header["kid"]
        assert client.get("/", headers=account.bearer).status_code == 200
        assert call(server, "POST", "/auth/verify", {"token": account.token}, expect=200).json()["valid"] is True
        assert all(k["kty"] != "oct" for k in client.get(f"{PREFIX}/.well-known/jwks.json").json()["keys"])


# --- Memory that is nobody's business ------------------------------------------------------------------------------


def is_hidden(command: list[str], ready, tmp_path) -> bool:
    """Whether a command's memory is hidden from its user: /proc says so to others, a core file that is written says so to root."""
    folder = tmp_path / secrets.token_hex(4)
    folder.mkdir()

    def unlimited() -> None:
        if os.getuid() == 0:
            resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

    process = subprocess.Popen(command, cwd=folder, preexec_fn=unlimited, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=clean_environment())
    try:
        ready(process)
        owner = os.stat(f"/proc/{process.pid}/environ").st_uid
    except BaseException:
        end(process)
        raise
    os.kill(process.pid, signal.SIGABRT)
    _, status = os.waitpid(process.pid, 0)
    process.returncode = -signal.SIGABRT
    assert os.WTERMSIG(status) == signal.SIGABRT
    return owner == 0 if os.getuid() != 0 else not os.WCOREDUMP(status)


def test_its_memory_is_hidden_from_others(echo, start, tmp_path):
    assert not is_hidden(["sleep", "60"], lambda _: time.sleep(0.2), tmp_path), "this kernel writes no core files at all"
    server = start(echo.url, run=False)
    serve = [binary(), "serve", "--config", str(server.config_path)]
    assert is_hidden(serve, lambda process: wait_for_port(server.port, process), tmp_path)
