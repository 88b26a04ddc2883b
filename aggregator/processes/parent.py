"""The parent: starts the children, starts again who dies, passes on what it is told, ends them all.

It takes no message and knows no broker. A child that ends by exit code 1 or 2 cannot go on, and
neither would the next one: the service ends with that code. Any other end that nobody asked for is
an accident: what the child held goes back to the broker, and another one takes its place.
"""

from __future__ import annotations

import os
from threading import Event, Lock
from typing import TYPE_CHECKING, Any

import structlog

from aggregator.ending import CLEAN, CLOSING_SECONDS, FAILED, MISCONFIGURED
from aggregator.errors import UnrecoverableError
from aggregator.processes.process import Process, cause
from aggregator.signals import AT_ONCE, STOPPING, Signals

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from prometheus_client.metrics_core import Metric

    from aggregator.clock import Clock
    from aggregator.processes.line import Message
    from aggregator.processes.shared import SharedMetrics

log = structlog.get_logger()

TICK_SECONDS = 0.05
#: How long children may take beyond their own time before they are killed.
MARGIN_SECONDS = 3.0
#: How long they have for an answer.
ANSWER_SECONDS = 2.0
#: So many children in a row that die young, before they have taken a message, are no accident.
MOST_IDLE_FAILURES = 5
#: What a child says that somebody else's signal has ended.
_SIGNALLED = {128 + number for number in STOPPING}


