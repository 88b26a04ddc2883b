"""One connection and channel to the broker, from its opening to its loss.

Anyone may ask for a settlement; only the worker that owns the link carries it out.
"""

from __future__ import annotations

from collections import deque
from math import inf
from typing import TYPE_CHECKING, Any

from aggregator.delivery import Settlement
from aggregator.ledger import AckWindow

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from aggregator.clock import Clock
    from aggregator.delivery import Delivery

#: How long settled messages wait for older ones to be settled too, so that one ack is enough for all. Of
#: two requests under way the later is often answered first, by some milliseconds.
HOLD_SECONDS = 0.02


class ChannelLink:
    """A link over a kombu channel, for one ``queue``; ``epoch`` is unique in the process.

    ``wake`` has to bring the owner back from its wait, from any thread. ``multiple``: whether the
    channel's ack settles all lower tags when asked to.
    """

    def __init__(
        self,
        channel: Any,
        epoch: int,
        *,
        multiple: bool,
        wake: Callable[[], None],
        clock: Clock,
        queue: str = "",
    ) -> None:
        self.epoch = epoch
        self.queue = queue
        self.alive = True
        self.wake = wake
        self._channel = channel
        self._clock = clock
        self._window = AckWindow(multiple=multiple)
        self._sending = False
        self._asked: list[float] = []
        self._outbox: deque[tuple[Sequence[Delivery], Settlement, float]] = deque()

    @property
    def unsettled(self) -> int:
        """Deliveries that the broker still counts as ours."""
        return len(self._window)

    @property
    def unsent(self) -> bool:
        """Whether settlements were asked for that were not sent yet. Any thread may ask."""
        return self.alive and (self._sending or bool(self._outbox) or bool(self._window.waiting))

    @property
    def held_until(self) -> float:
        """When :meth:`perform` sends what waits for older messages (monotonic seconds), ``inf`` for never."""
        return self._asked[0] + HOLD_SECONDS if self._window.waiting else inf

    def settle(self, deliveries: Sequence[Delivery], how: Settlement) -> None:
        """Ask the owner to settle. Any thread; never blocks; a dead link ignores it."""
        if self.alive:
            self._outbox.append((deliveries, how, self._clock.monotonic()))
            self.wake()

    # ── the owner's part ──

    def delivered(self, tags: Iterable[Any]) -> None:
        """Enter tags in the order in which they came."""
        self._window.deliver(tags)

    def perform(self, on_lag: Callable[[float], None], *, flush: bool = False) -> int:
        """Send the settlements that were asked for; return how many deliveries they concern.

        Those of messages above unsettled ones may wait until :attr:`held_until`, unless ``flush``.
        ``on_lag`` is told the seconds from the asking to the sending, once for each asking. Errors of the
        channel go to the caller: the link is lost with them, and must not be used again.
        """
        self._sending = True
        try:
            return self._perform(on_lag, flush=flush)
        finally:
            self._sending = False

    def _perform(self, on_lag: Callable[[float], None], *, flush: bool) -> int:
        now = self._clock.monotonic()
        settled, acked, done = 0, [], []
        while self._outbox:
            deliveries, how, asked = self._outbox.popleft()
            tags = [delivery.tag for delivery in deliveries if delivery.link is self]
            settled += len(tags)
            if how is Settlement.ACK:
                acked += tags
                self._asked.append(asked)
            else:
                self._ack(acked, hold=True)  # the first word on a tag holds
                acked = []
                self._give_back(tags)
                done.append(asked)
        if self._asked:
            self._ack(acked, hold=not flush and now < self._asked[0] + HOLD_SECONDS)
            if not self._window.waiting:
                done += self._asked
                self._asked.clear()
        for asked in done:
            on_lag(now - asked)
        return settled

    def _ack(self, tags: Sequence[Any], *, hold: bool) -> None:
        upto, singles = self._window.settle(tags, hold=hold)
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
