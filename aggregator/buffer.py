"""Open groups and what completes them: a pure state machine.

Deliveries and the time go in, completed batches come out. No thread, no clock, no I/O: the owner
holds a lock around every call. Times are monotonic seconds and never go back.
"""

from __future__ import annotations

from collections import OrderedDict
from heapq import heapify, heappop, heappush
from itertools import count, islice
from math import inf
from typing import TYPE_CHECKING

from aggregator.closed import ClosedKeys
from aggregator.completion import AnyOf, Trigger
from aggregator.errors import MessageRefusedError
from aggregator.group import (
    Batch,
    Dropped,
    Group,
    agree,
    different,
    everything,
    size_of,
    waits_for_more,
    without,
)
from aggregator.ledger import with_followers

if TYPE_CHECKING:
    from aggregator.delivery import Delivery, Link

#: How many keys are remembered for the numbering of their parts.
PARTS_REMEMBERED = 100_000
NO_PARTS = 0, 0, None
#: What becomes of a member of a key that is closed: it opens a new group, goes alone, or is refused.
LATE_NEW, LATE_ALONE, LATE_REFUSED = "new", "alone", "dead-letter"
#: From this many timers on it is worth a look how many of them are of groups that are gone.
TIMERS_LEAST = 1_000


class Buffer:
    """Groups deliveries by key until they are complete.

    ``held`` counts the deliveries in open groups, sentinels and second copies included; ``bytes``
    their bodies, that of a second copy once. ``grace``: seconds for members that a sentinel without
    a count has overtaken. ``late``: what becomes of members of a key that ``closed`` remembers.
    ``most_groups``: with more keys than that, the oldest group completes by pressure.
    """

    def __init__(
        self,
        completion: AnyOf,
        *,
        grace: float = 0.0,
        closed: ClosedKeys | None = None,
        late: str = LATE_NEW,
        most_groups: float = inf,
    ) -> None:
        self._completion = completion
        self._grace = grace
        self._closed = closed if closed is not None else ClosedKeys()  # an empty one is false
        self._late = late
        self._most_groups = most_groups
        self._groups: dict[str | None, Group] = {}  # in order of their opening
        self._timers: list[tuple[float, int, Group]] = []
        self._ticket = count()
        self._copies = 0
        #: of keys that went in part: how many parts, how many members in them, what a sentinel announced
        self._parts: OrderedDict[str | None, tuple[int, int, int | None]] = OrderedDict()
        self._done: list[Batch] = []
        self.held = 0
        self.bytes = 0

    @property
    def groups(self) -> int:
        """How many groups are open."""
        return len(self._groups)

    @property
    def oldest(self) -> float | None:
        """When the oldest open group was opened; None without one."""
        first = next(iter(self._groups.values()), None)
        return None if first is None else first.opened

    @property
    def next_deadline(self) -> float:
        """When :meth:`advance` has something to do, at the earliest; ``inf`` for never."""
        return self._timers[0][0] if self._timers else inf

    def add(self, delivery: Delivery, key: str | None, now: float, expected: int | None = None) -> None:
        """Take a member. Call :meth:`advance` first: a group that is due takes no more.

        ``expected``: how many members the delivery says that its group has, itself included. Raises
        ``MessageRefusedError`` (``late``, ``bad-sequence``, ``predicate-failed``): nothing has changed.
        """
        group = self._groups.get(key)
        ending = None
        if group is None:
            if self._comes_late(key, now):
                self._take_late(delivery, key, now)
                return
            joined = Group(key, now)
        elif group.deliveries and (ending := self._completion.before(group, delivery)):
            joined = Group(key, now)
        else:
            agree(group, expected)
            joined = group
        size = len(delivery.body)
        joined.deliveries.append(delivery)
        joined.bytes += size
        try:
            trigger = self._completion.after(joined, delivery)
        except MessageRefusedError:
            joined.deliveries.pop()
            joined.bytes -= size
            raise
        # it is taken: until now nothing has changed
        if joined is not group:
            self._enter(joined, ending, now)
        joined.last = now
        self.held += 1
        self.bytes += size
        if expected is not None:
            joined.expected = expected
        counted = joined.expected is not None or joined.announced is not None
        if trigger or (counted and (trigger := self._all_there(joined))):
            self._complete(joined, trigger, now)
        elif joined is not group:
            self._make_room(now)

    def add_sentinel(self, delivery: Delivery, key: str | None, expected: int | None, now: float) -> None:
        """Take a sentinel: its group completes once ``expected`` members are there.

        Without a number it completes after the grace, because other workers may still hold members
        that were sent before the sentinel. One for a key that is closed, and has no new group, is late
        or repeated: it is acked, and no group waits for its members.
        """
        group = self._groups.get(key)
        if group is None and self._closed.holds(key, now):
            group = Group(key, now)
            group.controls.append(delivery)
            self._done.append(self._batch(group, Trigger.LATE, 1, now))
            return
        if group is None:
            group = Group(key, now)
            self._enter(group, None, now)
        group.controls.append(delivery)
        group.last = now
        self.held += 1
        self.bytes += len(delivery.body)
        if expected is not None:
            group.announced = expected
        elif self._grace > 0:
            group.due = min(group.due, now + self._grace)
            self._schedule(group, group.due)
        if (expected is None and self._grace <= 0) or self._all_there(group):
            self._complete(group, Trigger.SENTINEL, now)
        else:
            self._make_room(now)

    def isolate(
        self, delivery: Delivery, key: str | None, now: float, expected: int | None, delivered: int
    ) -> None:
        """Take a member that was ``delivered`` so often before that it has to go alone, at once.

        Of a key that is a part: its group goes on, and counts it among its members. Raises as
        :meth:`add` does.
        """
        group = self._groups.get(key)
        if group is not None:
            agree(group, expected)
        late = group is None and self._comes_late(key, now)
        single = Group(key, now)
        single.deliveries.append(delivery)
        single.bytes = len(delivery.body)
        single.expected = expected
        part = 0
        if key is not None and not late:
            part, single.gone, single.announced = self._parts.get(key, NO_PARTS)
            if group is not None:
                single.announced = group.announced
        self._done.append(self._batch(single, Trigger.ISOLATED, part + 1, now, delivered))
        if late or key is None:
            return
        self._part(key, part + 1, single.gone + 1, single.announced)
        if group is not None:
            group.gone = single.gone + 1
            group.expected = group.expected if expected is None else expected
            if trigger := self._all_there(group):
                self._complete(group, trigger, now)
        elif self._all_there(single):
            self._done[-1].complete = True
            del self._parts[key]
            self._closed.close(key, now)

    def advance(self, now: float) -> None:
        """Complete every group whose time has come."""
        timers = self._timers
        while timers and timers[0][0] <= now:
            at, _, group = heappop(timers)
            if not group.open or at != group.timer:
                continue  # completed by something else, or there is an earlier one
            group.timer = inf
            when, trigger = self.due(group)
            if when <= now:
                self._complete(group, trigger, now)
            else:
                self._schedule(group, when)

    def force(self, now: float, *keys: str | None) -> int:
        """Complete the groups of these keys, of all if none is named; return how many there were."""
        chosen = dict.fromkeys(keys) if keys else tuple(self._groups)
        groups = [group for key in chosen if (group := self._groups.get(key))]
        for group in groups:
            self._complete(group, Trigger.FORCED, now)
        return len(groups)

    def complete_by(self, completion: AnyOf, now: float) -> None:
        """Have other conditions complete groups; an open one that is full by them, or due, goes now."""
        self._completion = completion
        for group in list(self._groups.values()):
            if len(group.deliveries) >= completion.full_messages:
                self._complete(group, Trigger.SIZE, now)
            elif group.bytes >= completion.full_bytes:
                self._complete(group, Trigger.BYTES, now)
            else:
                self._schedule(group, self.due(group)[0])
        self.advance(now)

    def open_groups(self) -> list[Group]:
        """Return the open groups in the order of their opening, for whoever only looks."""
        return list(self._groups.values())

    def due(self, group: Group) -> tuple[float, Trigger]:
        """Return when a group will be complete though nothing more comes, and by what; ``inf`` for never."""
        when, trigger = self._completion.deadline(group)
        return (when, trigger) if when < group.due else (group.due, Trigger.SENTINEL)

    @property
    def full(self) -> tuple[float, float]:
        """How many messages, and how many bytes, fill a group; ``inf`` where nothing does."""
        return self._completion.full_messages, self._completion.full_bytes

    def relieve(self, deliveries: int, size: int, now: float, link: Link | None = None) -> None:
        """Complete the oldest groups until this many deliveries and bytes are freed; those of a link alone.

        Those that look like what a crash has left of a group go first: they wait in vain.
        """
        keep, keep_bytes = self.held - deliveries, self.bytes - size
        for group in sorted(self._groups.values(), key=waits_for_more):
            if self.held <= keep and self.bytes <= keep_bytes:
                return
            if link is None or any(delivery.link is link for delivery in group.deliveries):
                self._complete(group, Trigger.PRESSURE, now)

    def shut(self, now: float, *, give_back_keyed: bool) -> list[Delivery]:
        """Complete all groups; return the members of keyed ones where those are to be given back."""
        returned: list[Delivery] = []
        for group in list(self._groups.values()):
            if give_back_keyed and group.key is not None:
                returned += with_followers(group.deliveries)
                returned += with_followers(group.controls)
                self._remove(group)
            else:
                self._complete(group, Trigger.SHUTDOWN, now)
        return returned

    def drop(self, link: Link) -> Dropped:
        """Forget what came over a lost link, and return it: the broker hands it out again."""
        dropped = Dropped([], [])
        for group in list(self._groups.values()):
            gone = len(dropped.deliveries)
            members = without(link, group.deliveries, dropped)
            controls = without(link, group.controls, dropped)
            gone = len(dropped.deliveries) - gone
            if not gone:
                continue
            lost = len(group.deliveries) - len(members) + len(group.controls) - len(controls)
            size = size_of(members)
            self.bytes -= group.bytes - size + size_of(group.controls) - size_of(controls)
            self.held -= gone
            self._copies -= gone - lost
            group.bytes = size
            group.deliveries, group.controls = members, controls
            if not group.controls:  # the sentinel will come again
                _, _, group.announced = self._parts.get(group.key, NO_PARTS)
                group.due = inf
            if not group.deliveries:
                group.expected = None
                if not group.controls:
                    self._remove(group)
        return dropped

    def replace(self, old: Delivery, new: Delivery, key: str | None) -> bool:
        """Put a redelivered message in the place of its old copy; False where that is not held.

        If the link of the old copy seems to be alive, that one follows the new: the loss is not
        noticed yet, or it is another message that says the same. Then both have to be settled.
        """
        group = self._groups.get(key)
        if group is None:
            return False
        for members in (group.deliveries, group.controls):
            for position, member in enumerate(members):
                if member is old:
                    members[position] = new
                    new.follower = old if old.link.alive else old.follower
                    if new.follower is old:
                        self.held += 1
                        self._copies += 1
                    return True
        return False

    def take(self) -> list[Batch]:
        """Return the batches completed since the last call, in order."""
        done, self._done = self._done, []
        return done

    def _comes_late(self, key: str | None, now: float) -> bool:
        """Whether a member for a key without a group goes alone. Raises where such are refused: ``late``."""
        if not self._closed.holds(key, now) or self._late == LATE_NEW:
            return False
        if self._late == LATE_REFUSED:
            raise MessageRefusedError("late", "its group is complete")
        return True

    def _take_late(self, delivery: Delivery, key: str | None, now: float) -> None:
        group = Group(key, now)
        group.deliveries.append(delivery)
        group.bytes = len(delivery.body)
        self._done.append(self._batch(group, Trigger.LATE, 1, now))

    def _enter(self, group: Group, ending: Trigger | None, now: float) -> None:
        """Open a group; ``ending``: what has completed the one before it."""
        if ending:
            self._complete(self._groups[group.key], ending, now)
        self._groups[group.key] = group
        if self._parts:
            _, group.gone, group.announced = self._parts.get(group.key, NO_PARTS)
        when, _ = self._completion.deadline(group)
        self._schedule(group, when)

    def _make_room(self, now: float) -> None:
        if len(self._groups) > self._most_groups:
            # some at once: each look for the oldest passes all that have gone since the last
            for oldest in list(islice(self._groups.values(), 1 + len(self._groups) // 256)):
                self._complete(oldest, Trigger.PRESSURE, now)

    def _schedule(self, group: Group, when: float) -> None:
        if when < group.timer:  # a later one follows from it
            group.timer = when
            heappush(self._timers, (when, next(self._ticket), group))

    @staticmethod
    def _all_there(group: Group) -> Trigger | None:
        expected, announced, there = group.expected, group.announced, group.gone + len(group.deliveries)
        if (expected is None or there < expected) and (announced is None or there < announced):
            return None
        there = group.gone + different(group.deliveries)
        if expected is not None and there >= expected:
            return Trigger.SEQUENCE
        return Trigger.SENTINEL if announced is not None and there >= announced else None

    def _complete(self, group: Group, trigger: Trigger, now: float) -> None:
        part = 1
        if group.key is not None:
            earlier, _, _ = self._parts.pop(group.key, NO_PARTS)
            part += earlier
            if trigger in self._completion.closing:
                self._closed.close(group.key, now)
            else:
                self._part(group.key, part, group.gone + different(group.deliveries), group.announced)
        self._done.append(self._batch(group, trigger, part, now))
        self._remove(group)

    def _part(self, key: str | None, part: int, members: int, announced: int | None) -> None:
        self._parts[key] = part, members, announced
        if len(self._parts) > PARTS_REMEMBERED:
            self._parts.popitem(last=False)

    def _batch(self, group: Group, trigger: Trigger, part: int, now: float, delivered: int = 0) -> Batch:
        return Batch(
            group.key,
            group.deliveries,
            group.controls,
            group.bytes,
            trigger,
            part,
            trigger in self._completion.closing,
            group.opened,
            now,
            group.announced if group.expected is None else group.expected,
            delivered=delivered,
        )

    def _remove(self, group: Group) -> None:
        del self._groups[group.key]
        self.held -= len(group.deliveries) + len(group.controls)
        self.bytes -= group.bytes + size_of(group.controls)
        if self._copies:
            copies = sum(d.follower is not None for d in everything(group))
            self.held -= copies
            self._copies -= copies
        # its timer stays for a while, and must not keep the messages
        group.open, group.deliveries, group.controls = False, [], []
        if len(self._timers) > max(TIMERS_LEAST, 4 * len(self._groups)):
            # an age of an hour would keep the timer of every group of that hour
            self._timers[:] = [(at, n, g) for at, n, g in self._timers if g.open and at == g.timer]
            heapify(self._timers)
