"""TLS from outside: OpenSSL clients, sslyze, and an ACME authority that validates for real."""

from __future__ import annotations

import datetime
import re
import shutil
import socket
import ssl
import stat
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from acme_server import AcmeServer
from authority import Authority
from harness import Nullpass

NAME = "app.test"
HEALTH = b"GET /_auth/api/health HTTP/1.1\r\nHost: app.test\r\n"


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path)


def connect(server: Nullpass, authority: Authority, *, name: str = NAME, context: ssl.SSLContext | None = None, session=None) -> ssl.SSLSocket:
    """A verified connection of OpenSSL's."""
    context = context or ssl.create_default_context(cafile=authority.file)
    plain = socket.create_connection(("127.0.0.1", server.port), 10)
    try:
        return context.wrap_socket(plain, server_hostname=name, session=session)
    except BaseException:
        plain.close()
        raise


def ask(tls: ssl.SSLSocket) -> str:
    """The status line of an answer on a connection that stays open."""
    tls.sendall(HEALTH + b"\r\n")
    answer = b""
    while b"\r\n\r\n" not in answer or b"}" not in answer:
        more = tls.recv(4096)
        assert more, answer
        answer += more
    return answer.split(b"\r\n")[0].decode()


def serial(server: Nullpass, authority: Authority, name: str = NAME) -> str | None:
    """Of the certificate that a client gets; none: the handshake fails."""
    try:
        with connect(server, authority, name=name) as tls:
            return tls.getpeercert()["serialNumber"]
    except (ssl.SSLError, ConnectionError):
        return None


def until(what: str, holds, seconds: float = 30):
    deadline = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.1)
    return found


def metric(server: Nullpass, line: str) -> float | None:
    text = httpx.get(f"{server.admin_url}/metrics", trust_env=False).text
    found = re.search(rf"^{re.escape(line)} (\S+)$", text, re.M)
    return float(found[1]) if found else None


def files(pair: tuple[Path, Path]) -> dict:
    return {"cert": str(pair[0]), "key": str(pair[1])}


def test_sslyze_finds_nothing_to_complain_about(start, tmp_path, authority, echo):
    from sslyze import (
        CertificateInfoExtraArgument,
        Scanner,
        ScanCommandsExtraArguments,
        ServerNetworkLocation,
        ServerScanRequest,
        ServerScanStatusEnum,
    )
    from sslyze.mozilla_tls_profile.tls_config_checker import MozillaTlsConfiguration, TlsConfigurationEnum, check_server_against_tls_configuration

    pair = authority.issue(tmp_path, "app", NAME)
    server = start(echo.url, config={"server": {"tls": files(pair), "public_url": f"https://{NAME}"}})
    scanner = Scanner()
    location = ServerNetworkLocation(hostname=NAME, port=server.port, ip_address="127.0.0.1")
    extra = ScanCommandsExtraArguments(certificate_info=CertificateInfoExtraArgument(custom_ca_file=authority.file))
    scanner.queue_scans([ServerScanRequest(server_location=location, scan_commands_extra_arguments=extra)])
    scan = next(iter(scanner.get_results()))
    assert scan.scan_status == ServerScanStatusEnum.COMPLETED, scan.connectivity_error_trace
    found = scan.scan_result
    check_server_against_tls_configuration(scan, MozillaTlsConfiguration.get(TlsConfigurationEnum.MOZILLA_INTERMEDIATE))

    # What that profile does not look at.
    for old in ("ssl_2_0", "ssl_3_0", "tls_1_0", "tls_1_1"):
        assert not getattr(found, f"{old}_cipher_suites").result.accepted_cipher_suites, old
    for new in ("tls_1_2", "tls_1_3"):
        suites = [s.cipher_suite.name for s in getattr(found, f"{new}_cipher_suites").result.accepted_cipher_suites]
        assert suites and all(re.search("GCM|POLY1305", s) and (new == "tls_1_3" or "ECDHE" in s) for s in suites), suites
    assert not found.tls_1_3_early_data.result.supports_early_data
    assert not found.session_renegotiation.result.is_vulnerable_to_client_renegotiation_dos
    # By session id. It takes a ticket that is renewed when it is used (RFC 5077, section 3.3), as ours are, for one that was
    # ignored; the next test has OpenSSL's own word on tickets.
    resumption = found.session_resumption.result
    assert resumption.session_id_resumption_result.value == "FULLY_SUPPORTED", resumption
    for deployment in found.certificate_info.result.certificate_deployments:
        assert deployment.received_chain_has_valid_order and not deployment.received_chain_contains_anchor_certificate
        assert not deployment.verified_chain_has_sha1_signature
    hsts = found.http_headers.result.strict_transport_security_header
    assert hsts and hsts.max_age == 31_536_000, hsts


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_openssl_resumes_also_after_a_swap(start, tmp_path, authority, echo, version):
    pair = authority.issue(tmp_path, "app", NAME)
    server = start(echo.url, config={"server": {"tls": files(pair)}})
    context = ssl.create_default_context(cafile=authority.file)
    context.minimum_version = context.maximum_version = version
    with connect(server, authority, context=context) as tls:
        assert ask(tls) == "HTTP/1.1 200 OK" and not tls.session_reused
        session = tls.session
    before = serial(server, authority)
    new = authority.issue(tmp_path, "new", NAME)
    # As certbot and others do: each file renamed into its place.
    for fresh, place in zip(new, pair, strict=True):
        shutil.move(fresh, place)
    until("the new certificate is in use", lambda: serial(server, authority) != before)
    with connect(server, authority, context=context, session=session) as tls:
        assert tls.session_reused and ask(tls) == "HTTP/1.1 200 OK"


