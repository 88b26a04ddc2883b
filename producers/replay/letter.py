"""A dead letter as it is found: why it is there, since when, and what it would be again.

Those of this project say so in their headers (:mod:`consumers.dead_letter_message`). A letter that
RabbitMQ moved by itself (too many deliveries, expired, too long a queue) says it in ``x-death``.
"""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from consumers.dead_letter_message import PREFIX, original
from consumers.publisher import Outgoing

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aggregator.delivery import Delivery


#: Headers of a message that was sent back: how often, and by which run. They stay with it, so that a
#: message which is refused again and again is known by them. Their names begin otherwise than the broker's,
#: ``x-…``: by them a service that remembers the refused message knows that this is another one.
REPLAYS: Final = "aggregator-replays"
REPLAYED_BY: Final = "aggregator-replayed-by"

#: What the broker notes of its own dead-lettering; on a message that starts again they would be wrong.
_BROKERS_NOTES: Final = ("x-death", "x-delivery-count", "x-acquired-count")
_NOTE_OF_FIRST, _NOTE_OF_LAST = "x-first-death-", "x-last-death-"


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message in a dead-letter queue.

    ``body``: as it was published. ``properties``: AMQP's basic properties as they were before it was
    refused, ``headers`` among them. ``queue``: whence it was refused, empty if nobody knows.
    ``last``: when it was last tried, None if unknown. ``replays``: how often it was sent back
    already; ``replayed_by``: the run that did it last.
    """

    body: bytes
    properties: Mapping[str, Any]
    queue: str
    reason: str
    detail: str = ""
    error_type: str = ""
    attempts: int = 0
    last: datetime | None = None
    replays: int = 0
    replayed_by: str = ""

    @property
    def id(self) -> str:
        """The message's id; empty if its publisher gave none."""
        return str(self.properties.get("message_id") or "")

    @property
    def headers(self) -> Mapping[str, Any]:
        """The application's headers."""
        return self.properties.get("headers") or {}

    def with_body(self, body: bytes) -> DeadLetter:
        """Return the same letter with another body: what an own function gives back."""
        return replace(self, body=body)

    def with_headers(self, **headers: Any) -> DeadLetter:
        """Return the same letter with these headers beside its own; None takes one away."""
        merged = {**self.headers, **headers}
        kept = {name: value for name, value in merged.items() if value is not None}
        return replace(self, properties={**self.properties, "headers": kept})

    def sent_back(self, queue: str, run: str) -> Outgoing:
        """Return the message for ``queue``: through the default exchange, since others have had it."""
        headers = {**self.headers, REPLAYS: self.replays + 1, REPLAYED_BY: run}
        return Outgoing("", queue, self.body, {**self.properties, "headers": headers})

    def shown(self) -> dict[str, Any]:
        """Return it as JSON can hold it; a body that is no UTF-8 stands in base64."""
        try:
            body = {"body": self.body.decode()}
        except UnicodeDecodeError:
            body = {"body_base64": b64encode(self.body).decode()}
        return {
            "id": self.id,
            "reason": self.reason,
            "detail": self.detail,
            "error_type": self.error_type,
            "queue": self.queue,
            "attempts": self.attempts,
            "last": self.last.isoformat() if self.last else None,
            "replays": self.replays,
            "properties": {name: value for name, value in self.properties.items() if name != "headers"},
            "headers": dict(self.headers),
            **body,
        }


def read(delivery: Delivery) -> DeadLetter:
    """Return the letter that a delivery of a dead-letter queue holds."""
    # a name that is no UTF-8 comes as bytes
    dead = {str(name): value for name, value in delivery.headers.items()}
    before = original({**delivery.properties, "headers": dead})
    headers = {name: value for name, value in before.properties.get("headers", {}).items() if _kept(name)}
    replays = headers.pop(REPLAYS, 0)
    return DeadLetter(
        bytes(delivery.body),
        {
            **{name: value for name, value in before.properties.items() if name != "headers"},
            "headers": headers,
        },
        queue=before.queue or _text(dead, "x-first-death-queue"),
        reason=_text(dead, PREFIX + "reason") or _text(dead, "x-first-death-reason") or "unknown",
        detail=_text(dead, PREFIX + "detail"),
        error_type=_text(dead, PREFIX + "error-type"),
        attempts=_number(dead.get(PREFIX + "attempts")),
        last=_moment(dead),
        replays=_number(replays),
        replayed_by=str(headers.pop(REPLAYED_BY, "")),
    )


def _kept(name: str) -> bool:
    return not (name in _BROKERS_NOTES or name.startswith((_NOTE_OF_FIRST, _NOTE_OF_LAST)))


def _text(headers: Mapping[str, Any], name: str) -> str:
    value = headers.get(name)
    return value if isinstance(value, str) else ""


def _number(value: Any) -> int:
    return value if isinstance(value, int) else 0


def _moment(headers: Mapping[str, Any]) -> datetime | None:
    last = headers.get(PREFIX + "last")
    deaths = headers.get("x-death")
    if isinstance(last, str):
        try:
            return datetime.fromisoformat(last).astimezone(UTC)
        except ValueError:
            return None
    if isinstance(deaths, list) and deaths and isinstance(deaths[0], dict):
        moment = deaths[0].get("time")
        # AMQP's own times carry no zone: they are seconds since 1970
        return moment.replace(tzinfo=UTC) if isinstance(moment, datetime) else None
    return None
