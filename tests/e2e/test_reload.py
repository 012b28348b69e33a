"""Changing the configuration of a running nullpass: by SIGHUP, and by changing the file as editors and Kubernetes do."""

from __future__ import annotations

import http.client
import os
import re
import signal
import threading
import time

import httpx

from harness import to_toml

PUBLIC = {"rules": [{"path": "/public/**", "policy": "public"}]}
CLOSED = {"rules": [{"path": "/public/**", "policy": "authenticated"}]}


def until(what, seconds: float = 15) -> None:
    """Waits until `what()` holds."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it did not come about in time"
        time.sleep(0.05)


def status(server, path: str = "/public/a") -> int:
    return httpx.get(server.url + path, headers={"accept": "application/json"}, trust_env=False).status_code


def reloads(server, result: str) -> int:
    text = httpx.get(server.admin_url + "/metrics", trust_env=False).text
    return int(float(re.search(rf'nullpass_reloads\{{name="{result}"\}} (\S+)', text)[1]))


def test_a_signal_reads_it_again(echo, start):
    server = start(echo.url, config=PUBLIC)
    assert status(server) == 200
    server.config = {**server.config, **CLOSED}
    server.write_config()
    os.kill(server.pid, signal.SIGHUP)
    until(lambda: status(server) == 401)
    assert server.process.poll() is None


def test_a_changed_file_is_seen_without_a_signal(echo, start):
    server = start(echo.url, config=PUBLIC)
    server.config = {**server.config, **CLOSED, "log": {"level": "debug"}}
    server.write_config()
    until(lambda: status(server) == 401)
    assert "holds from now on" in server.log_path.read_text()


def test_a_mounted_volume_swaps_a_link(echo, start):
    """As Kubernetes does with a ConfigMap: the file is a link through `..data`, which is replaced by a rename."""
    server = start(echo.url, run=False, config=PUBLIC)
    folder = server.config_path.parent / "mounted"
    for version, config in (("..1", server.config), ("..2", {**server.config, **CLOSED})):
        (folder / version).mkdir(parents=True)
        (folder / version / "nullpass.toml").write_text(to_toml(config))
    (folder / "..data").symlink_to("..1")
    (folder / "nullpass.toml").symlink_to("..data/nullpass.toml")
    server.config_path = folder / "nullpass.toml"
    server.start()
    assert status(server) == 200
    (folder / "..data_tmp").symlink_to("..2")
    (folder / "..data_tmp").rename(folder / "..data")
    until(lambda: status(server) == 401)


def test_a_broken_file_is_refused_and_the_old_one_stays(echo, start):
    server = start(echo.url, config=PUBLIC)
    good = to_toml(server.config)
    server.write_config(good + '\n[sever]\nlisten = "x"\n')
    os.kill(server.pid, signal.SIGHUP)
    until(lambda: reloads(server, "refused") > 0)
    assert status(server) == 200
    said = server.log_path.read_text()
    assert "the old one stays" in said and "server" in said, said
    server.config = {**server.config, **CLOSED}
    server.write_config()
    until(lambda: status(server) == 401)


def test_what_waits_for_a_restart_is_said(echo, start):
    server = start(echo.url, config=PUBLIC)
    server.config = {**server.config, "sessions": {"max_lifetime": "60d"}, **CLOSED}
    server.write_config()
    os.kill(server.pid, signal.SIGHUP)
    until(lambda: status(server) == 401)
    until(lambda: "sessions" in server.log_path.read_text())
    assert "wait for the next start" in server.log_path.read_text()


def test_ten_thousand_requests_across_twenty_reloads(echo, start):
    """Eight clients that reuse their connections as long as they are let; no request fails, none is answered wrongly."""
    server = start(echo.url, config={**PUBLIC, "log": {"access": False}})
    wrong: list[object] = []

    def client() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
        try:
            for number in range(1250):
                connection.request("GET", f"/public/{number}")
                answer = connection.getresponse()
                answer.read()
                if answer.status != 200:
                    wrong.append(answer.status)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is a lost request
            wrong.append(error)
        finally:
            connection.close()

    clients = [threading.Thread(target=client) for _ in range(8)]
    for thread in clients:
        thread.start()
    for number in range(20):
        server.config["upstreams"][0]["max_connections"] = 100 + number
        server.write_config()
        before = reloads(server, "done")
        os.kill(server.pid, signal.SIGHUP)
        until(lambda before=before: reloads(server, "done") > before)
    still_running = sum(thread.is_alive() for thread in clients)
    for thread in clients:
        thread.join(60)
    assert not wrong, wrong[:5]
    assert still_running > 0, "the clients were done before the last reload: they did not see it"
