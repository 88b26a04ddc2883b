"""What a person sees: the screen of a terminal in which the service runs, and its last words."""

from __future__ import annotations

import re
import subprocess

import pytest

from producers.load import main as load
from tests.terminal import Terminal, program

pytestmark = pytest.mark.integration

RULE = re.compile("─+")


@pytest.fixture
def terminal():
    opened = []

    def start(*command, **options):
        opened.append(Terminal(*command, **options))
        return opened[-1]

    yield start
    for each in opened:
        each.close()


@pytest.fixture
def queue(tmp_path, capsys):
    """A queue file with 3,000 messages, and the flags that take them from it."""
    broker = f"sqlite-queue:///{tmp_path}/queue.db"
    assert load(["--broker", broker, "--count", "3000", "--size", "50"]) == 0
    capsys.readouterr()
    return ["--broker", broker, "--sink", f"sqlite:///{tmp_path}/out.db", "--size", "100"]


def service(*flags):
    return program("aggregator.consume", *flags)


def below_the_rule(lines):
    at = next((number for number, line in enumerate(lines) if RULE.fullmatch(line)), None)
    return [] if at is None else [line for line in lines[at + 1 :] if line]


def test_the_summary_and_what_is_left_of_it(terminal, queue):
    opened = terminal(*service(*queue))
    lines = opened.wait(lambda lines: "3,000 written" in "\n".join(lines), "the summary")
    heading, route, foot = below_the_rule(lines)
    assert heading.split() == ["route", "state", "in/s", "written/s", "held", "last", "batch", "dead"]
    assert route.split()[:2] == ["default", "running"]
    assert "100 size" in route
    assert foot.endswith("3,000 written · Ctrl-C ends cleanly")
    above = "\n".join(lines).partition("─")[0]
    assert "route_runs" in above.replace("\n", "")
    assert "[info     ] batch" not in above, "batches are told by the summary"
    assert opened.end() == 0
    assert not opened.screen.cursor.hidden
    last = opened.text
    assert "─" not in last, "the summary is wiped away"
    assert "default: 3000 written" in last
    assert "stopped" in last


def test_a_narrow_terminal_and_a_route_that_waits(terminal, tmp_path):
    flags = ["--broker", f"sqlite-queue:///{tmp_path}/q.db", "--sink", "webhook+http://127.0.0.1:1/x"]
    opened = terminal(*service(*flags), columns=50, rows=30)
    lines = opened.wait(lambda lines: len(below_the_rule(lines)) == 4, "the summary with a reason")
    heading, route, reason, _ = below_the_rule(lines)
    assert heading.split() == ["route", "state", "written/s", "held"]
    assert route.split() == ["default", "waiting", "0", "0"]
    assert reason.startswith("default: ")
    assert len(reason) <= 50
    assert opened.end() == 0


def test_several_processes_have_one_summary_and_logs_above_it(terminal, queue):
    opened = terminal(*service(*queue, "--processes", "2"), columns=100, rows=40)
    lines = opened.wait(lambda lines: "3,000 written" in "\n".join(lines), "the summary of both")
    assert sum(bool(RULE.fullmatch(line)) for line in lines) == 1
    assert len(below_the_rule(lines)) == 3
    opened.wait(lambda lines: "route_runs" in "\n".join(lines).partition("─")[0], "the log of a child")
    assert opened.end() == 0
    assert "default: 3000 written" in opened.text


@pytest.mark.parametrize(
    ("flags", "environment"),
    [(["--summary", "off"], {}), ([], {"TERM": "dumb"}), (["--log-format", "json"], {})],
)
def test_no_summary_where_none_is_wanted(terminal, queue, flags, environment):
    opened = terminal(*service(*queue, *flags, "--until-empty"), environment=environment, rows=200)
    assert opened.end(b"") == 0
    assert "─".encode() not in opened.output
    assert b"batch" in opened.output
    assert "default: 3000 written" in opened.text


def test_without_colours_it_is_the_same_without_colours(terminal, queue):
    opened = terminal(*service(*queue), environment={"NO_COLOR": "1"})
    opened.wait(lambda lines: "3,000 written" in "\n".join(lines), "the summary")
    assert {cell.fg for row in opened.screen.buffer.values() for cell in row.values()} == {"default"}
    assert opened.end() == 0


def test_logs_in_a_file_leave_the_terminal_to_the_summary(terminal, queue, tmp_path):
    with (tmp_path / "log").open("wb") as log:
        opened = terminal(*service(*queue), stderr=log.fileno())
    opened.wait(lambda lines: "3,000 written" in "\n".join(lines), "the summary")
    assert opened.end() == 0
    assert b'"event": "batch"' in (tmp_path / "log").read_bytes()


def test_a_pipe_has_structured_logs_and_no_summary(queue):
    done = subprocess.run(
        service(*queue, "--until-empty"), capture_output=True, text=True, timeout=60, check=True
    )
    assert all(line.startswith("{") for line in done.stderr.splitlines())
    assert "─" not in done.stderr + done.stdout
    assert done.stdout.startswith("default: 3000 written\n")


def test_long_work_has_a_bar_on_a_terminal(terminal, tmp_path):
    flags = ["--broker", f"sqlite-queue:///{tmp_path}/q.db", "--count", "300", "--rate", "150"]
    opened = terminal(*program("producers.load", *flags))
    lines = opened.wait(lambda lines: "/300" in "\n".join(lines), "a bar")
    assert lines[0].startswith("published ")
    assert opened.end(b"") == 0
    assert opened.lines[0].startswith("300 messages confirmed"), "the bar is wiped away"


def test_the_doctor_and_faults_in_colours(terminal, tmp_path):
    flags = ["--broker", f"sqlite-queue:///{tmp_path}/q.db", "--sink", "webhook+http://127.0.0.1:1/x"]
    opened = terminal(*program("aggregator.doctor", *flags), columns=70, rows=50)
    assert opened.end(b"") == 2
    assert "this machine" in opened.lines
    assert opened.lines.index("  error    connection: 127.0.0.1:1: nothing listens there") > 0
    assert {"green", "red"} <= {cell.fg for row in opened.screen.buffer.values() for cell in row.values()}
    assert all(len(line) <= 70 for line in opened.lines)
    opened = terminal(*service("--sise", "20"))
    assert opened.end(b"") == 2
    assert opened.text.splitlines() == [
        "error: --sise: no such flag; did you mean --size?",
        "      | --sise 20",
        "      | ^~~~~~",
        "      | --size",
        "1 error; nothing was started.",
    ]
