"""Pauses that grow, with jitter, so that many who failed together do not come back together."""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random
from typing import Self

#: Between tries to connect: so long at most a broker that is back waits for us.
LONGEST_PAUSE = 4.0
_RANDOM = Random()  # noqa: S311  (jitter, no secret)


@dataclass(frozen=True, slots=True)
class Backoff:
    """The n-th pause is drawn from the upper half of ``first``, doubled n times, at most ``longest``."""

    first: float = 0.1
    longest: float = 30.0
    random: Random = _RANDOM

    def pause(self, failures: int) -> float:
        """Return the seconds to wait after this many failures in a row (1 for the first)."""
        ceiling = min(self.longest, self.first * 2.0 ** min(failures - 1, 32))
        return ceiling * self.random.uniform(0.5, 1.0)

    def starting_at(self, first: float) -> Self:
        """Return the same with another first pause."""
        return replace(self, first=first)
