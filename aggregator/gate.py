"""Whether requests may leave: shut while the sink fails, with a trial now and then. Pure."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aggregator.backoff import Backoff


class Gate:
    """Whether requests may leave: shut by a failure, for longer with each; then one goes as a trial.

    ``answered``: when the sink took something last; ``since``: when the first failure after that was.
    """

    def __init__(self, backoff: Backoff) -> None:
        self._backoff = backoff
        self._failures = 0
        self._trial = False
        self.opens = -inf
        self.answered = -inf
        self.since = inf

    @property
    def shut(self) -> bool:
        """Whether the last word of the sink was a failure."""
        return self._failures > 0

    def passes(self, now: float) -> bool:
        """Whether a request may leave now."""
        return not self._failures or (not self._trial and now >= self.opens)

    @property
    def wake_at(self) -> float:
        """When the gate lets the next trial through; ``inf`` while one is under way."""
        return inf if self._trial else self.opens

    def leave(self) -> None:
        """Note that a request leaves."""
        self._trial = self.shut

    def failed(self, now: float) -> None:
        """Shut, or stay shut for longer. Requests that left together count as one failure."""
        if not self._failures:
            self.since = now
        if self._trial or not self._failures:
            self._failures += 1
            self.opens = now + self._backoff.pause(self._failures)
        self._trial = False

    def succeeded(self, now: float) -> None:
        """Open: the sink has taken something."""
        self.answered = now
        self._failures = 0
        self._trial = False

    def withdrawn(self) -> None:
        """Note that a request never reached the sink: if it was the trial, another may go."""
        self._trial = False
