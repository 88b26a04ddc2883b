"""One session at a Tarantool server, from its opening to its loss: the tasks that it has taken.

Anyone may ask for a settlement; only the worker that owns the session carries it out. A task that was
taken in another session is never settled here: it is not this session's any more.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Protocol

import structlog

from aggregator.delivery import Settlement

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from aggregator.clock import Clock
    from aggregator.delivery import Delivery
    from aggregator.ports import Refused
    from consumers.tube_delivery import TubeDelivery

log = structlog.get_logger()

#: Seconds for which a held task is ours from each touch on, and between two touches. A task with a time to
#: run of less than the latter goes to somebody else while it is held.
HOLD_SECONDS = 60.0
TOUCH_EVERY = 10.0
#: Tasks of one call.
_AT_ONCE = 1_000
#: Bytes of the sentence that a buried task is given.
_REASON_CHARS = 300


class Client(Protocol):
    """What of a connection is used here."""

    def call(self, function: str, *arguments: Any, wait: float = 0) -> list[Any]:
        """Call a Lua function; return what it returns."""
        ...


class TubeLink:
    """A link over a session; ``epoch`` is unique in the process.

    ``wake`` has to bring the owner back from its wait, from any thread. ``on_buried`` is told what is
    buried, on the owner's thread.
    """

    def __init__(
        self,
        client: Client,
        epoch: int,
        *,
        wake: Callable[[], None],
        on_buried: Callable[[Sequence[Refused]], None],
        clock: Clock,
    ) -> None:
        self.epoch = epoch
        self.alive = True
        self.wake = wake
        self._client = client
        self._on_buried = on_buried
        self._clock = clock
        self._sending = False
        self._taken: dict[int, TubeDelivery] = {}
        self._asked: deque[tuple[Sequence[Delivery], Settlement, float]] = deque()
        self._burials: deque[tuple[Refused, TubeDelivery]] = deque()
        self._touch_at = clock.monotonic() + TOUCH_EVERY

    @property
    def taken(self) -> list[TubeDelivery]:
        """The tasks that the session has taken and not settled."""
        return list(self._taken.values())

    @property
    def unsettled(self) -> int:
        """How many they are."""
        return len(self._taken)

    @property
    def unsent(self) -> bool:
        """Whether settlements were asked for that were not sent yet. Any thread may ask."""
        return self.alive and (self._sending or bool(self._asked) or bool(self._burials))

    def settle(self, deliveries: Sequence[Delivery], how: Settlement) -> None:
        """Ask the owner to settle. Any thread; never blocks; a dead link ignores it."""
        if self.alive:
            self._asked.append((deliveries, how, self._clock.monotonic()))
            self.wake()

    def bury(self, refused: Refused, delivery: TubeDelivery) -> None:
        """Ask the owner to bury a task, of which ``delivery`` is the copy of this session. Any thread."""
        self._burials.append((refused, delivery))
        self.wake()

    # ── the owner's part ──

    def delivered(self, deliveries: Iterable[TubeDelivery]) -> None:
        """Enter what was taken."""
        for delivery in deliveries:
            self._taken[delivery.tag] = delivery

    def perform(self, on_lag: Callable[[float], None]) -> None:
        """Send what was asked for. Errors go to the caller: the session is lost with them.

        ``on_lag`` is told the seconds from the asking to the sending, once for each asking.
        """
        self._sending = True
        try:
            while self._burials or self._asked:
                self._bury_all()
                self._settle_all(on_lag)
        finally:
            self._sending = False

    def touch(self) -> None:
        """Keep what is held, if it is time to say so."""
        now = self._clock.monotonic()
        if now < self._touch_at:
            return
        self._touch_at = now + TOUCH_EVERY
        for tube, tasks in _by_tube(self._taken.values()).items():
            ids = [task.tag for task in tasks]
            self._note_lost("touch", self._client.call("tubes.touch", tube, ids, HOLD_SECONDS))

    def return_all(self) -> None:
        """Give back all that is taken, without the recipients that are done with; ack what is done."""
        tasks = self.taken
        self._ack([task for task in tasks if task.progress.done and task.rest() is None])
        self._release([task for task in tasks if task.tag in self._taken])

    def _settle_all(self, on_lag: Callable[[float], None]) -> None:
        acked: list[TubeDelivery] = []
        back: list[TubeDelivery] = []
        asked_at = []
        while self._asked:
            deliveries, how, asked = self._asked.popleft()
            asked_at.append(asked)
            chosen = acked if how is Settlement.ACK else back
            chosen += (task for each in deliveries if (task := self._taken.get(each.tag)) is each)
        self._ack(acked)
        self._release([task for task in back if task.tag in self._taken])
        now = self._clock.monotonic()
        for asked in asked_at:
            on_lag(now - asked)

    def _ack(self, deliveries: Sequence[TubeDelivery]) -> None:
        for tube, tasks in _by_tube(deliveries).items():
            for start in range(0, len(tasks), _AT_ONCE):
                some = tasks[start : start + _AT_ONCE]
                answer = self._client.call("tubes.ack", tube, [[task.tag, task.report()] for task in some])
                self._note_lost("ack", answer)
                for task in some:
                    self._taken.pop(task.tag, None)

    def _release(self, deliveries: Sequence[TubeDelivery]) -> None:
        now = self._clock.time()
        by_delay: dict[tuple[str, float], list[TubeDelivery]] = {}
        for task in deliveries:
            self._shorten(task)
            by_delay.setdefault((task.tube, max(0.0, task.until - now)), []).append(task)
        for (tube, delay), tasks in by_delay.items():
            ids = [task.tag for task in tasks]
            self._note_lost("release", self._client.call("tubes.release", tube, ids, delay))
            for task in tasks:
                self._taken.pop(task.tag, None)

    def _shorten(self, task: TubeDelivery) -> None:
        """Leave a task those recipients that are not done with."""
        if task.progress.done and (rest := task.rest()) is not None:
            self._client.call("tubes.ack_part", task.tube, task.tag, rest, task.report())

    def _bury_all(self) -> None:
        buried: list[Refused] = []
        while self._burials:
            refused, task = self._burials.popleft()
            if self._taken.get(task.tag) is not task:
                continue
            self._shorten(task)
            why = f"{refused.reason}: {refused.detail}" if refused.detail else refused.reason
            dead = list(task.progress.dead.values())
            report = {word: dead.count(word) for word in set(dead)} or {refused.reason: task.cost}
            self._client.call("tubes.bury", task.tube, task.tag, why[:_REASON_CHARS], report)
            del self._taken[task.tag]
            buried.append(refused)
        if buried:
            self._on_buried(buried)

    def _note_lost(self, what: str, answer: Sequence[Any]) -> None:
        """Say that the server knows nothing of tasks that were ours: their time to run was over."""
        lost = answer[0] if answer else ()
        if lost:
            log.warning("tasks_not_ours", operation=what, tasks=len(lost))


def _by_tube(deliveries: Iterable[TubeDelivery]) -> dict[str, list[TubeDelivery]]:
    found: dict[str, list[TubeDelivery]] = {}
    for delivery in deliveries:
        found.setdefault(delivery.tube, []).append(delivery)
    return found
