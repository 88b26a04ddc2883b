"""Logs: one line each, machine-readable in a pipe, UTC, without local variables."""

from __future__ import annotations

import io
import json
import logging

import pytest
import structlog

from aggregator.logs import configure


@pytest.fixture(autouse=True)
def restored():
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for name in ("amqp", "elastic_transport", "elasticsearch", "kombu", "opensearch", "stamina", "urllib3"):
        logging.getLogger(name).setLevel(logging.NOTSET)
    structlog.reset_defaults()


def test_a_pipe_gets_json_lines_of_both_kinds():
    stream = io.StringIO()
    configure("auto", "info", stream)
    structlog.get_logger().info("batch", size=20, trigger="size")
    logging.getLogger("kombu.mixins").warning("lost %s", "link")
    first, second = map(json.loads, stream.getvalue().splitlines())
    assert (first["event"], first["level"], first["size"], first["trigger"]) == ("batch", "info", 20, "size")
    assert (second["event"], second["level"], second["logger"]) == ("lost link", "warning", "kombu.mixins")
    assert first["timestamp"].endswith("Z")
    assert second["timestamp"].endswith("Z")


def test_libraries_are_quiet_and_the_level_holds():
    stream = io.StringIO()
    configure("json", "info", stream)
    logging.getLogger("elastic_transport.transport").info("POST /_bulk")
    logging.getLogger("own").info("shown")
    structlog.get_logger().debug("hidden")
    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == ["shown"]
    configure("json", "error", stream)
    logging.getLogger("kombu").warning("hidden")
    assert len(stream.getvalue().splitlines()) == 1


def test_each_line_says_which_of_several_processes_it_is():
    stream = io.StringIO()
    configure("json", "info", stream, process=3)
    structlog.get_logger().info("batch")
    logging.getLogger("kombu.mixins").warning("lost")
    assert [json.loads(line)["process"] for line in stream.getvalue().splitlines()] == [3, 3]


def test_a_line_is_one_write():
    """Several processes share a stream: a line in two pieces could have another one within."""

    class Stream(io.StringIO):
        writes = 0

        def write(self, text):
            self.writes += 1
            return super().write(text)

    stream = Stream()
    configure("json", "info", stream)
    structlog.get_logger().info("batch")
    logging.getLogger("kombu.mixins").warning("lost")
    assert stream.writes == 2


def test_logfmt():
    stream = io.StringIO()
    configure("logfmt", "info", stream)
    structlog.get_logger().warning("paused", reason="two words")
    line = stream.getvalue()
    assert line.startswith("timestamp=")
    assert 'level=warning event=paused reason="two words"' in line


@pytest.mark.parametrize("form", ["console", "json", "logfmt"])
def test_a_traceback_shows_no_variables(form):
    stream = io.StringIO()
    configure(form, "info", stream)
    password = "hunter" + "2"
    try:
        _ = 1 / (len(password) - 7)
    except ZeroDivisionError:
        structlog.get_logger().exception("failed")
    assert "ZeroDivisionError" in stream.getvalue()
    assert "hunter2" not in stream.getvalue()


def test_what_json_cannot_hold_is_shown_all_the_same():
    stream = io.StringIO()
    configure("json", "info", stream)
    structlog.get_logger().info("odd", value={1, 2}, number=1 << 70)
    assert json.loads(stream.getvalue())["value"] == "{1, 2}"
