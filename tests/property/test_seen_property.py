"""Seen ids in several processes that die, over a store that is away, loses answers, or loses all."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from aggregator.seen import SPANS
from aggregator.testing.clock import VirtualClock
from tests.seen_store import Server
from tests.unit.test_seen import Process

IDS = st.lists(st.integers(0, 30).map(str), min_size=1, max_size=6, unique=True)


class Vague(set):
    """A filter that takes every third id for one of its own."""

    def __contains__(self, id_):
        return super().__contains__(id_) or int(id_) % 3 == 0


class SeenMachine(RuleBasedStateMachine):
    """A new id is never called a duplicate; what is in the store is known to whoever asks it."""

    processes = Bundle("processes")

    @initialize(most=st.integers(2, 40), feed=st.integers(1, 10))
    def begin(self, most, feed):
        self.server = Server(most=most, feed=feed)
        self.clock = VirtualClock()
        #: what a sink has said of which it holds
        self.stored = set()
        self.dead = set()

    @rule(target=processes)
    def start(self):
        return Process(self.server, self.clock, Vague)

    @rule(process=processes, ids=IDS, dies=st.sampled_from(["", "", "", "before", "between", "after"]))
    def write(self, process, ids, dies):
        if process in self.dead or dies == "before":
            self.dead.add(process)
            return
        known = process.ids.known(ids)
        assert known <= self.stored
        if self.server.up and process.ids.complete and not process.ids._gate.shut:
            # what this process entered itself, and is not forgotten, it does not miss
            assert process.entered & self._kept() & set(ids) <= known
        self.stored |= set(ids) - known
        if dies == "between":
            self.dead.add(process)
            return
        process.ids.wrote([id_ for id_ in ids if id_ not in known])
        if dies == "after":
            self.dead.add(process)

    @rule(process=processes)
    def step(self, process):
        if process not in self.dead:
            before = set(process.ids._pending)
            process.ids.step()
            process.entered |= before - set(process.ids._pending)

    @rule(seconds=st.sampled_from([0.5, 1.0, 30.0]))
    def wait(self, seconds):
        self.clock.advance(seconds)

    @rule(up=st.booleans(), answers=st.booleans())
    def disturb(self, up, answers):
        self.server.up, self.server.answers = up, answers

    @rule()
    def lose_all(self):
        self.server.lose_all()

    @invariant()
    def only_what_is_stored_is_entered(self):
        if hasattr(self, "server"):
            assert self._kept() <= self.stored

    @rule(process=processes)
    def settle(self, process):
        """After calm, the copy misses nothing that the store holds."""
        if process in self.dead:
            return
        self.server.up = self.server.answers = True
        self.clock.advance(60.0)
        process.catch_up()
        assert process.ids.complete
        assert process.ids.pending == 0
        kept = self._kept()
        assert process.ids.known(sorted(kept)) == kept

    def _kept(self):
        live = range(self.server.newest - SPANS, self.server.newest + 1)
        return set().union(*(self.server.spans.get(span, set()) for span in live))


SeenMachine.TestCase.settings = settings(stateful_step_count=40)
test_seen_machine = SeenMachine.TestCase
