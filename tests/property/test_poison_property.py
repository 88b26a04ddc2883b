"""Messages that kill the process, against a broker that counts deliveries as a quorum queue does.

A process is a route with its links; it dies inside the sink's write, and all that it has unacked
is ready again, counted once more.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from itertools import count
from random import Random

import orjson
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from aggregator.aggregation import compile_aggregation
from aggregator.completion import Age, Size, any_of
from aggregator.correlation import compile_expression
from aggregator.intake import Intake, delivered_before
from aggregator.metrics import Metrics
from aggregator.pipeline import Limits, Pipeline
from aggregator.testing.broker import MemoryBroker
from aggregator.testing.clock import VirtualClock
from aggregator.testing.dead_letters import MemoryDeadLetters
from aggregator.testing.faults import Faults
from aggregator.testing.sink import MemorySink
from tests.models import ModelLink

ISOLATE_AT, LIMIT = 5, 15
MEMBERS = 10
#: Quick profiles take a few of the examples: each one is some ten thousand deliveries.
EXAMPLES = max(6, settings.default.max_examples // 8)


class Killed(BaseException):
    """What a SIGKILL is to a process."""


@dataclass(frozen=True)
class World:
    """``sifts``: what was delivered before is got singly. ``flow``: new messages with each tick.

    ``pause``: ticks that a start takes at most; the others go on meanwhile. ``groups``: of
    ``MEMBERS`` messages that say so, each one document; so many are ``open_groups`` at a time.
    """

    seed: int
    innocents: int = 300
    culprits: int = 1
    keyed: bool = False
    groups: bool = False
    open_groups: int = 1
    processes: int = 1
    flow: int = 0
    sifts: bool = True
    links: int = 3
    prefetch: int = 60
    pause: int = 20
    isolate_at: int | None = ISOLATE_AT


class Process:
    """One life of a process."""

    def __init__(self, world, broker, clock, sink, chance):
        self.world, self.broker, self.clock, self.chance = world, broker, clock, chance
        self.dead = MemoryDeadLetters(clock)
        self.pipeline = Pipeline(
            "r",
            intake=Intake(
                clock,
                key=compile_expression("header:key") if world.keyed or world.groups else None,
                sequence=compile_expression("header:members", "sequence") if world.groups else None,
                id=compile_expression("message_id"),
                delivery_limit=LIMIT,
                isolate_at=world.isolate_at,
                isolate_groups=world.groups,
            ),
            completion=any_of(Size(chance.choice([5, 20, 100])), Age(2.0))
            if not world.groups
            else any_of(Age(60.0)),
            aggregation=compile_aggregation("list", None, route="r") if world.groups else None,
            sink=sink,
            dead_letters=self.dead,
            metrics=Metrics(CollectorRegistry()).route("r"),
            limits=Limits(request_items=100, breaker_window=0),
            clock=clock,
        )
        self.dead.report = self.pipeline.dead_lettered
        self.pipeline.expect(world.links * world.prefetch)
        self.links = []
        self.sifting = None

    def tick(self):
        """Connect, sift, consume, write, ack: a little of each, in any order. Raises Killed."""
        if len(self.links) < self.world.links and self.sifting is None:
            link = self.broker.connect(self.world.prefetch, self.make_link)
            self.links.append(link)
            self.pipeline.link_opened(link, self.world.prefetch)
            self.sifting = (link, None, False) if self.world.sifts else None
        elif self.sifting is not None:
            self.sift(*self.sifting)
        for link in self.chance.sample(self.links, len(self.links)):
            if self.sifting is None or link is not self.sifting[0]:
                self.receive(link, self.chance.randint(0, 40))
        for _ in range(self.chance.randint(0, 5)):
            self.pipeline.step()
        self.dead.begin(100)
        self.dead.end(confirmed=True)
        for link in self.links:
            if self.chance.random() < 0.7:
                link.perform(lambda seconds: None)

    def make_link(self, channel, epoch):
        return ModelLink(channel, epoch, multiple=True, clock=self.clock)

    def sift(self, link, waits, got):
        """What a worker does before it consumes; ``waits``: whether there is more afterwards, if it does."""
        link.perform(lambda seconds: None)
        if waits is not None:
            self.pipeline.gather(on=False)
            if self.pipeline.trying:
                self.pipeline.step()
            else:
                self.sifting = (link, None, False) if waits else None
            return
        self.pipeline.gather(on=True)
        if link.unsettled >= self.world.prefetch:
            self.sifting = link, got, False
            return
        found = self.receive(link, 1)
        delivered = delivered_before(found[0]) if found and found[0].redelivered else 0
        if not delivered:
            self.sifting = link, False, False
        elif delivered >= self.pipeline.alone_at:
            self.sifting = link, True, False
        else:
            self.sifting = link, None, True

    def receive(self, link, most):
        found = self.broker.deliver(link, most)
        if found:
            self.pipeline.accept(found)
        return found

    def die(self):
        for link in self.links:
            link.alive = False
            self.broker.hang_up(link.channel)


@dataclass
class Result:
    """How it went."""

    deaths: int
    innocents: int
    letters: Counter
    lost: set
    split: set = field(default_factory=set)


def group_of(number, world):
    """Return the group of a message: as many take turns as are open."""
    block, place = divmod(number, MEMBERS * world.open_groups)
    return block * world.open_groups + place % world.open_groups


def play(world):  # noqa: C901 - a world in one place
    """Let a world run until its queue is empty."""
    chance = Random(world.seed)
    clock, faults = VirtualClock(), Faults()
    broker, sink, letters = MemoryBroker(faults), MemorySink(faults), Counter()
    total = world.innocents + world.culprits
    poison = set(chance.sample(range(total), world.culprits))
    numbers = count()

    def publish(body):
        number = next(numbers)
        key = group_of(number, world) if world.groups else number % 7
        headers = {"key": f"k{key}", "members": MEMBERS}
        broker.publish(body, headers=headers, properties={"message_id": f"m{number}"})

    def decide(items):
        if any(b"poison" in item.document for item in items):
            raise Killed

    sink.decide = decide
    for number in range(total):
        publish(b'{"poison": true, "n": %d}' % number if number in poison else b'{"n": %d}' % number)
    lives = [None] * world.processes
    pauses = [0] * world.processes
    deaths, quiet = 0, 0
    for tick in range(200_000):
        clock.advance(chance.choice([0.001, 0.02, 0.3]))
        if tick < 3_000:
            for _ in range(chance.randint(0, world.flow)):
                publish(b"{}")
        which = chance.randrange(world.processes)
        life = lives[which]
        if life is None:
            pauses[which] -= 1
            if pauses[which] > 0:
                continue
            lives[which] = Process(world, broker, clock, sink, chance)
            continue
        try:
            life.tick()
        except Killed:
            life.die()
            sink.under_way.clear()
            letters.update(entry.reason for entry in life.dead.published)
            lives[which] = None
            pauses[which] = chance.randint(1, world.pause)
            deaths += 1
        held = any(life and any(link.channel.unacked for link in life.links) for life in lives)
        quiet = 0 if broker.ready or held else quiet + 1
        if quiet > 3 * world.processes * world.pause and (tick >= 3_000 or not world.flow):
            break
    else:
        raise AssertionError(f"it never ends: {deaths} deaths, {len(broker.ready)} ready")
    for life in filter(None, lives):
        letters.update(entry.reason for entry in life.dead.published)
    assert not faults, list(faults)
    innocent = [m for m in broker.published if b"poison" not in m.body]
    most = max(message.deliveries - 1 for message in innocent)
    if not world.groups:
        return Result(deaths, most, letters, {m.id for m in innocent} - sink.stored.keys())
    return Result(deaths, most, letters, *look_at_groups(world, sink, poison))


def look_at_groups(world, sink, poison):
    """Return the numbers that are in no document, and the innocent groups that never were whole."""
    total = world.innocents + world.culprits
    documents = [[m["n"] for m in orjson.loads(d)["messages"]] for d in sink.stored.values()]
    written = {number for members in documents for number in members}
    # what a crash between the acks of a group leaves is a part, too, but of one that was written whole
    whole = {group_of(d[0], world) for d in documents if len(d) == MEMBERS}
    tainted = {group_of(number, world) for number in poison}
    return set(range(total)) - poison - written, set(range(-(-total // MEMBERS))) - whole - tainted


def worlds(**fixed):
    """Worlds of any kind, but for what is ``fixed``."""
    kinds = {
        "seed": st.integers(0, 2**32),
        "innocents": st.sampled_from([20, 300, 600]),
        "culprits": st.just(1),
        "keyed": st.booleans(),
        "flow": st.sampled_from([0, 0, 0, 2]),
        "links": st.integers(1, 4),
        "prefetch": st.sampled_from([10, 60, 200]),
    }
    return st.builds(World, **{**kinds, **fixed})


def judge(world, most):
    """Only the culprits are dead-lettered, after bounded deaths; no innocent's count passes ``most``."""
    result = play(world)
    event(f"an innocent's count: {result.innocents}")
    assert not result.lost
    assert result.letters == {"delivery-limit": world.culprits}
    assert result.innocents <= most
    assert result.deaths <= LIMIT * world.culprits
    return result


