"""Stopping and upgrading under load, as clients see it: the real binary, signals, and a socket that outlives it."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import time
from dataclasses import dataclass, field

import pytest

from harness import Nullpass, binary, clean_environment, end, wait_for_http

PUBLIC = {"rules": [{"path": "/**", "policy": "public"}]}


@dataclass
class Load:
    """What clients saw."""

    answered: int = 0
    told: int = 0
    lost: list[str] = field(default_factory=list)
    refused: int = 0


async def read_answer(reader: asyncio.StreamReader) -> tuple[int, bool]:
    """The status of an answer, and whether it is the last on its connection."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    length = next(int(line.split(":")[1]) for line in head.split("\r\n") if line.startswith("content-length:"))
    await reader.readexactly(length)
    return int(head.split(" ")[1]), "\r\nconnection: close\r\n" in head


async def client(port: int, load: Load, until: asyncio.Event, keep_alive: bool, comes_back: bool, path: str) -> None:
    """Asks as fast as it can, on a connection for as long as that lasts. A refused connection asks nothing."""
    while not until.is_set():
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            load.refused += 1
            await asyncio.sleep(0.02)
            continue
        try:
            while not until.is_set():
                more = "" if keep_alive else "Connection: close\r\n"
                writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{more}\r\n".encode())
                status, last = await asyncio.wait_for(read_answer(reader), 20)
                if status != 200:
                    load.lost.append(f"status {status}")
                load.answered += 1
                load.told += last and keep_alive
                if last:
                    break
        except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
            load.lost.append(repr(error))
        finally:
            writer.close()
        if not comes_back:
            return


async def under_load(port: int, work, *, keep_alive: tuple[bool, ...] = (True,), comes_back: bool = True, path: str = "/echo") -> Load:
    """Runs `work` in a thread while clients ask."""
    load, until = Load(), asyncio.Event()
    asking = [asyncio.create_task(client(port, load, until, keep_alive[n % len(keep_alive)], comes_back, path)) for n in range(24)]
    await asyncio.sleep(0.7)
    await asyncio.to_thread(work)
    until.set()
    await asyncio.wait_for(asyncio.gather(*asking), 30)
    return load


def test_sigterm_under_load_loses_no_request(echo, start):
    """Every request that was sent is answered; clients learn by `Connection: close` that they have to go."""
    server = start(echo.url, config=PUBLIC)

    def stop():
        assert server.stop() == 0

    # A listener that goes takes with it whoever connects in that instant; that is what inherited sockets are for (below).
    load = asyncio.run(under_load(server.port, stop, comes_back=False))
    assert load.lost == []
    assert load.answered > 200 and load.told >= 24, load


def hold(kind: str, folder) -> tuple[socket.socket, str]:
    """A listening socket, as systemd would hold it, and what `server.listen` calls it."""
    if kind == "tcp":
        held = socket.create_server(("127.0.0.1", 0), backlog=1024)
        return held, f"127.0.0.1:{held.getsockname()[1]}"
    path = folder / "http.sock"
    held = socket.socket(socket.AF_UNIX)
    held.bind(str(path))
    held.listen(1024)
    return held, f"unix:{path}"


def spawn_with(server: Nullpass, held: socket.socket, notify: str | None = None) -> subprocess.Popen:
    """Starts the server with the socket as descriptor 3, as systemd would: LISTEN_PID is its own."""
    script = 'exec 3<&"$1"; export LISTEN_FDS=1 LISTEN_PID=$$; shift; exec "$@"'
    env = clean_environment(server.env) | ({"NOTIFY_SOCKET": notify} if notify else {})
    with server.log_path.open("ab") as log:
        return subprocess.Popen(
            ["/bin/bash", "-c", script, "bash", str(held.fileno()), str(binary()), "serve", "--config", str(server.config_path)],
            pass_fds=[held.fileno()],
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            cwd=server.folder,
            env=env,
        )


