"""``python -m aggregator.processes.child NUMBER HANDLE``: one child, told what to do over its line.

It ends when it is told to, when its queues are empty, when it cannot go on, and when its parent has
gone. Ctrl-C in a terminal and service managers send a signal to the whole group: it is the same stop
as the parent's word, whichever comes first. To end all at once, upon a second one, is the parent's part.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from threading import Event, Thread
from typing import TYPE_CHECKING, Any, Protocol

from aggregator import logs
from aggregator.ending import CLEAN, CLOSING_SECONDS, FAILED
from aggregator.processes.line import Line
from aggregator.processes.shared import remove, share
from aggregator.signals import HANDLED, Signals

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

log = logs.get_logger()

#: An exit code above this: ended by that signal.
SIGNALLED = 128
#: How long after its time a child without a parent is ended by force: nobody else is left to do it.
ORPHAN_SECONDS = 5.0


class Work(Protocol):
    """What a child asks of the service that it runs."""

    def stop(self) -> None:
        """End cleanly; any thread may call."""

    def force(self) -> int:
        """Complete all groups now; return how many."""

    def lifeless(self) -> list[str]:
        """Return what is wrong with the process."""

    def faults(self) -> list[str]:
        """Return why it is not ready."""

    def notes(self) -> list[str]:
        """Return what is wrong and keeps no route from its work."""

    def refresh(self) -> None:
        """Write down what is held."""

    def view(self) -> dict[str, Any]:
        """Return what there is to see of the process."""

    def answer(self, name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Carry a command out; return what became of it."""


class Child:
    """This process as one of several. ``number``: which, from 1; ``signals``: all since its start."""

    def __init__(self, number: int, line: Line, signals: Signals, left_out: Sequence[str] = ()) -> None:
        self.number = number
        self.left_out = left_out
        """Events that it does not log: the parent shows them."""
        self.signals = signals
        self.told = False
        """Whether the parent has asked for the end, or has gone."""
        self.orphaned = False
        """Whether the parent has gone while there was work."""
        self._line = line
        self._ended = Event()

    def attend(self, work: Work, *, grace: float) -> None:
        """Do from now on, in a thread, what the parent says; ``grace`` in seconds."""
        Thread(target=self._attend, args=(work, grace), name="parent", daemon=True).start()

    def end(self) -> None:
        """Note that the work is done: the rest takes no time."""
        self._ended.set()

    def exit_code(self, code: int) -> int:
        """Return the exit code that tells the parent why: a signal of somebody else is no clean end."""
        foreign = self.signals.number and not self.told
        return SIGNALLED + self.signals.number if foreign and code == CLEAN else code

    def _attend(self, work: Work, grace: float) -> None:
        try:
            while message := self._line.receive():
                try:
                    self._do(message, work)
                except EOFError:
                    raise
                except Exception:  # it has to hear the next one, which may be to stop
                    log.exception("message_failed", do=message["do"])
        except EOFError:
            pass
        if self._ended.is_set():
            return
        self.told = self.orphaned = True
        log.warning("parent_gone", note="what is held is written, then this process ends")
        work.stop()
        if not self._ended.wait(grace + CLOSING_SECONDS + ORPHAN_SECONDS):
            os._exit(FAILED)

    def _do(self, message: dict[str, Any], work: Work) -> None:
        if message["do"] == "stop":
            self.told = True
            work.stop()
        elif message["do"] == "force":
            log.info("forced", groups=work.force())
        elif message["do"] == "report":
            self._line.send(number=message["number"], **_report(work))
        elif message["do"] == "view":
            self._line.send(do="view", number=message["number"], view=_view(work))
        elif message["do"] == "command":
            answer = work.answer(message["name"], message["arguments"])
            self._line.send(do="command", number=message["number"], answer=answer)


def _report(work: Work) -> dict[str, Any]:
    try:
        work.refresh()
        return {"lifeless": work.lifeless(), "faults": work.faults(), "notes": work.notes()}
    except Exception as exc:
        # whatever it is, the parent must still be heard
        log.exception("report_failed")
        return {"lifeless": [f"it cannot say how it is: {type(exc).__name__}"], "faults": [], "notes": []}


def _view(work: Work) -> dict[str, Any] | None:
    try:
        return work.view()
    except Exception:
        # whatever it is, the parent must still be heard
        log.exception("view_failed")
        return None


def main(arguments: Sequence[str]) -> int:
    """Run as the child that the arguments say; return the exit code."""
    number, handle = map(int, arguments)
    # the parent has had them wait, so that none ends the interpreter's start with a traceback
    signals = Signals(impatient=False)
    signals.install()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED)
    end = socket.socket(fileno=handle)
    end.set_inheritable(False)  # or a child of this process would keep the line up
    line = Line(end)
    try:
        order = line.receive() or {}
    except EOFError:
        return FAILED
    child = Child(number, line, signals, order.get("left_out", ()))
    sys.path[:] = order["path"]
    share(order["folder"], number)
    from aggregator import consume  # noqa: PLC0415 - its metrics stand where share() has said

    try:
        return child.exit_code(consume.main(order["arguments"], child))
    finally:
        child.end()
        if child.orphaned:
            remove(order["folder"], number)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
