"""A delivery (what the broker hands out and what is acked) and an item (what a sink writes).

By default a delivery is its own item: one message, one document, one object. An aggregate of
several deliveries is an item too; a delivery settles when its item is final.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Any, Protocol

import orjson

from aggregator.errors import MessageRefusedError

if TYPE_CHECKING:
    from collections.abc import Collection, Hashable, Mapping, Sequence

    from aggregator.group import Batch
    from aggregator.push import Address
    from aggregator.sinks.base import Verdict


class Settlement(Enum):
    """How a delivery leaves the broker."""

    ACK = "ack"
    """Done for good: written, known before, dead-lettered, discarded."""
    GIVE_BACK = "give back"
    """Not done: the broker shall hand it out again."""


class Link(Protocol):
    """One connection and channel, from its opening to its loss; numbered, never reused.

    A delivery may only be settled on the link that brought it: on any other its tag means
    another message.
    """

    epoch: int
    alive: bool

    @property
    def unsettled(self) -> int:
        """How many deliveries the broker still counts as this link's. Any thread may ask."""
        ...

    @property
    def unsent(self) -> bool:
        """Whether settlements were asked for that were not sent yet. Any thread may ask."""
        ...

    def settle(self, deliveries: Sequence[Delivery], how: Settlement) -> None:
        """Ask the link's owner to settle. Any thread may call; never blocks; a dead link ignores it."""
        ...

    def wake(self) -> None:
        """Have the link's owner look around at once. Any thread may call; never blocks."""
        ...


class Item:
    """One document on its way to a sink, and what expressions read from it.

    ``id``: the document's id, unique within the store. ``document``: one line of JSON in UTF-8,
    without line breaks; empty until the item has been made. ``fingerprint``: 0 where this process
    made the id up; else the id came from outside and another item may carry it too.
    ``batch``: the completed group that it belongs to. ``size``: its bytes, as far as known.
    ``messages``: how many deliveries settle with it. ``shared``: set where further items hold these
    same deliveries.
    """

    __slots__ = ("_json", "batch", "document", "fingerprint", "id")

    id: str
    document: bytes
    fingerprint: int
    batch: Batch
    messages: int
    shared: Shared | None
    #: To whom a push goes (:class:`aggregator.push.Address`); None for documents.
    address: Any = None
    _json: Any

    @property
    def deliveries(self) -> Sequence[Delivery]:
        """The deliveries that settle with this item, in order of arrival; at least one."""
        raise NotImplementedError

    @property
    def size(self) -> int:
        """Bytes of the document, or of the bodies that it will be made from."""
        raise NotImplementedError

    @property
    def headers(self) -> Mapping[str, Any]:
        """The application's headers; empty if there are none."""
        raise NotImplementedError

    @property
    def properties(self) -> Mapping[str, Any]:
        """AMQP's basic properties that were set: ``message_id``, ``content_type``, …"""
        raise NotImplementedError

    def header(self, name: str) -> Any:
        """Return one header, None where it is not set. A source may know it without reading all."""
        return self.headers.get(name)

    def basic_property(self, name: str) -> Any:
        """Return one of the properties, None where it is not set. As :meth:`header`."""
        return self.properties.get(name)

    def declared(self) -> tuple[Any, Any]:
        """Return content type and content encoding, as :meth:`basic_property` does."""
        return self.basic_property("content_type"), self.basic_property("content_encoding")

    @property
    def exchange(self) -> str:
        """The exchange it was published to; empty for the default exchange."""
        raise NotImplementedError

    @property
    def routing_key(self) -> str:
        """The routing key it was published with."""
        raise NotImplementedError

    def json(self) -> Any:
        """Return the document, or else the body, parsed as strict JSON; kept until :meth:`forget_json`.

        Raises ``MessageRefusedError`` (``bad-json``) where it is none.
        """
        if self._json is None:
            problem = ""
            try:
                self._json = orjson.loads(self.document or self._source)
            except orjson.JSONDecodeError as exc:
                problem = str(exc)  # a sentence and a position; the exception itself carries the body
            if problem:
                raise MessageRefusedError("bad-json", problem)
        return self._json

    @property
    def _source(self) -> bytes:
        """What the document will be made from, as far as that is known."""
        return b""

    @property
    def parsed(self) -> bool:
        """Whether the parsed document is kept."""
        return self._json is not None

    def forget_json(self) -> None:
        """Drop the parsed document: a held message must not cost its memory several times."""
        self._json = None


