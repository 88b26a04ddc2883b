"""The line between parent and child: a pair of sockets, JSON objects, one a line.

It is also how either knows that the other has gone: the system closes the ends of whoever dies.
"""

from __future__ import annotations

import json
import select
import socket
from contextlib import suppress
from itertools import count
from threading import Lock
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aggregator.clock import Clock

_CHUNK = 65_536

Message = dict[str, Any]


class Line:
    """One end. One thread at a time may receive; any may send."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._sending = Lock()
        self._read = bytearray()

    def send(self, *, wait: bool = True, **message: Any) -> bool:
        """Send a message; return whether it went out. ``wait``: for the other to read what came before."""
        # the standard encoder: arguments of a process need not be valid Unicode
        data = json.dumps(message).encode() + b"\n"
        flags = 0 if wait else socket.MSG_DONTWAIT
        with self._sending:
            try:
                self._end.sendall(data, flags)
            except OSError:
                return False
        return True

    def receive(self, timeout: float | None = None) -> Message | None:
        """Return the next message, None after ``timeout`` seconds. Raises ``EOFError``: nobody is there."""
        while b"\n" not in self._read:
            if timeout is not None and not self._readable(timeout):
                return None
            try:
                data = self._end.recv(_CHUNK)
            except OSError:
                data = b""
            if not data:
                raise EOFError
            self._read += data
        line, _, self._read = self._read.partition(b"\n")
        message: Message = json.loads(line)
        return message

    def close(self) -> None:
        """Hang up."""
        with suppress(OSError):
            self._end.close()

    def _readable(self, timeout: float) -> bool:
        poll = select.poll()
        poll.register(self._end, select.POLLIN)
        return bool(poll.poll(max(0.0, timeout) * 1000))


class Inquiry:
    """The parent's questions over a line; any thread may ask.

    Of one kind (``do``), a later answer serves an earlier question too.
    """

    def __init__(self, line: Line, clock: Clock) -> None:
        self._line = line
        self._clock = clock
        self._serial = count(1)
        self._receiving = Lock()
        self._latest: dict[str, Message] = {}

    def ask(self, do: str = "report", **more: Any) -> int:
        """Ask how the child is, or for something else; return the question's number."""
        number = next(self._serial)
        self._line.send(wait=False, do=do, number=number, **more)
        return number

    def answer(self, number: int, until: float, do: str = "report") -> Message | None:
        """Return the answer; None if there is none by then (monotonic), or nobody is there."""
        with self._receiving:
            while (latest := self._latest.get(do)) is None or latest["number"] < number:
                try:
                    message = self._line.receive(until - self._clock.monotonic())
                except (EOFError, ValueError):  # ValueError: closed meanwhile
                    return None
                if message is None:
                    return None
                self._note(message)
            return latest

    def drain(self) -> None:
        """Take what nobody waits for any more: the child would be held up by it, and hear nothing."""
        if not self._receiving.acquire(blocking=False):
            return
        try:
            while (message := self._line.receive(0)) is not None:
                self._note(message)
        except (EOFError, ValueError):
            pass
        finally:
            self._receiving.release()

    def _note(self, message: Message) -> None:
        self._latest[message.get("do", "report")] = message

    def close(self) -> None:
        """Hang up, once nobody waits for an answer any more: the child has gone, so that is at once."""
        with self._receiving:
            self._line.close()
