"""The live summary without a terminal: its figures, what fits, and where it is shown at all."""

from __future__ import annotations

import io
from types import SimpleNamespace

import pytest
import structlog
from rich.console import Console

from aggregator import logs, summary
from aggregator.history import BatchReport
from aggregator.metrics import Metrics
from aggregator.standing import STATES
from aggregator.summary import Lines, screen_of
from aggregator.summary_board import Board, batch_words, short
from aggregator.summary_figures import Detail, Figures, Rates, read

REPORT = BatchReport(0.0, None, "size", 1, True, 1000, 0, 5, 1.0, 0, 0, 2.0, 0.1, 0.104, {"written": 1000})


def metrics_of(routes):
    metrics = Metrics()
    for name, state in routes.items():
        route = metrics.route(name)
        route.state(state, STATES)
        route.received.inc(70)
        route.settled("written", 50)
        route.settled("duplicate", 5)
        route.settled("dead_lettered", 2)
        route.dead_letter("bad-json", 2)
        route.watch({"held_messages": lambda: 13.0, "held_groups": lambda: 3.0})
    return metrics


def test_the_figures_are_those_of_the_metrics():
    found = read(metrics_of({"a": "running", "b": "waiting"}).overview())
    assert found["a"] == Figures(70, 55, 13, 3, 0, 2, {"running"})
    assert found["b"].state == "waiting"


def test_of_several_processes_the_worst_state_is_told():
    assert Figures(states={"running", "waiting"}).state == "waiting"
    assert Figures(states={"running", "stopped", "waiting"}).state == "stopped"
    assert Figures().state == "waiting"


def test_rates_are_those_of_the_last_seconds():
    rates = Rates()
    for second in range(20):
        busy = max(0, second - 10)  # ten idle seconds, then 100 and 80 a second
        rates.add(float(second), {"a": Figures(received=100 * busy, written=80 * busy)})
    assert rates.of("a") == (100, 80)
    assert rates.of("b") == (0, 0)
    rates.add(20.0, {"a": Figures()})  # its process has died, and its counts with it
    assert rates.of("a") == (0, 0)


def drawn(width, height=24, routes=("default",), details=None, states=None):
    figures = {
        name: Figures(received=1, written=123_456, held=1_204, groups=12, dead=3,
                      states={(states or {}).get(name, "running")})
        for name in routes
    }  # fmt: skip
    rates = Rates()
    rates.add(0.0, {})
    rates.add(10.0, figures)
    board = Board(list(routes), figures, details or {}, rates, 83.4)
    console = Console(file=io.StringIO(), width=width, legacy_windows=False)
    console.print(board.drawn(width, height))
    return console.file.getvalue().rstrip("\n").split("\n")


@pytest.mark.parametrize("width", [40, 60, 80, 100, 200])
def test_no_line_is_wider_than_the_terminal(width):
    names = ("a-route-whose-name-is-longer-than-the-column-that-it-has", "b")
    details = {"b": Detail("no answer from " + "http://somewhere.example " * 9), names[0]: Detail("", REPORT)}
    lines = drawn(width, routes=names, details=details, states={"b": "waiting"})
    assert max(map(len, lines)) <= width
    assert lines[0] == "─" * width
    assert len(lines) == 6  # rule, heading, two routes, one reason, foot


def test_what_does_not_fit_is_left_out_from_the_least_important_on():
    assert drawn(100)[1].split() == [
        "route",
        "state",
        "in/s",
        "written/s",
        "held",
        "groups",
        "last",
        "batch",
        "dead",
    ]
    assert drawn(80)[1].split() == ["route", "state", "in/s", "written/s", "held", "last", "batch", "dead"]
    assert drawn(60)[1].split() == ["route", "state", "in/s", "written/s", "held", "dead"]
    assert drawn(40)[1].split() == ["route", "state", "written/s", "held"]


def test_of_many_routes_those_in_trouble_stay():
    names = [f"r{number:02}" for number in range(40)]
    lines = drawn(80, height=12, routes=names, states={"r37": "stopped"})
    assert len(lines) <= 12
    assert any(line.startswith("r37") for line in lines)
    assert lines[-1].startswith("and 31 more routes")


def test_a_reason_is_told_of_routes_that_do_not_run():
    details = {"a": Detail("no answer"), "b": Detail("left from before")}
    lines = drawn(80, routes=("a", "b"), details=details, states={"a": "waiting"})
    assert "a: no answer" in lines
    assert not any("left from before" in line for line in lines)


def test_numbers_and_batches_in_few_characters():
    numbers = [0, 0.4, 7, 99_999, 1_234_567, 56_789_012]
    assert [short(n) for n in numbers] == ["0", "0.4", "7", "99,999", "1,235k", "57M"]
    assert batch_words(REPORT) == "1,000 size 204ms"
    assert batch_words(REPORT._replace(writing=2.0)) == "1,000 size 2.1s"
    assert batch_words(None) == "-"


# ── where it is shown ──


class Stream(io.StringIO):
    def __init__(self, terminal):
        super().__init__()
        self.terminal = terminal

    def isatty(self):
        return self.terminal

    def fileno(self):
        return 2


@pytest.fixture
def foreground(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(summary.os, "tcgetpgrp", lambda _: summary.os.getpgrp())


def chosen(stderr, stdout, **settings):
    given = {"summary": "auto", "log_format": "auto", **settings}
    streams = {"stderr": Stream(stderr), "stdout": Stream(stdout)}
    found = screen_of(SimpleNamespace(**given), **streams)
    return next((name for name, stream in streams.items() if stream is found), None)


@pytest.mark.usefixtures("foreground")
def test_on_which_stream():
    assert chosen(True, True) == "stderr"
    assert chosen(True, False) == "stderr"
    assert chosen(False, True) == "stdout"
    assert chosen(False, False) is None
    assert chosen(True, True, summary="off") is None
    assert chosen(True, True, log_format="json") is None
    assert chosen(True, True, log_format="json", summary="on") == "stderr"
    assert chosen(False, True, log_format="json") == "stdout"
    assert chosen(False, False, summary="on") is None


@pytest.mark.usefixtures("foreground")
def test_not_in_the_background_and_not_without_a_cursor(monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    assert chosen(True, True) is None
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(summary.os, "tcgetpgrp", lambda _: summary.os.getpgrp() + 1)
    assert chosen(True, True) is None


# ── what is written meanwhile ──


def test_lines_are_taken_whole():
    lines = Lines()
    lines.write("one\ntw")
    lines.write("o\nthr")
    assert lines.take() == "one\ntwo"
    assert lines.take() == ""
    assert lines.take(all_of_it=True) == "thr"
    lines.write("a\n\n")
    assert lines.take() == "a\n"


def test_loggers_that_were_bound_before_are_diverted_and_come_back():
    stream, other = io.StringIO(), io.StringIO()
    logs.configure("logfmt", "info", stream)
    bound = structlog.get_logger().bind(route="a")
    with logs.diverted(other, "batch"):
        bound.info("batch")
        bound.info("route_waits")
        logs.logging.getLogger("kombu").warning("from a library")
    bound.info("batch")
    assert [line.split("event=")[1].split()[0] for line in other.getvalue().splitlines()] == [
        "route_waits",
        '"from',
    ]
    assert stream.getvalue().count("event=batch") == 1


def test_a_log_that_nobody_reads_stops_no_work():
    class Gone(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    logs.configure("json", "info", Gone())
    structlog.get_logger().info("said to nobody")
