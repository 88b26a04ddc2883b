"""Several processes: the line between parent and child, when who is started again, how all ends."""

from __future__ import annotations

import os
import signal
import socket
import threading

import pytest
from prometheus_client import generate_latest, values
from prometheus_client.parser import text_string_to_metric_families

from aggregator.clock import SYSTEM_CLOCK
from aggregator.errors import UnrecoverableError
from aggregator.metrics import Metrics
from aggregator.processes import parent as parents
from aggregator.processes.child import Child
from aggregator.processes.line import Inquiry, Line
from aggregator.processes.parent import Parent
from aggregator.processes.process import STEADY_SECONDS, Order, Process, cause
from aggregator.processes.shared import SharedMetrics, share
from aggregator.signals import HANDLED, Signals
from aggregator.testing.clock import VirtualClock


@pytest.fixture(autouse=True)
def _signals(monkeypatch):
    monkeypatch.setattr(parents, "TICK_SECONDS", 0.001)
    kept = {number: signal.getsignal(number) for number in HANDLED}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


@pytest.fixture
def ends():
    first, second = socket.socketpair()
    with first, second:
        yield Line(first), Line(second)


# ── the line ──


def test_messages_arrive_one_by_one_in_their_order(ends):
    ours, theirs = ends
    for number in range(3):
        assert ours.send(number=number, text="é\n\udcff" * 1000)
    assert [theirs.receive()["number"] for _ in range(3)] == [0, 1, 2]
    assert theirs.receive(0) is None


def test_whoever_hangs_up_is_noticed(ends):
    ours, theirs = ends
    ours.send(do="stop")
    ours.close()
    assert theirs.receive() == {"do": "stop"}
    with pytest.raises(EOFError):
        theirs.receive(10)
    assert not theirs.send(number=1)


def test_who_reads_nothing_holds_nobody_up(ends):
    ours, _ = ends
    while ours.send(wait=False, text="x" * 10_000):
        pass
    assert not ours.send(wait=False, do="stop")


def test_an_answer_that_came_too_late_is_not_taken_for_the_next(ends):
    ours, theirs = ends
    inquiry = Inquiry(ours, SYSTEM_CLOCK)
    assert inquiry.answer(inquiry.ask(), SYSTEM_CLOCK.monotonic()) is None
    second = inquiry.ask()
    for _ in range(2):
        number = theirs.receive()["number"]
        theirs.send(number=number, lifeless=[f"asked {number}"])
    assert inquiry.answer(second, SYSTEM_CLOCK.monotonic() + 10) == {"number": 2, "lifeless": ["asked 2"]}
    assert inquiry.answer(1, SYSTEM_CLOCK.monotonic())["number"] == 2, "a newer answer serves as well"
    theirs.close()
    assert inquiry.answer(inquiry.ask(), SYSTEM_CLOCK.monotonic() + 10) is None


# ── a child ──


class Work:
    """What a child asks of the service."""

    def __init__(self):
        self.calls = []
        self.called = threading.Condition()

    def _note(self, call):
        with self.called:
            self.calls.append(call)
            self.called.notify_all()

    def wait(self, call):
        with self.called:
            assert self.called.wait_for(lambda: call in self.calls, 10), self.calls

    def stop(self):
        self._note("stop")

    def force(self):
        self._note("force")
        return 3

    def refresh(self):
        self._note("refresh")

    def lifeless(self):
        return ["a thread has died"]

    def faults(self):
        return ["not ready"]

    def notes(self):
        return ["control: away"]

    def view(self):
        return {"routes": []}

    def answer(self, name, arguments):
        return {"ok": [name, arguments]}


@pytest.fixture
def child(ends):
    child = Child(2, ends[1], Signals(impatient=False))
    yield child
    child.end()
    ends[0].close()


def test_a_child_does_what_it_is_told(ends, child):
    parent, work = ends[0], Work()
    child.attend(work, grace=10)
    parent.send(do="report", number=7)
    said = {"lifeless": ["a thread has died"], "faults": ["not ready"], "notes": ["control: away"]}
    assert parent.receive(10) == {"number": 7, **said}
    parent.send(do="force")
    parent.send(do="stop")
    work.wait("stop")
    assert work.calls == ["refresh", "force", "stop"]
    assert child.told


def test_a_child_whose_parent_has_gone_ends(ends, child):
    work = Work()
    child.attend(work, grace=10)
    ends[0].close()
    work.wait("stop")
    assert child.told


