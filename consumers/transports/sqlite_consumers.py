"""What a channel has handed out and not settled: tags, consumers, prefetch. No file, no kombu."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    from consumers.transports.sqlite_store import Leased


class Consumer:
    """One ``basic.consume``: ``queue`` is the queue's number, ``fetched`` waits for its callback."""

    __slots__ = ("callback", "fetched", "name", "no_ack", "queue", "tag", "unacked")

    def __init__(
        self, tag: str, name: str, queue: int, callback: Callable[[Any], Any], *, no_ack: bool
    ) -> None:
        self.tag = tag
        self.name = name
        self.queue = queue
        self.callback = callback
        self.no_ack = no_ack
        self.unacked = 0
        self.fetched: deque[Leased] = deque()


class Delivered(NamedTuple):
    """An unacked message: its number in the file, and its consumer, ``None`` for ``basic.get``."""

    id: int
    consumer: Consumer | None


class Unacked:
    """The unacked messages of one channel by delivery tag: 1, 2, 3, … in order of delivery."""

    def __init__(self) -> None:
        self._by_tag: dict[int, Delivered] = {}
        self._last = 0

    def __len__(self) -> int:
        return len(self._by_tag)

    def add(self, number: int, consumer: Consumer | None) -> int:
        """Note that a message was handed out; return its tag."""
        self._last += 1
        self._by_tag[self._last] = Delivered(number, consumer)
        if consumer is not None:
            consumer.unacked += 1
        return self._last

    def next_tag(self) -> int:
        """Return a tag for a message that nobody has to ack."""
        self._last += 1
        return self._last

    def take(self, tag: int, *, multiple: bool = False) -> list[int]:
        """Settle a tag, with ``multiple`` all up to it (0: all); return the messages' numbers in order.

        Nothing is returned where there is nothing to settle.
        """
        if multiple:
            # tags were added in ascending order, and a dict keeps that
            tags = []
            for each in self._by_tag:
                if tag and each > tag:
                    break
                tags.append(each)
        else:
            tags = [tag] if tag in self._by_tag else []
        taken = []
        for each in tags:
            delivered = self._by_tag.pop(each)
            if delivered.consumer is not None:
                delivered.consumer.unacked -= 1
            taken.append(delivered.id)
        return taken
