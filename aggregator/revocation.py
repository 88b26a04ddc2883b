"""Messages that shall not be written any more, by id or by key; each is remembered for a time. A screen."""

from __future__ import annotations

from math import inf
from threading import Lock
from typing import TYPE_CHECKING

from aggregator.sinks.base import Fate, Verdict

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aggregator.clock import Clock
    from aggregator.delivery import Delivery
    from aggregator.screening import Judged

REVOKED = Verdict(Fate.REVOKED, "revoked")
#: Ids and keys that one route remembers. To forget the oldest would be to write what nobody may write.
MOST = 20_000


class Revocations:
    """What is revoked on a route: ids and keys, each until a moment. Any thread may call.

    ``most``: how many of both at once.
    """

    at_receipt = True

    def __init__(self, clock: Clock, most: int = MOST) -> None:
        self._clock = clock
        self._most = most
        self._lock = Lock()
        self._ids: dict[str, float] = {}
        self._keys: dict[str, float] = {}
        self._last = -inf  # until when there is any

    def __len__(self) -> int:
        """How many ids and keys are revoked at the moment."""
        ids, keys = self.left()
        return len(ids) + len(keys)

    @property
    def active(self) -> bool:
        """Whether anything is revoked at the moment."""
        return self._last > -inf and self._clock.monotonic() < self._last

    def revoke(self, ids: Mapping[str, float], keys: Mapping[str, float]) -> int:
        """Revoke ids and keys, each for so many seconds from now; return how many there was no room for.

        All or none: where one does not fit, nothing is revoked. One that is revoked already stays so for
        the longer time.
        """
        with self._lock:
            now = self._clock.monotonic()
            self._forget(now)
            new = sum(name not in self._ids for name in ids) + sum(name not in self._keys for name in keys)
            excess = len(self._ids) + len(self._keys) + new - self._most
            if excess > 0:
                return excess
            # put in their place as a whole: threads look at them without the lock
            self._ids, self._keys = _later(self._ids, ids, now), _later(self._keys, keys, now)
            self._last = max((*self._ids.values(), *self._keys.values()), default=-inf)
        return 0

    def restore(self, ids: Sequence[str], keys: Sequence[str]) -> int:
        """Revoke these no longer; return how many of them were revoked."""
        with self._lock:
            self._forget(self._clock.monotonic())
            before = len(self._ids) + len(self._keys)
            self._ids = {name: until for name, until in self._ids.items() if name not in set(ids)}
            self._keys = {name: until for name, until in self._keys.items() if name not in set(keys)}
            self._last = max((*self._ids.values(), *self._keys.values()), default=-inf)
            return before - len(self._ids) - len(self._keys)

    def left(self) -> tuple[dict[str, float], dict[str, float]]:
        """Return ids and keys, each with the seconds that it is revoked for still."""
        now = self._clock.monotonic()
        ids, keys = (
            {name: until - now for name, until in each.items() if until > now}
            for each in (self._ids, self._keys)
        )
        return ids, keys

    def judge(self, key: str | None, deliveries: Sequence[Delivery]) -> Sequence[Judged]:
        """Return those that are revoked: all of a revoked key, of any other those whose id is."""
        now, ids = self._clock.monotonic(), self._ids
        if key is not None and self._keys.get(key, -inf) > now:
            return [(delivery, REVOKED) for delivery in deliveries]
        return [(delivery, REVOKED) for delivery in deliveries if ids.get(delivery.id, -inf) > now]

    def _forget(self, now: float) -> None:
        self._ids = {name: until for name, until in self._ids.items() if until > now}
        self._keys = {name: until for name, until in self._keys.items() if until > now}


def _later(known: Mapping[str, float], new: Mapping[str, float], now: float) -> dict[str, float]:
    return {**known, **{name: max(now + seconds, known.get(name, -inf)) for name, seconds in new.items()}}