def test_a_child_that_cannot_say_how_it_is_says_that(ends, child):
    work = Work()
    work.faults = lambda: 1 // 0
    child.attend(work, grace=10)
    ends[0].send(do="report", number=1)
    said = ends[0].receive(10)
    assert said["lifeless"] == ["it cannot say how it is: ZeroDivisionError"]


def test_the_exit_code_tells_a_foreign_signal_from_the_parents_word(child):
    assert child.exit_code(0) == 0
    child.signals.number = signal.SIGTERM
    assert child.exit_code(0) == 128 + signal.SIGTERM
    assert child.exit_code(1) == 1
    child.told = True
    assert child.exit_code(0) == 0


# ── who is started again, and when ──


@pytest.mark.parametrize(("code", "words"), [(-9, "SIGKILL"), (143, "SIGTERM"), (3, "exit code 3")])
def test_causes(code, words):
    assert cause(code) == words


def test_pauses_grow_until_one_has_lived_for_long():
    clock = VirtualClock()
    process = Process(1, Order((), ""), clock)
    process._started = clock.monotonic()
    pauses = [process.died(received=number) for number in range(1, 12)]
    assert pauses[0] <= 0.2
    assert 5 <= pauses[-1] <= 10
    assert process.idle_failures == 0, "each has taken a message"
    process._started = clock.monotonic()
    assert process.died(received=11) >= 5
    assert process.idle_failures == 1
    clock.advance(STEADY_SECONDS)
    assert process.died(received=11) <= 0.2
    assert process.idle_failures == 1


# ── the parent ──


class Played(Process):
    """A process whose ends are given: each start takes the next exit code, None runs until it is told."""

    def __init__(self, number, *codes, takes=1):
        super().__init__(number, Order((), ""), SYSTEM_CLOCK)
        self.codes = list(codes)
        self.told = []
        self.starts = 0
        self.takes = takes
        self.on_start = lambda: None

    def start(self):
        self.starts += 1
        self._child = self
        self._started = SYSTEM_CLOCK.monotonic()
        self.on_start()

    def ended(self):
        if self._child is None or (not self.told.count("stop") and self.codes[:1] in ([], [None])):
            return None
        self._child = None
        code = self.codes.pop(0) if self.codes else 0
        return 0 if code is None else code

    def died(self, received):
        pause = super().died(received)
        self.start_at = 0.0
        return pause

    def tell(self, do):
        self.told.append(do)

    def kill(self):
        self.told.append("kill")
        self._child = None


class Counted(SharedMetrics):
    """Metrics of processes that take messages, or none."""

    def __init__(self, folder, processes):
        super().__init__(folder)
        self.processes = processes

    def received(self, number):
        process = self.processes[number - 1]
        return process.starts * process.takes


def run(folder, *processes, until_empty=False, grace=10.0):
    metrics = Counted(str(folder), processes)
    parent = Parent(processes, metrics=metrics, grace=grace, until_empty=until_empty, clock=SYSTEM_CLOCK)
    return parent.run(), metrics


def value(metrics, name, **labels):
    return metrics.registry.get_sample_value(name, labels) or 0


def told_to_stop():
    os.kill(os.getpid(), signal.SIGTERM)


def test_a_signal_stops_all(tmp_path):
    first, second = Played(1), Played(2)
    second.on_start = told_to_stop
    assert run(tmp_path, first, second)[0] == 0
    assert first.told == second.told == ["stop"]


def test_who_dies_is_started_again_and_counted(tmp_path):
    dying, other = Played(1, -9, -9, 143, None), Played(2)
    dying.on_start = lambda: dying.starts < 4 or told_to_stop()
    code, metrics = run(tmp_path, dying, other)
    assert code == 0
    assert (dying.starts, other.starts) == (4, 1)
    assert value(metrics, "aggregator_process_restarts_total", cause="SIGKILL") == 2
    assert value(metrics, "aggregator_process_restarts_total", cause="SIGTERM") == 1


@pytest.mark.parametrize("code", [0, 1, 2])
def test_an_end_of_its_own_ends_all_with_its_code(tmp_path, code):
    ending, other = Played(1, code), Played(2)
    assert run(tmp_path, ending, other)[0] == code
    assert other.told == ["stop"]
    assert (ending.starts, other.starts) == (1, 1)


