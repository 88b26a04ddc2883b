"""The way of a push through sink and engine, and what paces it."""

from __future__ import annotations

import pytest

from aggregator.errors import SinkUnavailableError
from aggregator.sinks import from_url
from aggregator.sinks.base import Fate, Verdict
from aggregator.sinks.push_batch import ATTEMPTS, Batch, Reply, Request, Ruling, Scope
from aggregator.sinks.push_hold import LONGEST, Hold, Pace
from aggregator.testing.clock import VirtualClock
from aggregator.testing.gateways import Apns
from tests.pushes import address, pushes, token, told

OK = Ruling(Verdict(Fate.WRITTEN))
BLOCKED = Ruling(Verdict(Fate.BLOCKED, "no"), Scope.ALL)
AGAIN = Ruling(Verdict(Fate.RETRY, "stale"), Scope.AGAIN)


class Gateway:
    def __init__(self, *rulings):
        self.rulings = list(rulings)
        self.pauses = []

    def request(self, to):
        return Verdict(Fate.DEAD_LETTER, "odd") if int(to.token, 16) % 2 else Request(b"/", [], b"")

    def ruling(self, _to, _request, _reply):
        return self.rulings.pop(0) if self.rulings else OK

    def pause(self):
        return self.pauses.pop(0) if self.pauses else 0.0


def batch(gateway, count=6):
    return Batch([address(number) for number in range(count)], gateway)


def test_what_cannot_be_sent_has_its_verdict_without_a_request():
    one = batch(Gateway())
    numbers = []
    while taken := one.take():
        numbers.append(taken[0])
        one.answered(taken[0], Reply(200))
    assert numbers == [0, 2, 4]
    assert [verdict.fate for verdict in one.finish()] == [Fate.WRITTEN, Fate.DEAD_LETTER] * 3


def test_what_stops_all_leaves_the_others_verdicts():
    one = batch(Gateway(OK, BLOCKED))
    numbers = [one.take()[0] for _ in range(2)]
    for number in numbers:
        one.answered(number, Reply(200))
    assert one.take() is None
    assert one.wait() is None
    reasons = [f"{verdict.fate.value} {verdict.reason}" for verdict in one.finish()]
    assert reasons == ["written ", "dead_letter odd", "blocked no", "blocked no", "blocked no", "blocked no"]


@pytest.mark.parametrize("how", ["stale", "untouched"])
def test_nothing_is_sent_again_for_ever(how):
    one = batch(Gateway(*[AGAIN] * 99), count=1)
    sent = 0
    while taken := one.take():
        sent += 1
        one.answered(taken[0], Reply(403)) if how == "stale" else one.untouched(taken[0], "refused")
    assert sent == ATTEMPTS
    assert [verdict.fate for verdict in one.finish()] == [Fate.RETRY]


def test_a_fault_of_everything_is_raised_if_nobody_answered():
    for answers in (0, 1):
        one = batch(Gateway())
        number, _ = one.take()
        one.answered(number, Reply(200)) if answers else one.uncertain(number, "connection-lost", "")
        one.stop(Verdict(Fate.RETRY, "connection-lost"), SinkUnavailableError("away"))
        if answers:
            assert {verdict.fate for verdict in one.finish()} == {Fate.WRITTEN, Fate.RETRY}
        else:
            with pytest.raises(SinkUnavailableError):
                one.finish()


def test_a_pause_is_waited_for_and_paid_once():
    gateway = Gateway()
    gateway.pauses = [0.5, 0.0, 0.25]
    one = batch(gateway)
    assert one.take() is None
    assert one.wait() == 0.0, "paid"
    assert one.wait() == 0.0
    assert one.take()[0] == 0
    assert one.take() is None
    assert one.take()[0] == 2


@pytest.mark.parametrize("rate", [0.5, 3, 1000, 10_000])
def test_a_rate_is_kept(rate):
    clock = VirtualClock()
    pace = Pace(rate, clock)
    left = []
    end = clock.monotonic() + 50 / rate
    while clock.monotonic() < end:
        pause = pace.pause()
        if pause:
            clock.advance(pause)
        else:
            left.append(clock.monotonic())
    burst = max(1, rate / 10)
    assert 49 <= len(left) <= 51 + burst
    for first, last in zip(left, left[int(burst) + 1 :], strict=False):
        assert last - first >= 1 / rate * 0.99


def test_no_gateway_stops_us_for_ever():
    clock = VirtualClock()
    hold = Hold(clock)
    hold.wait(10**9, "a mistake")
    hold.wait(1, "shorter")
    with pytest.raises(SinkUnavailableError, match="a mistake; 3600 s are left"):
        hold.check()
    clock.advance(LONGEST)
    hold.check()


@pytest.mark.parametrize("engine", ["curl", "aioapns"])
def test_the_whole_way(engine):
    with Apns() as gateway:
        sink = from_url(gateway.sink_url(engine=engine))
        sink.open()
        gateway.journal.clear()
        gateway.script.answer("Unregistered", token=token(3))
        gateway.script.fault("rst", token=token(5))
        gateway.script.fault("goaway", nth=20)
        assert told(sink, pushes(50)) == {
            "written": 48, "refused Unregistered": 1, "retry stream-lost": 1,
        }  # fmt: skip
        assert max(gateway.journal.delivered.values()) == 1
        sink.close()
