"""--check: the way, the worst case and its sums, the warnings; and nothing is connected."""

from __future__ import annotations

import io
import os
import socket

import pytest

from aggregator import rules
from aggregator.check import check
from aggregator.config import load


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    for name in list(os.environ):
        if name.upper().startswith("AGGREGATOR_"):
            monkeypatch.delenv(name)
    monkeypatch.setattr(rules, "from_url", lambda url: None)

    def refuse(*args, **kwargs):
        raise AssertionError("something was connected or bound")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket.socket, "bind", refuse)


def report(*argv):
    return str(check(load(list(argv))))


def test_the_default():
    assert (
        report()
        == """\
Route default
  from         sqlite-queue:///data/queue.db queue 'task_queue', 1 worker x prefetch 4000
  grouped by   nothing: all messages are one group
  complete at  1000 messages, 10MB, age 2s, whichever is first
  requests of  up to 1000 documents or 10MB, 2 at once, linger 0
  to           sqlite:///data/documents.db, id from message_id
  refused to   queue 'task_queue.dead'
  At worst
  messages     4000 held unacked (1 x 4000)
  bytes        256MB held (max_held)
  groups       1 open
  held for     2s age + 7m30s writing and retrying, then all is given back = 7m32s of the ack deadline of 30m
  a slow sink  has to take 3 messages/s at least, or what waits passes the deadline
Process
  metrics      off
  shutdown     within 30s
  ends         when told to
The settings are right."""
    )


def test_a_keyed_route_on_amqp():
    text = report(
        "--broker", "amqp://u:hunter2@h//", "--correlate", "header:key", "--size", "100", "--age", "1m",
        "--idle", "10s", "--sentinel", "type=end", "--sentinel-grace", "3s", "--max-message", "1MB",
        "--prefetch", "40", "--dead-letter", "exchange:refused", "--metrics-port", "0", "--until-empty",
        "--sink", "elasticsearch+https://u:hunter2@h/i",
    )  # fmt: skip
    assert "hunter2" not in text
    assert "from         amqp://u:***@h// queue 'task_queue', 5 workers x prefetch 40" in text
    assert "grouped by   header:key" in text
    assert "complete at  100 messages, 10MB, age 1m, idle 10s, sentinel type=end, whichever is first" in text
    assert "requests of  up to 1000 documents or 10MB, 2 at once, linger 5ms" in text
    assert "to           elasticsearch+https://u:***@h/i, id from message_id" in text
    assert "refused to   exchange 'refused'" in text
    assert "messages     200 held unacked (5 x 40)" in text
    assert "bytes        200MB held (200 x max_message 1MB)" in text
    assert "groups       200 open, one message each" in text
    assert "held for     1m age + 3s sentinel_grace + 5ms linger + 7m30s writing and retrying" in text
    assert "= 8m33s5ms of the ack deadline of 30m" in text
    # 2 groups, both one short of 100, are 198 of 200; a third would pass it
    assert "Warning: prefetch: 2 open groups of 100 fit, K x (size - 1) + 1 <= 5 x 40; with more" in text
    assert "metrics      http://127.0.0.1:any free port/metrics" in text
    assert "ends         when its queues are empty" in text


@pytest.mark.parametrize(
    ("argv", "held"),
    [
        (["--size", "1"], "7m30s writing and retrying, then all is given back = 7m30s of"),
        (["--age", "none", "--idle", "1s", "--size", "11"], "10s idle (10 x 1s) + 7m30s writing"),
        (["--age", "4s", "--idle", "1s", "--size", "11"], "4s age + 7m30s writing"),
        (
            ["--ack-deadline", "10s"],
            "2s age + 2s500ms writing and retrying, then all is given back = 4s500ms of",
        ),
        (
            ["--age", "none", "--deadline-share", "none"],
            "without end age + 7m30s writing and retrying, then all is given back = without end of",
        ),
    ],
)
def test_the_longest_time_held(argv, held):
    assert f"held for     {held}" in report(*argv)


@pytest.mark.parametrize(
    ("argv", "warning"),
    [
        (["--id", "none"], "id: made at receipt: a crash between write and ack writes those documents twice"),
        (["--workers", "2", "--sink", "elasticsearch+http://h/i?op=index"],
         "sink: op=index without a version and 2 workers: an older write may win"),
        (["--idle", "3s"], "idle: 3s never comes before age 2s"),
        (["--age", "none", "--deadline-share", "none"],
         "age: off: a group that is not filled waits until it is, or until shutdown"),
        (["--max-held", "15MB"], "max_held: 15MB is less than max_message 16MB; max_held decides"),
    ],
)  # fmt: skip
def test_warnings(argv, warning):
    (got,) = check(load(argv)).warnings
    assert got.startswith(warning)


@pytest.mark.parametrize("query", ["op=index&version=/v", "op=create"])
def test_no_warning_where_no_write_can_be_lost(query):
    assert not check(load(["--workers", "2", "--sink", f"elasticsearch+http://h/i?{query}"])).warnings
    assert not check(load(["--sink", "elasticsearch+http://h/i?op=index"])).warnings


def test_several_routes_are_told_apart(tmp_path, monkeypatch):
    path = tmp_path / "settings.toml"
    path.write_text("[routes.a]\nqueue = 'a'\nid = 'none'\n[routes.b]\nqueue = 'b'\n")
    monkeypatch.setenv("AGGREGATOR_ZZZ", "1")
    result = check(load(["--config", str(path)]))
    assert [route.name for route in result.routes] == ["a", "b"]
    first, second = result.warnings
    assert first.startswith("routes.a.id: made at receipt")
    assert second == "AGGREGATOR_ZZZ: no setting of this name; it has no effect"


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_coloured_on_a_terminal_plain_in_a_pipe(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    result = check(load(["--id", "none"]))
    terminal, pipe = Terminal(), io.StringIO()
    result.show(terminal)
    result.show(pipe)
    assert pipe.getvalue() == f"{result}\n"
    assert "\x1b[1mRoute default\x1b[0m" in terminal.getvalue()
    assert "\x1b[33mWarning: id: made at receipt" in terminal.getvalue()


def test_several_processes():
    text = report("--processes", "3", "--broker", "amqp://h", "--size", "100")
    assert "messages     400 held unacked (5 x 80)" in text
    assert "processes    3 x all of this: 1200 messages" in text
    assert "processes    3, each with its own workers, groups and sink" in text
    assert "processes" not in report("--broker", "amqp://h")


def test_several_processes_are_several_workers():
    sink = ["--sink", "elasticsearch+http://h/i?op=index"]
    (warning,) = check(load(["--processes", "2", "--workers", "1", *sink])).warnings
    assert "without a version and 2 workers" in warning
    (warning,) = check(load(["--processes", "2", "--aggregate", "list"])).warnings
    assert warning.startswith("aggregate: each of 2 processes makes documents")
