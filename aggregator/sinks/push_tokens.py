"""Bearer tokens of providers: made or fetched now and then, one for all threads that share a key."""

from __future__ import annotations

from threading import Lock
from typing import TYPE_CHECKING

from aggregator.errors import SinkUnavailableError

if TYPE_CHECKING:
    from aggregator.clock import Clock

#: Seconds until a token that could not be renewed in time is tried to be renewed again.
AGAIN = 30.0


class BearerToken:
    """The header line of a token that is renewed when it is old, or once where the gateway refuses it.

    Subclasses make a token. ``youngest``: a refused token is replaced at most once in so many seconds,
    whoever asks: gateways count new tokens, and a second one would be refused as well.
    """

    youngest: float

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = Lock()
        self._line = b""
        self._renew_at = 0.0
        self._replaced = -1.0e9

    def line(self) -> bytes:
        """Return ``authorization: bearer …``. Raises a ``SinkError`` if none can be had."""
        if self._line and self._clock.time() < self._renew_at:
            return self._line
        with self._lock:
            if not self._line:
                self._take()
            elif self._clock.time() >= self._renew_at:
                try:
                    self._take()
                except SinkUnavailableError:
                    self._renew_at += AGAIN  # the old one is good for a while
            return self._line

    def replace(self, refused: bytes) -> bool:
        """Return whether there is another token than the one that was refused, a new one maybe."""
        with self._lock:
            if self._line != refused:
                return True
            now = self._clock.monotonic()
            if now - self._replaced < self.youngest:
                return False
            self._replaced = now
            self._take()
            return self._line != refused

    def _take(self) -> None:
        token, lifetime = self.make(self._clock.time())
        self._line = b"authorization: bearer " + token
        self._renew_at = self._clock.time() + lifetime

    def make(self, now: float) -> tuple[bytes, float]:
        """Return a token and for how many seconds it is to be used. Raises a ``SinkError``."""
        raise NotImplementedError
