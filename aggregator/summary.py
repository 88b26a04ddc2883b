"""The live summary on a terminal: a few lines below the logs, drawn anew twice a second.

It reads what the metrics hold; messages know nothing of it. Log lines are collected between two drawings and
printed above it, all in one write. At the end it is wiped away.
"""

from __future__ import annotations

import os
import sys
import tty
from contextlib import redirect_stderr, redirect_stdout, suppress
from threading import Event, Lock, Thread
from typing import TYPE_CHECKING, TextIO, cast

import structlog
from rich.console import Console
from rich.live import Live
from rich.text import Text

from aggregator import logs
from aggregator.summary_board import Board
from aggregator.summary_figures import Rates, read

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from contextlib import ExitStack

    from prometheus_client.metrics_core import Metric

    from aggregator.clock import Clock
    from aggregator.settings import Settings
    from aggregator.summary_figures import Detail

log = structlog.get_logger()

#: Seconds between two drawings.
TICK_SECONDS = 0.5
#: Lines of a terminal that are left to logs.
LOG_LINES = 6


def screen_of(settings: Settings, stderr: TextIO, stdout: TextIO) -> TextIO | None:
    """Return the stream that a summary belongs on; None if on none.

    Where logs come to the same terminal they have to be for people. A terminal that knows no cursor, or
    that this process has only in the background, has none.
    """
    if settings.summary == "off" or os.environ.get("TERM", "") in {"dumb", "unknown"}:
        return None
    readable = settings.summary == "on" or settings.log_format in {"auto", "console"}
    if _ours(stderr):
        return stderr if readable else None
    return stdout if _ours(stdout) else None


def _ours(stream: TextIO) -> bool:
    """Return whether a stream is a terminal with this process in its foreground."""
    try:
        # a stream that was closed at the start is None
        return stream is not None and stream.isatty() and os.tcgetpgrp(stream.fileno()) == os.getpgrp()
    except (OSError, ValueError):
        return False


def summary_of(settings: Settings, clock: Clock) -> Summary | None:
    """Return a summary that is not shown yet, or None where there is no place for one."""
    stream = screen_of(settings, sys.stderr, sys.stdout)
    if stream is None:
        return None
    # of batches the summary tells; whoever wants details has all of them
    left_out = () if settings.log_level == "debug" else ("batch",)
    return Summary(stream, list(settings.routes), clock, left_out=left_out if sys.stderr.isatty() else ())


class Lines:
    """A stream that keeps what is written until it is taken. Any thread may write."""

    encoding = "utf-8"

    def __init__(self) -> None:
        self._lock = Lock()
        self._parts: list[str] = []
        self._through: TextIO | None = None

    def write(self, text: str) -> int:
        """Keep a piece."""
        with self._lock:
            if self._through is None:
                self._parts.append(text)
                return len(text)
        with suppress(OSError):  # of a terminal that has gone
            self._through.write(text)
        return len(text)

    def pass_on(self, stream: TextIO) -> None:
        """Keep nothing from now on: nobody takes it any more."""
        kept = self.take(all_of_it=True)
        with self._lock:
            self._through = stream
        if kept:
            self.write(f"{kept}\n")

    def flush(self) -> None:
        """Do nothing: it is printed at the next drawing."""

    def isatty(self) -> bool:
        """Say that it ends at a terminal: colours are welcome."""
        return True

    def take(self, *, all_of_it: bool = False) -> str:
        """Return the whole lines so far, without the last line's end; ``all_of_it``: what has no end too."""
        with self._lock:
            text = "".join(self._parts)
            cut = len(text) if all_of_it else text.rfind("\n") + 1
            self._parts = [text[cut:]] if cut < len(text) else []
        return text[:cut].removesuffix("\n")


class _Console(Console):
    def show_cursor(self, show: bool = True) -> bool:
        """Leave it alone: a process that is killed could not show it again."""
        del show
        return False


