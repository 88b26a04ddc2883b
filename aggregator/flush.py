"""One request to the sink: documents made, written, and each verdict brought to where it belongs.

Runs on flush threads. The route's lock is held for noting the outcome, never during I/O.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from aggregator.errors import SinkBlockedError, SinkError, SinkUnavailableError, let_go
from aggregator.ledger import with_followers
from aggregator.request import FINAL
from aggregator.sinks.base import Fate

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from threading import Condition

    from structlog.typing import FilteringBoundLogger

    from aggregator.clock import Clock
    from aggregator.delivery import Item
    from aggregator.making import Maker
    from aggregator.metrics import RouteMetrics
    from aggregator.outbox import Outbox
    from aggregator.request import Request
    from aggregator.settlement import Settler
    from aggregator.sinks.base import Sink, Verdict

    Verdicts = Sequence[Verdict] | None


class Flush:
    """Sends requests. ``on_change(now)`` is called under the lock when the outbox has changed."""

    def __init__(
        self,
        *,
        lock: Condition,
        outbox: Outbox,
        sink: Sink,
        maker: Maker,
        settler: Settler,
        metrics: RouteMetrics,
        clock: Clock,
        log: FilteringBoundLogger,
        on_change: Callable[[float], None],
    ) -> None:
        self._changed = lock
        self._outbox = outbox
        self._sink = sink
        self._maker = maker
        self._settler = settler
        self._metrics = metrics
        self._clock = clock
        self._log = log
        self._on_change = on_change
        self._retries = 0
        self._told: tuple[type, str] = (object, "")

    def send(self, request: Request) -> tuple[float, str] | None:
        """Send a request; return for how many seconds items of it have been failing, and why."""
        try:
            self._maker.make(request)
        except SinkError as exc:
            return self._resolve(request, None, exc, self._clock.monotonic())
        if not request.items:
            return None
        request.sent = started = self._clock.monotonic()
        verdicts, error = self._write(request)
        now = self._clock.monotonic()
        outcome = "answered" if error is None else type(error).__name__
        self._metrics.request(outcome, len(request.items), now - started)
        return self._resolve(request, verdicts, error, now)

    def _write(self, request: Request) -> tuple[Verdicts, Exception | None]:
        try:
            verdicts = self._sink.write(request.items)
        except Exception as exc:  # noqa: BLE001 - whatever it is, nothing is known of the items
            let_go(exc)
            return None, exc
        if verdicts is not None and len(verdicts) != len(request.items):
            problem = f"{len(verdicts)} verdicts for {len(request.items)} items"
            return None, SinkUnavailableError(problem)
        return verdicts, None

    def _resolve(
        self, request: Request, verdicts: Verdicts, error: Exception | None, now: float
    ) -> tuple[float, str] | None:
        held = self._held(request.items, verdicts or ())
        with self._changed:
            was_shut = self._outbox.gate.shut
            if error is None:
                outcome = self._outbox.resolve(request, verdicts, now, held)
            else:
                outcome = self._outbox.fail(request, error, now)
            gate = self._outbox.gate
            shut = gate.shut
            retried, self._retries = self._outbox.retries - self._retries, self._outbox.retries
            self._on_change(now)
        if retried:
            self._metrics.retries.inc(retried)
        self._settler.conclude(outcome, request, "sink")
        if shut:
            self._tell(problem_of(verdicts, error), error, again=was_shut)
        elif was_shut and not shut:
            self._log.info("sink_answers")
        # while the sink takes others, an item that fails is no failing sink
        return (now - gate.since, problem_of(verdicts, error)) if shut else None

    def _held(self, items: Sequence[Item], verdicts: Sequence[Verdict]) -> Collection[Item]:
        """Have sources keep what the sink wants later: no place among those that are held is lost to it."""
        now = self._clock.time()
        held = set()
        for item, verdict in zip(items, verdicts, strict=False):
            if verdict.after and verdict.fate is Fate.RETRY:
                kept = [each.postpone(now + verdict.after) for each in with_followers(item.deliveries)]
                if all(kept):
                    held.add(item)
        return held

    def _tell(self, problem: str, error: Exception | None, *, again: bool) -> None:
        """Say why the sink takes nothing, once; and once more where it turns out to be something else.

        What was a lost connection at first may be an expired certificate. How a server is away changes
        with each attempt, what refuses everything does not.
        """
        told = (type(error), problem if isinstance(error, SinkBlockedError) else "")
        if not again or told != self._told:
            self._told = told
            self._log.warning("sink_refuses", problem=problem)


def problem_of(verdicts: Verdicts, error: Exception | None) -> str:
    """Say in one line why the sink takes nothing; never with a document in it."""
    if isinstance(error, SinkError):
        return f"{type(error).__name__.removesuffix('Error')}: {error}"
    if error is not None:
        return type(error).__name__  # a stranger's words may hold anything
    reasons = Counter(f"{v.reason} {v.status or ''}".strip() for v in verdicts or () if v.fate not in FINAL)
    return ", ".join(f"{reason} ({number})" for reason, number in reasons.most_common(3))
