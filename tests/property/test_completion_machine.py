"""The buffer with all of its conditions against a slow reference: whatever happens, they say the same.

After every step: each completed batch with all that it tells, what is refused, given back or dropped,
what is held, and when there is something to do next (early is allowed, late is not). Time moves to the
exact instants, to just before them, and in jumps over days on which clocks are put forward or back.
Those that are found due by one look may go in any order.

``--hypothesis-profile=long`` runs 20,000 examples of this machine (minutes), ``quick`` 25.
"""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import HealthCheck, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from aggregator.buffer import Buffer
from aggregator.closed import ClosedKeys
from aggregator.completion import (
    CLOSING,
    Age,
    Bytes,
    Crontab,
    Deadline,
    Idle,
    Interval,
    Predicate,
    Size,
    Trigger,
    any_of,
)
from aggregator.errors import MessageRefusedError
from aggregator.schedule import crontab
from aggregator.testing.clock import VirtualClock
from aggregator.testing.memory import MemoryDelivery, MemoryLink
from tests.property.reference import Reference, Refused, Rules, moments

INHERITED = settings().max_examples
#: what is long for the others is short for so many conditions together
EXAMPLES = 20_000 if INHERITED >= 5_000 else INHERITED
STEPS = 50
DAYS = 50  # more than the steps of an example can jump over
EVERY_DAY = tuple(range(7))
#: expression, minutes, hours, weekdays, whether it names its minutes and its hours
CRONTABS = [
    ("*/15 * * * *", (0, 15, 30, 45), tuple(range(24)), EVERY_DAY, False),
    ("*/30 2 * * *", (0, 30), (2,), EVERY_DAY, False),
    ("30 2 * * *", (30,), (2,), EVERY_DAY, True),
    ("0,15 1-3 * * *", (0, 15), (1, 2, 3), EVERY_DAY, True),
    ("45 * * * mon-fri", (45,), tuple(range(24)), (0, 1, 2, 3, 4), False),
]
#: a little before the clocks there are put forward or back, in 2026
PLACES = [
    ("UTC", 1_774_742_400.0),
    ("Europe/Berlin", 1_774_742_400.0),
    ("Europe/Berlin", 1_792_886_400.0),
    ("Australia/Lord_Howe", 1_775_312_100.0),
    ("Australia/Lord_Howe", 1_791_039_600.0),
]
#: where clocks shift by half an hour, the library that reads crontabs passes over what repeats
SCHEDULES = [
    (place, expression)
    for place in PLACES
    for expression in CRONTABS
    if expression[4] or "Lord" not in place[0]
]
KEYS = st.sampled_from(["a", "a", "a", "b", "c", None])
BODIES = st.sampled_from([b"", b"1", b"22", b"333", b"22", b"1!", b"odd", b"!?"])
IDS = st.sampled_from(["", "x", "y", "z"])
#: body, id, and how many members it says that its group has
MESSAGES = st.lists(st.tuples(BODIES, IDS, st.sampled_from([3, 3, 3, 2, 4])), min_size=1, max_size=4)
LINKS = st.integers(0, 2)


def predicate(members, new):
    """Any function of both: it raises, says yes, or counts."""
    if b"?" in new.body:
        return 1 // 0
    return b"!" in new.body or sum(b"odd" in member.body for member in members) >= 2


def off_or(*values):
    """Mostly off: with all of them on, few would ever be the first."""
    return st.sampled_from([None] * 2 * len(values) + [*values])


CONFIGURATIONS = st.fixed_dictionaries(
    {
        "bytes": off_or(3, 6),
        "size": off_or(1, 3, 5),
        "predicate": st.sampled_from([None, None, predicate]),
        "early": st.booleans(),
        "age": off_or(2.0, 5.0, 4000.0),
        "idle": off_or(1.0, 3.0, 2000.0),
        "interval": off_or(4.0, 60.0, 7200.0),
        "schedule": st.sampled_from([(PLACES[0], None)] * 2 * len(SCHEDULES) + SCHEDULES),
        "deadline": off_or(3.0, 5.0, 1800.0),
        "grace": st.sampled_from([0.0, 2.0, 3.0, 8.0]),
        "closing": st.sets(st.sampled_from(["age", "idle", "interval", "crontab"])),
        "bytes_close": st.booleans(),
        "late": st.sampled_from(["new", "alone", "dead-letter"]),
        "closed_keys": st.sampled_from([0, 1, 2, 9]),
        "closed_for": st.sampled_from([inf, 2.0, 5.0]),
        "most_groups": st.sampled_from([inf, inf, 1, 2, 3]),
        "sequence": st.booleans(),
    }
)


