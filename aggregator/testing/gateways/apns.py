"""Apple's gateway: HTTP/2 alone, one device a request, every request held against the rules."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode
from uuid import uuid4

import orjson
from h2.settings import SettingCodes

from aggregator.testing.gateways import apns_checks as checks
from aggregator.testing.gateways.apns_tokens import Provider, ProviderTokens
from aggregator.testing.gateways.certificates import ENVIRONMENTS, pem
from aggregator.testing.gateways.exchange import Answer, Pending
from aggregator.testing.gateways.server import Gateway

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from aggregator.testing.gateways.exchange import Connection, Request
    from aggregator.testing.gateways.script import Rule


class Apns(Gateway):
    """A simulated APNs; see :class:`Gateway` for what else it takes.

    ``topics``: what the team's keys may push to, anything if not given. ``team_id``, ``key_id``: what
    tokens have to name, signed with ``key`` (a .p8 file). ``token_updates``: how many new tokens it takes
    within 20 minutes. ``idle``: seconds after which a connection without requests is ended.

    ``devices``: tokens with the app's topic that they are for; others are for every topic.
    """

    reasons = checks.REASONS
    settings = {  # noqa: RUF012 - constant
        SettingCodes.HEADER_TABLE_SIZE: 4096,
        SettingCodes.INITIAL_WINDOW_SIZE: 65_535,
        SettingCodes.MAX_FRAME_SIZE: 16_384,
        SettingCodes.MAX_HEADER_LIST_SIZE: 8000,
    }

    def __init__(
        self,
        *,
        topics: Iterable[str] = (),
        team_id: str = "TEAM123456",
        key_id: str = "KEY1234567",
        environment: str = "production",
        token_updates: int = 10,
        idle: float = 3600,
        **common: Any,
    ) -> None:
        if environment not in ENVIRONMENTS:
            raise ValueError(f"environment is {environment!r}; one of {', '.join(ENVIRONMENTS)} is needed")
        if token_updates < 1:
            raise ValueError(f"token_updates is {token_updates}; at least 1 is needed")
        super().__init__(**common)
        self.topics = tuple(topics)
        self.topic = self.topics[0] if self.topics else "com.example.app"
        self.team_id, self.key_id, self.environment = team_id, key_id, environment
        self.devices: dict[str, str] = {}
        self.idle = idle
        self._tokens = ProviderTokens(self.clock, token_updates)
        self._providers: dict[int, Provider | None] = {}
        self.key = self.add_key(key_id, team_id)

    def add_key(self, key_id: str, team_id: str) -> Path:
        """Make one more signing key; return its .p8 file."""
        path = self.folder / f"AuthKey_{key_id}.p8"
        path.touch(mode=0o600)
        path.write_bytes(pem(self._tokens.add_key(key_id, team_id)))
        return path

    def certificate(
        self,
        topics: Sequence[str] = (),
        *,
        environments: Sequence[str] = tuple(ENVIRONMENTS),
        days: float = 30,
        name: str = "certificate",
    ) -> Path:
        """Make a push certificate; return the PEM file with it and its key. Negative ``days``: expired."""
        return self.authority.client(name, tuple(topics) or (self.topic,), environments, days)

    def ready(self) -> dict[str, Any]:
        """Return what a provider has to know, as JSON shows it."""
        return super().ready() | {
            "key": str(self.key),
            "key_id": self.key_id,
            "team_id": self.team_id,
            "topic": self.topic,
            "certificate": str(self.certificate()),
        }

    def sink_url(self, **more: Any) -> str:
        """Return the URL of the service's sink, with further settings."""
        query = {"key": self.key, "key_id": self.key_id, "team_id": self.team_id, "topic": self.topic}
        return f"apns+{self.url}/?{urlencode(query | {'ca': self.ca} | more)}"

    def context(self) -> ssl.SSLContext:
        """Ask for a certificate and take none as well: a token does it too."""
        context = super().context()
        context.load_verify_locations(self.ca)
        context.verify_mode = ssl.CERT_OPTIONAL
        return context

    @property
    def first_streams(self) -> int:
        """Return one, until the connection's first valid token."""
        return min(1, self._streams)

    def opened(self, connection: Connection) -> None:
        """Look at the certificate; a provider that has shown one needs no token."""
        super().opened(connection)
        certificate = connection.peer_certificate()
        provider = Provider.read(certificate) if certificate else None
        self._providers[connection.number] = provider
        if provider and not provider.refuse(self.environment):
            self._trust(connection)

    def closed(self, connection: Connection) -> None:
        """Forget a connection."""
        super().closed(connection)
        self._providers.pop(connection.number, None)

    def judge(self, request: Request) -> Pending:
        """Return the answer by APNs' rules."""
        headers = request.headers
        apns_id = headers.get("apns-id", "") or str(uuid4()).upper()
        token = headers[":path"].removeprefix(checks.PREFIX)
        answer = self._answer(self._refuse(request, token), apns_id, self.clock.time())
        return Pending(request, answer, token, apns_id, None)

    def scripted(self, rule: Rule, pending: Pending) -> Answer:
        """Return the answer that a rule asks for."""
        since = self.clock.time() if rule.timestamp is None else rule.timestamp
        answer = self._answer(rule.reason, pending.apns_id, since)
        if rule.retry_after is None:
            return answer
        headers = (*answer.headers, ("retry-after", f"{rule.retry_after:.0f}"))
        return Answer(answer.status, answer.reason, headers, answer.body)

    def goaway_body(self, reason: str) -> bytes:
        """Return the reason as APNs tells it."""
        return orjson.dumps({"reason": reason}) if reason else b""

    def _refuse(self, request: Request, token: str) -> str:
        return (
            checks.of_path(request)
            or self._refuse_provider(request)
            or checks.of_headers(request)
            or self._refuse_topic(request, token)
            or checks.of_payload(request)
        )

    def _refuse_provider(self, request: Request) -> str:
        connection = request.connection
        provider = self._providers.get(connection.number)
        if provider:
            return provider.refuse(self.environment)
        reason = self._tokens.refuse(request.headers.get("authorization"))
        if not reason and not connection.trusted:
            self._trust(connection)
        return reason

    def _refuse_topic(self, request: Request, token: str) -> str:
        provider = self._providers.get(request.connection.number)
        topics = provider.topics if provider else self.topics
        topic = request.headers.get("apns-topic", "")
        if not topic:
            if not provider or len(topics) > 1:
                return "MissingTopic"
            topic = topics[0]
        if reason := checks.of_topic(request, topic):
            return reason
        app = checks.app_of(topic)
        if topics and app not in topics and topic not in topics:
            return "TopicDisallowed"
        return "DeviceTokenNotForTopic" if self.devices.get(token, app) != app else ""

    def _trust(self, connection: Connection) -> None:
        connection.trusted = True
        connection.set_streams(self._streams)

    def _answer(self, reason: str, apns_id: str, since: float) -> Answer:
        headers: tuple[tuple[str, str], ...] = (("apns-id", apns_id),)
        if self.environment == "development":
            headers += (("apns-unique-id", str(uuid4())),)
        if not reason:
            return Answer(200, headers=headers)
        status = checks.REASONS[reason]
        body: dict[str, Any] = {"reason": reason}
        if status == 410:  # noqa: PLR2004 - HTTP's Gone
            body["timestamp"] = int(since * 1000)
        return Answer(status, reason, headers, orjson.dumps(body))
