"""What the black-box tests share: starting the real binary, and being a client of it.

Nothing here knows how nullpass is made; it knows the command line, the configuration file, the routes and the JSON
that operators and clients see. Everything runs on loopback, in a folder of the test's own, and every process that is
started is ended by its own process id.
"""

from __future__ import annotations

import base64
import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urljoin

import httpx
import pyotp
from bs4 import BeautifulSoup

ROOT = Path(__file__).resolve().parents[2]
PREFIX = "/_auth"
API = PREFIX + "/api"
PASSWORD = "violet-harbour-42-lantern"
START_SECONDS = 30
STOP_SECONDS = 40


# --- The binary and its configuration ------------------------------------------------------------------------------


def binary() -> Path:
    """The binary under test: `$NULLPASS_BIN`, else the newest kind of build that is there."""
    if given := os.environ.get("NULLPASS_BIN"):
        return Path(given).resolve()
    for place in ("x86_64-unknown-linux-gnu/release", "release", "debug"):
        if (path := ROOT / "target" / place / "nullpass").is_file():
            return path
    raise FileNotFoundError("no nullpass binary: run `tests/run build`, or set NULLPASS_BIN")


def free_port() -> int:
    """A port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def clean_environment(extra: dict[str, str] | None = None) -> dict[str, str]:
    """The environment without anything that would configure nullpass or send a client through a proxy."""
    dropped = ("NULLPASS", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
    kept = {k: v for k, v in os.environ.items() if not k.upper().startswith(dropped)}
    return kept | {"NO_COLOR": "1", "NO_PROXY": "127.0.0.1,localhost"} | (extra or {})


def _inline(value) -> str:
    """A value as TOML writes it on one line. JSON strings without surrogates are TOML basic strings."""
    match value:
        case bool():
            return "true" if value else "false"
        case int() | float():
            return str(value)
        case str() | Path():
            return json.dumps(str(value))
        case list():
            return "[" + ", ".join(_inline(v) for v in value) + "]"
        case dict():
            return "{ " + ", ".join(f"{json.dumps(k)} = {_inline(v)}" for k, v in value.items()) + " }"
    raise TypeError(f"{value!r} has no TOML form here")


def to_toml(config: dict) -> str:
    """The configuration as TOML: sections as tables, lists of tables as arrays of tables, what is deeper inline."""
    tables = lambda v: isinstance(v, list) and v and all(isinstance(e, dict) for e in v)  # noqa: E731
    lines = [f"{k} = {_inline(v)}" for k, v in config.items() if not isinstance(v, dict) and not tables(v)]
    for name, section in config.items():
        for head, body in [(f"[[{name}]]", b) for b in section] if tables(section) else [(f"[{name}]", section)]:
            if isinstance(body, dict):
                lines += ["", head] + [f"{json.dumps(k)} = {_inline(v)}" for k, v in body.items()]
    return "\n".join(lines) + "\n"


def merged(base: dict, over: dict) -> dict:
    """`base` with the sections of `over` laid over it; lists and scalars are replaced."""
    out = dict(base)
    for key, value in over.items():
        out[key] = merged(out[key], value) if isinstance(value, dict) and isinstance(out.get(key), dict) else value
    return out


# --- Where the state lives -------------------------------------------------------------------------------------------


def postgres_storage(url: str, schema: str | None = None, master_key: str | None = None, **more) -> dict:
    """`[storage]` for this database: in a schema of its own, under a key of its own, unless others share them."""
    key = master_key or base64.b64encode(secrets.token_bytes(32)).decode()
    return {"backend": "postgres", "url": url, "schema": schema or f"t_{secrets.token_hex(8)}", "master_key": key} | more


def storage_of_this_run() -> dict:
    """`[storage]` where a test says nothing of it: `tests/run` runs the suites once for each backend."""
    match os.environ.get("NULLPASS_TEST_BACKEND", "sled"):
        case "sled":
            return {}
        case "postgres":
            return postgres_storage(os.environ["NULLPASS_TEST_POSTGRES"])
        case other:
            raise ValueError(f"NULLPASS_TEST_BACKEND={other}: there are sled and postgres")


# --- The server ----------------------------------------------------------------------------------------------------


class Nullpass:
    """A nullpass of its own: its configuration file, its data folder, its log, its ports."""

    def __init__(self, folder: Path, upstream: str | None = None, *, config: dict | None = None, env: dict[str, str] | None = None):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.port, self.admin_port = free_port(), free_port()
        self.data = self.folder / "data"
        self.log_path = self.folder / "nullpass.log"
        self.config_path = self.folder / "nullpass.toml"
        self.env = env or {}
        self.process: subprocess.Popen | None = None
        base = {
            "server": {"listen": [f"127.0.0.1:{self.port}"], "shutdown_grace": "10s"},
            "admin": {"listen": f"127.0.0.1:{self.admin_port}"},
            "upstreams": [{"name": "app", "url": upstream}] if upstream else [],
            "accounts": {"registration": "open"},
            # The suites sign in more often from one address than a person would; the limits have suites of their own.
            "limits": {"auth_per_ip": "100000/m", "register_per_ip": "100000/h"},
            "storage": {"path": str(self.data)} | storage_of_this_run(),
        }
        self.config = merged(base, config or {})
        self.write_config()

    def write_config(self, text: str | None = None) -> None:
        """Writes the file: `text` as it is, else the configuration of this server."""
        self.config_path.write_text(text if text is not None else to_toml(self.config), encoding="utf-8")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def admin_url(self) -> str:
        return f"http://127.0.0.1:{self.admin_port}"

    @property
    def pid(self) -> int:
        assert self.process is not None, "not started"
        return self.process.pid

    @property
    def log(self) -> str:
        return self.log_path.read_text(encoding="utf-8", errors="replace") if self.log_path.exists() else ""

    def log_lines(self, part: str, seconds: float = 5) -> list[str]:
        """The lines of the log that hold `part`, once there is one; lines may be written a little later."""
        deadline = time.monotonic() + seconds
        while not (found := [line for line in self.log.splitlines() if part in line]) and time.monotonic() < deadline:
            time.sleep(0.05)
        return found

    def spawn(self) -> subprocess.Popen:
        """Starts the process without waiting for it."""
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [binary(), "serve", "--config", self.config_path],
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                cwd=self.folder,
                env=clean_environment(self.env),
            )
        return self.process

    def start(self) -> Nullpass:
        """Starts the process and waits until `/readyz` says yes."""
        self.spawn()
        wait_for_http(f"{self.admin_url}/readyz", self.process, lambda: self.log)
        return self

    def stop(self) -> int | None:
        """Ends the process as an operator would; returns its exit code."""
        if self.process is None:
            return None
        process, self.process = self.process, None
        return end(process)

    def kill(self) -> None:
        """Ends the process as a power cut would."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)
        self.process = None

    def restart(self) -> Nullpass:
        self.stop()
        return self.start()

    def cli(self, *args: str, stdin: str | None = None, check: bool = True) -> subprocess.CompletedProcess:
        """Runs `nullpass ARGS --config FILE`."""
        done = run_cli(*args, "--config", str(self.config_path), stdin=stdin, cwd=self.folder, env=self.env)
        if check and done.returncode != 0:
            raise AssertionError(f"nullpass {' '.join(args)}: exit {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done

    def client(self, **options) -> httpx.Client:
        """An HTTP client of this server that follows no redirect."""
        return httpx.Client(**{"base_url": self.url, "timeout": 30, "trust_env": False} | options)

    def kept(self) -> dict[str, bytes]:
        """What is kept, by where it is: the files of the data folder, and the rows of the database's tables."""
        found = {path.name: path.read_bytes() for path in self.data.rglob("*") if path.is_file()}
        storage = self.config["storage"]
        if storage.get("backend") == "postgres":
            schema = storage["schema"]
            tables = psql(storage["url"], f"SELECT table_name FROM information_schema.tables WHERE table_schema = '{schema}'").decode().split()
            assert tables, f"no table in {schema}"
            found |= {f"table {table}": psql(storage["url"], f'COPY "{schema}"."{table}" TO STDOUT (FORMAT binary)') for table in tables}
        return found

    def memory_kib(self, what: str = "VmRSS") -> int:
        """Resident memory of the process: `VmRSS` now, `VmHWM` at its peak."""
        status = Path(f"/proc/{self.pid}/status").read_text(encoding="utf-8")
        return int(re.search(rf"^{what}:\s+(\d+) kB", status, re.M).group(1))

    def __enter__(self) -> Nullpass:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


def psql(url: str, sql: str) -> bytes:
    """What `psql` prints for this."""
    return subprocess.run(["psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", url, "-c", sql], capture_output=True, check=True, timeout=60).stdout


def run_cli(*args: str, stdin: str | None = None, cwd: Path | None = None, env: dict[str, str] | None = None, timeout: float = 60) -> subprocess.CompletedProcess:
    """Runs `nullpass ARGS` to its end."""
    return subprocess.run(
        [binary(), *args], input=stdin if stdin is not None else "", capture_output=True, text=True, timeout=timeout, cwd=cwd, env=clean_environment(env)
    )


def wait_for_http(url: str, process: subprocess.Popen, log, seconds: float = START_SECONDS, accept=lambda status: status == 200) -> None:
    """Waits until `url` answers as wanted; fails with the log when the process ends or the time is up."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise AssertionError(f"the process ended with {process.returncode}:\n{log()[-4000:]}")
        try:
            if accept(httpx.get(url, timeout=2, trust_env=False).status_code):
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.05)
    end(process)
    raise AssertionError(f"{url} did not answer within {seconds} s:\n{log()[-4000:]}")


def wait_for_port(port: int, process: subprocess.Popen, seconds: float = START_SECONDS) -> None:
    """Waits until something accepts on the port."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert process.poll() is None, f"the process ended with {process.returncode}"
        if can_connect(port):
            return
        time.sleep(0.05)
    end(process)
    raise AssertionError(f"nothing listens on port {port} after {seconds} s")


def can_connect(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def end(process: subprocess.Popen) -> int:
    """SIGTERM, then SIGKILL for what does not listen; returns the exit code."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)
    return process.returncode


def python_module(*args: str, folder: Path, log: str, env: dict[str, str] | None = None) -> subprocess.Popen:
    """Starts `python -m ARGS` with its output in a file."""
    with (folder / log).open("ab") as out:
        return subprocess.Popen([sys.executable, "-m", *args], stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, cwd=folder, env=clean_environment(env))


# --- Accounts ------------------------------------------------------------------------------------------------------


@dataclass
class Account:
    """A registered person, and the token of the session that registering (or the last login) gave."""

    email: str
    password: str
    id: str
    token: str
    authenticator: Authenticator | None = None
    recovery_codes: list[str] = field(default_factory=list)

    @property
    def bearer(self) -> dict[str, str]:
        return bearer(self.token)


class Authenticator:
    """A TOTP application that knows that a step never works twice and waits for the next one when it must."""

    def __init__(self, secret: str):
        self.secret = secret
        self._totp = pyotp.TOTP(secret)
        self._last = 0

    def code(self) -> str:
        """A code that was not used before and that the server takes now (one step of skew)."""
        step = max(self._last + 1, int(time.time()) // 30)
        while step > int(time.time()) // 30 + 1:
            time.sleep(0.25)
        self._last = step
        return self._totp.at(step * 30)

    def wrong_code(self) -> str:
        """Six digits that are the code of no step near now."""
        now = int(time.time()) // 30
        near = {self._totp.at((now + d) * 30) for d in range(-4, 5)}
        return next(c for c in (f"{n:06}" for n in range(100_000, 100_100)) if c not in near)


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def new_email(name: str = "user") -> str:
    return f"{name}.{secrets.token_hex(4)}@example.com"


def call(server: Nullpass, method: str, path: str, body=None, *, token: str | None = None, expect: int | None = None, **options) -> httpx.Response:
    """One call of the JSON API; `path` is below `A`."""
    headers = (bearer(token) if token else {}) | options.pop("headers", {})
    if body is not None:
        options["json"] = body
    with server.client() as client:
        answer = client.request(method, API + path, headers=headers, **options)
    if expect is not None:
        assert answer.status_code == expect, f"{method} {path}: {answer.status_code} {answer.text}"
    return answer


def register(server: Nullpass, name: str = "user", *, email: str | None = None, password: str = PASSWORD, **more) -> Account:
    """Registers a person by the API."""
    email = email or new_email(name)
    said = call(server, "POST", "/auth/register", {"email": email, "password": password, **more}, expect=201).json()
    assert said["user"]["email"] == email.lower()
    return Account(email=said["user"]["email"], password=password, id=said["user"]["id"], token=said["token"])


def login(server: Nullpass, account: Account, *, expect: int = 200) -> dict:
    """Signs in, by both steps where the account has a second factor, and keeps the new token in the account."""
    said = call(server, "POST", "/auth/login", {"email": account.email, "password": account.password}, expect=expect).json()
    if said.get("requires2FA"):
        assert account.authenticator, "the account has a second factor that the test does not know"
        body = {"pendingToken": said["pendingToken"], "verificationCode": account.authenticator.code()}
        said = call(server, "POST", "/auth/login/2fa", body, expect=200).json()
    if expect == 200:
        account.token = said["token"]
    return said


def enable_2fa(server: Nullpass, account: Account) -> Authenticator:
    """Turns the second factor on and signs in with it."""
    begun = call(server, "POST", "/auth/2fa", {"enable": True, "currentPassword": account.password}, token=account.token, expect=200).json()
    assert begun["qrCode"].startswith("data:image/") and begun["otpauthUrl"].startswith("otpauth://totp/")
    authenticator = Authenticator(begun["secret"])
    body = {"enable": True, "verificationCode": authenticator.code(), "currentPassword": account.password}
    done = call(server, "POST", "/auth/2fa", body, token=account.token, expect=200).json()
    assert done["twoFactorEnabled"] is True and len(done["recoveryCodes"]) == 10
    account.authenticator, account.recovery_codes = authenticator, done["recoveryCodes"]
    login(server, account)
    return authenticator


def create_api_token(server: Nullpass, account: Account, name: str = "test", **scope) -> dict:
    """Makes a personal API token: `{token, id, …}`."""
    body = {"name": name, "currentPassword": account.password, **scope}
    said = call(server, "POST", "/auth/tokens", body, token=account.token, expect=201).json()
    assert said["token"].startswith("np_")
    return said


def profile(server: Nullpass, token: str) -> dict:
    return call(server, "GET", "/auth/me", token=token, expect=200).json()["user"]


def rows(text: str) -> list[dict]:
    """What a listing command with `--json` printed: an array, or an object that holds just one."""
    said = json.loads(text)
    if isinstance(said, dict):
        lists = [v for v in said.values() if isinstance(v, list)]
        assert len(lists) == 1, said
        return lists[0]
    return said


# --- A browser without JavaScript ----------------------------------------------------------------------------------


class Browser:
    """Follows links and sends forms as a browser does, `Sec-Fetch-*` and `Origin` included; runs no script."""

    NAVIGATION = {
        "Accept": "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8",
        "Sec-Fetch-Mode": "navigate",
        "Sec-Fetch-Dest": "document",
        "Sec-Fetch-User": "?1",
        "User-Agent": "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
    }

    def __init__(self, url: str):
        self.origin = url
        self.client = httpx.Client(base_url=url, timeout=30, trust_env=False, headers=self.NAVIGATION)

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()

    @property
    def cookies(self) -> dict[str, str]:
        return {c.name: c.value for c in self.client.cookies.jar}

    def get(self, path: str, *, follow: bool = True, site: str = "none") -> httpx.Response:
        return self.client.get(path, follow_redirects=follow, headers={"Sec-Fetch-Site": site})

    def submit(self, page: httpx.Response, values: dict[str, str] | None = None, *, follow: bool = True, drop: tuple[str, ...] = (), **headers: str) -> httpx.Response:
        """Fills in and sends the page's form that has these fields; hidden fields are carried as they are."""
        values = values or {}
        form = find_form(page, values)
        data = {i["name"]: i.get("value", "") for i in form.select("input[name]") if i.get("type") in ("hidden", "checkbox") and (i.get("type") == "hidden" or i.has_attr("checked"))}
        data |= values
        for name in drop:
            data.pop(name, None)
        assert form.get("method", "get").lower() == "post", form
        target = urljoin(str(page.url), form.get("action") or str(page.url))
        sent = {"Sec-Fetch-Site": "same-origin", "Origin": self.origin} | {k.replace("_", "-"): v for k, v in headers.items()}
        return self.client.post(target, data=data, headers=sent, follow_redirects=follow)


def find_form(page: httpx.Response, values: dict[str, str]):
    """The first form of the page that has inputs of these names and sends by POST."""
    soup = BeautifulSoup(page.text, "html.parser")
    for form in soup.find_all("form"):
        names = {i.get("name") for i in form.select("input, select, textarea, button")}
        if set(values) <= names and form.get("method", "get").lower() == "post":
            return form
    raise AssertionError(f"{page.status_code} {page.url}: no form with {sorted(values)}:\n{page.text[:3000]}")


def hidden_names(page: httpx.Response, values: dict[str, str]) -> tuple[str, ...]:
    """The names of the hidden fields of that form."""
    return tuple(i["name"] for i in find_form(page, values).select("input[type=hidden][name]"))
