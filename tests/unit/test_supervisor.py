"""The supervisor with routes that live in memory: when it ends, how, and what it survives."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from aggregator.clock import SYSTEM_CLOCK
from aggregator.pipeline import RouteState
from consumers.inspector import QueueStatus
from consumers.supervisor import Supervisor


class Piped:
    """What the supervisor asks of a pipeline."""

    def __init__(self):
        self.state = RouteState.RUNNING
        self.last_received = -1000.0
        self.unfinished = False
        self.idle = True
        self.calls = []

    def drain(self):
        self.calls.append("drain")

    def force(self):
        self.calls.append("force")
        return 1


class Route:
    """What the supervisor asks of a route; notes the order of what it is told."""

    def __init__(self):
        self.pipeline = Piped()
        self.calls = self.pipeline.calls
        self.inspector = self
        self.dead = self.hopeless = False
        self.consuming = True
        self.cancelled = True
        self.tended = threading.Event()
        self.found = QueueStatus(0, 1)
        self.until = None
        self.ends = True

    def status(self):
        return self.found

    def tend(self):
        self.tended.set()

    def cancel(self):
        self.calls.append("cancel")

    def release(self):
        self.calls.append("release")

    def join(self, until):
        self.until = until
        self.calls.append("join")
        return self.ends

    def lifeless(self):
        return []

    def faults(self):
        return ["not ready"]


@pytest.fixture(autouse=True)
def _signals():
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


def run(*routes, until_empty=False, grace=5.0, then=None):
    supervisor = Supervisor(routes, grace=grace, until_empty=until_empty, clock=SYSTEM_CLOCK)
    thread = threading.Thread(target=lambda: (routes[0].tended.wait(), then(supervisor)) if then else None)
    thread.start()
    code = supervisor.run()
    thread.join()
    return code


IN_ORDER = ["cancel", "drain", "release", "join"]


def test_a_signal_ends_it_in_order():
    route = Route()
    assert run(route, then=lambda _: os.kill(os.getpid(), signal.SIGTERM)) == 0
    assert route.calls == IN_ORDER


def test_stop_is_the_same_from_any_thread():
    route = Route()
    assert run(route, then=Supervisor.stop) == 0
    assert route.calls == IN_ORDER


def test_a_signal_forces_every_route():
    first, second = Route(), Route()
    reached = threading.Event()
    tend = second.tend

    def tended():
        tend()
        if "force" in second.calls:
            reached.set()

    second.tend = tended

    def then(supervisor):
        os.kill(os.getpid(), signal.SIGUSR1)
        reached.wait(10)
        supervisor.stop()

    assert run(first, second, then=then) == 0
    assert first.calls == second.calls == ["force", *IN_ORDER]


def test_a_signal_takes_no_lock_that_the_main_thread_may_hold():
    """The handler runs between any two steps of the main thread, within Event.wait as well."""
    route = Route()
    supervisor = Supervisor([route], grace=1.0, until_empty=False, clock=SYSTEM_CLOCK)

    def tend():
        with supervisor._stop._cond:
            os.kill(os.getpid(), signal.SIGTERM)  # handled here, in this thread

    route.tend = tend
    assert supervisor.run() == 0


def test_until_empty_ends_once_nothing_is_left():
    route = Route()
    assert run(route, until_empty=True) == 0
    assert route.calls == IN_ORDER


@pytest.mark.parametrize(
    "busy",
    [
        lambda route: setattr(route, "found", QueueStatus(1, 1)),
        lambda route: setattr(route, "found", None),
        lambda route: setattr(route, "consuming", False),
        lambda route: setattr(route.pipeline, "unfinished", True),
        lambda route: setattr(route.pipeline, "last_received", float("inf")),
        lambda route: setattr(route.pipeline, "state", RouteState.WAITING),
    ],
    ids=["ready", "unknown", "not consuming", "unfinished", "just received", "waiting"],
)
def test_until_empty_goes_on_while_something_may_come(busy):
    route = Route()
    busy(route)
    supervisor = Supervisor([route], grace=1.0, until_empty=True, clock=SYSTEM_CLOCK)
    assert not supervisor._drained(route, SYSTEM_CLOCK.monotonic())


def test_what_was_not_settled_is_a_failure_of_until_empty_only():
    for until_empty, code in ((True, 1), (False, 0)):
        route = Route()
        route.pipeline.idle = False
        assert run(route, until_empty=until_empty, grace=0.05, then=Supervisor.stop) == code
        assert route.calls == IN_ORDER


def test_a_worker_out_of_reach_ends_soon_after_the_grace_and_nothing_counts_as_acked():
    for until_empty, code in ((True, 1), (False, 0)):
        stuck, other = Route(), Route()
        stuck.cancelled = stuck.ends = False
        began = SYSTEM_CLOCK.monotonic()
        assert run(stuck, other, until_empty=until_empty, grace=0.05, then=Supervisor.stop) == code
        assert began < stuck.until < other.until - 1
        assert stuck.calls == other.calls == IN_ORDER


def test_all_routes_dead_is_the_end_and_a_failure():
    dead, other = Route(), Route()
    dead.dead = other.dead = dead.hopeless = other.hopeless = True
    assert run(dead, other) == 1
    assert dead.calls == other.calls == IN_ORDER


def test_one_route_dead_is_a_failure_only_at_the_end():
    dead, alive = Route(), Route()
    dead.dead = True
    assert run(dead, alive, then=Supervisor.stop) == 1
    assert alive.calls == IN_ORDER


def test_faults_of_all_routes_are_told():
    supervisor = Supervisor([Route(), Route()], grace=1.0, until_empty=False, clock=SYSTEM_CLOCK)
    assert supervisor.faults() == ["not ready"] * 2
    assert supervisor.lifeless() == []