def test_no_request_is_lost_while_certificates_change(start, tmp_path, authority, echo):
    pair = authority.issue(tmp_path, "app", NAME)
    server = start(echo.url, config={"server": {"tls": files(pair)}})
    with connect(server, authority) as kept:
        serials = {serial(server, authority)}
        for round in range(1, 4):
            authority.issue(tmp_path, "app", NAME)
            deadline = time.monotonic() + 20
            while metric(server, 'nullpass_tls_reloads{name="ok"}') < round:
                assert time.monotonic() < deadline, server.log
                assert ask(kept) == "HTTP/1.1 200 OK"
                serials.add(serial(server, authority))
        assert ask(kept) == "HTTP/1.1 200 OK"
    serials.add(serial(server, authority))
    assert None not in serials and len(serials) >= 4, serials


def test_client_certificates(start, tmp_path, authority, echo):
    own = Authority(tmp_path, "people")
    pair = authority.issue(tmp_path, "app", NAME)
    server = start(echo.url, config={"server": {"tls": files(pair) | {"client_ca": str(own.file)}}})

    def works(person: tuple[Path, Path] | None) -> bool:
        context = ssl.create_default_context(cafile=authority.file)
        if person:
            context.load_cert_chain(*person)
        try:
            with connect(server, authority, context=context) as tls:
                return ask(tls) == "HTTP/1.1 200 OK"
        except (ssl.SSLError, ConnectionError):
            return False

    assert works(own.issue(tmp_path, "somebody", "somebody", client=True))
    assert not works(None)
    assert not works(authority.issue(tmp_path, "stranger", "somebody", client=True))
    # A certificate for a server says nothing about a person.
    assert not works(own.issue(tmp_path, "server", "somebody"))
    long_ago = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    assert not works(own.issue(tmp_path, "expired", "somebody", client=True, begins=long_ago))


def test_a_certificate_that_ends_is_announced(start, tmp_path, authority, echo):
    pair = authority.issue(tmp_path, "app", NAME, days=10)
    server = start(echo.url, config={"server": {"tls": files(pair)}})
    ends = time.time() + 10 * 86400
    assert abs(metric(server, f'nullpass_tls_certificate_not_after_seconds{{name="{NAME}"}}') - ends) < 60
    until("the log warns", lambda: "ends soon" in server.log)


# --- towards upstreams ---------------------------------------------------------------------------------------------


class HttpsUpstream:
    """An application behind OpenSSL's TLS that answers everything with 200; `people` makes it ask who comes."""

    def __init__(self, pair: tuple[Path, Path], people: Authority | None = None):
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"ok")

            def log_message(self, *_):
                pass

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*pair)
        if people:
            context.load_verify_locations(people.file)
            context.verify_mode = ssl.CERT_REQUIRED
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.socket = context.wrap_socket(self.http.socket, server_side=True, do_handshake_on_connect=False)
        self.http.handle_error = lambda *_: None
        self.url = f"https://127.0.0.1:{self.http.server_address[1]}"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def __enter__(self) -> HttpsUpstream:
        return self

    def __exit__(self, *_: object) -> None:
        self.http.shutdown()
        self.http.server_close()


def test_upstreams_are_verified_and_so_are_we(start, tmp_path, authority):
    people, other = Authority(tmp_path, "people"), Authority(tmp_path, "other")
    long_ago = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    own = dict(zip(("cert", "key"), map(str, people.issue(tmp_path, "own", "nullpass", client=True)), strict=True))
    strange = dict(zip(("cert", "key"), map(str, other.issue(tmp_path, "strange", "nullpass", client=True)), strict=True))
    ca, name = {"ca": str(authority.file)}, {"server_name": NAME}
    with (
        HttpsUpstream(authority.issue(tmp_path, "plain", NAME)) as plain,
        HttpsUpstream(authority.issue(tmp_path, "asking", NAME), people) as asking,
        HttpsUpstream(authority.issue(tmp_path, "old", NAME, begins=long_ago)) as old,
    ):
        cases = {
            "good": (plain, ca | name, 200),
            "no-name": (plain, ca, 502),
            "other-name": (plain, ca | {"server_name": "other.test"}, 502),
            "other-ca": (plain, name | {"ca": str(other.file)}, 502),
            "system-ca": (plain, name, 502),
            "expired": (old, ca | name, 502),
            "expired-insecure": (old, {"insecure": True}, 200),
            "insecure": (plain, {"insecure": True}, 200),
            "proven": (asking, ca | name | own, 200),
            "unproven": (asking, ca | name, 502),
            "stranger": (asking, ca | name | strange, 502),
        }
        upstreams = [{"name": path, "url": up.url, "path": f"/{path}", "tls": tls} for path, (up, tls, _) in cases.items()]
        server = start(config={"upstreams": upstreams, "rules": [{"path": "/**", "policy": "public"}]})
        with server.client() as client:
            found = {path: client.get(f"/{path}").status_code for path in cases}
        assert found == {path: status for path, (_, _, status) in cases.items()}, server.log
        # What weakens something is said at the start.
        assert "upstreams[6].tls.insecure = true" in server.log

        # CFG-3: a file that is not there is no start, not a weaker one.
        server.stop()
        Path(own["key"]).unlink()
        done = server.cli("config", "check", check=False)
        assert done.returncode == 2 and "upstreams[8].tls.key" in done.stdout + done.stderr, done


