"""How it starts, or does not: wrong settings, a broker that is away, a wrong password."""

from __future__ import annotations

import socket

import pytest

pytestmark = pytest.mark.integration

AMQP = ("--broker", "amqp://guest:HIDDEN@127.0.0.1:1//")
ES = ("--sink", "elasticsearch+http://127.0.0.1:1/tasks")
ENDLESS = ("--deadline-share", "off")

#: Flags, the field that the one line names, and a word that it says.
WRONG = {
    "flag": (("--sizes", "20"), "--sizes", "did you mean --size"),
    "unit": (("--age", "2 parsecs"), "--age", "2 parsecs"),
    "number": (("--size", "many"), "--size", "number"),
    "zero": (("--workers", "0"), "--workers", "1"),
    "scheme": (("--broker", "ampq://localhost//"), "--broker", "amqp"),
    "no URL": (("--broker", "localhost"), "--broker", "URL"),
    "sink": (("--sink", "elastic+http://localhost/x"), "--sink", "elastic"),
    "index": (("--sink", "elasticsearch+http://localhost/Tasks"), "--sink", "Tasks"),
    "option": ((*AMQP, "--sink", "elasticsearch+http://localhost/tasks?colour=red"), "--sink", "colour"),
    "queue": (("--queue", ""), "--queue", "empty"),
    "prefetch": ((*AMQP, *ES, "--size", "1000", "--prefetch", "10"), "--prefetch", "200"),
    "deadline": ((*AMQP, *ES, "--age", "20m"), "--age", "30m"),
    "never": ((*AMQP, *ES, "--age", "off", "--size", "off", "--bytes", "off", *ENDLESS), "--age", "never go"),
    "expression": (("--correlate", "header"), "--correlate", "header"),
    "sentinel": (("--sentinel", "type"), "--sentinel", "EXPRESSION=VALUE"),
    "file": (("--config", "absent.toml"), "--config", "absent.toml"),
    "module": (("--sink", "function:no_such_module:f"), "--sink", "no_such_module"),
    "metrics": (("--metrics-port", "99999"), "--metrics-port", "65535"),
    "alone": (("task_queue",), "command line", "task_queue"),
}


def told(running):
    """Return the line of each fault; what was written, and marked in it, stands below."""
    return [line for line in running.noise if "error: " in line]


@pytest.mark.parametrize("case", WRONG)
def test_wrong_settings_are_one_fault_and_exit_code_2(service, tmp_path, case):
    flags, field, word = WRONG[case]
    running = service(*flags, folder=tmp_path)
    assert running.wait() == 2
    (line,) = told(running)
    assert line.startswith(f"error: {field}: ")
    assert word in line
    assert "HIDDEN" not in "".join(running.noise)
    assert not running.log
    assert not running.output
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_setting_in_a_file_or_variable_is_named_as_it_was_written(service, tmp_path):
    (tmp_path / "routes.toml").write_text('[routes.logs]\nqueue = "logs"\nsize = "big"\n')
    running = service("--config", "routes.toml", folder=tmp_path, environment={"AGGREGATOR_GRACE": "soon"})
    assert running.wait() == 2
    assert sorted(line.partition(": ")[0] for line in told(running)) == ["error", "routes.toml:3:8"]
    assert sorted(line.partition("error: ")[2].partition(":")[0] for line in told(running)) == [
        "AGGREGATOR_GRACE",
        "routes.logs.size",
    ]


def test_a_port_in_use(service, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        running = service("--metrics-port", str(port), folder=tmp_path)
        assert running.wait() == 2
    (line,) = told(running)
    assert line.startswith("error: metrics_port: ")
    assert str(port) in line


def test_check_connects_to_nothing(service, tmp_path):
    right = service(*AMQP, *ES, "--check", folder=tmp_path)
    assert right.wait() == 0
    assert "At worst" in right.output
    assert "HIDDEN" not in right.output
    assert not right.noise
    wrong = service(*AMQP, *ES, "--check", "--size", "1000", "--prefetch", "10", folder=tmp_path)
    assert wrong.wait() == 2
    assert wrong.noise[0].startswith("error: --prefetch: ")
    assert list(tmp_path.iterdir()) == []


def test_a_broker_that_is_away_is_tried_again_until_it_comes(stage):
    stage.publish(stage.numbered(range(3)))
    stage.rabbitmq.kill()
    running = stage.start("--until-empty")
    said = running.wait_event("broker_away", 2)
    assert "guest:guest" not in str(said)
    stage.rabbitmq.start()
    assert running.wait() == 0
    assert running.batches() == [("shutdown", 3)], running.last_words()
    assert len(stage.numbers()) == 3


def test_a_wrong_password_is_said_and_not_shown(stage):
    stage.declare()
    running = stage.start(broker=stage.rabbitmq.url.replace("guest:guest", "guest:HIDDEN"))
    (said, *_) = running.wait_event("broker_away", 2)
    assert "ACCESS_REFUSED" in said["problem"]
    assert running.stop() == 0
    assert "HIDDEN" not in running.last_words()