class Parent:
    """Owns the thread that runs it. ``grace``: seconds that each child has for writing what it holds."""

    def __init__(
        self,
        processes: Sequence[Process],
        *,
        metrics: SharedMetrics,
        grace: float,
        until_empty: bool,
        clock: Clock,
        signals: Signals | None = None,
    ) -> None:
        self._processes = processes
        self._metrics = metrics
        self._grace = grace
        self._until_empty = until_empty
        self._clock = clock
        self._signals = signals or Signals(impatient=False)
        self._pause = Event()
        self._commanding = Lock()

    def run(self) -> int:
        """Run to the end; return the exit code. Raises ``UnrecoverableError`` if no child gets to work."""
        self._signals.install()
        code: int | None = None
        try:
            while code is None and not self._signals.number:
                self._force()
                code = self._tend()
                if code is None:
                    self._pause.wait(TICK_SECONDS)
            if self._signals.number:
                log.info("stopping", signal=self._signals.name)
            return max(code or CLEAN, self._stop_all())
        except BaseException:
            self._stop_all()
            raise

    # ── what others ask, from threads of their own ──

    def refresh(self) -> dict[int, Message | None]:
        """Have the children write down what they hold; return their answers, None where one is silent."""
        return self._ask("report")

    def views(self) -> dict[int, Message | None]:
        """Return what there is to see of each process; None where one is silent or does not run."""
        answers = self._ask("view")
        return {
            process.number: (answers.get(process.number) or {}).get("view")
            for process in self._processes
            if not process.finished
        }

    def counters(self) -> Iterable[Metric]:
        """Return what is counted in all processes."""
        return self._metrics.counters()

    def command(self, name: str, arguments: Mapping[str, Any]) -> dict[int, Message]:
        """Have each process carry a command out; return the answers of all that run."""
        with self._commanding:  # an answer to a later one is none to this
            answers = self._ask("command", name=name, arguments=dict(arguments))
        told: dict[int, Message] = {}
        for process in self._processes:
            if not process.finished:
                answer = answers.get(process.number)
                silent = {"refused": f"process {process.number} does not answer"}
                told[process.number] = answer["answer"] if answer is not None else silent
        return told

    def _ask(self, do: str, **more: Any) -> dict[int, Message | None]:
        until = self._clock.monotonic() + ANSWER_SECONDS
        asked = {process.number: process.ask(do, **more) for process in self._processes}
        return {number: Process.answer(one, until) for number, one in asked.items() if one is not None}

    def lifeless(self) -> list[str]:
        """Return what is wrong with the processes that run."""
        faults = []
        for number, answer in self.refresh().items():
            said = ["it does not answer"] if answer is None else answer["lifeless"]
            faults += [f"process {number}: {fault}" for fault in said]
        return faults

    def faults(self) -> list[str]:
        """Return why the service is not ready: all of its processes have to be."""
        faults = []
        answers = self.refresh()
        for process in self._processes:
            if process.finished:
                continue
            answer = answers.get(process.number)
            said = ["it does not answer" if process.running else "it does not run"]
            said = said if answer is None else answer["faults"]
            faults += [f"process {process.number}: {fault}" for fault in said]
        return faults

    def notes(self) -> list[str]:
        """Return what is wrong with processes and keeps no route from its work."""
        answers = self.refresh().items()
        return [
            f"process {number}: {note}" for number, answer in answers if answer for note in answer["notes"]
        ]

    # ── while it runs ──

    def _force(self) -> None:
        if self._signals.forced:
            self._signals.forced = False
            log.info("forcing", signal="SIGUSR1")
            for process in self._processes:
                process.tell("force")

    def _tend(self) -> int | None:
        """See after each process; return the exit code once all is to end."""
        for process in self._processes:
            if process.running:
                process.drain()
                code = process.ended()
                if code is not None and (end := self._bury(process, code)) is not None:
                    return end
            elif not process.finished and self._clock.monotonic() >= process.start_at:
                self._start(process)
        self._metrics.running.set(sum(process.running for process in self._processes))
        return CLEAN if all(process.finished for process in self._processes) else None

    def _start(self, process: Process) -> None:
        try:
            process.start()
        except OSError as exc:  # too many processes, or no memory: that may pass
            pause = round(process.postpone(), 1)
            log.warning("process_not_started", number=process.number, problem=str(exc), next_try=pause)

    def _bury(self, process: Process, code: int) -> int | None:
        """Decide what follows the end of a process; return the exit code if all is to end."""
        self._metrics.forget(process.number)
        if code == CLEAN and self._until_empty:
            process.finished = True
            log.info("process_finished", number=process.number)
            return None
        if code in {CLEAN, FAILED, MISCONFIGURED}:
            # 0: its own code has asked for the end
            log.warning("process_ended", number=process.number, code=code, note="all others end with it")
            return code
        why = cause(code)
        pause = process.died(self._metrics.received(process.number))
        log.error("process_died", number=process.number, cause=why, next_try=round(pause, 1))
        if process.idle_failures >= MOST_IDLE_FAILURES:
            raise UnrecoverableError(
                f"process {process.number} died {process.idle_failures} times before it took a message, the"
                f" last time by {why}; with --processes 1 it may show why"
            )
        self._metrics.restarts.labels(why).inc()
        return None

    # ── the end ──

    def _stop_all(self) -> int:
        """Have all children end cleanly, within their time; return the exit code that they make."""
        for process in self._processes:
            process.tell("stop")
        until = self._clock.monotonic() + self._grace + CLOSING_SECONDS + MARGIN_SECONDS
        worst = CLEAN
        while any(process.running for process in self._processes):
            if self._signals.count > 1:
                self._kill_all()
                os.write(2, AT_ONCE)
                return FAILED
            if self._clock.monotonic() >= until:
                log.error("processes_killed", numbers=self._kill_all())
                return FAILED
            for process in self._processes:
                process.drain()
                worst = max(worst, self._end_of(process))
            self._pause.wait(TICK_SECONDS)
        log.info("stopped", processes=len(self._processes))
        return worst

    def _end_of(self, process: Process) -> int:
        code = process.ended()
        if code is None or code in _SIGNALLED:
            return CLEAN
        self._metrics.forget(process.number)
        if code not in {CLEAN, FAILED, MISCONFIGURED}:
            log.error("process_died", number=process.number, cause=cause(code))
            return FAILED
        return code

    def _kill_all(self) -> list[int]:
        numbers = [process.number for process in self._processes if process.running]
        for process in self._processes:
            process.kill()
        return numbers