# --- ACME ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def acme(start, tmp_path, authority, echo):
    """Starts both: `acme(life, tls={…}, domains=[…])`."""
    servers: list[AcmeServer] = []

    def make(life: datetime.timedelta, *, tls: dict | None = None, domains=(NAME,), **options) -> tuple[Nullpass, AcmeServer]:
        server = start(echo.url, run=False)
        authority_server = AcmeServer(tmp_path, authority, server.port, life=life, **options)
        servers.append(authority_server)
        order = {
            "domains": list(domains),
            "contact": "mailto:ops@example.com",
            "directory": f"{authority_server.url}/directory",
            "directory_ca": str(authority.file),
        }
        server.config["server"]["tls"] = (tls or {}) | {"acme": order}
        server.write_config()
        server.start()
        return server, authority_server

    yield make
    for server in servers:
        server.close()


def test_acme_gets_a_certificate_and_keeps_it(acme, authority):
    server, ca = acme(datetime.timedelta(days=30), domains=(NAME, "b.test"), out_of_order=2)
    # While there is none, a handshake fails, and that is all that happens.
    assert serial(server, authority) is None
    got = until("a certificate", lambda: serial(server, authority))
    assert ca.problems == [] and ca.issued == 1 and ca.contacts[-1] == ["mailto:ops@example.com"]
    assert serial(server, authority, "b.test") == got
    with connect(server, authority) as tls:
        assert ask(tls) == "HTTP/1.1 200 OK"
    assert metric(server, 'nullpass_tls_acme_orders{name="ok"}') == 1
    assert metric(server, 'nullpass_tls_acme_orders{name="failed"}') == 2
    assert metric(server, f'nullpass_tls_certificate_not_after_seconds{{name="{NAME}"}}') > time.time() + 29 * 86400
    # Nobody else gets anything by that protocol.
    context = ssl.create_default_context(cafile=authority.file)
    context.set_alpn_protocols(["acme-tls/1"])
    with pytest.raises((ssl.SSLError, ConnectionError)):
        connect(server, authority, context=context)

    kept = server.data / "acme"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o700
    assert [stat.S_IMODE(f.stat().st_mode) for f in kept.iterdir()] == [0o600, 0o600]
    server.restart()
    assert until("the kept one", lambda: serial(server, authority)) == got
    assert len(ca.orders) == 1


def test_acme_renews_without_dropping_a_connection(acme, authority):
    server, ca = acme(datetime.timedelta(seconds=9))
    first = until("a certificate", lambda: serial(server, authority))
    with connect(server, authority) as kept:
        second = until("a renewed one", lambda: (found := serial(server, authority)) != first and found)
        assert ask(kept) == "HTTP/1.1 200 OK"
        until("the next one", lambda: serial(server, authority) not in (first, second))
        assert ask(kept) == "HTTP/1.1 200 OK"
    assert ca.problems == [] and ca.issued >= 3 and len(ca.accounts) == 1
    assert metric(server, 'nullpass_tls_acme_orders{name="failed"}') == 0


def test_acme_beside_files(acme, authority, tmp_path):
    people = Authority(tmp_path, "people")
    pair = authority.issue(tmp_path, "file", NAME, "other.test")
    # A client certificate is required of everybody but the authority that validates.
    tls = files(pair) | {"client_ca": str(people.file), "client_cert": "required"}
    server, ca = acme(datetime.timedelta(days=30), tls=tls)
    context = ssl.create_default_context(cafile=authority.file)
    context.load_cert_chain(*people.issue(tmp_path, "somebody", "somebody", client=True))

    def shown(name: str) -> str:
        with connect(server, authority, name=name, context=context) as tls:
            assert ask(tls) == "HTTP/1.1 200 OK"
            return tls.getpeercert()["serialNumber"]

    # The files serve what they have until the order is through, and what is not ordered after that too.
    of_file = shown("other.test")
    until("ACME's certificate", lambda: shown(NAME) != of_file)
    assert shown("other.test") == of_file and ca.problems == []
