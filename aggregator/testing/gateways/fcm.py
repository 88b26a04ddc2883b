"""Google's gateway: FCM's HTTP v1 and the token endpoint, on one port, over HTTP/2 and HTTP/1.1."""

from __future__ import annotations

import re
from secrets import token_hex
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlencode

import orjson
from h2.settings import SettingCodes

from aggregator.testing.gateways import fcm_checks as checks
from aggregator.testing.gateways.exchange import Answer, Pending
from aggregator.testing.gateways.http1 import Http1Connection
from aggregator.testing.gateways.oauth import TokenEndpoint
from aggregator.testing.gateways.server import Gateway

if TYPE_CHECKING:
    import asyncio

    from aggregator.testing.gateways.exchange import Connection, Request
    from aggregator.testing.gateways.script import Rule

_PATH = re.compile(r"/v1/projects/([^/:]+)/messages:send")
_JSON: tuple[tuple[str, str], ...] = (("content-type", "application/json; charset=UTF-8"),)
_HTML = (("content-type", "text/html; charset=UTF-8"),)
_MINUTE = 60.0


class Fcm(Gateway):
    """A simulated FCM; see :class:`Gateway` for what else it takes.

    ``project``: the one that messages may be sent for. ``lifetime``: seconds for which a bearer token is
    good. ``quota``: messages a minute. ``credentials`` is the service account's file, once it has
    started. ``tokens.expire()`` ends the bearer tokens, ``tokens.failure`` breaks their endpoint.
    """

    reasons = checks.REASONS
    alpn = ("h2", "http/1.1")
    settings = {  # noqa: RUF012 - constant
        SettingCodes.INITIAL_WINDOW_SIZE: 1_048_576,
        SettingCodes.MAX_HEADER_LIST_SIZE: 65_536,
    }

    def __init__(
        self,
        *,
        project: str = "example-project",
        lifetime: float = 3599,
        quota: int = 600_000,
        streams: int = 100,
        **common: Any,
    ) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9-]{1,61}", project):
            raise ValueError(f"project is {project!r}; small letters, digits and hyphens are needed")
        if quota < 1:
            raise ValueError(f"quota is {quota}; at least 1 message a minute is needed")
        if lifetime <= 0:
            raise ValueError(f"lifetime is {lifetime:g}; more than 0 seconds are needed")
        super().__init__(streams=streams, **common)
        self.project = project
        self.tokens = TokenEndpoint(project, lifetime, self.clock)
        self.credentials = self.folder / "service-account.json"
        self.quota = quota
        self._minute = 0.0
        self._used = 0

    def start(self) -> Self:
        """Listen, and write the service account's file."""
        super().start()
        self.tokens.uri = f"{self.url}/token"
        self.credentials.touch(mode=0o600)
        self.credentials.write_bytes(orjson.dumps(self.tokens.account(), option=orjson.OPT_INDENT_2))
        return self

    def ready(self) -> dict[str, Any]:
        """Return what a sender has to know, as JSON shows it."""
        return super().ready() | {"credentials": str(self.credentials), "project": self.project}

    def sink_url(self, **more: Any) -> str:
        """Return the URL of the service's sink, with further settings."""
        query = {"credentials": self.credentials, "project": self.project, "ca": self.ca}
        return f"fcm+{self.url}/?{urlencode(query | more)}"

    def protocol(self, agreed: str | None) -> asyncio.Protocol | None:
        """Speak HTTP/1.1 to who asks for nothing else."""
        if agreed == "h2":
            return super().protocol(agreed)
        return Http1Connection(self, self.next_number())

    def opened(self, connection: Connection) -> None:
        """Note a connection; limits hold from the first stream on."""
        super().opened(connection)
        connection.trusted = True

    def judge(self, request: Request) -> Pending:
        """Return the answer by FCM's rules."""
        method, path = request.headers[":method"], request.headers[":path"]
        if path == "/token" and method == "POST":
            return Pending(request, self.tokens.answer(bytes(request.body)), "", "", None, counts=False)
        found = _PATH.fullmatch(path)
        if not found or method != "POST":
            return Pending(request, _not_found(), "", "", None)
        message = checks.read(bytes(request.body))
        return Pending(request, self._answer(request, found[1], message), message.token, "", None)

    def scripted(self, rule: Rule, pending: Pending) -> Answer:  # noqa: ARG002 - the same for all
        """Return the answer that a rule asks for."""
        return _refusal(rule.reason, retry_after=rule.retry_after)

    def goaway_body(self, reason: str) -> bytes:
        """Return what stands in a GOAWAY frame."""
        return reason.encode()

    def _answer(self, request: Request, project: str, message: checks.Message) -> Answer:
        if not self.tokens.accepts(request.headers.get("authorization")):
            return _refusal("UNAUTHENTICATED")
        if project != self.project:
            return _refusal("PERMISSION_DENIED")
        if message.fault:
            return _refusal("INVALID_ARGUMENT", message.fault)
        if (wait := self._over_quota()) is not None:
            return _refusal("QUOTA_EXCEEDED", retry_after=wait)
        # a dry run gets the same words as in reality
        name = "fake_message_id" if message.validate_only else f"0:{token_hex(8)}%{token_hex(8)}"
        told = {"name": f"projects/{project}/messages/{name}"}
        return Answer(200, headers=_JSON, body=orjson.dumps(told))

    def _over_quota(self) -> float | None:
        """Count a message; return the seconds until the next minute if it is one too many."""
        now = self.clock.monotonic()
        if now - self._minute >= _MINUTE:
            self._minute, self._used = now, 0
        if self._used >= self.quota:
            return self._minute + _MINUTE - now
        self._used += 1
        return None


def _refusal(reason: str, fault: checks.Fault | None = None, *, retry_after: float | None = None) -> Answer:
    headers = _JSON if reason != "BAD_GATEWAY" else _HTML
    if reason == "UNAUTHENTICATED":
        headers += (("www-authenticate", 'Bearer realm="https://accounts.google.com/"'),)
    if retry_after is not None:
        headers += (("retry-after", str(max(1, round(retry_after)))),)
    return Answer(checks.REASONS[reason], reason, headers, checks.body_of(reason, fault))


def _not_found() -> Answer:
    body = b"<!DOCTYPE html>\n<html lang=en><title>Error 404 (Not Found)!!1</title></html>\n"
    return Answer(404, "NOT_FOUND", _HTML, body)
