"""One connection and channel to the broker, from its opening to its loss.

Anyone may ask for a settlement; only the worker that owns the link carries it out.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from aggregator.delivery import Settlement
from aggregator.ledger import AckWindow

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from aggregator.clock import Clock
    from aggregator.delivery import Delivery


class ChannelLink:
    """A link over a kombu channel; ``epoch`` is unique in the process.

    ``wake`` has to bring the owner back from its wait, from any thread. ``multiple``: whether the
    channel's ack settles all lower tags when asked to.
    """

    def __init__(
        self, channel: Any, epoch: int, *, multiple: bool, wake: Callable[[], None], clock: Clock
    ) -> None:
        self.epoch = epoch
        self.alive = True
        self.wake = wake
        self._channel = channel
        self._clock = clock
        self._window = AckWindow(multiple=multiple)
        self._sending = False
        self._outbox: deque[tuple[Sequence[Delivery], Settlement, float]] = deque()

    @property
    def unsettled(self) -> int:
        """Deliveries that the broker still counts as ours."""
        return len(self._window)

    @property
    def unsent(self) -> bool:
        """Whether settlements were asked for that were not sent yet. Any thread may ask."""
        return self.alive and (self._sending or bool(self._outbox))

    def settle(self, deliveries: Sequence[Delivery], how: Settlement) -> None:
        """Ask the owner to settle. Any thread; never blocks; a dead link ignores it."""
        if self.alive:
            self._outbox.append((deliveries, how, self._clock.monotonic()))
            self.wake()

    # ── the owner's part ──

    def delivered(self, tags: Iterable[Any]) -> None:
        """Enter tags in the order in which they came."""
        self._window.deliver(tags)

    def perform(self, on_lag: Callable[[float], None]) -> int:
        """Send the settlements that were asked for; return how many deliveries they concern.

        ``on_lag`` is told the seconds from the asking to the sending, once for each asking. Errors of the
        channel go to the caller: the link is lost with them, and must not be used again.
        """
        self._sending = True
        try:
            return self._perform(on_lag)
        finally:
            self._sending = False

    def _perform(self, on_lag: Callable[[float], None]) -> int:
        settled = 0
        while self._outbox:
            deliveries, how, asked = self._outbox.popleft()
            tags = [delivery.tag for delivery in deliveries if delivery.link is self]
            if how is Settlement.ACK:
                self._ack(tags)
            else:
                self._give_back(tags)
            settled += len(tags)
            on_lag(self._clock.monotonic() - asked)
        return settled

    def _ack(self, tags: Sequence[Any]) -> None:
        upto, singles = self._window.settle(tags)
        if upto is not None:
            self._channel.basic_ack(upto, multiple=True)
        if singles:
            if (ack_many := getattr(self._channel, "ack_many", None)) is not None:
                ack_many(singles)
                return
            for tag in singles:
                self._channel.basic_ack(tag)

    def _give_back(self, tags: Sequence[Any]) -> None:
        for tag in self._window.give_back(tags):
            self._channel.basic_reject(tag, requeue=True)
