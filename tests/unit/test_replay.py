"""Dead letters looked at and sent back, over the embedded queue."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kombu import Connection

from aggregator.ports import Refused
from aggregator.testing.message import MemoryDelivery
from consumers import transports
from consumers.dead_letter_message import dead_letter
from consumers.publisher import Outgoing, Publisher
from producers.replay.cli import main
from producers.replay.letter import DeadLetter, read
from producers.replay.selection import moment
from producers.replay.tables import plain

ROOT = Path(__file__).parents[2]


@pytest.fixture
def broker(tmp_path, monkeypatch):
    transports.register()
    url = f"sqlite-queue:///{tmp_path}/queue.db"
    monkeypatch.setenv("AGGREGATOR_BROKER", url)
    return url


def refused(number, reason="bad-json", *, last=1_700_000_000.0, **delivery):
    delivery = {"properties": {"message_id": f"m{number}", "content_type": "application/json"}, **delivery}
    return Refused(
        MemoryDelivery(b'{"n": %d' % number, **delivery), reason, "told", 400, "parsing", last, last, 2
    )


def publish(broker, *messages):
    publisher = Publisher(broker)
    for queue in ("task_queue", "task_queue.dead"):
        publisher.declare_queue(queue)
    assert publisher.publish(list(messages)) == [None] * len(messages)
    publisher.close()


def letters(broker, *all_refused):
    made = [
        dead_letter(each, queue="task_queue", exchange="", routing_key="task_queue.dead", frame_max=131_072)
        for each in all_refused
    ]
    publish(broker, *made)


def taken(broker, queue):
    with Connection(broker) as connection, connection.channel() as channel:
        found = []
        while message := channel.basic_get(queue, no_ack=True):
            found.append(message)
        return found


def numbers(messages):
    return [int(re.sub(rb"\D", b"", bytes(message.body))) for message in messages]


def test_listed_by_reason(broker, capsys):
    letters(broker, refused(1), refused(2, last=1_700_000_060.0), refused(3, "mapping"))
    assert main(["list", "--json"]) == 0
    lines = [orjson.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["reason"], line["queue"], line["letters"], line["bytes"]) for line in lines] == [
        ("bad-json", "task_queue", 2, 14),
        ("mapping", "task_queue", 1, 7),
    ]
    assert (lines[0]["first"], lines[0]["last"]) == ("2023-11-14T22:13:20+00:00", "2023-11-14T22:14:20+00:00")
    assert main(["list"]) == 0
    assert re.search(r"bad-json +parsing +task_queue +2 +14 ", capsys.readouterr().out)
    assert numbers(taken(broker, "task_queue.dead")) == [1, 2, 3]


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        (["--reason", "mapping"], [2]),
        (["--reason", "mapping", "--reason", "bad-json"], [0, 1, 2, 3]),
        (["--error-type", "parsing", "--id", "m3", "--id", "m0"], [0, 3]),
        (["--error-type", "other"], []),
        (["--since", "2023-11-14T22:15:00"], [3]),
        (["--until", "2023-11-14T23:15:00+01:00"], [0, 1, 2]),
        (["--since", "1h"], []),
        (["--limit", "2"], [0, 1]),
    ],
)
def test_filters(broker, capsys, chosen, expected):
    letters(broker, refused(0), refused(1), refused(2, "mapping"), refused(3, last=1_700_000_120.0))
    assert main(["show", "--json", *chosen]) == 0
    shown = [orjson.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [each["body"] for each in shown] == [f'{{"n": {number}' for number in expected]
    assert main(["send", *chosen]) == 0
    assert numbers(taken(broker, "task_queue")) == expected
    assert numbers(taken(broker, "task_queue.dead")) == sorted({0, 1, 2, 3} - set(expected))


def test_what_is_sent_back_is_the_original(broker):
    properties = {"message_id": "m", "content_type": "text/plain", "expiration": "60000", "delivery_mode": 1}
    letters(broker, refused(1, properties=properties, headers={"n": 1, "CC": ["elsewhere"]}))
    assert main(["send", "--to", "other"]) == 1  # there is no such queue
    publish(broker, Outgoing("", "task_queue", b"first", {}))
    assert main(["send"]) == 0
    _, message = taken(broker, "task_queue")
    assert bytes(message.body) == b'{"n": 1'
    run = message.headers["aggregator-replayed-by"]
    assert message.headers == {"n": 1, "aggregator-replays": 1, "aggregator-replayed-by": run}
    assert message.content_type == "text/plain"
    kept = {name: message.properties.get(name) for name in ("message_id", "expiration", "delivery_mode")}
    assert kept == {"message_id": "m", "expiration": "60000", "delivery_mode": 1}


def test_an_unroutable_letter_stays(broker, capsys):
    letters(broker, refused(1), refused(2))
    assert main(["send", "--to", "nowhere"]) == 1
    assert "2 refused: unroutable in nowhere" in capsys.readouterr().out
    assert numbers(taken(broker, "task_queue.dead")) == [1, 2]


def test_a_letter_is_not_sent_back_for_ever(broker, capsys):
    letters(broker, *(refused(number, headers={"aggregator-replays": number}) for number in range(5)))
    assert main(["send"]) == 0
    assert capsys.readouterr().out == (
        "1 left: sent back 3 times, 1 left: sent back 4 times, 3 sent (task_queue.dead)\n"
    )
    assert main(["send", "--most-replays", "5"]) == 0
    assert [message.headers["aggregator-replays"] for message in taken(broker, "task_queue")] == [
        1,
        2,
        3,
        4,
        5,
    ]


def test_a_letter_that_comes_back_meanwhile_is_left(broker, monkeypatch, capsys):
    """As if a service refused each of them at once: the run sees its own letters and stops."""
    letters(broker, *map(refused, range(3)))
    publish_really = Publisher.publish

    def bounce(self, messages):
        outcomes = publish_really(self, messages)
        back = [Outgoing("", "task_queue.dead", each.body, each.properties) for each in messages]
        assert publish_really(self, back) == [None] * len(back)
        return outcomes

    monkeypatch.setattr(Publisher, "publish", bounce)
    monkeypatch.setattr("producers.replay.sending._CALL", 1)
    assert main(["send", "--to", "task_queue"]) == 0
    assert capsys.readouterr().out.startswith("3 sent")
    assert len(taken(broker, "task_queue")) == 3


def test_a_function_of_ones_own(broker, tmp_path, monkeypatch, capsys):
    page = (ROOT / "docs" / "replay.md").read_text()
    (tmp_path / "mending.py").write_text(re.search(r"```python\n(.*?)```", page, re.DOTALL)[1])
    (tmp_path / "failing.py").write_text(
        "def mend(letter):\n    return letter if letter.id == 'm1' else 1 / 0\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    whole = Refused(MemoryDelivery(b'{"n": 3}'), "mapping")
    letters(broker, refused(1), refused(2), whole)
    assert main(["send", "--edit", "mending:mend"]) == 0
    assert capsys.readouterr().out == "1 left: by --edit, 2 sent (task_queue.dead)\n"
    sent = taken(broker, "task_queue")
    assert [(bytes(message.body), message.headers["mended"]) for message in sent] == [
        (b'{"n": 1}', "brace"),
        (b'{"n": 2}', "brace"),
    ]
    letters(broker, refused(1), refused(2))
    assert main(["send", "--edit", "failing:mend"]) == 1
    told = capsys.readouterr()
    assert told.out == "2 failed: --edit raised ZeroDivisionError, 1 sent (task_queue.dead)\n"
    assert "division by zero" in told.err
    assert numbers(taken(broker, "task_queue")) == [1]


def test_dropping_needs_a_yes(broker, capsys):
    letters(broker, refused(1), refused(2, "mapping"))
    assert main(["drop"]) == 2
    assert "--yes" in capsys.readouterr().err
    assert main(["drop", "--dry-run"]) == 0
    assert main(["drop", "--reason", "mapping", "--yes"]) == 0
    assert numbers(taken(broker, "task_queue.dead")) == [1]
    assert taken(broker, "task_queue") == []


def test_a_letter_of_the_broker_itself():
    death = {"queue": "q", "reason": "delivery_limit", "time": datetime(2026, 1, 2, 3, 4, 5)}  # noqa: DTZ001
    headers = {
        "x-death": [death], "x-first-death-queue": "q", "x-first-death-reason": "delivery_limit",
        "x-first-death-exchange": "", "x-last-death-queue": "q", "mine": 1, b"\xff": 2,
    }  # fmt: skip
    letter = read(MemoryDelivery(b"x", headers=headers, properties={"message_id": "m"}))
    assert (letter.queue, letter.reason, letter.last) == (
        "q",
        "delivery_limit",
        datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
    )
    assert letter.sent_back("q", "run").properties["headers"] == {
        "mine": 1, "b'\\xff'": 2, "aggregator-replays": 1, "aggregator-replayed-by": "run",
    }  # fmt: skip


def test_what_is_sent_back_is_another_message_to_whom_remembers_the_refused_one():
    """Else a service that had dead-lettered it would ack it unwritten, where it comes as a redelivery."""
    refused_one = MemoryDelivery(b"x", headers={"mine": 1}, properties={"message_id": "m"})
    again = read(refused_one).sent_back("q", "run").properties["headers"]
    assert MemoryDelivery(b"x", headers=again).said() != refused_one.said()


def test_bytes_are_exported(broker):
    letter = DeadLetter(b"\xff\x00", {"message_id": "m"}, "q", "bad-json")
    assert letter.shown()["body_base64"] == "/wA="
    assert "body" not in letter.shown()


@given(st.text())
def test_no_body_drives_the_terminal(text):
    assert all(char.isprintable() or char == "\n" for char in plain(text).plain)


def test_a_body_is_shown_cut_and_escaped(broker, capsys):
    letters(broker, Refused(MemoryDelivery(b"\x1b[31m[bold]red" + b"x" * 100), "bad-json"))
    assert main(["show", "--body", "13"]) == 0
    assert "\\x1b[31m[bold]re … 101 more" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["list", "--queue", "absent"], "--queue: there is no queue 'absent.dead'"),
        (["send", "--edit", "nonsense"], "--edit: 'nonsense' names no function; MODULE:NAME is needed"),
        (["send", "--edit", "os:getcwd"], "--edit: os:getcwd must take a dead letter"),
        (["list", "--broker", "tarantool://localhost:3301/"], "kick"),
    ],
)
def test_wrong_input(broker, capsys, arguments, says):
    letters(broker, refused(1))
    assert main(arguments) == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "yesterday", "5", "2026-13-01"])
def test_no_moment(text, broker, capsys):
    with pytest.raises(SystemExit) as end:
        main(["list", "--since", text])
    assert end.value.code == 2
    assert "neither a duration like 2h nor a moment" in capsys.readouterr().err


def test_a_moment_without_a_zone_is_utc():
    assert moment("2026-01-02") == datetime(2026, 1, 2, tzinfo=UTC)


def test_the_module_runs(broker):
    letters(broker, refused(1))
    command = [sys.executable, "-m", "producers.replay", "list", "--json"]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "AGGREGATOR_BROKER": broker}, capture_output=True, check=True
    )
    assert orjson.loads(done.stdout)["letters"] == 1
