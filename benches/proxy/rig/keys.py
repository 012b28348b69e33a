"""Keys, a certificate, and tokens with the claims that nullpass's own have (RFC 7515, RFC 7518, RFC 8037)."""

import base64
import hashlib
import hmac
import json
import subprocess
import time
import uuid

SECRET = "0123456789abcdef0123456789abcdef"
EMAIL = "bench@example.com"
ISSUER = "bench"
ALGORITHMS = {
    "RS256": ["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"],
    "ES256": ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"],
    "EdDSA": ["-algorithm", "ED25519"],
}


def base64url(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def openssl(*arguments, data=None):
    return subprocess.run(["openssl", *map(str, arguments)], input=data, check=True, capture_output=True, timeout=60).stdout


def kid(algorithm):
    """The name of the key for an algorithm; each has one."""
    return f"bench-key-{algorithm}"


def claims():
    """Those of a token of nullpass, so that all tokens are of like size."""
    now, person = int(time.time()), str(uuid.uuid4())
    return {
        "userId": person,
        "email": EMAIL,
        "iat": now,
        "exp": now + 86400,
        "iss": ISSUER,
        "aud": "nullpass",
        "sub": person,
        "jti": str(uuid.uuid4()),
        "sid": str(uuid.uuid4()),
        "amr": ["pwd"],
        "auth_time": now,
        "gen": 0,
    }


def unsigned(algorithm, content):
    head = {"typ": "JWT", "alg": algorithm, "kid": kid(algorithm)}
    return ".".join(base64url(json.dumps(part, separators=(",", ":")).encode()) for part in (head, content))


def hs256(content):
    text = unsigned("HS256", content)
    return f"{text}.{base64url(hmac.new(SECRET.encode(), text.encode(), hashlib.sha256).digest())}"


class Keys:
    """Made anew in `folder` for each run."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir()
        self.certificate, self.certificate_key = folder / "tls.crt", folder / "tls.key"
        openssl(
            *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", self.certificate_key, "-out", self.certificate),
        )
        # HAProxy wants both in one file.
        self.bundle = folder / "tls.pem"
        self.bundle.write_bytes(self.certificate.read_bytes() + self.certificate_key.read_bytes())
        for algorithm, how in ALGORITHMS.items():
            openssl("genpkey", *how, "-out", folder / f"{algorithm}.key")
            openssl("pkey", "-in", folder / f"{algorithm}.key", "-pubout", "-out", self.public(algorithm))

    def public(self, algorithm):
        """The public key, as PEM."""
        return self.folder / f"{algorithm}.pub"

    def token(self, algorithm):
        """A token for `EMAIL`."""
        if algorithm == "HS256":
            return hs256(claims())
        text = unsigned(algorithm, claims())
        key, signed = self.folder / f"{algorithm}.key", self.folder / "text"
        signed.write_text(text)
        if algorithm == "EdDSA":
            signature = openssl("pkeyutl", "-sign", "-rawin", "-inkey", key, "-in", signed)
        else:
            signature = openssl("dgst", "-sha256", "-sign", key, signed)
        return f"{text}.{base64url(from_der(signature) if algorithm == 'ES256' else signature)}"

    def jwks(self):
        """The keys of EdDSA (RFC 8037; the last 32 bytes of what openssl writes) and HS256 as a JWK set."""
        public = openssl("pkey", "-pubin", "-in", self.public("EdDSA"), "-outform", "DER")[-32:]
        ed25519 = {"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "kid": kid("EdDSA"), "x": base64url(public)}
        shared = {"kty": "oct", "alg": "HS256", "kid": kid("HS256"), "k": base64url(SECRET.encode())}
        return json.dumps({"keys": [ed25519, shared]})


def from_der(signature):
    """An ECDSA signature as RFC 7518, section 3.4, wants it: two numbers of 32 bytes. openssl writes SEQUENCE { INTEGER, INTEGER }."""
    at, numbers = 2, b""
    for _ in range(2):
        length = signature[at + 1]
        numbers += signature[at + 2 : at + 2 + length].lstrip(b"\0").rjust(32, b"\0")
        at += 2 + length
    return numbers


def forged(token):
    """Tokens that nobody may take: a broken signature, other claims under the old signature, no signature at all."""
    head, content, signature = token.split(".")
    middle = len(signature) // 2
    swapped = signature[:middle] + ("A" if signature[middle] != "A" else "B") + signature[middle + 1 :]
    return {
        "a broken signature": f"{head}.{content}.{swapped}",
        "others' claims": f"{head}.{base64url(json.dumps(claims() | {'email': 'mallory@example.com'}).encode())}.{signature}",
        "alg none": f"{unsigned('none', claims())}.",
    }
