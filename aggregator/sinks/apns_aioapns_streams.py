"""What the engine on aioapns knows of streams: how many may be open, and how each of them ended."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any

from aggregator.sinks.push_batch import Reply

if TYPE_CHECKING:
    from collections.abc import Iterable


class UntouchedError(Exception):
    """The gateway surely did nothing with a push."""


class LostError(Exception):
    """Nobody knows what became of a push."""

    def __init__(self, reason: str, problem: str) -> None:
        super().__init__(problem)
        self.reason = reason
        self.problem = problem


class Slots:
    """How many streams may be open: a limit that may fall below what is in use. In one loop alone."""

    def __init__(self, limit: int) -> None:
        self.used = 0
        self._limit = limit
        self._closed = False
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def full(self) -> bool:
        """Whether the next one has to wait."""
        return self.used >= self._limit

    async def acquire(self) -> None:
        """Take a slot. Raises ``UntouchedError`` once there are none any more."""
        while self.full and not self._closed:
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            await turn
        if self._closed:
            raise UntouchedError
        self.used += 1

    def release(self) -> None:
        """Give a slot back."""
        self.used -= 1
        self._wake()

    def limit(self, limit: int) -> None:
        """Take a new limit."""
        self._limit = limit
        self._wake()

    def close(self) -> None:
        """Give no more slots."""
        self._closed = True
        self._wake()

    def _wake(self) -> None:
        free = len(self._waiting) if self._closed else self._limit - self.used
        while self._waiting and free > 0:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                free -= 1


class Exchange:
    """One stream: its reply as it comes in, and its end."""

    __slots__ = ("body", "ended", "retry_after", "status")

    def __init__(self) -> None:
        self.status = 0
        self.retry_after = 0.0
        self.body = b""
        self.ended: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()

    def head(self, headers: Iterable[tuple[Any, Any]]) -> None:
        """Take the reply's headers."""
        for name, value in headers:
            if name == b":status":
                self.status = int(value)
            elif name == b"retry-after" and value.isdigit():
                self.retry_after = float(value)

    def end(self) -> None:
        """Note the end of the reply."""
        if not self.ended.done():
            self.ended.set_result(Reply(self.status, bytes(self.body), self.retry_after))

    def fail(self, error: Exception) -> None:
        """Note that there is no reply."""
        if not self.ended.done():
            self.ended.set_exception(error)