def test_who_always_dies_before_a_message_ends_all(tmp_path):
    dying, other = Played(1, *[-11] * 10, takes=0), Played(2)
    with pytest.raises(UnrecoverableError, match=r"process 1 died 5 times before .* by SIGSEGV"):
        run(tmp_path, dying, other)
    assert other.told == ["stop"]


def test_who_takes_a_message_each_time_may_die_often(tmp_path):
    """A message that kills is isolated by being delivered often: that must not end the service."""
    dying, other = Played(1, *[-11] * 30, None), Played(2)
    dying.on_start = lambda: dying.starts < 31 or told_to_stop()
    assert run(tmp_path, dying, other)[0] == 0


def test_until_empty_goes_on_until_each_has_found_nothing(tmp_path):
    first, second = Played(1, 0), Played(2, -9, 0)
    assert run(tmp_path, first, second, until_empty=True)[0] == 0
    assert (first.starts, second.starts) == (1, 2)


@pytest.mark.parametrize("last", [1, -9])
def test_the_worst_of_the_last_exit_codes_counts(tmp_path, last):
    first, second = Played(1), Played(2, None)
    second.on_start = told_to_stop
    second.ended = lambda: setattr(second, "_child", None) or last if "stop" in second.told else None
    assert run(tmp_path, first, second)[0] == 1


def test_who_does_not_end_in_time_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(parents, "CLOSING_SECONDS", 0)
    monkeypatch.setattr(parents, "MARGIN_SECONDS", 0)
    stuck = Played(1)
    stuck.ended = lambda: None
    stuck.on_start = told_to_stop
    assert run(tmp_path, stuck, grace=0.0)[0] == 1
    assert stuck.told == ["stop", "kill"]


def test_the_second_signal_kills_all(tmp_path, capfd):
    stuck = Played(1)
    stuck.ended = lambda: told_to_stop() if "stop" in stuck.told else None
    stuck.on_start = told_to_stop
    assert run(tmp_path, stuck, grace=1000.0)[0] == 1
    assert stuck.told == ["stop", "kill"]
    assert "unacked messages go back" in capfd.readouterr().err


def test_a_signal_forces_all(tmp_path):
    first, second = Played(1), Played(2)
    second.on_start = lambda: os.kill(os.getpid(), signal.SIGUSR1)
    tell = second.tell
    second.tell = lambda do: (tell(do), do == "force" and told_to_stop())
    assert run(tmp_path, first, second)[0] == 0
    assert first.told == second.told == ["force", "stop"]


def test_a_process_that_cannot_be_started_is_tried_again(tmp_path):
    process = Played(1)

    def start():
        process.start_at = 0.0
        if process.starts == 1:
            process._child = None
            raise BlockingIOError("no more processes")
        told_to_stop()

    process.on_start = start
    process.postpone = lambda: 0.1
    assert run(tmp_path, process)[0] == 0
    assert process.starts == 2


# ── what they count ──


@pytest.fixture
def shared(tmp_path, monkeypatch):
    """Return a function: metrics as the child of this number makes them."""
    monkeypatch.setattr(values, "ValueClass", values.ValueClass)
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", "")
    classes = []

    def make(number):
        share(str(tmp_path), number)
        classes.append(values.ValueClass)
        return Metrics(shared=True)

    yield make
    for each in classes:
        each.close_all_files()


def scraped(metrics):
    return {
        (
            sample.name,
            tuple(sample.labels[name] for name in sorted(sample.labels, reverse=True)),
        ): sample.value
        for family in text_string_to_metric_families(generate_latest(metrics.registry).decode())
        for sample in family.samples
    }


def test_counts_of_all_are_added_up(shared, tmp_path):
    both = []
    for number, count in ((1, 3), (2, 5)):
        both.append(metrics := shared(number))
        route = metrics.route("r")
        route.settled("written", count)
        route.received.inc(count)
        route.batch("size", True, count, 100, 0.5)
        route.watch({"held_messages": lambda count=count: count})
    seen = SharedMetrics(str(tmp_path))
    seen.before_scrape = lambda: [metrics.refresh() for metrics in both]
    found = scraped(seen)
    assert found["aggregator_deliveries_total", ("written", "r")] == 8
    assert found["aggregator_batch_messages_count", ("r",)] == 2
    assert found["aggregator_batch_messages_sum", ("r",)] == 8
    assert found["aggregator_batch_messages_bucket", ("r", "2.0")] == 0
    assert found["aggregator_batch_messages_bucket", ("r", "5.0")] == 2
    assert found["aggregator_held_messages", ("r",)] == 8
    assert seen.totals() == {"r": {"written": 8}}
    assert (seen.received(1), seen.received(2), seen.received(3)) == (3, 5, 0)


