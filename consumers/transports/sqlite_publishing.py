"""Many messages in one commit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from types import TracebackType

    from consumers.transports.sqlite_channel import Channel
    from consumers.transports.sqlite_message import Prepared


class PublishBatch:
    """Collects up to ``max_size`` messages and stores them together; all of them or none.

    What kombu's ``Producer.batch()`` asks of a transport; usable as a context manager too, whose
    regular end stores the rest and whose exception drops it.
    """

    def __init__(self, channel: Channel, max_size: int) -> None:
        self.channel = channel
        self.max_size = max_size
        self._waiting: list[tuple[Prepared, str, str, bool]] = []

    def publish(
        self,
        message: Prepared,
        exchange: str = "",
        routing_key: str = "",
        mandatory: bool = False,
        **_options: object,
    ) -> None:
        """Add a message; it is stored by the next :meth:`flush`, or with the ``max_size``-th."""
        self._waiting.append((message, exchange or "", routing_key or "", mandatory))
        if len(self._waiting) >= self.max_size:
            self.flush()

    def flush(self) -> None:
        """Store what waits; it is on the disk when this returns.

        Raises ``UnroutableError`` for the first mandatory message without a queue; the others are stored.
        """
        waiting, self._waiting = self._waiting, []
        if waiting:
            self.channel.store(waiting)

    def discard(self) -> None:
        """Drop what waits."""
        self._waiting.clear()

    def close(self) -> None:
        """End the batch; what waits is dropped."""
        self.discard()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.flush()
        self.close()
