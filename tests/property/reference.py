"""When a group is complete, once more: slow, obvious, and without a line of the program's own.

It keeps what came, in lists, and works everything out of them whenever it is asked: no timers, no
counters, nothing to get out of step. Triggers are their names; times are monotonic seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from math import inf
from zoneinfo import ZoneInfo


class Refused(Exception):  # noqa: N818
    """The delivery is not taken, for this reason, and nothing has changed."""


@dataclass
class Rules:
    """What is configured; None and 0: off. ``offset``: from monotonic seconds to those since 1970."""

    bytes: int | None = None
    size: int | None = None
    predicate: object = None
    early: bool = False
    age: float | None = None
    idle: float | None = None
    interval: float | None = None
    moments: tuple = ()  # of the crontab, in seconds since 1970
    deadline: float | None = None
    grace: float = 0.0
    closing: frozenset = frozenset()
    late: str = "new"
    closed_keys: int = 0
    closed_for: float = inf
    most_groups: float = inf
    offset: float = 0.0


@dataclass
class Came:
    """A message: its copies, the newest first; none is left once their links are lost."""

    copies: list
    at: float
    control: bool = False
    says: int | None = None


@dataclass(eq=False)
class Gathered:
    """A group, open or complete; ``numbers`` and ``graces`` are what its sentinels said."""

    key: str | None
    opened: float
    came: list = field(default_factory=list)
    numbers: list = field(default_factory=list)
    graces: list = field(default_factory=list)
    trigger: str = ""
    completed: float = 0.0
    part: int = 1
    expected: int | None = None
    complete: bool = False

    def messages(self, control):
        return [came for came in self.came if came.copies and came.control is control]

    @property
    def members(self):
        return [came.copies[0] for came in self.messages(control=False)]

    @property
    def different(self):
        return len({member.id or id(member) for member in self.members})


class Reference:
    def __init__(self, rules):
        self.rules = rules
        self.open = []  # in order of their opening
        self.past = []  # completed, in order

    # ── what is asked of it ──

    @property
    def held(self):
        return sum(len(came.copies) for group in self.open for came in group.came)

    @property
    def bytes(self):
        return sum(len(came.copies[0].body) for group in self.open for came in group.came if came.copies)

    @property
    def next_due(self):
        return min((self.due(group)[0] for group in self.open), default=inf)

    def open_one(self, key):
        return next((group for group in self.open if group.key == key), None)

    def is_closed(self, key, now):
        closings = {}
        for batch in self.past:
            if batch.complete and batch.key is not None:
                closings.pop(batch.key, None)
                closings[batch.key] = batch.completed
        latest = list(closings)[-self.rules.closed_keys :] if self.rules.closed_keys else []
        return key in latest and now < closings[key] + self.rules.closed_for

    def earlier_parts(self, key):
        parts = []
        for batch in self.past:
            if batch.key == key and key is not None and batch.trigger != "late":
                parts = [] if batch.complete else [*parts, batch]
        return parts

    # ── what completes a group ──

    def before(self, group, new):
        rules = self.rules
        if rules.bytes and sum(len(member.body) for member in group.members) + len(new.body) > rules.bytes:
            return "bytes"
        if rules.early and self.predicate_says(group.members, new):
            return "predicate"
        return None

    def after(self, group, new):
        rules, members = self.rules, [*group.members, new]
        if rules.bytes and sum(len(member.body) for member in members) >= rules.bytes:
            return "bytes"
        if rules.size and len(members) >= rules.size:
            return "size"
        if rules.predicate and not rules.early and self.predicate_says(members, new):
            return "predicate"
        return None

    def numbers(self, group):
        """Return what its members say, and what the sentinels of all its parts have said last."""
        parts = [*self.earlier_parts(group.key), group]
        said = [came.says for came in group.messages(control=False) if came.says is not None]
        announced = [number for part in parts for number in part.numbers]
        return said[0] if said else None, announced[-1] if announced else None

    def all_there(self, group):
        there = sum(part.different for part in [*self.earlier_parts(group.key), group])
        said, announced = self.numbers(group)
        if said is not None and there >= said:
            return "sequence"
        return "sentinel" if announced is not None and there >= announced else None

    def predicate_says(self, members, new):
        try:
            return self.rules.predicate(members, new)
        except ZeroDivisionError:
            raise Refused("predicate-failed") from None

    def due(self, group):
        rules = self.rules
        last = max(came.at for came in group.came)
        wall = group.opened + rules.offset
        times = [(grace, "sentinel") for grace in group.graces]
        if rules.age:
            times.append((group.opened + rules.age, "age"))
        if rules.idle:
            times.append((last + rules.idle, "idle"))
        if rules.interval:
            times.append((wall - wall % rules.interval + rules.interval - rules.offset, "interval"))
        if rules.moments:
            times.append((next(at for at in rules.moments if at > wall) - rules.offset, "crontab"))
        if rules.deadline:
            times.append((group.opened + rules.deadline, "deadline"))
        return min(times, key=lambda time: time[0], default=(inf, ""))

    # ── what happens ──

    def complete(self, group, trigger, now):
        group.trigger, group.completed = trigger, now
        group.complete = trigger in self.rules.closing
        if trigger != "late":
            said, announced = self.numbers(group)
            group.expected = announced if said is None else said
            group.part = 1 + len(self.earlier_parts(group.key))
            self.open.remove(group)
        self.past.append(group)

    def add(self, delivery, key, now, says):
        group = self.open_one(key)
        if group is None and self.rules.late != "new" and self.is_closed(key, now):
            if self.rules.late == "dead-letter":
                raise Refused("late")
            self.complete(Gathered(key, now, [Came([delivery], now)]), "late", now)
            return
        before = self.before(group, delivery) if group and group.members else None
        joined = Gathered(key, now) if before or not group else group
        if says is not None and {came.says for came in joined.messages(control=False)} - {says}:
            raise Refused("bad-sequence")
        after = self.after(joined, delivery)  # the last that may refuse it
        if before:
            self.complete(group, before, now)
        self.enter(joined, Came([delivery], now, says=says))
        if trigger := after or self.all_there(joined):
            self.complete(joined, trigger, now)
        self.make_room(now)

    def add_sentinel(self, delivery, key, says, now):
        group, came = self.open_one(key), Came([delivery], now, control=True)
        if group is None and self.is_closed(key, now):
            self.complete(Gathered(key, now, [came]), "late", now)
            return
        group = group or Gathered(key, now)
        self.enter(group, came)
        if says is not None:
            group.numbers.append(says)
        elif self.rules.grace:
            group.graces.append(now + self.rules.grace)
        if (says is None and not self.rules.grace) or self.all_there(group):
            self.complete(group, "sentinel", now)
        self.make_room(now)

    def enter(self, group, came):
        if group not in self.open:
            self.open.append(group)
        group.came.append(came)

    def make_room(self, now):
        while len(self.open) > self.rules.most_groups:
            self.complete(self.open[0], "pressure", now)

    def advance(self, now):
        for group in list(self.open):
            when, trigger = self.due(group)
            if when <= now:
                self.complete(group, trigger, now)

    def force(self, now, *keys):
        named = dict.fromkeys(keys) if keys else [group.key for group in self.open]
        chosen = [group for key in named if (group := self.open_one(key))]
        for group in chosen:
            self.complete(group, "forced", now)
        return len(chosen)

    def relieve(self, deliveries, size, now):
        held, held_bytes = self.held, self.bytes
        while self.open and (held - self.held < deliveries or held_bytes - self.bytes < size):
            left_over = [group for group in self.open if self.looks_left_over(group)]
            self.complete([*left_over, *self.open][0], "pressure", now)

    def looks_left_over(self, group):
        """Whether a crash has left this of a group: its sentinel and all of its members come again."""
        counted = group.messages(control=True) and self.numbers(group) != (None, None)
        return counted and all(member.redelivered for member in group.members)

    def shut(self, now, *, give_back_keyed):
        returned = []
        for group in list(self.open):
            if give_back_keyed and group.key is not None:
                returned += [copy for came in group.came for copy in came.copies]
                self.open.remove(group)
            else:
                self.complete(group, "shutdown", now)
        return returned

    def drop(self, link):
        """Return what is gone, and (old, heir) where another copy goes on."""
        gone, heirs = [], []
        for group in list(self.open):
            for came in group.came:
                left = [copy for copy in came.copies if copy.link is not link]
                gone += [copy for copy in came.copies if copy.link is link]
                if left and left[0] is not came.copies[0]:
                    heirs.append((came.copies[0], left[0]))
                came.copies = left
            if not group.messages(control=True):  # the sentinel comes again, and says it again
                group.numbers, group.graces = [], []
                if not group.members:
                    self.open.remove(group)
        return gone, heirs

    def replace(self, old, new, key):
        group = self.open_one(key)
        for came in group.came if group else ():
            if came.copies and came.copies[0] is old:
                came.copies = [new, *(came.copies if old.link.alive else came.copies[1:])]
                return True
        return False


@cache
def moments(minutes, hours, weekdays, fixed, *, zone, start, days):
    """Return every moment of a crontab in the days after ``start``, both in seconds since 1970.

    ``fixed``: it names its minutes and its hours. Each such time comes once a day: the first of two
    where the clocks are put back, and as soon as there is a time again where it was skipped. Any
    other comes whenever the clock on the wall shows it. Minutes are quarters of an hour.
    """
    timezone = ZoneInfo(zone)
    found = set()
    for quarter in range(int(start) // 900 * 900, int(start) + days * 86400, 900):
        wall = datetime.fromtimestamp(quarter, timezone)
        if not fixed and wall.minute in minutes and wall.hour in hours and wall.weekday() in weekdays:
            found.add(quarter)
    first = datetime.fromtimestamp(start, timezone).replace(tzinfo=None, hour=0, minute=0, second=0)
    for day in range(days if fixed else 0):
        date = first + timedelta(days=day)
        for minute in range(24 * 60) if date.weekday() in weekdays else ():
            time = date + timedelta(minutes=minute)
            if time.minute in minutes and time.hour in hours:
                while (exists := time.replace(tzinfo=timezone)) != exists.astimezone(UTC).astimezone(
                    timezone
                ):
                    time += timedelta(minutes=1)
                found.add(int(exists.timestamp()))
    return tuple(sorted(found))