def test_who_follows_a_dead_one_goes_on_counting_and_holds_nothing(shared, tmp_path):
    dead = shared(1)
    dead.route("r").settled("written", 3)
    dead.route("r").watch({"held_messages": lambda: 7})
    dead.refresh()
    seen = SharedMetrics(str(tmp_path))
    assert scraped(seen)["aggregator_held_messages", ("r",)] == 7
    files = {path.name for path in tmp_path.iterdir()}
    values.ValueClass.close_all_files()
    seen.forget(1)
    assert ("aggregator_held_messages", ("r",)) not in scraped(seen)
    assert scraped(seen)["aggregator_deliveries_total", ("written", "r")] == 3
    again = shared(1)
    again.route("r").settled("written", 2)
    again.route("r").watch({"held_messages": lambda: 1})
    again.refresh()
    assert scraped(seen)["aggregator_deliveries_total", ("written", "r")] == 5
    assert scraped(seen)["aggregator_held_messages", ("r",)] == 1
    assert {path.name for path in tmp_path.iterdir()} == files


def test_a_file_that_is_just_made_is_no_obstacle(tmp_path):
    (tmp_path / "counter_1.db").touch()
    assert SharedMetrics(str(tmp_path)).totals() == {}


def test_every_gauge_of_several_processes_is_their_sum_but_for_those_that_add_up_to_nothing():
    gauges = [metric for metric in vars(Metrics()).values() if getattr(metric, "_type", "") == "gauge"]
    assert gauges
    others = {
        gauge._name: gauge._multiprocess_mode for gauge in gauges if gauge._multiprocess_mode != "livesum"
    }
    assert others == dict.fromkeys(
        (
            "aggregator_last_write_timestamp_seconds",
            "aggregator_oldest_group_seconds",
            "aggregator_queue_messages",
            "aggregator_refused_ratio",
            "aggregator_refused_ratio_limit",
        ),
        "livemax",
    )


# ── what the live page asks ──


def test_answers_of_one_kind_serve_no_question_of_another(ends):
    ours, theirs = ends
    inquiry = Inquiry(ours, SYSTEM_CLOCK)
    view, report = inquiry.ask("view"), inquiry.ask()
    theirs.send(number=report, lifeless=[])
    theirs.send(do="view", number=view, view={"pid": 1})
    until = SYSTEM_CLOCK.monotonic() + 10
    assert inquiry.answer(view, until, "view")["view"] == {"pid": 1}
    assert inquiry.answer(report, until) == {"number": report, "lifeless": []}


def test_a_child_shows_itself_and_carries_out_commands(ends, child):
    parent, work = ends[0], Work()
    child.attend(work, grace=10)
    parent.send(do="view", number=1)
    assert parent.receive(10) == {"do": "view", "number": 1, "view": {"routes": []}}
    parent.send(do="command", number=2, name="pause", arguments={"route": "r"})
    answer = {"ok": ["pause", {"route": "r"}]}
    assert parent.receive(10) == {"do": "command", "number": 2, "answer": answer}


def test_a_child_that_cannot_show_itself_is_still_heard(ends, child):
    parent, work = ends[0], Work()
    work.view = None
    child.attend(work, grace=10)
    parent.send(do="view", number=1)
    assert parent.receive(10) == {"do": "view", "number": 1, "view": None}
    parent.send(do="report", number=2)
    assert parent.receive(10)["number"] == 2


def test_an_answer_that_nobody_waits_for_holds_no_child_up(ends, child):
    parent, work = ends[0], Work()
    work.view = lambda: "x" * 1_000_000  # more than the line holds
    inquiry = Inquiry(parent, SYSTEM_CLOCK)
    child.attend(work, grace=10)
    late = inquiry.ask("view")
    assert inquiry.answer(late, SYSTEM_CLOCK.monotonic(), "view") is None
    parent.send(wait=False, do="force")
    until = SYSTEM_CLOCK.monotonic() + 10
    while "force" not in work.calls and SYSTEM_CLOCK.monotonic() < until:
        inquiry.drain()
    assert work.calls == ["force"]
    assert len(inquiry.answer(late, until, "view")["view"]) == 1_000_000, "drained, and not lost"