of_all = settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))


@of_all
@given(worlds(culprits=st.integers(1, 3)))
def test_one_process(world):
    """Once isolated, innocents share no death any more, but for one by a culprit that is not isolated yet."""
    # of several workers one may hold what another's culprit takes along before that is tried alone
    judge(world, ISOLATE_AT + (world.links > 1) if world.culprits == 1 else LIMIT - 1)


@of_all
@given(
    worlds(
        groups=st.just(True),
        open_groups=st.sampled_from([1, 5]),
        flow=st.just(0),
        prefetch=st.sampled_from([60, 200]),
    )
)
def test_a_group_goes_alone_before_it_is_split(world):
    """Of that one the innocents are written. Only groups that stay open beside it may be split too."""
    world = replace(world, innocents=(max(world.innocents, 300)) - world.culprits)
    result = judge(world, LIMIT - 1)
    assert len(result.split) <= 3 * world.open_groups


@of_all
@given(worlds(processes=st.integers(2, 5)))
def test_one_culprit_among_several_processes(world):
    """What a process leaves behind is pushed to another, all at once: it takes two passes more."""
    judge(world, ISOLATE_AT + 3)


@of_all
@given(worlds(sifts=st.just(False)))
def test_one_culprit_where_messages_are_pushed(world):
    """A queue that allows no get: there, too, a pass and its reverse are enough."""
    judge(world, ISOLATE_AT + 3)


def test_a_culprit_takes_innocents_along_where_nothing_is_isolated():
    """These accounts are able to show it."""
    result = play(World(seed=1, sifts=False, isolate_at=None))
    assert result.letters["delivery-limit"] > 1
