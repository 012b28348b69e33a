#!/usr/bin/env python3
"""Half an hour of everything at once: does memory stay flat, does a descriptor leak, is every error one that a fault explains?

    cargo build --release && .cache/venv/bin/python benches/defence/soak.py [--minutes 30] [--share 0.7] [--help]

In front of nginx and of a WebSocket echo, on loopback: signed-in GETs of 1 KiB at a share of what this machine can take
(measured first, with everything on it), new connections all the time; people who sign in, read and sign out, and must be
refused at the next request; WebSockets that are spoken over, of which one a while is ended by the end of its session,
within two seconds; a reload of the configuration every twenty seconds, which may cost nobody an answer; and a restart of
nginx every forty-five, which may cost 502 to 504 while it is away and a moment after, and nothing else.

Printed: what was asked and answered; errors that no fault explains; resident memory after the first sixth and at the end
and their ratio; open descriptors and threads before, after the first sixth, at the end, and when everybody has gone.
Exit 1 on a finding: an unexplained error, a ratio above 1.1, descriptors that stay, threads that pile up.

It runs with what deploy/systemd/nullpass.service and the Dockerfile set for glibc's allocator; `--plain` without.

The environment is the one that `tests/run e2e` makes; nginx and h2load must be there. A busy machine makes figures, and
findings about time, meaningless.
"""

import argparse
import asyncio
import contextlib
import http.client
import json
import pathlib
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "benches/common"), str(ROOT / "benches/proxy"), str(ROOT / "tests/e2e")]
sys.dont_write_bytecode = True
import websockets  # noqa: E402
from harness import API, Nullpass, binary, end, free_port, wait_for_port  # noqa: E402
from sidecar import machine  # noqa: E402

PASSWORD = "violet-harbour-42-lantern"
SLICE = 10
RELOAD_EVERY = 20
RESTART_EVERY = 45
AWAY = 1.0
# After nginx is back: what was waiting for it, and until the sidecar tries it again.
AFTERMATH = 3.0
RATIO = 1.10
# Idle connections to the application, which the sidecar may keep.
KEPT_CONNECTIONS = 64


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--share", type=float, default=0.7, help="of the requests a second that it can take (0.7)")
    parser.add_argument("--connections", type=int, default=32, help="of the proxied load (32)")
    parser.add_argument("--sign-ins", type=float, default=1, help="a second (1)")
    parser.add_argument("--websockets", type=int, default=20, help="open at once (20)")
    parser.add_argument("--plain", action="store_true", help="without the unit's settings of glibc's allocator")
    return parser.parse_args()


def allocator():
    """What the unit that we ship sets for glibc's allocator."""
    lines = (ROOT / "deploy/systemd/nullpass.service").read_text().splitlines()
    found = dict(line.removeprefix("Environment=").split("=") for line in lines if line.startswith("Environment=MALLOC_"))
    if not found:
        sys.exit("deploy/systemd/nullpass.service sets nothing of the allocator's")
    return found


class Findings:
    """What must not be, from whichever thread."""

    def __init__(self):
        self.texts, self.lock = {}, threading.Lock()

    def add(self, text):
        with self.lock:
            self.texts[text] = self.texts.get(text, 0) + 1
            if self.texts[text] == 1:
                print(f"finding: {text}", flush=True)


