"""The provider's side of APNs: tokens that are signed (JWT), or a certificate of the connection."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import jwt

from aggregator.testing.gateways.certificates import signing_key, topics_of

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

    from aggregator.clock import Clock

#: Seconds after which a token is stale, and by which a provider's clock may be fast.
LONGEST_AGE, SKEW = 3600.0, 60.0
#: Seconds for which new tokens are counted.
INTERVAL = 1200.0
_BEARER = "bearer "


@dataclass(slots=True)
class _Key:
    """A signing key, and when its last tokens were first seen."""

    private: EllipticCurvePrivateKey
    team: str
    updates: deque[float] = field(default_factory=deque)


@dataclass(slots=True)
class ProviderTokens:
    """Verifies tokens; each one's signature once.

    ``updates``: how many new tokens of one key are taken within 20 minutes.
    """

    clock: Clock
    updates: int
    _keys: dict[str, _Key] = field(default_factory=dict)
    _known: dict[str, float] = field(default_factory=dict)

    def add_key(self, kid: str, team: str) -> EllipticCurvePrivateKey:
        """Return a new key that tokens of ``team`` may be signed with."""
        self._keys[kid] = _Key(signing_key(), team)
        return self._keys[kid].private

    def refuse(self, header: str | None) -> str:
        """Return the reason to refuse an ``authorization`` header, empty if it is right."""
        if header is None or not header.lower().startswith(_BEARER):
            return "MissingProviderToken"
        token = header[len(_BEARER) :].strip()
        issued = self._known.get(token)
        if issued is None:
            return self._learn(token)
        return "ExpiredProviderToken" if self.clock.time() - issued > LONGEST_AGE else ""

    def _learn(self, token: str) -> str:
        try:
            kid = str(jwt.get_unverified_header(token).get("kid"))
            key = self._keys[kid]
            claims = jwt.decode(
                token,
                key.private.public_key(),
                algorithms=["ES256"],
                # ages are measured by the gateway's own clock
                options={"verify_iat": False, "verify_exp": False, "verify_nbf": False, "verify_aud": False},
            )
        except (jwt.InvalidTokenError, KeyError):
            return "InvalidProviderToken"
        issued = _seconds(claims.get("iat"))
        now = self.clock.time()
        if claims.get("iss") != key.team or issued is None or issued > now + SKEW:
            return "InvalidProviderToken"
        if now - issued > LONGEST_AGE:
            return "ExpiredProviderToken"
        while key.updates and now - key.updates[0] >= INTERVAL:
            key.updates.popleft()
        if len(key.updates) >= self.updates:
            return "TooManyProviderTokenUpdates"
        key.updates.append(now)
        self._known[token] = issued
        return ""


@dataclass(frozen=True, slots=True)
class Provider:
    """Who a connection's certificate is for: its topics, and where it may be used."""

    topics: tuple[str, ...]
    environments: tuple[str, ...]

    @classmethod
    def read(cls, certificate: bytes) -> Provider:
        """Return what a certificate (DER) says."""
        return cls(*topics_of(certificate))

    def refuse(self, environment: str) -> str:
        """Return the reason to refuse it, empty if it is right."""
        if not self.topics:
            return "BadCertificate"
        return "" if environment in self.environments else "BadCertificateEnvironment"


def _seconds(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
