#!/usr/bin/env python3
"""A PostgreSQL server of the tests' own: from the programs of Debian's package, in a folder of its own, on a free port.

Never a server that happens to be there: the folder is made here, and the port and the unix socket are new. PostgreSQL
refuses to run as root, so root runs it as somebody else. A guard, a process that waits for the end of its input, ends the
servers and removes the folders also when whoever started them is killed.

    tests/e2e/postgres.py run -- COMMAND…     runs COMMAND with $NULLPASS_TEST_POSTGRES, the URL of a server for it alone

Only the standard library, so that the Rust tests need nothing else.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from urllib.parse import urlencode

ROLE = "nullpass"
DATABASE = "nullpass"
SECONDS = 60


def programs() -> Path | None:
    """The folder with the newest PostgreSQL server that is installed; `None`: there is none."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3])) if Path("/usr/lib/postgresql").is_dir() else []
    if found:
        return found[-1].parent
    path = shutil.which("initdb")
    return Path(path).resolve().parent if path else None


def account() -> dict:
    """Who the server runs as, for `subprocess`: ourselves, or somebody without rights when we are root."""
    if os.geteuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            who = pwd.getpwnam(name)
            return {"user": who.pw_uid, "group": who.pw_gid, "extra_groups": []}
    raise RuntimeError("root has nobody to run PostgreSQL as")


class Guard:
    """Ends processes and removes folders when this process is gone, however it went."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, "guard"], stdin=subprocess.PIPE, text=True, start_new_session=True, stdout=subprocess.DEVNULL
        )

    def tell(self, *words: object) -> None:
        self._process.stdin.write(" ".join(map(str, words)) + "\n")
        self._process.stdin.flush()


_guard: Guard | None = None


def guard() -> Guard:
    global _guard
    if _guard is None:
        _guard = Guard()
    return _guard


def stand_guard() -> None:
    """What the guard does: it remembers what it is told, and at the end of its input it tidies up."""
    running, folders = set(), set()
    for line in sys.stdin:
        match line.rstrip("\n").split(" ", 1):
            case ["runs", pid]:
                running.add(int(pid))
            case ["ended", pid]:
                running.discard(int(pid))
            case ["mounted" | "made", folder]:
                folders.add(folder)
            case ["removed", folder]:
                folders.discard(folder)
    for pid in running:
        kill_family(pid)
    for folder in folders:
        remove(Path(folder))


def family(pid: int) -> list[int]:
    """A server process and all it has started, itself first: PostgreSQL's processes each lead a session of their own."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                # The name stands in parentheses and may hold anything.
                parents[int(entry.name)] = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
    found = [pid]
    for parent in found:
        found += [child for child, of in parents.items() if of == parent]
    return found


def kill_family(pid: int) -> None:
    """`kill -9`, the oldest first, so that nobody is left to start others."""
    for member in family(pid):
        with contextlib.suppress(OSError):
            os.kill(member, signal.SIGKILL)


def remove(folder: Path) -> None:
    for mounted in [line.split(" ")[1] for line in Path("/proc/mounts").read_text().splitlines()]:
        if Path(mounted).is_relative_to(folder):
            subprocess.run(["umount", "-l", mounted], check=False)
    shutil.rmtree(folder, ignore_errors=True)


