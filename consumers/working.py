"""What workers of every source do alike: link after link until told to stop, with pauses that grow."""

from __future__ import annotations

from threading import Event
from typing import TYPE_CHECKING

import structlog

from aggregator.backoff import LONGEST_PAUSE, Backoff

if TYPE_CHECKING:
    from aggregator.clock import Clock
    from aggregator.metrics import RouteMetrics
    from aggregator.pipeline import Pipeline

log = structlog.get_logger()

#: The longest wait in an idle iteration: the state of the route, and what keeps a link alive, are looked at.
TICK_SECONDS = 1.0


class Working:
    """:meth:`run` is the body of a thread; nothing escapes it. ``losses``: errors that mean a lost link.

    Setting :attr:`stopping` ends the taking; the link stays open for acks until :attr:`released` is set
    too. ``beat`` is when it last showed life, in monotonic seconds; ``problem`` why its last link was lost.
    """

    losses: tuple[type[BaseException], ...] = ()

    def __init__(
        self,
        pipeline: Pipeline,
        *,
        name: str,
        prefetch: int,
        metrics: RouteMetrics,
        clock: Clock,
        **said: str,
    ) -> None:
        self.name = name
        self.prefetch = prefetch
        self.stopping = Event()
        self.released = Event()
        self.cancelled = Event()
        self.state = "connecting"
        self.problem = ""
        self.beat = clock.monotonic()
        self._pipeline = pipeline
        self._metrics = metrics
        self._clock = clock
        self._backoff = Backoff(0.1, LONGEST_PAUSE)
        self._failures = 0
        self._log = log.bind(route=pipeline.name, worker=name, **said)

    def run(self) -> None:
        """Work until told to stop, over as many links as it takes."""
        while not self.stopping.is_set():
            self.beat = self._clock.monotonic()
            if not self._pipeline.taking:
                self.state = "waiting"
                self._pipeline.wait_until_consuming(TICK_SECONDS / 4)
                continue
            self.state = "connecting"
            try:
                self._work()
            except self.losses as exc:
                self._note_loss(exc)
            except Exception:  # noqa: BLE001 - a fault of ours; logged, and the thread goes on
                self._log.exception("worker_failed")
                self._note_loss(None)
        self.cancelled.set()
        self.state = "stopped"

    def _work(self) -> None:
        """Open a link, and take and settle over it until it is lost or nothing more is wanted."""
        raise NotImplementedError

    def _note_loss(self, exc: BaseException | None) -> None:
        self._failures += 1
        self.state = "connecting"
        pause = self._backoff.pause(self._failures)
        self._metrics.links_lost.inc()
        self.problem = f"{type(exc).__name__}: {exc}" if exc is not None else "an internal error; see the log"
        self._log.warning("link_lost", problem=self.problem, pause=round(pause, 2))
        self.stopping.wait(pause)
