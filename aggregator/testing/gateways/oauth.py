"""Google's token endpoint: takes a service account's signed assertion, hands out a bearer token."""

from __future__ import annotations

from secrets import token_urlsafe
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

import jwt
import orjson

from aggregator.testing.gateways.certificates import account_key, pem
from aggregator.testing.gateways.exchange import Answer

if TYPE_CHECKING:
    from aggregator.clock import Clock

SCOPES = {
    "https://www.googleapis.com/auth/firebase.messaging",
    "https://www.googleapis.com/auth/cloud-platform",
}
_GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
# Google's libraries name this one, whatever the account's file says
_AUDIENCE = "https://oauth2.googleapis.com/token"
_LONGEST, _SKEW = 3600, 60
_JSON = (("content-type", "application/json; charset=UTF-8"),)


class TokenEndpoint:
    """Bearer tokens that end after ``lifetime`` seconds. ``granted`` counts them."""

    def __init__(self, project: str, lifetime: float, clock: Clock) -> None:
        self.project = project
        self.email = f"sender@{project}.iam.gserviceaccount.com"
        self.uri = ""
        self.granted = 0
        #: The error of the endpoint, if it has one: ``(503, "internal_failure")``.
        self.failure: tuple[int, str] | None = None
        self._lifetime = lifetime
        self._clock = clock
        self._ends: dict[str, float] = {}
        self._key = account_key()

    def account(self) -> dict[str, str]:
        """Return the content of the service account's file."""
        return {
            "type": "service_account",
            "project_id": self.project,
            "private_key_id": "0123456789abcdef0123456789abcdef01234567",
            "private_key": pem(self._key).decode(),
            "client_email": self.email,
            "client_id": "100000000000000000000",
            "auth_uri": self.uri,
            "token_uri": self.uri,
            "universe_domain": "googleapis.com",
        }

    def expire(self) -> None:
        """End all tokens that were handed out."""
        self._ends.clear()

    def accepts(self, header: str | None) -> bool:
        """Whether an ``authorization`` header has a token that is good now."""
        kind, _, token = (header or "").partition(" ")
        return kind.lower() == "bearer" and self._ends.get(token.strip(), 0) > self._clock.time()

    def answer(self, body: bytes) -> Answer:
        """Return the answer to a request for a token."""
        if self.failure:
            return _refused(*self.failure)
        form = {name: values[0] for name, values in parse_qs(body.decode(errors="replace")).items()}
        if form.get("grant_type") != _GRANT:
            return _refused(400, "unsupported_grant_type", f"Invalid grant_type: {form.get('grant_type')}")
        if fault := self._fault(form.get("assertion", "")):
            return fault
        token = f"ya29.{token_urlsafe(96)}"
        self._ends[token] = self._clock.time() + self._lifetime
        self.granted += 1
        told = {"access_token": token, "expires_in": int(self._lifetime), "token_type": "Bearer"}
        return Answer(200, headers=_JSON, body=orjson.dumps(told))

    def _fault(self, assertion: str) -> Answer | None:
        try:
            claims = jwt.decode(
                assertion,
                self._key.public_key(),
                algorithms=["RS256"],
                options={"verify_iat": False, "verify_exp": False, "verify_nbf": False, "verify_aud": False},
            )
        except jwt.InvalidTokenError:
            return _refused(400, "invalid_grant", "Invalid JWT Signature.")
        if claims.get("iss") != self.email:
            return _refused(400, "invalid_grant", "Invalid grant: account not found")
        if claims.get("aud") not in {self.uri, _AUDIENCE}:
            return _refused(400, "invalid_grant", "Invalid JWT: audience is not the token endpoint.")
        if not self._fresh(claims.get("iat"), claims.get("exp")):
            text = (
                "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe."
            )
            return _refused(400, "invalid_grant", text)
        if not SCOPES & set(str(claims.get("scope", "")).split()):
            return _refused(400, "invalid_scope", "Invalid OAuth scope or ID token audience provided.")
        return None

    def _fresh(self, issued: Any, ends: Any) -> bool:
        if not isinstance(issued, int | float) or not isinstance(ends, int | float):
            return False
        now = self._clock.time()
        return issued <= now + _SKEW and now - _SKEW <= ends <= issued + _LONGEST


def _refused(status: int, error: str, text: str = "") -> Answer:
    told = {"error": error} | ({"error_description": text} if text else {})
    return Answer(status, error, _JSON, orjson.dumps(told))
