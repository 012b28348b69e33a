"""A small ACME authority (RFC 8555) on loopback: a test double, since the usual ones can't be installed everywhere.

It has one kind of challenge, TLS-ALPN-01 (RFC 8737), and really validates it: it connects to the server under test and
checks protocol, name and the digest of the key authorization. It verifies every request's signature, nonce and URL, and
issues from an authority of the test's own. What it leaves out: account updates, revocation, key roll-over, wildcards.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
import json
import secrets
import socket
import ssl
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from authority import Authority

ACME_IDENTIFIER = x509.ObjectIdentifier("1.3.6.1.5.5.7.1.31")


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def unb64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


@dataclass
class Order:
    names: list[str]
    account: str
    status: str = "pending"
    token: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    proven: set[str] = field(default_factory=set)
    certificate: bytes = b""


class Refused(Exception):
    """An ACME problem document."""

    def __init__(self, kind: str, detail: str, status: int = 400):
        super().__init__(detail)
        self.kind, self.status = kind, status


class AcmeServer:
    """Serves from construction to `close`. `life` is how long its certificates are good; `port` is validated."""

    def __init__(self, folder: Path, authority: Authority, port: int, *, life: datetime.timedelta, out_of_order: int = 0):
        self.authority, self.port, self.life = authority, port, life
        # So many requests for the directory get 503 first.
        self.out_of_order = out_of_order
        self.nonces: set[str] = set()
        self.accounts: dict[str, dict] = {}
        self.contacts: list[list[str]] = []
        self.orders: list[Order] = []
        self.problems: list[str] = []
        self.lock = threading.RLock()
        crt, key = authority.issue(folder, "acme-server", "localhost")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(crt, key)
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.http.socket = context.wrap_socket(self.http.socket, server_side=True, do_handshake_on_connect=False)
        self.url = f"https://localhost:{self.http.server_address[1]}"
        self.thread = threading.Thread(target=self.http.serve_forever, daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()
        self.thread.join(10)

    @property
    def issued(self) -> int:
        return sum(order.status == "valid" for order in self.orders)

    # --- the protocol ---

    def nonce(self) -> str:
        with self.lock:
            self.nonces.add(nonce := secrets.token_urlsafe(16))
            return nonce

    def open(self, body: bytes, url: str) -> tuple[str, dict, bytes]:
        """Checks a request's JWS (section 6.2): the account's URL (or the new key's), its key, and the payload."""
        jws = json.loads(body)
        header = json.loads(unb64(jws["protected"]))
        if header["url"] != url or header["alg"] != "ES256" or ("jwk" in header) == ("kid" in header):
            raise Refused("malformed", f"protected header {header}")
        if header["nonce"] not in self.nonces:
            raise Refused("badNonce", "the nonce is unknown or was used")
        self.nonces.remove(header["nonce"])
        jwk = header.get("jwk") or self.accounts.get(header["kid"])
        if jwk is None:
            raise Refused("accountDoesNotExist", header["kid"])
        number = lambda name: int.from_bytes(unb64(jwk[name]), "big")  # noqa: E731
        key = ec.EllipticCurvePublicNumbers(number("x"), number("y"), ec.SECP256R1()).public_key()
        signature = unb64(jws["signature"])
        der = encode_dss_signature(int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big"))
        key.verify(der, f"{jws['protected']}.{jws['payload']}".encode(), ec.ECDSA(hashes.SHA256()))
        return header.get("kid", ""), jwk, unb64(jws["payload"])

    def answer(self, path: str, body: bytes) -> tuple[int, dict, dict | bytes]:
        account, jwk, payload = self.open(body, self.url + path)
        said = json.loads(payload) if payload else None
        if path == "/account":
            if said.get("termsOfServiceAgreed") is not True:
                raise Refused("userActionRequired", "the terms are not agreed to")
            url = next((url for url, known in self.accounts.items() if known == jwk), f"{self.url}/account/{len(self.accounts)}")
            status = 200 if url in self.accounts else 201
            self.accounts[url] = jwk
            self.contacts.append(said.get("contact", []))
            return status, {"Location": url}, {"status": "valid"}
        if not account:
            raise Refused("malformed", "only an account can ask for this")
        if path == "/order":
            assert all(i["type"] == "dns" for i in said["identifiers"]), said
            self.orders.append(Order([i["value"] for i in said["identifiers"]], account))
            path = f"/order/{len(self.orders) - 1}"
            return 201, {"Location": self.url + path}, self.show(len(self.orders) - 1)
        _, kind, index, *rest = path.split("/")
        order = self.orders[int(index)]
        if order.account != account:
            raise Refused("unauthorized", "another account's order", 403)
        match kind:
            case "order":
                return 200, {}, self.show(int(index))
            case "authorization" | "challenge":
                name = order.names[int(rest[0])]
                if kind == "challenge":
                    self.validate(order, name, jwk)
                proven = "valid" if name in order.proven else "invalid" if order.status == "invalid" else "pending"
                challenge = {"type": "tls-alpn-01", "url": f"{self.url}/challenge/{index}/{rest[0]}", "token": order.token, "status": proven}
                if kind == "challenge":
                    return 200, {}, challenge
                others = {"type": "http-01", "url": f"{self.url}/challenge/none", "token": "x", "status": "pending"}
                return 200, {}, {"status": proven, "identifier": {"type": "dns", "value": name}, "challenges": [others, challenge]}
            case "finalize":
                if set(order.names) != order.proven:
                    raise Refused("orderNotReady", "not all names are proven", 403)
                self.issue(order, unb64(said["csr"]))
                return 200, {}, self.show(int(index))
            case "certificate":
                return 200, {"Content-Type": "application/pem-certificate-chain"}, order.certificate
        raise Refused("malformed", path, 404)

    def show(self, index: int) -> dict:
        order = self.orders[index]
        if order.status == "pending" and order.proven == set(order.names):
            order.status = "ready"
        shown = {
            "status": order.status,
            "identifiers": [{"type": "dns", "value": n} for n in order.names],
            "authorizations": [f"{self.url}/authorization/{index}/{n}" for n in range(len(order.names))],
            "finalize": f"{self.url}/finalize/{index}",
        }
        return shown | ({"certificate": f"{self.url}/certificate/{index}"} if order.status == "valid" else {})

    def issue(self, order: Order, csr: bytes) -> None:
        request = x509.load_der_x509_csr(csr)
        names = request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(x509.DNSName)
        if not request.is_signature_valid or sorted(names) != sorted(order.names):
            raise Refused("badCSR", f"{names} is not {order.names}")
        leaf = self.authority.sign(request.public_key(), order.names, life=self.life)
        order.certificate, order.status = self.authority.chain(leaf), "valid"

    def validate(self, order: Order, name: str, jwk: dict) -> None:
        """Section 3 of RFC 8737."""
        thumbprint = hashlib.sha256(json.dumps({k: jwk[k] for k in ("crv", "kty", "x", "y")}, separators=(",", ":"), sort_keys=True).encode()).digest()
        expected = hashlib.sha256(f"{order.token}.{b64(thumbprint)}".encode()).digest()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.set_alpn_protocols(["acme-tls/1"])
        try:
            with socket.create_connection(("127.0.0.1", self.port), 10) as plain, context.wrap_socket(plain, server_hostname=name) as tls:
                assert tls.selected_alpn_protocol() == "acme-tls/1", tls.selected_alpn_protocol()
                shown = x509.load_der_x509_certificate(tls.getpeercert(binary_form=True))
                assert tls.recv(1) == b"", "no application data may follow"
            names = shown.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            assert list(names) == [x509.DNSName(name)], names
            proof = shown.extensions.get_extension_for_oid(ACME_IDENTIFIER)
            assert proof.critical and proof.value.value == b"\x04\x20" + expected, proof
        except (OSError, AssertionError, x509.ExtensionNotFound) as error:
            order.status = "invalid"
            self.problems.append(f"{name}: {error!r}")
            return
        order.proven.add(name)

    # --- the wire ---

    def _handler(self):
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self):
                self.send({"Replay-Nonce": server.nonce()}, 200, b"")

            def do_GET(self):
                with server.lock:
                    if server.out_of_order > 0:
                        server.out_of_order -= 1
                        return self.send({}, 503, b"later")
                paths = {"newNonce": "/nonce", "newAccount": "/account", "newOrder": "/order"}
                self.send({}, 200, json.dumps({k: server.url + v for k, v in paths.items()}).encode())

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                try:
                    assert self.headers["Content-Type"] == "application/jose+json"
                    with server.lock:
                        status, headers, said = server.answer(self.path, body)
                except Refused as refused:
                    server.problems.append(f"{self.path}: {refused}")
                    said = {"type": f"urn:ietf:params:acme:error:{refused.kind}", "detail": str(refused)}
                    status, headers = refused.status, {"Content-Type": "application/problem+json"}
                except Exception as error:  # noqa: BLE001 - whatever is wrong with a request, the test must see it
                    server.problems.append(f"{self.path}: {error!r}")
                    status, headers, said = 500, {}, {"type": "urn:ietf:params:acme:error:serverInternal", "detail": repr(error)}
                data = said if isinstance(said, bytes) else json.dumps(said).encode()
                self.send({"Content-Type": "application/json"} | headers | {"Replay-Nonce": server.nonce()}, status, data)

            def send(self, headers: dict, status: int, data: bytes):
                self.send_response(status)
                for name, value in (headers | {"Content-Length": str(len(data)), "Connection": "close"}).items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(data)
                self.close_connection = True

            def log_message(self, *_):
                pass

        return Handler
