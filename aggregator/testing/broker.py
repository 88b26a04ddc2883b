"""A broker with one quorum queue, in memory: prefetch, acks, redelivery, as AMQP means them.

Not thread-safe: its owner holds a lock, or there is one thread. What no broker would put up with is
noted as a fault: an unknown tag, a message settled twice or over another link, an ack that settles
what nobody has concluded.
"""

from __future__ import annotations

from collections import deque
from itertools import count
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from aggregator.delivery import Link, Settlement
from aggregator.testing.message import Message, QueuedDelivery

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from aggregator.delivery import Delivery
    from aggregator.testing.faults import Faults


class OpenLink(Link, Protocol):
    """A link over a :class:`MemoryChannel`, with the part of its owner."""

    channel: MemoryChannel

    def delivered(self, tags: Iterable[Any]) -> None:
        """Enter tags that have just come in."""
        ...

    def perform(self, on_lag: Callable[[float], None]) -> int:
        """Send the settlements that were asked for; return how many deliveries they concern."""
        ...


L = TypeVar("L", bound=OpenLink)


class MemoryChannel:
    """One channel: tags from 1, and what is unacked. ``number``: whose of several it is."""

    def __init__(self, broker: MemoryBroker, prefetch: int, number: int = 0) -> None:
        self.broker = broker
        self.prefetch = prefetch
        self.number = number
        self.unacked: dict[int, tuple[Message, QueuedDelivery]] = {}
        self.asked: dict[int, Settlement] = {}
        self.tags = count(1)
        self.open = True

    def note(self, link: OpenLink, deliveries: Iterable[Delivery], how: Settlement) -> None:
        """Look at what ``link`` is asked to settle: once each, on the living link that brought it."""
        unless = self.broker.faults.unless
        for delivery in deliveries:
            message = delivery.message if isinstance(delivery, QueuedDelivery) else delivery.tag
            unless(delivery.link is link, f"{message}: settled on a link that did not bring it")
            unless(link.alive, f"{message}: settled on a dead link")
            unless(delivery.tag not in self.asked, f"{message}: settled twice")
            self.asked[delivery.tag] = how

    def basic_ack(self, tag: int, multiple: bool = False) -> None:
        """Forget a message, or all up to it. On a closed channel it goes nowhere: the socket is half open."""
        if not self._knows(tag):
            return
        for settled in [t for t in self.unacked if t == tag or (multiple and t <= tag)]:
            message, delivery = self.unacked.pop(settled)
            asked = self.asked.get(settled)
            self.broker.faults.unless(
                asked is Settlement.ACK, f"{message}: acked, though nobody asked for it"
            )
            message.acked += 1
            self.broker.acked.append(message)
            self.broker.on_ack(message, delivery)

    def basic_reject(self, tag: int, requeue: bool) -> None:
        """Put a message back."""
        if not self._knows(tag):
            return
        message, _ = self.unacked.pop(tag)
        asked = self.asked.get(tag)
        self.broker.faults.unless(
            requeue and asked is Settlement.GIVE_BACK, f"{message}: rejected, though nobody asked for it"
        )
        self.broker.rejected.append(message)
        self.broker.take_back([message])

    def _knows(self, tag: int) -> bool:
        if not self.open:
            return False
        return self.broker.faults.unless(tag in self.unacked, f"406: unknown delivery tag {tag}")


