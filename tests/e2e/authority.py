"""A certificate authority of the test's own: a root, an intermediate, and what they sign."""

from __future__ import annotations

import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID


def now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


class Authority:
    """Issues certificates; its root is what clients trust."""

    def __init__(self, folder: Path, name: str = "root"):
        self.root_key, self.key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
        self.root = self._authority(f"{name} root", self.root_key.public_key(), None, self.root_key)
        self.intermediate = self._authority(f"{name} intermediate", self.key.public_key(), self.root, self.root_key)
        self.file = Path(folder) / f"{name}.pem"
        self.file.write_bytes(pem(self.root))

    @staticmethod
    def _authority(name: str, public_key, issuer: x509.Certificate | None, key) -> x509.Certificate:
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer.subject if issuer else subject)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now() - datetime.timedelta(hours=1))
            .not_valid_after(now() + datetime.timedelta(days=30))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )

    def sign(self, public_key, names: list[str], *, life: datetime.timedelta, client: bool = False, begins: datetime.datetime | None = None) -> x509.Certificate:
        """A leaf for these names that is good for `life`."""
        begins = begins or now()
        purpose = ExtendedKeyUsageOID.CLIENT_AUTH if client else ExtendedKeyUsageOID.SERVER_AUTH
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(self.intermediate.subject)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(begins)
            .not_valid_after(begins + life)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(n) for n in names]), critical=True)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
            .sign(self.key, hashes.SHA256())
        )

    def chain(self, leaf: x509.Certificate) -> bytes:
        """The leaf, then who signed it, in PEM."""
        return pem(leaf) + pem(self.intermediate)

    def issue(self, folder: Path, file: str, *names: str, days: float = 30, **options) -> tuple[Path, Path]:
        """A new key and its certificate as `FILE.crt` and `FILE.key`."""
        key = ec.generate_private_key(ec.SECP256R1())
        leaf = self.sign(key.public_key(), list(names), life=datetime.timedelta(days=days), **options)
        crt, private = Path(folder) / f"{file}.crt", Path(folder) / f"{file}.key"
        crt.write_bytes(self.chain(leaf))
        private.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
        return crt, private


def pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
