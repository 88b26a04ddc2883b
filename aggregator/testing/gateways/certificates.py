"""Keys and certificates made on the spot: an authority, servers, push certificates, signing keys.

Nothing of it is of use outside of the simulators. All files are PEM and stand in one folder.
"""

from __future__ import annotations

from datetime import timedelta
from functools import lru_cache
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from aggregator.clock import utc_now

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
#: The extensions by which a push certificate says where it may be used.
ENVIRONMENTS = {
    "development": ObjectIdentifier("1.2.840.113635.100.6.3.1"),
    "production": ObjectIdentifier("1.2.840.113635.100.6.3.2"),
}
_NULL = b"\x05\x00"


def pem(key: PrivateKey) -> bytes:
    """Return a private key as unencrypted PKCS#8, the form of Apple's and Google's key files."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def signing_key() -> ec.EllipticCurvePrivateKey:
    """Return a new key on P-256, as a provider's tokens are signed with."""
    return ec.generate_private_key(ec.SECP256R1())


@lru_cache(maxsize=1)
def account_key() -> rsa.RSAPrivateKey:
    """Return the RSA key of all service accounts of this process; slow to make, so made once."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


class Authority:
    """An authority of its own, in ``folder``: ``ca`` is what clients have to trust."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = signing_key()
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Gateway simulator")])
        builder = self._builder(self._name, self._key, days=30)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        builder = builder.add_extension(_usage(signs=True), critical=True)
        self.ca = folder / "ca.pem"
        self.ca.write_bytes(builder.sign(self._key, SHA256()).public_bytes(Encoding.PEM))

    def server(self) -> Path:
        """Write and return key and certificate for ``localhost`` and 127.0.0.1."""
        names = x509.SubjectAlternativeName(
            [x509.DNSName("localhost"), x509.IPAddress(IPv4Address("127.0.0.1"))]
        )
        return self._issue(
            "server.pem",
            [x509.NameAttribute(NameOID.COMMON_NAME, "localhost")],
            [names, x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])],
        )

    def client(self, name: str, topics: Sequence[str], environments: Sequence[str], days: float) -> Path:
        """Write and return key and certificate of a provider of ``topics``; negative ``days``: expired."""
        subject = [x509.NameAttribute(NameOID.USER_ID, topic) for topic in topics]
        subject.append(x509.NameAttribute(NameOID.COMMON_NAME, f"Apple Push Services: {topics[0]}"[:64]))
        marks = [x509.UnrecognizedExtension(ENVIRONMENTS[one], _NULL) for one in environments]
        usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
        return self._issue(f"{name}.pem", subject, [usage, *marks], days=days)

    def _issue(
        self,
        file: str,
        subject: Sequence[x509.NameAttribute[str]],
        extensions: Sequence[x509.ExtensionType],
        days: float = 30,
    ) -> Path:
        key = signing_key()
        builder = self._builder(x509.Name(subject), key, days)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(_usage(signs=False), critical=True)
        for extension in extensions:
            builder = builder.add_extension(extension, critical=False)
        path = self._folder / file
        path.touch(mode=0o600)
        path.write_bytes(pem(key) + builder.sign(self._key, SHA256()).public_bytes(Encoding.PEM))
        return path

    def _builder(self, subject: x509.Name, key: PrivateKey, days: float) -> x509.CertificateBuilder:
        now = utc_now()
        issuer = self._key.public_key()
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            # a day and more back: clocks differ, and what is expired must have begun
            .not_valid_before(now - timedelta(days=1 + abs(days)))
            .not_valid_after(now + timedelta(days=days))
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer), critical=False)
        )


def topics_of(certificate: bytes) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the topics and the environments that a push certificate (DER) is for."""
    read = x509.load_der_x509_certificate(certificate)
    topics = tuple(str(one.value) for one in read.subject.get_attributes_for_oid(NameOID.USER_ID))
    marks = {extension.oid for extension in read.extensions}
    return topics, tuple(name for name, oid in ENVIRONMENTS.items() if oid in marks)


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        key_cert_sign=signs,
        crl_sign=signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
