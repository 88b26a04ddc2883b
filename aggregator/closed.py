"""Keys whose groups are complete, remembered for a while: what comes for one of them is late. Pure."""

from __future__ import annotations

from collections import OrderedDict
from math import inf


class ClosedKeys:
    """Remembers at most ``most`` keys, each for ``seconds`` at most; the oldest is forgotten first.

    ``most`` of 0 remembers nothing. Times are monotonic seconds.
    """

    def __init__(self, most: int = 0, seconds: float = inf) -> None:
        self._most = most
        self._seconds = seconds
        # not a dict: its first key is found by passing all that were deleted before it
        self._closed: OrderedDict[str, float] = OrderedDict()

    def __len__(self) -> int:
        """How many keys are remembered."""
        return len(self._closed)

    def close(self, key: str, now: float) -> None:
        """Remember a key from now on."""
        if not self._most:
            return
        self._closed[key] = now
        self._closed.move_to_end(key)
        if len(self._closed) > self._most:
            self._closed.popitem(last=False)
        self._forget(now)

    def holds(self, key: str | None, now: float) -> bool:
        """Whether the key was closed, and not too long ago."""
        if key is None or not self._closed:
            return False
        self._forget(now)
        return key in self._closed

    def _forget(self, now: float) -> None:
        while self._closed and now - self._closed[next(iter(self._closed))] >= self._seconds:
            self._closed.popitem(last=False)
