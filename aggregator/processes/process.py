"""One place among the children: the process that is in it now, and when the next one may be."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog

from aggregator.backoff import Backoff
from aggregator.processes.line import Inquiry, Line
from aggregator.signals import HANDLED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aggregator.clock import Clock
    from aggregator.processes.line import Message

log = structlog.get_logger()

#: Who has lived so long has not failed to start: the next pause is a short one again.
STEADY_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Order:
    """What each child is told first: the command line, and the folder of the metrics.

    ``stderr``: where it logs to, None for the parent's own. ``left_out``: events that it does not log.
    """

    arguments: Sequence[str]
    folder: str
    stderr: int | None = None
    left_out: Sequence[str] = ()


class Process:
    """A child and its successors under one ``number``.

    Belongs to the parent's main thread, but for :meth:`ask` and :meth:`answer`.
    """

    def __init__(self, number: int, order: Order, clock: Clock) -> None:
        self.number = number
        self.finished = False
        """Whether its queues are empty, so that nobody shall follow it."""
        self.failures = 0
        """How many in a row have died young."""
        self.start_at = 0.0
        self.idle_failures = 0
        """How many in a row have died young without having taken a message."""
        self._received = 0.0
        self._order = order
        self._clock = clock
        self._backoff = Backoff(0.2, 10.0)
        self._child: subprocess.Popen[bytes] | None = None
        self._inquiry: Inquiry | None = None
        self._line: Line | None = None
        self._started = 0.0

    @property
    def running(self) -> bool:
        """Whether there is a process, as far as is known."""
        return self._child is not None

    def start(self) -> None:
        """Start a process. Raises ``OSError``."""
        ours, theirs = socket.socketpair()
        # signals wait until the child can take them
        before = signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)
        try:
            with theirs:
                handle = theirs.fileno()
                command = [sys.executable, "-m", "aggregator.processes.child", str(self.number), str(handle)]
                self._child = subprocess.Popen(  # noqa: S603 - it is ourselves
                    command, pass_fds=[handle], stderr=self._order.stderr
                )
        except BaseException:
            ours.close()
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        self._started = self._clock.monotonic()
        self._line = Line(ours)
        self._inquiry = Inquiry(self._line, self._clock)
        # not among the arguments: everybody may read those, and they may hold a password
        self._line.send(
            path=sys.path,
            arguments=list(self._order.arguments),
            folder=self._order.folder,
            left_out=list(self._order.left_out),
        )
        log.info("process_started", number=self.number, pid=self._child.pid)

    def ended(self) -> int | None:
        """Return the exit code of a process that has just ended (below 0: by that signal), else None."""
        if self._child is None or (code := self._child.poll()) is None:
            return None
        self._child = None
        if self._inquiry is not None:
            self._inquiry.close()
        self._line = self._inquiry = None
        return code

    def died(self, received: float) -> float:
        """Note that it has died, with so many deliveries taken so far; return the pause before the next."""
        if self._clock.monotonic() - self._started >= STEADY_SECONDS:
            self.failures = self.idle_failures = 0
        self.idle_failures = self.idle_failures + 1 if received <= self._received else 0
        self._received = received
        return self.postpone()

    def postpone(self) -> float:
        """Note a failure; return the pause before the next attempt, in seconds."""
        self.failures += 1
        self.start_at = self._clock.monotonic() + (pause := self._backoff.pause(self.failures))
        return pause

    def tell(self, do: str) -> None:
        """Have the process do something: ``stop``, ``force``."""
        if self._line is not None:
            self._line.send(wait=False, do=do)

    def drain(self) -> None:
        """Take answers that came too late."""
        if self._inquiry is not None:
            self._inquiry.drain()

    def kill(self) -> None:
        """End the process without its consent, and see it gone."""
        if self._child is not None:
            self._child.kill()
            self._child.wait()

    def ask(self, do: str = "report", **more: Any) -> tuple[Inquiry, int, str] | None:
        """Ask the process how it is, or for something else; None if there is none. Any thread may call."""
        inquiry = self._inquiry
        return None if inquiry is None else (inquiry, inquiry.ask(do, **more), do)

    @staticmethod
    def answer(asked: tuple[Inquiry, int, str], until: float) -> Message | None:
        """Return what it says; None if it says nothing by then (monotonic). Any thread may call."""
        inquiry, number, do = asked
        return inquiry.answer(number, until, do)


def cause(code: int) -> str:
    """Return what has ended a process, for people: ``SIGKILL``, ``exit code 3``."""
    number = -code if code < 0 else code - 128
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"exit code {code}"