class Summary:
    """Draws in a thread of its own, from :meth:`begin` to the end of the stack that it is given.

    Meanwhile all that is logged, and printed by this process to its terminal, goes through it; ``left_out``:
    events that are not logged, where logs would come to the same terminal.
    """

    def __init__(self, stream: TextIO, routes: list[str], clock: Clock, *, left_out: tuple[str, ...]) -> None:
        self.lines = Lines()
        self.left_out = left_out
        self._routes = routes
        self._clock = clock
        self._collect: Callable[[], Iterable[Metric]] = tuple
        self._details: Callable[[], Mapping[str, Detail]] = dict
        self._began = clock.monotonic()
        self._rates = Rates()
        self._stream = stream
        self._front = True
        self._console = _Console(file=stream, highlight=False)
        self._live = Live(
            console=self._console, auto_refresh=False, transient=True,
            redirect_stdout=False, redirect_stderr=False,
        )  # fmt: skip
        self._end = Event()
        self._thread = Thread(target=self._run, name="summary", daemon=True)

    def begin(
        self,
        stack: ExitStack,
        collect: Callable[[], Iterable[Metric]],
        details: Callable[[], Mapping[str, Detail]],
    ) -> None:
        """Show it until ``stack`` ends.

        ``collect`` returns the metrics, ``details`` what they do not hold, by route.
        """
        self._collect, self._details = collect, details
        through = cast("TextIO", self.lines)
        self._live.start()
        stack.callback(self._close)
        if sys.stderr.isatty():
            stack.enter_context(logs.diverted(through, *self.left_out))
            stack.enter_context(redirect_stderr(through))
        if sys.stdout.isatty():
            stack.enter_context(redirect_stdout(through))
        self._thread.start()

    def terminal(self, stack: ExitStack) -> int | None:
        """Return a file for processes to log to as to a terminal; None where they may use the parent's own.

        What they write is shown above the summary. It is closed with ``stack``.
        """
        if not sys.stderr.isatty():
            return None
        ours, theirs = os.openpty()
        tty.setraw(theirs)
        Thread(target=self._follow, args=(ours,), name="terminal", daemon=True).start()
        stack.callback(os.close, theirs)
        return theirs

    def _follow(self, handle: int) -> None:
        with os.fdopen(handle, encoding="utf-8", errors="replace", newline="") as stream, suppress(OSError):
            for line in stream:  # until the last of them has closed it
                self.lines.write(line)

    def _close(self) -> None:
        """Wipe it away, and print what was written last."""
        self._end.set()
        self._thread.join()
        with suppress(OSError):  # the terminal may have gone
            self._live.stop()
            self._print(self.lines.take(all_of_it=True))

    def _run(self) -> None:
        try:
            while not self._end.wait(TICK_SECONDS):
                self._draw()
        except OSError:  # the terminal has gone; the service goes on
            self.lines.pass_on(self._stream)
        except Exception:
            self.lines.pass_on(self._stream)
            log.exception("summary_failed")

    def _draw(self) -> None:
        front = _ours(self._stream)
        if front != self._front:  # put into the background, or taken back
            self._front = front
            (self._live.start if front else self._live.stop)()
        if not front:
            self._print(self.lines.take())
            return
        now = self._clock.monotonic()
        figures = read(self._collect())
        self._rates.add(now, figures)
        size = self._console.size
        board = Board(self._routes, figures, self._details(), self._rates, now - self._began)
        with self._console:  # the log's lines and the drawing go out in one write
            self._live.update(board.drawn(size.width, size.height - LOG_LINES))
            self._print(self.lines.take())
            self._live.refresh()

    def _print(self, text: str) -> None:
        if text:
            # of a line rich keeps what stands behind its last carriage return
            text = text.replace("\r\n", "\n").replace("\r", "\n")
            self._console.print(Text.from_ansi(text), soft_wrap=True)