class Application:
    """nginx with one small file, and when it was away."""

    def __init__(self, folder):
        self.folder, self.port, self.away, self.leaving = folder, free_port(), [], None
        (folder / "root").mkdir(parents=True)
        # Whoever nginx's workers run as must get there.
        for place in (folder.parent, folder, folder / "root"):
            place.chmod(0o755)
        (folder / "root/1k").write_bytes(b"k" * 1024)
        temporary = " ".join(f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        (folder / "nginx.conf").write_text(
            f"worker_processes 1; daemon off; pid {folder}/pid; error_log {folder}/error.log; events {{ worker_connections 4096; }}\n"
            f"http {{ access_log off; keepalive_requests 100000000; {temporary}\n"
            f"server {{ listen 127.0.0.1:{self.port} backlog=4096; root {folder}/root; }} }}\n"
        )
        self.process = None

    def start(self):
        self.process = subprocess.Popen(["nginx", "-e", f"{self.folder}/error.log", "-c", f"{self.folder}/nginx.conf"], stderr=subprocess.DEVNULL)
        wait_for_port(self.port, self.process)

    def stop(self):
        end(self.process)

    def restart(self):
        # Before it is told to: it closes its sockets first, and then ends.
        began = self.leaving = time.time()
        self.stop()
        time.sleep(AWAY)
        self.start()
        self.away.append((began, time.time() + AFTERMATH))
        self.leaving = None

    def explains(self, moment, took=0.0):
        return any(begin <= moment + took and moment <= finish for begin, finish in [*self.away, *self.now()])

    def now(self):
        """A restart that is under way is not in the list yet."""
        leaving = self.leaving
        return [] if leaving is None else [(leaving, time.time())]


class Person:
    """Somebody with a connection of their own."""

    def __init__(self, port, email):
        self.port, self.email = port, email
        self.token = self.ask("POST", f"{API}/auth/register", {"email": email, "password": PASSWORD})[1]["token"]

    def ask(self, method, path, body=None, token=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        if body is not None:
            headers["Content-Type"] = "application/json"
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer.status, json.loads(content) if content[:1] == b"{" else {}

    def sign_in(self):
        status, said = self.ask("POST", f"{API}/auth/login", {"email": self.email, "password": PASSWORD})
        return said.get("token") if status == 200 else None


class Soak:
    def __init__(self, server, application, options):
        self.server, self.application, self.options = server, application, options
        self.findings, self.over = Findings(), threading.Event()
        self.answered = self.explained = self.sign_ins = self.messages = self.cut = self.reloads = 0
        self.samples = []

    def guarded(self, work):
        def run():
            try:
                work()
            except Exception as error:  # A part that ends early is a finding, not the end of the others.
                self.findings.add(f"{work.__name__} broke off: {error!r}")

        return threading.Thread(target=run, name=work.__name__)

    # --- Parts, each in a thread -------------------------------------------------------------------------------------

    def load(self, seconds, rate=None):
        """Signed-in GETs; each slice has new connections. Returns how many were answered."""
        log = self.server.folder / "h2load.log"
        log.unlink(missing_ok=True)
        connections = self.options.connections
        command = ["h2load", "--h1", "-t1", f"-c{connections}", f"-D{seconds}s", f"--log-file={log}", "-H", f"Authorization: Bearer {self.bulk.token}"]
        command += [f"--rps={max(1, round(rate / connections))}"] if rate else []
        subprocess.run([*command, f"{self.server.url}/1k"], check=True, capture_output=True, timeout=seconds + 60)
        count = 0
        for line in log.open():
            began, status, took = (int(part) for part in line.split("\t")[:3])
            count += 1
            if status == 200:
                continue
            if status in (502, 503, 504) and self.application.explains(began / 1e6, took / 1e6):
                self.explained += 1
            else:
                self.findings.add(f"GET /1k: {status if status > 0 else 'no answer'}")
        return count

    def traffic(self):
        while not self.over.is_set():
            self.answered += self.load(SLICE, self.rate)

    def people(self):
        """Sign in, read, sign out, and be nobody at the next request."""
        crowd = [Person(self.server.port, f"soak{number}@example.com") for number in range(20)]
        number = 0
        while not self.over.wait(1 / self.options.sign_ins):
            person = crowd[number % len(crowd)]
            number += 1
            began = time.time()
            token = person.sign_in()
            if token is None:
                self.findings.add("a sign-in was refused")
                continue
            status, _ = person.ask("GET", "/1k", token=token)
            if status != 200 and not self.application.explains(began, time.time() - began):
                self.findings.add(f"GET /1k after a sign-in: {status}")
            status, _ = person.ask("POST", f"{API}/auth/logout", token=token)
            after, _ = person.ask("GET", "/1k", token=token)
            if status not in (200, 204) or after != 401:
                self.findings.add(f"signing out: {status}, then {after}")
            self.sign_ins += 1

    def sockets(self):
        asyncio.run(self._sockets())

    async def _sockets(self):
        loop = asyncio.get_running_loop()

        async def speak(number):
            person = await loop.run_in_executor(None, Person, self.server.port, f"socket{number}@example.com")
            rounds = 0
            while not self.over.is_set():
                rounds += 1
                token = await loop.run_in_executor(None, person.sign_in)
                if token is None:
                    self.findings.add("a sign-in for a WebSocket was refused")
                    return
                url = f"ws://127.0.0.1:{self.server.port}/ws"
                async with websockets.connect(url, additional_headers={"Authorization": f"Bearer {token}"}, proxy=None) as socket:
                    # A different number of messages each, so that they do not all begin again at once.
                    for message in range(20 + 3 * number + rounds):
                        if self.over.is_set():
                            break
                        await socket.send(f"{number} {message}")
                        if await asyncio.wait_for(socket.recv(), 10) != f"{number} {message}":
                            self.findings.add("a WebSocket said something else")
                        self.messages += 1
                        await asyncio.sleep(1)
                    await loop.run_in_executor(None, person.ask, "POST", f"{API}/auth/logout", None, token)
                    try:
                        await asyncio.wait_for(socket.wait_closed(), 3)
                        self.cut += 1
                    except TimeoutError:
                        self.findings.add("a WebSocket outlived its session by three seconds")

        async def echo(socket):
            with contextlib.suppress(websockets.ConnectionClosed):
                async for message in socket:
                    await socket.send(message)

        async with websockets.serve(echo, "127.0.0.1", self.server.socket_port):
            done = await asyncio.gather(*(speak(n) for n in range(self.options.websockets)), return_exceptions=True)
        for error in done:
            if error is not None:
                self.findings.add(f"a WebSocket broke off: {error!r}")

    def reload(self):
        while not self.over.wait(RELOAD_EVERY):
            self.reloads += 1
            self.server.config["rules"][0]["path"] = f"/public{self.reloads % 2}/**"
            self.server.write_config()
            self.server.process.send_signal(signal.SIGHUP)

    def restart(self):
        while not self.over.wait(RESTART_EVERY):
            self.application.restart()

    def sample(self):
        while not self.over.wait(1):
            self.samples.append(self.measure())

    def measure(self):
        pid = self.server.pid
        threads = next(int(line.split()[1]) for line in open(f"/proc/{pid}/status") if line.startswith("Threads:"))
        return self.server.memory_kib() / 1024, len(list(pathlib.Path(f"/proc/{pid}/fd").iterdir())), threads

    # --- The whole -----------------------------------------------------------------------------------------------------

    def run(self):
        self.bulk = Person(self.server.port, "bulk@example.com")
        before = self.measure()
        seconds = self.options.minutes * 60
        sockets, people = self.guarded(self.sockets), self.guarded(self.people)
        for thread in (sockets, people):
            thread.start()
        # With the others there already: the share is of what is left to it.
        capacity = self.load(5) / 5
        self.rate = capacity * self.options.share
        print(f"{capacity:,.0f} requests a second at most, {self.rate:,.0f} from now on", flush=True)
        threads = [self.guarded(part) for part in (self.traffic, self.reload, self.restart, self.sample)]
        for thread in threads:
            thread.start()
        time.sleep(seconds)
        self.over.set()
        for thread in (*threads, sockets, people):
            thread.join(120)
            if thread.is_alive():
                self.findings.add(f"{thread.name} does not end")
        # Everybody has gone; connections that rest are closed by either side in their own time.
        time.sleep(3)
        return self.report(before, self.measure())

    def report(self, before, after):
        sixth = max(1, len(self.samples) // 6)
        window = max(1, min(30, sixth // 2))
        early, late = self.samples[sixth : sixth + window], self.samples[-window:]
        middle = lambda some, at: statistics.median(one[at] for one in some)  # noqa: E731
        ratio = middle(late, 0) / middle(early, 0)
        log = self.server.log
        errors = [line for line in log.splitlines() if "ERROR" in line or "panicked" in line]
        print(f"answered {self.answered:,} GETs, of which {self.explained:,} not while nginx restarted ({len(self.application.away)} times)")
        print(f"{self.sign_ins:,} sign-ins and sign-outs, {self.messages:,} WebSocket messages, {self.cut} WebSockets cut with their session, {self.reloads} reloads")
        print("| | before | after a sixth | at the end | everybody gone |\n| --- | --- | --- | --- | --- |")
        for at, name, form in ((0, "RSS, MiB", ".1f"), (1, "descriptors", ".0f"), (2, "threads", ".0f")):
            cells = (before[at], middle(early, at), middle(late, at), after[at])
            print(f"| {name} | " + " | ".join(format(cell, form) for cell in cells) + " |")
        print(f"RSS at the end ÷ after a sixth: {ratio:.3f}")
        if ratio > RATIO:
            self.findings.add(f"memory grew by {ratio:.3f}")
        if after[1] > before[1] + KEPT_CONNECTIONS:
            self.findings.add(f"{after[1] - before[1]:.0f} descriptors stayed open")
        if middle(late, 2) > max(one[2] for one in early) + 4:
            self.findings.add("threads pile up")
        for line in errors[:5]:
            self.findings.add(f"in the log: {line}")
        for text, times in self.findings.texts.items():
            print(f"finding, {times} times: {text}")
        print("no finding" if not self.findings.texts else f"{len(self.findings.texts)} kinds of findings")
        return 1 if self.findings.texts else 0


def main():
    options = arguments()
    missing = [tool for tool in ("nginx", "h2load") if shutil.which(tool) is None]
    if missing:
        print(f"missing: {', '.join(missing)}", file=sys.stderr)
        return 2
    env = {} if options.plain else allocator()
    settings = " ".join(f"{key}={value}" for key, value in env.items())
    print(f"{settings} {binary()}: {options.minutes:g} minutes; {machine()}".lstrip(), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        application = Application(folder / "application")
        application.start()
        socket_port = free_port()
        config = {
            "log": {"access": False},
            "rules": [{"path": "/public0/**", "policy": "public"}],
            "upstreams": [
                {"name": "app", "url": f"http://127.0.0.1:{application.port}"},
                {"name": "sockets", "url": f"http://127.0.0.1:{socket_port}", "path": "/ws"},
            ],
        }
        server = Nullpass(folder / "nullpass", config=config, env=env)
        server.socket_port = socket_port
        try:
            server.start()
            return Soak(server, application, options).run()
        finally:
            server.stop()
            application.stop()


if __name__ == "__main__":
    sys.exit(main())