class Delivery(Item):
    """One message as it was handed out. Sources subclass it and decode only what is asked for.

    ``body`` is raw, never decoded. ``tag`` is the broker's name for it on ``link`` alone.
    ``fingerprint`` identifies the message across redeliveries. ``state`` and ``follower`` belong to
    the ledger.
    """

    __slots__ = ("body", "follower", "link", "redelivered", "state", "tag")

    body: bytes
    link: Link
    tag: Any
    redelivered: bool

    #: kombu asks each message for the errors of its decoding; nothing is decoded at receipt.
    errors: tuple[()] = ()
    messages = 1
    shared = None
    #: Of a message that is divided: the places of those parts that had their last word before it came again.
    parts: Collection[int] = ()

    def __init__(self, body: bytes, link: Link, tag: Any, *, redelivered: bool = False) -> None:
        self.body = body
        self.link = link
        self.tag = tag
        self.redelivered = redelivered
        self.id = ""
        self.document = b""
        self.fingerprint = 0
        self.state = 0
        self.follower: Delivery | None = None
        self._json = None

    def said(self) -> Hashable:
        """Return what its publisher's headers say; the same for each copy of a message, false for nothing.

        They may say where it goes. Those of the broker, ``x-…``, change with each delivery.
        """
        # a name that is no UTF-8 comes as bytes
        return tuple(
            [(name, repr(value)) for name, value in self.headers.items() if not str(name).startswith("x-")]
        )

    def part_final(self, item: Item, verdict: Verdict) -> None:
        """Note the last word on one of the items that this message is divided into, or on it as a whole.

        Flush threads call it, several at once, before the message can settle; it must not block. A
        source that can give back what is left of a message overrides it.
        """

    def postpone(self, until: float) -> bool:
        """Have the source hold the message until then (unix seconds) once it is given back.

        False where the source cannot: it would hand it out again at once.
        """
        del until
        return False

    def join(self, known: Delivery) -> None:
        """Note that this is another copy of ``known``, which is under way: both settle by its verdict."""

    @property
    def deliveries(self) -> Sequence[Delivery]:
        """Itself alone."""
        return (self,)

    @property
    def size(self) -> int:
        """Bytes of the body."""
        return len(self.body)

    @property
    def _source(self) -> bytes:
        return self.body


class Shared:
    """What becomes of deliveries that several items hold: the worst of the words on these items.

    ``left``: how many of them have none yet.
    """

    __slots__ = ("left", "word", "worst")

    def __init__(self, items: int) -> None:
        self.left = items
        self.worst = -1
        self.word: Any = None

    def settle(self, badness: int, word: Any) -> bool:
        """Note a final word; return whether it is the last one that was missing."""
        if badness > self.worst:
            self.worst, self.word = badness, word
        self.left -= 1
        return not self.left


class Aggregate(Item):
    """One document of several deliveries; before that is made, the group that it will be made of.

    Until then its id stands for its key: of one key one group at a time is made, or a newer one could
    overtake it. Expressions read headers, properties and the routing key of the first delivery, and
    the document that was made.
    """

    __slots__ = ("_bodies", "_deliveries", "address", "shared")

    def __init__(
        self,
        deliveries: Sequence[Delivery],
        batch: Batch,
        *,
        id: str = "",  # noqa: A002 - the item's
        document: bytes = b"",
        fingerprint: int = 0,
        shared: Shared | None = None,
        address: Address | None = None,
        bodies: int,
    ) -> None:
        self._deliveries = deliveries
        self._bodies = bodies
        self.batch = batch
        self.shared = shared
        self.address = address
        self.unmake()
        if document:
            self.id, self.document, self.fingerprint = id, document, fingerprint

    @property
    def messages(self) -> int:  # type: ignore[override]
        """How many deliveries it holds."""
        return len(self._deliveries)

    @property
    def deliveries(self) -> Sequence[Delivery]:
        """The deliveries whose messages are in it."""
        return self._deliveries

    @property
    def size(self) -> int:
        """Bytes of the document, or of the bodies where those are more: both are in memory."""
        return max(len(self.document), self._bodies)

    @property
    def divisible(self) -> bool:
        """Whether it can be made again, as several smaller ones."""
        return self.shared is None and len(self._deliveries) > 1

    def unmake(self) -> None:
        """Forget the document: it will be made, or made again as several."""
        key = self.batch.key
        self.id, self.fingerprint = (f"\0{key}", 1) if key is not None else ("", 0)
        self.document, self._json = b"", None

    @property
    def headers(self) -> Mapping[str, Any]:
        """The first delivery's."""
        return self._deliveries[0].headers

    @property
    def properties(self) -> Mapping[str, Any]:
        """The first delivery's."""
        return self._deliveries[0].properties

    def header(self, name: str) -> Any:
        """Return the first delivery's."""
        return self._deliveries[0].header(name)

    def basic_property(self, name: str) -> Any:
        """Return the first delivery's."""
        return self._deliveries[0].basic_property(name)

    @property
    def exchange(self) -> str:
        """The first delivery's."""
        return self._deliveries[0].exchange

    @property
    def routing_key(self) -> str:
        """The first delivery's."""
        return self._deliveries[0].routing_key
