"""`nullpass selftest`: silent against nullpass, loud against a proxy that means well."""

from __future__ import annotations

import json
import socket
import threading
from pathlib import Path

import pytest
import tomllib

from clients import Authority, TlsNullpass
from harness import free_port, run_cli

RULES = Path(__file__).parent.parent / "corpus" / "rules"


class Told:
    """A server that answers each request with the head it got, so that whatever was forged and came through is seen."""

    def __init__(self):
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"

    def __enter__(self):
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        # Wakes the thread that waits: what closes alone leaves it at a number that another socket gets.
        self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self.socket.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client:
            client.settimeout(10)
            data = b""
            try:
                while b"\r\n\r\n" not in data:
                    if not (more := client.recv(65536)):
                        return
                    data += more
                head = data.split(b"\r\n\r\n")[0]
                client.sendall(self.answer(head) if not head.startswith(b"HEAD ") else b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            except OSError:
                pass

    @staticmethod
    def answer(head: bytes) -> bytes:
        return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (len(head), head)


class Naive(Told):
    """A proxy as one writes it in an afternoon: it protects a prefix of the path, as it came, and passes everything on."""

    @staticmethod
    def answer(head: bytes) -> bytes:
        target = head.split(b" ")[1].decode("latin-1") if head.count(b" ") > 1 else "/"
        if target.split("?")[0].startswith("/admin"):
            return b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        return Told.answer(head)


def selftest(url: str, *more: str) -> tuple[int, dict]:
    done = run_cli("selftest", "--against", url, "--rate", "5000", "--json", *more, timeout=120)
    assert done.returncode in (0, 1) and done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


@pytest.fixture(scope="module")
def told():
    with Told() as server:
        yield server


@pytest.mark.parametrize("rules", ["public_site_with_protected_admin", "all_protected_with_public_assets"])
def test_nullpass_surprises_nobody(start, told, rules):
    server = start(told.url, config=tomllib.loads((RULES / f"{rules}.toml").read_text(encoding="utf-8")))
    code, report = selftest(server.url)
    assert (code, report["surprises"]) == (0, []), report["surprises"]
    assert report["protectedIsProtected"] and report["publicIsPublic"]
    assert sum(row["sent"] for row in report["families"]) > 500
    assert {"dot segments", "forged identity", "ways off this site", "what is no host"} <= {row["family"] for row in report["families"]}


def test_a_deployment_with_other_names_and_tls(tmp_path, told):
    rules = [{"path": "/inside/**", "policy": "authenticated"}, {"path": "/**", "policy": "public"}]
    authority = Authority(tmp_path)
    with TlsNullpass(tmp_path / "nullpass", told.url, authority, config={"server": {"prefix": "/_sso"}, "rules": rules}) as server:
        names = ["--prefix", "/_sso", "--protected", "/inside", "--public", "/open"]
        code, report = selftest(server.url, "--ca", str(authority.ca), *names)
        assert (code, report["surprises"]) == (0, []), report["surprises"]
        assert report["protectedIsProtected"] and report["publicIsPublic"]
        unknown = run_cli("selftest", "--against", server.url, *names)
        assert unknown.returncode == 1 and "certificate" in unknown.stderr


def test_a_naive_proxy_is_found_out():
    with Naive() as proxy:
        code, report = selftest(proxy.url, "--any-server")
        families = {surprise["family"] for surprise in report["surprises"]}
        assert code == 1 and {"dot segments", "separators", "letters", "forged identity", "control characters", "what is no host"} <= families, families
        table = run_cli("selftest", "--against", proxy.url, "--any-server", "--rate", "5000", timeout=120)
        assert table.returncode == 1 and "dot-01" in table.stdout and "SURPRISES" in table.stdout and "error:" in table.stderr


def test_what_can_not_be_tested_is_said(told):
    foreign = run_cli("selftest", "--against", "http://192.0.2.1:8080")
    assert foreign.returncode == 2 and "--allow-host 192.0.2.1" in foreign.stderr
    nobody = run_cli("selftest", "--against", f"http://127.0.0.1:{free_port()}")
    assert nobody.returncode == 1 and "can't connect" in nobody.stderr
    other = run_cli("selftest", "--against", told.url)
    assert other.returncode == 1 and "this is no nullpass" in other.stderr
    for url in ("127.0.0.1:8080", "http://127.0.0.1/x", "ftp://127.0.0.1"):
        wrong = run_cli("selftest", "--against", url)
        assert wrong.returncode == 2 and "address of a server" in wrong.stderr