class QueueLink:
    """A link that acks one by one, once its owner performs."""

    def __init__(self, channel: MemoryChannel, epoch: int) -> None:
        self.epoch = epoch
        self.alive = True
        self.channel = channel
        self._asked: deque[tuple[Delivery, Settlement]] = deque()

    @property
    def unsettled(self) -> int:
        """How many messages the broker waits for."""
        return len(self.channel.unacked)

    @property
    def unsent(self) -> bool:
        """Whether its owner has something to send."""
        return bool(self._asked)

    def settle(self, deliveries: Sequence[Delivery], how: Settlement) -> None:
        """Note what the owner shall send; a dead link is a fault, and ignores it."""
        self.channel.note(self, deliveries, how)
        if self.alive:
            self._asked.extend((delivery, how) for delivery in deliveries)

    def wake(self) -> None:
        """Nobody sleeps here."""

    def delivered(self, tags: Iterable[Any]) -> None:
        """Nothing to note: each ack names its tag."""

    def perform(self, on_lag: Callable[[float], None]) -> int:  # noqa: ARG002 - there is no lag
        """Send the settlements that were asked for; return how many."""
        settled = 0
        while self._asked:
            delivery, how = self._asked.popleft()
            if how is Settlement.ACK:
                self.channel.basic_ack(delivery.tag)
            else:
                self.channel.basic_reject(delivery.tag, requeue=True)
            settled += 1
        return settled


class MemoryBroker:
    """One queue. ``on_ack`` is told each message that leaves it for good, and by which delivery.

    ``acked`` and ``rejected`` hold those messages in order. What comes back is handed out before
    what was never handed out.
    """

    def __init__(
        self, faults: Faults, on_ack: Callable[[Message, QueuedDelivery], None] = lambda *_: None
    ) -> None:
        self.faults = faults
        self.on_ack = on_ack
        self.published: list[Message] = []
        self.acked: list[Message] = []
        self.rejected: list[Message] = []
        self._returned: deque[Message] = deque()
        self._fresh: deque[Message] = deque()
        self._channels: list[MemoryChannel] = []
        self._epochs = count(1)

    @property
    def unacked(self) -> list[Message]:
        """What is handed out and not settled, in the order of publishing."""
        found = (message for channel in self._channels for message, _ in channel.unacked.values())
        return sorted(found, key=lambda message: message.number)

    @property
    def ready(self) -> list[Message]:
        """What waits to be handed out, in that order."""
        return [*self._returned, *self._fresh]

    def publish(
        self,
        body: bytes,
        *,
        headers: Mapping[str, Any] | None = None,
        properties: Mapping[str, Any] | None = None,
        exchange: str = "",
        routing_key: str = "",
        link: int | None = None,
    ) -> Message:
        """Put a message into the queue; return it. ``link``: the number of the only one to get it first."""
        message = Message(
            len(self.published), body, headers or {}, properties or {}, exchange, routing_key, link
        )
        self.published.append(message)
        self._fresh.append(message)
        return message

    def connect(self, prefetch: int, make_link: Callable[[MemoryChannel, int], L], number: int = 0) -> L:
        """Return a new link: ``make_link(channel, epoch)``."""
        channel = MemoryChannel(self, prefetch, number)
        self._channels.append(channel)
        return make_link(channel, next(self._epochs))

    def deliver(self, link: OpenLink, most: int) -> list[QueuedDelivery]:
        """Hand out what is ready, within the prefetch; the client has read it."""
        channel = link.channel
        found: list[QueuedDelivery] = []
        while channel.open and len(found) < most and len(channel.unacked) < channel.prefetch:
            message = self._next(channel.number)
            if message is None:
                break
            tag = next(channel.tags)
            delivery = message.delivery(link, tag)
            channel.unacked[tag] = (message, delivery)
            link.delivered((tag,))
            found.append(delivery)
        return found

    def hang_up(
        self,
        channel: MemoryChannel,
        order: Callable[[list[Message]], list[Message]] = lambda messages: messages,
    ) -> None:
        """End a channel from this side: all that it has unacked is ready again, in ``order``."""
        channel.open = False
        if channel in self._channels:
            self._channels.remove(channel)
        messages = [message for message, _ in channel.unacked.values()]
        channel.unacked.clear()
        self.take_back(order(messages))

    def take_back(self, messages: Iterable[Message]) -> None:
        """Have messages ready again."""
        self._returned.extend(messages)

    def _next(self, number: int) -> Message | None:
        for queue in (self._returned, self._fresh):
            for message in queue:
                if message.link is None or message.link == number:
                    queue.remove(message)
                    return message
        return None
