"""Who may call, and what browsers are told: bearer tokens, compared in constant time, and headers."""

from __future__ import annotations

import hmac
from base64 import b64decode
from hashlib import sha256
from typing import TYPE_CHECKING

from starlette.datastructures import MutableHeaders
from starlette.requests import Request  # noqa: TC002 - the framework reads the annotation

from producers.campaigns.problems import ProblemError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADERS = {
    # everything comes from here, nothing is inline, nobody frames it
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self';"
    " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}


class Guard:
    """Lets callers in who know a token; as a dependency it takes the request and returns nothing."""

    def __init__(self, *tokens: str, basic: bool = False) -> None:
        # digests of one length: the comparison tells nothing of the token's own
        self._digests = [sha256(token.encode()).digest() for token in tokens]
        self._basic = basic

    async def __call__(self, request: Request) -> None:
        """Raise a 401 unless one of the tokens was sent."""
        given = self._given(request.headers.get("authorization", ""))
        digest = sha256(given).digest()
        known = [hmac.compare_digest(digest, each) for each in self._digests]
        if not given or not any(known):
            error = ProblemError(401, "token", "a token is needed: Authorization: Bearer …")
            error.headers["www-authenticate"] = "Bearer"
            raise error

    def _given(self, header: str) -> bytes:
        scheme, _, value = header.partition(" ")
        if scheme.lower() == "bearer":
            return value.strip().encode()
        if self._basic and scheme.lower() == "basic":
            # what a webhook sends whose URL is https://user:token@host/feedback
            try:
                return b64decode(value).partition(b":")[2]
            except ValueError:
                return b""
        return b""


class SecurityHeaders:
    """Puts the headers on every answer; what the API says is not to be kept by anyone on the way."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""

        async def told(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                headers.setdefault("cache-control", "no-store")
            await send(message)

        await self.app(scope, receive, told if scope["type"] == "http" else send)
