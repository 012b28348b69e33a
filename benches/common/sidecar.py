"""What the scripts of benches/ share: starting a sidecar on loopback and reading what a process costs from /proc."""

import http.client
import json
import os
import pathlib
import signal
import socket
import ssl
import subprocess
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = pathlib.Path(os.environ.get("NULLPASS_BIN", ROOT / "target/release/nullpass"))
TICK = os.sysconf("SC_CLK_TCK")
PASSWORD = "correct horse battery staple 42"


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def machine():
    """Cores, CPU model and kernel: what a figure means nothing without."""
    model = next((l.split(":", 1)[1].strip() for l in open("/proc/cpuinfo") if l.startswith("model name")), "unknown CPU")
    memory = int(next(l.split()[1] for l in open("/proc/meminfo") if l.startswith("MemTotal"))) // 1024 // 1024
    release = os.uname().release.split("-")[0]
    return f"{os.cpu_count()} cores, {model}, {memory} GiB, Linux {release}; load {os.getloadavg()[0]:.2f}"


def tree(pid):
    """A process and all its children."""
    found = [pid]
    for task in pathlib.Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            for child in task.read_text().split():
                found += tree(int(child))
        except OSError:
            pass
    return found


def rss_kib(pid):
    """Resident memory of a process and its children, in KiB; pages that they share are counted once for each."""
    total = 0
    for one in tree(pid):
        for line in open(f"/proc/{one}/status"):
            if line.startswith("VmRSS:"):
                total += int(line.split()[1])
    return total


def most_rss_kib(pid):
    """The most memory that a process has had at a time since its start, in KiB."""
    return next(int(line.split()[1]) for line in open(f"/proc/{pid}/status") if line.startswith("VmHWM:"))


def cpu_seconds(pid):
    """User and system time of a process and its children."""
    total = 0
    for one in tree(pid):
        fields = open(f"/proc/{one}/stat").read().rsplit(")", 1)[1].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICK


def wait_for(port, process=None, seconds=30, interval=0.01):
    """Until something listens on a port of loopback."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if process is not None and process.poll() is not None:
            raise SystemExit(f"{process.args[0]} ended with {process.returncode} before it listened")
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(interval)
    raise SystemExit(f"nothing listens on 127.0.0.1:{port} after {seconds} s")


def call(port, method, path, body=None, headers=None, tls=False):
    """One request on a connection of its own: status, headers, body. With `tls` any certificate will do."""
    if tls:
        anybody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        anybody.check_hostname, anybody.verify_mode = False, ssl.CERT_NONE
        connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=30, context=anybody)
    else:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    data = None if body is None else json.dumps(body)
    head = {"Content-Type": "application/json"} if body is not None else {}
    connection.request(method, path, data, head | (headers or {}))
    answer = connection.getresponse()
    result = (answer.status, dict(answer.getheaders()), answer.read())
    connection.close()
    return result


class Sidecar:
    """`nullpass serve` with a data folder, on a free port, until the `with` block ends. `config` is more of the
    configuration, `sections` more of the sections that are there already: lines by name."""

    def __init__(self, folder, upstream="http://127.0.0.1:9", config="", workers=None, access=True, out=None, prefix=(), sections=None):
        self.folder = pathlib.Path(folder)
        self.port = free_port()
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "nullpass.toml"
        workers = "" if workers is None else f"workers = {workers}\n"
        more = {name: f"{lines}\n" for name, lines in (sections or {}).items()}
        path.write_text(
            f'[server]\nlisten = ["127.0.0.1:{self.port}"]\n{workers}{more.pop("server", "")}'
            f'[admin]\nlisten = ""\n[accounts]\nregistration = "open"\n{more.pop("accounts", "")}'
            f'[limits]\nregister_per_ip = ""\nauth_per_ip = ""\n{more.pop("limits", "")}'
            f'[storage]\npath = "{self.folder}/data"\n'
            f"[log]\naccess = {'true' if access else 'false'}\n"
            f'[[upstreams]]\nname = "app"\nurl = "{upstream}"\n{config}'
        )
        if more:
            raise ValueError(f"no section {', '.join(more)}")
        self.config_path = path
        self.out = open(out or self.folder / "log", "wb")
        environment = {k: v for k, v in os.environ.items() if not k.startswith("NULLPASS")}
        self.started = time.monotonic()
        command = [*prefix, str(BINARY), "serve", "--config", str(path)]
        self.process = subprocess.Popen(command, stdout=self.out, stderr=subprocess.STDOUT, env=environment)
        self.pid = self.process.pid

    def __enter__(self):
        return self

    def ready(self, interval=0.01):
        wait_for(self.port, self.process, interval=interval)
        return self

    def token(self, email="bench@example.com"):
        """Registers somebody and gives their token."""
        status, _, body = call(self.port, "POST", "/_auth/api/auth/register", {"email": email, "password": PASSWORD})
        if status != 201:
            raise SystemExit(f"registering failed: {status} {body[:300]!r}")
        return json.loads(body)["token"]

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.out.close()


def need_binary():
    if not BINARY.exists():
        raise SystemExit(f"{BINARY} is missing: cargo build --release")