class Completion(RuleBasedStateMachine):
    """Both are told the same; :meth:`same` compares what comes of it."""

    @initialize(config=CONFIGURATIONS)
    def begin(self, config):
        note(f"{config}")
        (zone, start), expression = config.pop("schedule")
        closing = {trigger.value for trigger in CLOSING} | config.pop("closing")
        closing -= set() if config.pop("bytes_close") else {"bytes"}
        self.sequence = config.pop("sequence")
        config["early"] = config["early"] and config["predicate"] is not None
        self.clock = VirtualClock(time=start)
        offset = self.clock.time() - self.clock.monotonic()
        times = moments(*expression[1:], zone=zone, start=start, days=DAYS) if expression else ()
        rules = Rules(**config, closing=frozenset(closing), moments=times, offset=offset)
        self.reference = Reference(rules)
        self.buffer = self.make_buffer(rules, crontab(expression[0], zone) if expression else None)
        self.links = [MemoryLink(epoch) for epoch in range(3)]
        self.seen = 0

    def make_buffer(self, rules, next_after):
        kinds = [
            (rules.bytes, Bytes),
            (rules.size, Size),
            (rules.predicate, lambda function: Predicate(function, rules.early)),
            (rules.age, Age),
            (rules.idle, Idle),
            (rules.interval, lambda seconds: Interval(seconds, self.clock)),
            (next_after, lambda function: Crontab(function, self.clock)),
            (rules.deadline, Deadline),
        ]
        return Buffer(
            any_of(
                *(kind(value) for value, kind in kinds if value),
                closing=frozenset(Trigger(name) for name in rules.closing),
            ),
            grace=rules.grace,
            closed=ClosedKeys(rules.closed_keys, rules.closed_for),
            late=rules.late,
            most_groups=rules.most_groups,
        )

    @property
    def now(self):
        return self.clock.monotonic()

    def message(self, body, link, id_, *, again=False):
        delivery = MemoryDelivery(body, link=self.links[link], redelivered=again)
        delivery.id = id_
        return delivery

    # ── what comes in ──

    @rule(key=KEYS, link=LINKS, messages=MESSAGES, again=st.booleans())
    def add(self, key, link, messages, again):
        self.advance()
        for body, id_, says in messages:
            self.add_one(self.message(body, link, id_, again=again), key, says if self.sequence else None)

    def add_one(self, delivery, key, says):
        refused = expected = None
        try:
            self.buffer.add(delivery, key, self.now, says)
        except MessageRefusedError as exc:
            refused = exc.reason
        try:
            self.reference.add(delivery, key, self.now, says)
        except Refused as exc:
            (expected,) = exc.args
        assert refused == expected
        self.same()

    @rule(key=KEYS, link=LINKS, says=st.sampled_from([None, None, None, 0, 2, 3, 4]))
    def add_sentinel(self, key, link, says):
        self.advance()
        delivery = self.message(b"end", link, "")
        self.buffer.add_sentinel(delivery, key, says, self.now)
        self.reference.add_sentinel(delivery, key, says, self.now)
        self.same()

    @precondition(lambda self: self.reference.held)
    @rule(
        which=st.integers(0, 99),
        link=LINKS,
        alive=st.booleans(),
        elsewhere=st.sampled_from([False] * 5 + [True]),
    )
    def a_copy_comes(self, which, link, alive, elsewhere):
        places = [(came, group.key) for group in self.reference.open for came in group.came if came.copies]
        came, key = places[which % len(places)]
        old = came.copies[0]
        new = self.message(old.body, link, old.id, again=True)
        old.link.alive = alive
        key = "elsewhere" if elsewhere else key
        assert self.buffer.replace(old, new, key) is self.reference.replace(old, new, key) is not elsewhere
        old.link.alive = True
        self.same()

    # ── time ──

    @precondition(lambda self: self.reference.open)
    @rule(before=st.sampled_from([0.0, 0.0, 0.0, 0.125]), look=st.booleans())
    def the_next_instant_comes(self, before, look):
        due = self.reference.next_due
        if due < inf:
            self.clock.advance_to(due - before)
        if look:
            self.advance()

    @rule(seconds=st.sampled_from([0.5, 1.0, 2.0, 3.0, 900.0, 3600.0, 80_000.0]), look=st.booleans())
    def time_passes(self, seconds, look):
        self.clock.advance(seconds)
        if look:
            self.advance()

    def advance(self):
        self.buffer.advance(self.now)
        self.reference.advance(self.now)
        assert self.buffer.next_deadline > self.now, "there is nothing left to do"
        self.same(ordered=False)

    # ── what is done to it ──

    @rule(keys=st.just([]) | st.lists(KEYS | st.just("unknown"), max_size=4))
    def force(self, keys):
        self.advance()
        assert self.buffer.force(self.now, *keys) == self.reference.force(self.now, *keys)
        self.same()

    @rule(deliveries=st.integers(0, 4), size=st.integers(0, 6))
    def pressure(self, deliveries, size):
        self.advance()
        self.buffer.relieve(deliveries, size, self.now)
        self.reference.relieve(deliveries, size, self.now)
        self.same()

    @rule(link=LINKS)
    def a_link_is_lost(self, link):
        lost, self.links[link] = self.links[link], MemoryLink(self.links[link].epoch + 3)
        gone, heirs = self.buffer.drop(lost)
        expected, expected_heirs = self.reference.drop(lost)
        assert by_identity(gone) == by_identity(expected)
        assert by_identity(heirs) == by_identity(expected_heirs)
        self.same()

    @rule(give_back=st.booleans())
    def shut(self, give_back):
        returned = self.buffer.shut(self.now, give_back_keyed=give_back)
        expected = self.reference.shut(self.now, give_back_keyed=give_back)
        assert by_identity(returned) == by_identity(expected)
        self.same()

    # ── what comes of it ──

    def same(self, *, ordered=True):
        found = [told(batch) for batch in self.buffer.take()]
        new = self.reference.past[self.seen :]
        if not ordered:  # each of another key; the order in which they close decides which is remembered
            order = [batch["key"] for batch in found]
            new.sort(key=lambda batch: order.index(batch.key) if batch.key in order else -1)
            self.reference.past[self.seen :] = new
        self.seen = len(self.reference.past)
        expected = [meant(batch) for batch in new]
        assert found == expected
        buffer, reference = self.buffer, self.reference
        assert (buffer.held, buffer.bytes, buffer.groups) == (
            reference.held,
            reference.bytes,
            len(reference.open),
        )
        assert buffer.next_deadline <= reference.next_due