def test_an_upgrade_on_an_inherited_socket_loses_nothing(echo, start, tmp_path):
    """sled belongs to one process: while the next one takes over, connections wait in the queue of a socket that stays."""
    held, listen = hold("tcp", tmp_path)
    server = start(echo.url, run=False, config=PUBLIC | {"server": {"listen": [listen]}})
    first = spawn_with(server, held)
    running = [first]
    try:
        wait_for_http(f"{server.admin_url}/readyz", first, lambda: server.log)

        def upgrade():
            for _ in range(3):
                assert end(running.pop()) == 0
                running.append(spawn_with(server, held))
                wait_for_http(f"{server.admin_url}/readyz", running[0], lambda: server.log)
                time.sleep(0.3)

        load = asyncio.run(under_load(held.getsockname()[1], upgrade, keep_alive=(True, False)))
        assert load.lost == [] and load.refused == 0, load
        assert load.answered > 200 and load.told >= 12, load
    finally:
        for process in running:
            end(process)
        held.close()


def test_an_inherited_unix_socket_stays_where_it_is(echo, start, tmp_path):
    held, listen = hold("unix", tmp_path)
    server = start(echo.url, run=False, config=PUBLIC | {"server": {"listen": [listen]}})
    process = spawn_with(server, held)
    try:
        wait_for_http(f"{server.admin_url}/readyz", process, lambda: server.log)
        with socket.socket(socket.AF_UNIX) as asking:
            asking.connect(str(tmp_path / "http.sock"))
            asking.sendall(b"GET /echo HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            assert asking.recv(64).startswith(b"HTTP/1.1 200 ")
    finally:
        assert end(process) == 0
    assert (tmp_path / "http.sock").exists()
    held.close()


@pytest.mark.parametrize("pid", [None, "1"])
def test_sockets_for_another_process_are_not_taken(echo, start, pid):
    """`LISTEN_FDS` without our own `LISTEN_PID` is somebody else's."""
    env = {"LISTEN_FDS": "1"} | ({"LISTEN_PID": pid} if pid else {})
    server = start(echo.url, config=PUBLIC, env=env)
    with server.client() as asking:
        assert asking.get("/echo").status_code == 200


def fields(manager: socket.socket) -> dict[str, str]:
    """What the service manager is told next."""
    return dict(line.split("=", 1) for line in manager.recv(256).decode().splitlines())


def test_the_service_manager_is_told(echo, start, tmp_path):
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    manager.bind(str(tmp_path / "notify"))
    manager.settimeout(20)
    server = start(echo.url, run=False, config=PUBLIC, env={"NOTIFY_SOCKET": str(tmp_path / "notify")})
    process = server.spawn()
    assert fields(manager)["READY"] == "1"
    with server.client() as asking:
        assert asking.get("/echo").status_code == 200, "it is ready when it says so"

    # systemd takes a reload for the one that it asked for when it began since, by CLOCK_MONOTONIC (sd_notify(3)).
    right = server.config_path.read_text()
    for text, refused in [(None, False), (right + "\n[nonsense]\n", True), (right, False)]:
        began = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        if text:
            server.config_path.write_text(text)
        os.kill(process.pid, signal.SIGHUP)
        told = fields(manager)
        assert told["RELOADING"] == "1" and "READY" not in told
        assert began <= int(told["MONOTONIC_USEC"]) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        told = fields(manager)
        assert told["READY"] == "1" and ("refused" in told["STATUS"]) == refused, told

    os.kill(process.pid, signal.SIGTERM)
    # A change of the file that was seen before the signal may be told of first.
    while "STOPPING" not in (told := fields(manager)):
        assert told.keys() & {"RELOADING", "READY"}, told
    assert process.wait(20) == 0
    manager.settimeout(0.1)
    with pytest.raises(TimeoutError):
        manager.recv(256)
    manager.close()


def test_a_second_signal_ends_it_at_once_also_during_the_delay(echo, start):
    server = start(echo.url, config=PUBLIC | {"server": {"shutdown_delay": "60s"}})
    process = server.process
    os.kill(process.pid, signal.SIGTERM)
    time.sleep(0.5)
    with server.client() as asking:
        assert asking.get("/echo").status_code == 200, "it still accepts"
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(10) == 0
