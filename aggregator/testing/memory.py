"""A message and a link that live in memory alone."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Any

from aggregator.delivery import Delivery, Settlement

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aggregator.delivery import Link


class MemoryLink:
    """A link that records what it was asked to settle, in order."""

    def __init__(self, epoch: int = 0) -> None:
        self.epoch = epoch
        self.alive = True
        self.settled: list[tuple[Delivery, Settlement]] = []
        self.tags = count(1)
        self.unsettled = 0
        self.unsent = False

    def settle(self, deliveries: Sequence[Delivery], how: Settlement) -> None:
        """Record the settlements; a dead link ignores them."""
        if self.alive:
            self.settled.extend((delivery, how) for delivery in deliveries)

    def wake(self) -> None:
        """Nobody sleeps here."""

    def of(self, how: Settlement) -> list[Any]:
        """Return the tags that were settled in this way, in order."""
        return [delivery.tag for delivery, settled in self.settled if settled is how]


class MemoryDelivery(Delivery):
    """A delivery whose properties are given as they are."""

    __slots__ = ("_exchange", "_headers", "_properties", "_routing_key")

    def __init__(
        self,
        body: bytes,
        *,
        headers: Mapping[str, Any] | None = None,
        properties: Mapping[str, Any] | None = None,
        exchange: str = "",
        routing_key: str = "",
        link: Link | None = None,
        tag: Any = None,
        redelivered: bool = False,
    ) -> None:
        link = link if link is not None else MemoryLink()
        if tag is None:
            tag = next(link.tags) if isinstance(link, MemoryLink) else 1
        super().__init__(body, link, tag, redelivered=redelivered)
        self._headers = headers or {}
        self._properties = properties or {}
        self._exchange = exchange
        self._routing_key = routing_key

    @property
    def headers(self) -> Mapping[str, Any]:
        """The headers that were given."""
        return self._headers

    @property
    def properties(self) -> Mapping[str, Any]:
        """The properties that were given."""
        return self._properties

    @property
    def exchange(self) -> str:
        """The exchange that was given."""
        return self._exchange

    @property
    def routing_key(self) -> str:
        """The routing key that was given."""
        return self._routing_key