def by_identity(found):
    return sorted(tuple(map(id, entry)) if isinstance(entry, tuple) else (id(entry),) for entry in found)


def chain(delivery):
    while delivery is not None:
        yield delivery
        delivery = delivery.follower


def told(batch):
    """Return all that a batch of the program's tells."""
    return {
        "key": batch.key,
        "members": [[*chain(delivery)] for delivery in batch.deliveries],
        "controls": [[*chain(delivery)] for delivery in batch.controls],
        "bytes": batch.bytes,
        "trigger": batch.trigger.value,
        "part": batch.part,
        "complete": batch.complete,
        "expected": batch.expected,
        "opened": batch.opened,
        "completed": batch.completed,
    }


def meant(batch):
    """Return the same of the reference's."""
    return {
        "key": batch.key,
        "members": [came.copies for came in batch.messages(control=False)],
        "controls": [came.copies for came in batch.messages(control=True)],
        "bytes": sum(len(member.body) for member in batch.members),
        "trigger": batch.trigger,
        "part": batch.part,
        "complete": batch.complete,
        "expected": batch.expected,
        "opened": batch.opened,
        "completed": batch.completed,
    }


TestCompletion = Completion.TestCase
TestCompletion.settings = settings(
    max_examples=EXAMPLES,
    stateful_step_count=STEPS,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
pytestmark = pytest.mark.timeout(300 + EXAMPLES)
