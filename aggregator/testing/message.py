"""A message as it was published, with all that became of it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import orjson

from aggregator.intake import DELIVERY_COUNT
from aggregator.sinks.base import Fate
from aggregator.testing.memory import MemoryDelivery

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aggregator.delivery import Item, Shared
    from aggregator.sinks.base import Verdict
    from aggregator.testing.broker import OpenLink


@dataclass(eq=False, repr=False)
class Message:
    """What stands in the queue. ``number`` counts from 0 in the order of publishing.

    ``link``: the only link that its first delivery may take. ``deliveries``: how often it was handed
    out. ``acked``: how often the broker was told to forget it. ``fates``: the last words on it, by
    ``written``, ``duplicate``, ``dead_lettered`` and ``control``. ``shared``: set where it stands in
    several documents; they count as one.
    """

    number: int
    body: bytes
    headers: Mapping[str, Any] = field(default_factory=dict)
    properties: Mapping[str, Any] = field(default_factory=dict)
    exchange: str = ""
    routing_key: str = ""
    link: int | None = None
    deliveries: int = 0
    acked: int = 0
    fates: Counter[str] = field(default_factory=Counter)
    shared: Shared | None = None

    @property
    def id(self) -> str | None:
        """Its ``message_id``."""
        return self.properties.get("message_id")

    @property
    def document(self) -> Any:
        """The body as JSON; as text where it is none, and as bytes where it is not even that."""
        return read_document(self.body)

    def __str__(self) -> str:
        """Return its number and id: enough to find it."""
        return f"message {self.number}" + (f" (id {self.id!r})" if self.id else "")

    def __repr__(self) -> str:
        """Return what a failing assertion ought to show."""
        return f"<{self}: {self.document!r}>"

    def delivery(self, link: OpenLink, tag: int) -> QueuedDelivery:
        """Return one more delivery of it, as a quorum queue hands it out."""
        headers = dict(self.headers)
        if self.deliveries:
            headers[DELIVERY_COUNT] = self.deliveries
        self.deliveries += 1
        self.link = None  # whoever it was meant for, it comes again wherever there is room
        return QueuedDelivery(
            self,
            headers=headers,
            properties=dict(self.properties),
            link=link,
            tag=tag,
        )


class QueuedDelivery(MemoryDelivery):
    """A delivery that knows the message that it is of."""

    __slots__ = ("message",)

    def __init__(
        self,
        message: Message,
        *,
        headers: Mapping[str, Any],
        properties: Mapping[str, Any],
        link: OpenLink,
        tag: int,
    ) -> None:
        super().__init__(
            message.body,
            headers=headers,
            properties=properties,
            exchange=message.exchange,
            routing_key=message.routing_key,
            link=link,
            tag=tag,
            redelivered=message.deliveries > 1,
        )
        self.message = message

    def part_final(self, item: Item, verdict: Verdict) -> None:
        """Note what the route gave up by itself: no sink has a word on it."""
        if verdict.fate is Fate.EXPIRED:
            self.message.fates["expired"] += 1
            self.message.shared = item.shared or self.message.shared


def read_document(body: bytes) -> Any:
    """Return ``body`` as JSON; as text where it is none, and as bytes where it is not even that."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        pass
    try:
        return body.decode()
    except UnicodeDecodeError:
        return body


def encode(body: Any) -> tuple[bytes, dict[str, str]]:
    """Return a body's bytes, and the properties that a publisher would set with them.

    Bytes stay as they are, a text becomes UTF-8, anything else JSON. Raises ``TypeError`` where it
    cannot.
    """
    if isinstance(body, bytes):
        return body, {}
    if isinstance(body, str):
        return body.encode(), {"content_type": "text/plain", "content_encoding": "utf-8"}
    return orjson.dumps(body), {"content_type": "application/json", "content_encoding": "utf-8"}
