"""Stops a route when most of its messages are refused: then the fault is not in the messages."""

from __future__ import annotations

#: On fewer messages than this nothing can be said.
LEAST = 100


class Breaker:
    """Watches the share of refused messages among the latest ones, about ``window`` of them.

    ``window`` of 0 switches it off. Not thread-safe: its owner holds a lock.
    """

    def __init__(self, share: float, window: int) -> None:
        self._share = share
        self._window = window
        self._judged = self._refused = 0

    @property
    def refused_share(self) -> float:
        """The share of refused messages; of too few to say, as if there were enough."""
        return self._refused / max(self._judged, LEAST)

    def pass_(self, messages: int) -> None:
        """Count messages that were taken."""
        self._add(messages, 0)

    def trips(self, refused: int) -> bool:
        """Count refused messages; return whether that is more than can be the messages' fault."""
        self._add(refused, refused)
        return bool(self._window) and self._judged >= LEAST and self._refused > self._share * self._judged

    def _add(self, messages: int, refused: int) -> None:
        while self._judged >= max(self._window, LEAST):
            # old ones fade: no list of verdicts has to be kept
            self._judged //= 2
            self._refused //= 2
        self._judged += messages
        self._refused += refused
