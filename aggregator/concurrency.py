"""How many requests a route has under way at the sink at once: fixed, or found out. Pure.

Found out by trial: some requests more for a while, or some fewer. What decides is how many items a
second the sink takes: nothing has to be known of its speed, and a change of it misleads for one
trial at most. With ``n`` requests under way, each of which takes ``cost`` seconds an item, the sink
takes ``n / cost`` items a second (Little's law), also where requests differ in size. How this
compares with other schemes: docs/concurrency.md.
"""

from __future__ import annotations

from math import inf, isfinite

#: Of what ``n`` more requests would bring if they cost the sink nothing, this share has to come.
WORTH = 0.2
#: Fewer do as well if less than this share of what the others might have brought is missing.
LOSS = 0.1
#: A trial changes the limit by one part in so many; at first, until one does not pay, it doubles it.
STEP = 4
#: An answer is judged with others: with as many as the limit, and these at least.
SAMPLES = 8
#: An item so many times dearer than a while ago: the sink is slower, or takes less at once.
SLOWER = 3.0
#: What a throttled answer, or a slower sink, leaves of the limit.
FALL = 0.75
#: After a trial that did not pay the limit rests: for one window, then two, four, up to these.
LONGEST_REST = 16
#: The weight of the last window in the cost that is remembered.
WEIGHT = 0.3


class Concurrency:
    """At most ``limit`` requests under way; with ``adaptive`` it moves between 1 and ``most``.

    The owner tells of each request once that it leaves, and once that it has ended, under its lock.
    """

    def __init__(self, most: float = inf, *, adaptive: bool = False) -> None:
        self.under_way = 0
        self._most = most
        self._adaptive = adaptive and isfinite(most) and most > 1
        self.limit: float = min(2, most) if self._adaptive else most
        self._starting = True
        self._upwards = True
        self._rest = 0
        self._calm = 1
        self._cost: float | None = None
        self._before: tuple[float, float] | None = None
        self._since = -inf
        self._restart(-inf)

    @property
    def full(self) -> bool:
        """Whether the next request has to wait until one has ended."""
        return self.under_way >= self.limit

    def leave(self) -> None:
        """Note that a request leaves."""
        self.under_way += 1

    def ended(self) -> None:
        """Note that a request has ended that never reached the sink."""
        self.under_way -= 1

    def answered(self, left: float, now: float, items: int, *, throttled: bool | None = False) -> None:
        """Note an answer to ``items`` that left at ``left``; times in monotonic seconds.

        ``throttled``: it was too much, or nobody answered; None: it says nothing of the sink's speed.
        """
        in_use = self.full
        self.under_way -= 1
        # what left before the last change tells of another limit; a wave that is throttled counts once
        if not self._adaptive or throttled is None or not self._since <= left <= now:
            return
        if throttled:
            self._calm = min(LONGEST_REST, 2 * self._calm)
            self._fall(now)
            return
        self._seconds += now - left
        self._items += items
        self._answers += 1
        self._in_use += in_use
        if self._answers >= max(SAMPLES, self.limit):
            # where fewer are under way than might be, nothing is learnt of more
            cost = self._seconds / self._items if 2 * self._in_use >= self._answers else 0.0
            self._restart(self._since)
            self._judge(cost, now)

    def _judge(self, cost: float, now: float) -> None:
        """Take what an item has cost at this limit; 0 where the limit was not in use."""
        if self._before is not None:
            self._end_trial(*self._before, cost, now)
        elif not cost:
            return
        elif self._cost is not None and cost > SLOWER * self._cost:
            self._fall(now)
        else:
            self._cost = cost if self._cost is None else self._cost + (cost - self._cost) * WEIGHT
            if self._rest:
                self._rest -= 1
            else:
                self._try(self._cost, now)

    def _try(self, cost: float, now: float) -> None:
        step = self.limit if self._starting else max(1, self.limit // STEP)
        up = self.limit < self._most and (self._upwards or self.limit == 1)
        self._before = (self.limit, cost)
        self._set(self.limit + step if up else self.limit - step, now)

    def _end_trial(self, limit: float, before: float, cost: float, now: float) -> None:
        """Stay, or go back to ``limit``, at which an item has cost ``before``."""
        self._before = None
        up = self.limit > limit
        gain = (self.limit * before) / (limit * cost) - 1 if cost else 0.0
        pays = gain / (self.limit / limit - 1) >= (WORTH if up else LOSS)
        if cost and pays == up:
            self._cost = cost
            self._calm = 1
            self._upwards = up
            return
        self._starting = False
        self._upwards = not up
        self._rest, self._calm = self._calm, min(LONGEST_REST, 2 * self._calm)
        self._set(limit, now)

    def _fall(self, now: float) -> None:
        self._starting = False
        self._upwards = True
        self._before = self._cost = None
        self._rest = self._calm
        self._set(min(self.limit - 1, self.limit * FALL), now)

    def _set(self, limit: float, now: float) -> None:
        self.limit = int(max(1, min(self._most, limit)))
        self._restart(now)

    def _restart(self, since: float) -> None:
        self._since = since
        self._seconds = 0.0
        self._items = self._answers = self._in_use = 0
