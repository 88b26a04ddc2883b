"""Who we are to APNs: a signing key for provider tokens, or a push certificate."""

from __future__ import annotations

import ssl
from threading import Lock
from typing import TYPE_CHECKING, Any

from aggregator.clock import SYSTEM_CLOCK
from aggregator.sinks.push_options import read_file
from aggregator.sinks.push_tokens import BearerToken
from aggregator.sinks.url_options import fault

if TYPE_CHECKING:
    from pathlib import Path

    from aggregator.clock import Clock

#: APNs takes a token for an hour, and no new one within twenty minutes.
LIFETIME, YOUNGEST = 40 * 60.0, 20 * 60.0


class ProviderToken(BearerToken):
    """A JWT by ES256. Make it by :func:`provider_token`: one for a key in the whole process."""

    youngest = YOUNGEST

    def __init__(self, key: Any, key_id: str, team_id: str, clock: Clock) -> None:
        super().__init__(clock)
        self._key = key
        self._key_id = key_id
        self._team_id = team_id

    def make(self, now: float) -> tuple[bytes, float]:
        """Sign a token."""
        import jwt  # noqa: PLC0415

        claims = {"iss": self._team_id, "iat": int(now)}
        token = jwt.encode(claims, self._key, algorithm="ES256", headers={"kid": self._key_id})
        return token.encode(), LIFETIME


_known: dict[tuple[bytes, str, str], ProviderToken] = {}
_lock = Lock()


def provider_token(file: Path, key_id: str, team_id: str, clock: Clock = SYSTEM_CLOCK) -> ProviderToken:
    """Return the token of a key, the same object for each who has that key.

    Raises ``ConfigurationError`` for a file that holds no key for ES256.
    """
    content = read_file("key", file)
    key = _read_key(content, file)
    if clock is not SYSTEM_CLOCK:
        return ProviderToken(key, key_id, team_id, clock)
    with _lock:
        return _known.setdefault((content, key_id, team_id), ProviderToken(key, key_id, team_id, clock))


def _read_key(content: bytes, file: Path) -> Any:
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import load_pem_private_key  # noqa: PLC0415

    try:
        key = load_pem_private_key(content, None)
    except TypeError:
        raise fault(f"key: {file} is encrypted; the .p8 file as Apple gives it is needed") from None
    except (ValueError, UnsupportedAlgorithm):
        raise fault(f"key: {file} holds no private key in PEM; the .p8 file from Apple is needed") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        kind = type(key).__name__.strip("_").removesuffix("PrivateKey")
        raise fault(f"key: {file} is no key for ES256 (P-256) but {kind}; the .p8 file from Apple is needed")
    return key


def read_certificate(file: Path, clock: Clock = SYSTEM_CLOCK) -> str:
    """Return the first topic of a push certificate, empty if it names none.

    Raises ``ConfigurationError`` if it cannot be read, has no key, or is expired or not valid yet.
    """
    from cryptography import x509  # noqa: PLC0415
    from cryptography.x509.oid import NameOID  # noqa: PLC0415

    content = read_file("certificate", file)
    try:
        certificate = x509.load_pem_x509_certificate(content)
    except ValueError:
        raise fault(f"certificate: {file} holds no certificate in PEM") from None
    now = clock.time()
    if certificate.not_valid_after_utc.timestamp() <= now:
        raise fault(f"certificate: {file} has expired on {certificate.not_valid_after_utc:%Y-%m-%d}")
    if certificate.not_valid_before_utc.timestamp() > now:
        raise fault(f"certificate: {file} is valid from {certificate.not_valid_before_utc:%Y-%m-%d} on")
    try:
        ssl.create_default_context().load_cert_chain(file, password=lambda: b"")
    except (OSError, ssl.SSLError):
        words = "its private key has to stand in the same file, not encrypted"
        raise fault(f"certificate: {file} cannot be used: {words}") from None
    names = certificate.subject.get_attributes_for_oid(NameOID.USER_ID)
    return str(names[0].value) if names else ""


def certificate_ends(file: Path) -> float:
    """Return when a push certificate ends, in unix seconds; it was read by :func:`read_certificate`."""
    from cryptography import x509  # noqa: PLC0415

    return x509.load_pem_x509_certificate(read_file("certificate", file)).not_valid_after_utc.timestamp()