class Postgres:
    """A server, its folder, and a database for nullpass in it."""

    def __init__(
        self,
        *,
        settings: dict[str, object] | None = None,
        certificate: tuple[Path, Path] | None = None,
        hba: list[str] | None = None,
        disk_mib: int | None = None,
        durable: bool = True,
        like: Postgres | None = None,
    ):
        """`certificate`: chain and key for TLS. `hba`: lines of pg_hba.conf for TCP instead of a password from
        loopback. `disk_mib`: the data folder is a disk of that size (root only). `durable`: false where nothing needs
        to outlive a power cut. `like`: a standby that follows that one."""
        self.bin = programs()
        if self.bin is None:
            raise RuntimeError("there is no PostgreSQL server here: apt-get install postgresql")
        self._as = account()
        self.folder = Path(tempfile.mkdtemp(prefix="nullpass-pg-"))
        guard().tell("made", self.folder)
        self.data, self.log_path = self.folder / "data", self.folder / "log"
        self.port = free_port()
        self.password = like.password if like else secrets.token_hex(12)
        self.process: subprocess.Popen | None = None
        self._settings = settings or {}
        if not durable:
            self._settings = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"} | self._settings
        self.data.mkdir()
        if disk_mib:
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={disk_mib}m", "nullpass-test", str(self.data)], check=True)
            guard().tell("mounted", self.folder)
        self._give(self.folder, self.data)
        try:
            if like:
                self._copy(like)
            else:
                self._make(certificate, hba, small=disk_mib is not None)
        except BaseException:
            self.close()
            raise

    # --- Its life ---------------------------------------------------------------------------------------------------

    def start(self) -> Postgres:
        """Starts it and waits until it takes connections."""
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": self.folder,
            "shared_buffers": "32MB",
            "max_wal_senders": 4,
            "wal_keep_size": "16MB",
            "log_checkpoints": "off",
            "log_connections": "on",
        }
        options = [word for name, value in (settings | self._settings).items() for word in ("-c", f"{name}={value}")]
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [self.bin / "postgres", "-D", self.data, *options], stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, cwd=self.folder, **self._as
            )
        guard().tell("runs", self.process.pid)
        deadline = time.monotonic() + SECONDS
        while self.ask("SELECT 1", database="postgres", check=False) != "1":
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"PostgreSQL did not start:\n{self.log[-4000:]}")
            time.sleep(0.05)
        return self

    def stop(self, how: int = signal.SIGINT) -> None:
        """Ends it: SIGINT cuts connections off, SIGTERM waits for them, SIGQUIT ends without a word."""
        if self.process is None:
            return
        self.resume()
        if self.process.poll() is None:
            self.process.send_signal(how)
            try:
                self.process.wait(SECONDS)
            except subprocess.TimeoutExpired:
                kill_family(self.process.pid)
                self.process.wait(SECONDS)
        self._ended()

    def kill(self) -> None:
        """Ends all its processes at once, as a power cut would."""
        kill_family(self.process.pid)
        self.process.wait(SECONDS)
        self._ended()

    def pause(self) -> None:
        """Stops every process of it where it is: connections stay open and nobody answers."""
        for pid in family(self.process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)

    def resume(self) -> None:
        if self.process is not None and self.process.poll() is None:
            for pid in family(self.process.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    def restart(self) -> Postgres:
        self.stop()
        return self.start()

    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def close(self) -> None:
        """Ends it and removes its folder."""
        if self.process is not None:
            self.stop(signal.SIGQUIT)
        remove(self.folder)
        guard().tell("removed", self.folder)

    def __enter__(self) -> Postgres:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- Being its client -------------------------------------------------------------------------------------------

    def url(self, *, host: str | None = None, user: str = ROLE, password: str | None = None, database: str = DATABASE, **parameters: object) -> str:
        """Where it is; `host` may name several, `a:1,b:2`."""
        place = host or f"127.0.0.1:{self.port}"
        query = f"?{urlencode(parameters)}" if parameters else ""
        return f"postgres://{user}:{password if password is not None else self.password}@{place}/{database}{query}"

    def ask(self, sql: str, *, database: str = DATABASE, check: bool = True) -> str:
        """What `psql` prints for this, as the superuser through the unix socket; rows by line, fields by `|`."""
        done = subprocess.run(self._psql(database, "-c", sql), capture_output=True, text=True, timeout=SECONDS, cwd="/", env=self._environment(), check=False)
        if check and done.returncode != 0:
            raise AssertionError(f"psql: {sql}: {done.stderr}")
        return done.stdout.strip()

    def hold_connections(self, count: int) -> contextlib.AbstractContextManager[None]:
        """Somebody else's connections, as another application's role would hold them, for as long as the context lasts."""
        return _held(self, count)

    def cut(self, where: str = "true") -> int:
        """Ends the backends of nullpass's connections that match (columns of pg_stat_activity); how many there were."""
        said = self.ask(f"SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = '{ROLE}' AND pid <> pg_backend_pid() AND ({where})")
        return int(said)

    def connections(self, where: str = "true") -> int:
        """How many connections nullpass has."""
        return int(self.ask(f"SELECT count(*) FROM pg_stat_activity WHERE usename = '{ROLE}' AND ({where})"))

    @property
    def log(self) -> str:
        return self.log_path.read_text(encoding="utf-8", errors="replace") if self.log_path.exists() else ""

    def promote(self) -> None:
        """Makes a standby the primary."""
        self.ask("SELECT pg_promote()")
        deadline = time.monotonic() + SECONDS
        while self.ask("SELECT pg_is_in_recovery()") != "f":
            assert time.monotonic() < deadline, "it was not promoted"
            time.sleep(0.05)

    def caught_up_with(self, primary: Postgres) -> bool:
        """Whether this standby has all that the primary has now."""
        wanted = primary.ask("SELECT pg_current_wal_lsn()")
        return self.ask(f"SELECT pg_last_wal_replay_lsn() >= '{wanted}'::pg_lsn") == "t"

    # --- How it is made ---------------------------------------------------------------------------------------------

    def _make(self, certificate: tuple[Path, Path] | None, hba: list[str] | None, *, small: bool) -> None:
        extra = ["--wal-segsize=1"] if small else []
        self._run("initdb", "-D", self.data, "--no-sync", "--no-instructions", "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", *extra)
        # The unix socket lies in a folder that nobody else may enter.
        lines = ["local all all trust", "local replication all trust", *(hba or ["host all all 127.0.0.1/32 scram-sha-256"])]
        (self.data / "pg_hba.conf").write_text("\n".join(lines) + "\n")
        if certificate:
            for source, name in zip(certificate, ("server.crt", "server.key"), strict=True):
                shutil.copy(source, self.data / name)
                (self.data / name).chmod(0o600)
                self._give(self.data / name)
            self._settings = {"ssl": "on"} | self._settings
        if small:
            # So that it never needs more of its small disk than it says.
            self._settings = {"max_wal_size": "4MB", "min_wal_size": "2MB", "wal_keep_size": "0"} | self._settings
        wanted, self._settings = self._settings, {"max_connections": 10}
        self.start()
        self.ask(f"CREATE ROLE {ROLE} LOGIN PASSWORD '{self.password}'", database="postgres")
        self.ask(f"CREATE DATABASE {DATABASE} OWNER {ROLE}", database="postgres")
        self.ask(f"CREATE ROLE somebody LOGIN PASSWORD '{self.password}'", database="postgres")
        self.stop()
        self._settings = wanted

    def _copy(self, primary: Postgres) -> None:
        self._settings = primary._settings | self._settings
        self._run("pg_basebackup", "-h", primary.folder, "-p", primary.port, "-U", "postgres", "-D", self.data, "-R", "-X", "stream", "-c", "fast", "--no-sync")

    def _run(self, program: str, *words: object) -> None:
        done = subprocess.run([self.bin / program, *map(str, words)], capture_output=True, text=True, cwd="/", timeout=SECONDS, check=False, **self._as)
        if done.returncode != 0:
            raise AssertionError(f"{program}: {done.stdout}\n{done.stderr}")

    def _give(self, *paths: Path) -> None:
        if self._as:
            for path in paths:
                os.chown(path, self._as["user"], self._as["group"])
        for path in paths:
            if path.is_dir():
                path.chmod(0o700)

    def _psql(self, database: str, *words: str, user: str = "postgres") -> list[str]:
        program = self.bin / "psql"
        place = ["-h", str(self.folder), "-p", str(self.port), "-U", user, "-d", database]
        return [str(program), "-X", "-q", "-A", "-t", "-w", "-v", "ON_ERROR_STOP=1", *place, *words]

    @staticmethod
    def _environment() -> dict[str, str]:
        return {k: v for k, v in os.environ.items() if not k.startswith("PG")} | {"PGCONNECT_TIMEOUT": "5"}

    def _ended(self) -> None:
        guard().tell("ended", self.process.pid)
        self.process = None


@contextlib.contextmanager
def _held(server: Postgres, count: int):
    """Each of them comes again until it is let in."""
    over = threading.Event()

    def hold() -> None:
        while not over.is_set():
            command = server._psql(DATABASE, user="somebody")
            holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/", env=server._environment())
            while holder.poll() is None and not over.wait(0.05):
                pass
            holder.stdin.close()
            try:
                holder.wait(10)
            except subprocess.TimeoutExpired:
                holder.kill()
                holder.wait(10)

    holders = [threading.Thread(target=hold, daemon=True) for _ in range(count)]
    for holder in holders:
        holder.start()
    try:
        yield
    finally:
        over.set()
        for holder in holders:
            holder.join(20)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def run(command: list[str]) -> int:
    """Runs a command with a server for it alone; its exit code."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(128 + signal.SIGTERM))
    # Every test has connections of its own, and nothing has to outlive a power cut.
    with Postgres(settings={"max_connections": 300}, durable=False) as server:
        return subprocess.run(command, env=os.environ | {"NULLPASS_TEST_POSTGRES": server.url(sslmode="disable")}, check=False).returncode


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["guard"]:
            stand_guard()
        case ["run", "--", *command] if command:
            sys.exit(run(command))
        case _:
            sys.exit(__doc__)
