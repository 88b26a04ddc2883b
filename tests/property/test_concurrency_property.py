"""The limit of requests under way: bounds, waves, recovery, for any sequence of answers."""

from __future__ import annotations

from math import inf

from hypothesis import given
from hypothesis import strategies as st

from aggregator.concurrency import Concurrency

MOSTS = st.integers(1, 40)
#: what an answer is like, how long it took, how many items it is to, how many requests leave after it
ANSWERS = st.tuples(
    st.sampled_from(["good", "good", "throttled", "silent", "withdrawn"]),
    st.floats(0.0, 100.0),
    st.integers(1, 1000),
    st.integers(0, 40),
)


class Run:
    """Sends as many requests as it may; they are answered in the order in which they left."""

    def __init__(self, most):
        self.machine = Concurrency(most, adaptive=True)
        self.most, self.now = most, 0.0
        self.left = []

    def fill(self, most=inf):
        while not self.machine.full and most > 0:
            self.machine.leave()
            self.left.append(self.now)
            most -= 1

    def answer(self, kind, seconds, items):
        self.now += seconds
        left = self.left.pop(0)
        if kind == "withdrawn":
            self.machine.ended()
        else:
            throttled = {"good": False, "throttled": True, "silent": None}[kind]
            self.machine.answered(left, self.now, items, throttled=throttled)
        self.check()

    def check(self):
        assert 1 <= self.machine.limit <= self.most
        assert self.machine.limit == int(self.machine.limit)
        assert self.machine.under_way == len(self.left)
        assert self.machine.full == (len(self.left) >= self.machine.limit)

    def play(self, answers, good=0):
        """Have so many good answers first, then these."""
        for _ in range(good):
            self.fill()
            self.answer("good", max(0.0, self.left[0] + 1.0 - self.now), 10)
        for kind, seconds, items, more in answers:
            self.fill(1)
            self.fill(more)
            if self.left:
                self.answer(kind, seconds, items)


@given(MOSTS, st.lists(ANSWERS, max_size=200), st.integers(0, 400))
def test_the_limit_keeps_its_bounds(most, answers, good):
    Run(most).play(answers, good)


@given(st.integers(2, 40), st.lists(ANSWERS, max_size=200))
def test_a_sink_that_takes_whatever_comes_gets_the_most(most, answers):
    run = Run(most)
    run.play(answers)
    while run.left:
        run.answer("throttled", 1.0, 10)
    for _ in range(20_000):
        run.fill()
        run.answer("good", max(0.0, run.left[0] + 1.0 - run.now), 10)
        if run.machine.limit == most:
            return
    raise AssertionError(f"{run.machine.limit} of {most}")


@given(st.integers(2, 40), st.lists(ANSWERS, max_size=50), st.integers(0, 400))
def test_a_wave_that_is_throttled_counts_once(most, answers, good):
    run = Run(most)
    run.play(answers, good)
    while run.left:
        run.answer("silent", 1.0, 10)
    run.now += 1.0
    run.fill()
    before = run.machine.limit
    run.answer("throttled", 1.0, 10)
    after = run.machine.limit
    assert after == max(1, min(before - 1, int(before * 0.75)))
    while run.left:
        run.answer("throttled", 0.1, 10)
    assert run.machine.limit == after
    run.fill()
    run.answer("throttled", 0.1, 10)
    assert run.machine.limit == max(1, min(after - 1, int(after * 0.75))), "the next wave counts again"


@given(st.integers(2, 40), st.lists(ANSWERS, max_size=200), st.integers(1, 20))
def test_a_limit_that_is_not_in_use_does_not_grow(most, answers, used):
    run = Run(most)
    run.play(answers)
    while run.left:
        run.answer("throttled", 1.0, 10)
    limit = run.machine.limit
    for _ in range(300):
        run.fill(min(used, limit - 1))
        if run.left:
            run.answer("good", 1.0, 10)
    assert run.machine.limit <= limit


@given(st.one_of(st.just(inf), MOSTS), st.lists(ANSWERS, max_size=50))
def test_a_fixed_limit_stays(most, answers):
    machine = Concurrency(most)
    for number, (kind, seconds, items, _) in enumerate(answers):
        machine.leave()
        machine.answered(float(number), number + seconds, items, throttled=kind == "throttled")
        assert (machine.limit, machine.under_way) == (most, 0)
