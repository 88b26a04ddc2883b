"""The producers without a server: what they make, and how they take wrong input."""

from __future__ import annotations

import re
from collections import Counter

import orjson
import pytest
from kombu import Connection

from consumers import transports
from producers import load, tasks
from producers.load import is_local
from producers.shapes import BAD_KINDS, Shape, messages


@pytest.fixture
def broker(tmp_path):
    transports.register()
    return f"sqlite-queue:///{tmp_path}/queue.db"


def taken(broker, queue):
    with Connection(broker) as connection, connection.channel() as channel:
        found = []
        while message := channel.basic_get(queue, no_ack=True):
            found.append(message)
        return found


def made(**shape):
    shape = Shape(**{"queue": "q", "count": 2_500, "prefix": "p", **shape})
    return list(messages(shape, 0, shape.count))


def test_bodies_of_the_test_producer():
    assert tasks.bodies(3) == [b"Message 1 of 3", b"Message 2 of 3", b"Message 3 of 3"]
    assert len(set(tasks.bodies(40, identical=True))) == 1
    assert orjson.loads(tasks.bodies(2, as_json=True)[1]) == {"message": "Message 2 of 2"}


def test_the_test_producer_takes_any_kombu_url(broker, capsys):
    assert tasks.main(["--broker", broker]) == 0
    found = taken(broker, "task_queue")
    assert [bytes(message.body) for message in found] == tasks.bodies(40)
    assert {message.properties["delivery_mode"] for message in found} == {2}
    assert {message.content_type for message in found} == {None}
    assert capsys.readouterr().out.startswith("40 messages confirmed in task_queue")


def test_broker_and_queue_come_from_the_environment(broker, monkeypatch):
    monkeypatch.setenv("AGGREGATOR_BROKER", broker)
    monkeypatch.setenv("AGGREGATOR_QUEUE", "other")
    assert tasks.main(["--count", "2"]) == 0
    assert len(taken(broker, "other")) == 2


@pytest.mark.parametrize(
    ("main", "arguments", "field"),
    [
        (tasks.main, ["--count", "-1"], "--count"),
        (tasks.main, ["--count", "many"], "--count"),
        (tasks.main, ["--delay", "5"], "--delay: 5 has no unit"),
        (tasks.main, ["--delay", "13d"], "delay: 1.1232e+06 s is not between 0 and 291h16m15s"),
        (
            tasks.main,
            ["--delay", "5s", "--broker", "memory://"],
            "delay: messages wait in queues",
        ),
        (tasks.main, ["--queue", ""], "--queue"),
        (tasks.main, ["--queue", "x" * 256], "--queue"),
        (tasks.main, ["--broker", "localhost"], "--broker"),
        (tasks.main, ["--broker", "amqp://u:se/cret@localhost:x//"], "--broker"),
        (tasks.main, ["--broker", "nonsense://u:secret@localhost"], "broker"),
        (tasks.main, ["--coun", "1"], "--coun"),
        (load.main, ["--bad", "2"], "--bad"),
        (load.main, ["--broker", "amqp://u:secret@broker.example//"], "--broker"),
        (load.main, ["--broker", "memory://", "--sentinels"], "--sentinels"),
        (load.main, ["--broker", "memory://", "--keys", "5", "--count", "4"], "--keys"),
        (load.main, ["--broker", "memory://", "--ids", "/no/such/folder/ids"], "--ids"),
        (load.main, ["--queue-type", "stream"], "--queue-type"),
    ],
)
def test_wrong_input_is_one_line_that_names_the_field(main, arguments, field, capsys):
    try:
        code = main(arguments)
    except SystemExit as exc:
        code = exc.code
    said = capsys.readouterr()
    assert code == 2
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert field in said.err
    assert "cret" not in said.err


@pytest.mark.parametrize("main", [tasks.main, load.main])
def test_no_broker_is_one_line_without_the_password(main, capsys):
    assert main(["--broker", "amqp://user:secret@127.0.0.1:1//"]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "127.0.0.1:1" in said
    assert "secret" not in said


@pytest.mark.parametrize(
    ("broker", "local"),
    [
        ("amqp://localhost//", True),
        ("amqp://127.0.0.2:5672//", True),
        ("amqp://[::1]//", True),
        ("amqp://", True),
        ("sqlite-queue:///data/queue.db", True),
        ("amqp://10.0.0.1//", False),
        ("amqp://broker.example//", False),
        ("amqp://localhost//;amqp://broker.example//", False),
        ("amqp://localhost@broker.example//", False),
    ],
)
def test_only_this_machine_is_local(broker, local):
    assert is_local(broker) is local


def test_ids_are_unique_and_bodies_have_their_size():
    found = made(size=300)
    assert len({each.id for each in found}) == 2_500
    assert {len(each.message.body) for each in found} == {300}
    for each in found:
        assert orjson.loads(each.message.body)["id"] == each.id == each.message.properties["message_id"]


def test_a_seed_makes_the_same_messages_however_they_are_cut():
    shape = Shape("q", 5_000, "p", seed=7, bad=0.1, duplicates=0.1, keys=30)
    whole = list(messages(shape, 0, 5_000))
    assert whole == [*messages(shape, 0, 2_000), *messages(shape, 2_000, 5_000)]
    assert whole != list(messages(Shape("q", 5_000, "p", seed=8, bad=0.1, duplicates=0.1, keys=30), 0, 5_000))


def test_bad_ones_say_so_and_are_bad():
    found = made(bad=0.2)
    bad = [each for each in found if "headers" in each.message.properties]
    assert 350 < len(bad) < 650
    assert {each.message.properties["headers"]["x-bad"] for each in bad} == set(BAD_KINDS)
    for each in bad:
        with pytest.raises(orjson.JSONDecodeError):
            orjson.loads(each.message.body)


def test_second_copies_are_equal_and_not_counted():
    found = made(duplicates=0.2)
    copies = [each for each in found if not each.id]
    assert 350 < len(copies) < 650
    assert len(found) - len(copies) == 2_500
    sent = Counter(each.message.properties["message_id"] for each in found)
    assert set(sent.values()) == {1, 2}


@pytest.mark.parametrize(
    ("count", "keys", "open_keys"), [(2_500, 7, 100), (2_500, 700, 9), (10, 10, 3), (5, 3, 2)]
)
def test_each_key_gets_one_sentinel_that_counts_its_members_and_follows_them(count, keys, open_keys):
    members, ended = Counter(), {}
    for each in made(count=count, keys=keys, open_keys=open_keys, sentinels=True):
        properties = each.message.properties
        key = properties["correlation_id"]
        assert key not in ended
        if properties.get("type") == "sentinel":
            ended[key] = properties["headers"]["count"]
        else:
            members[key] += 1
    assert ended == members
    assert members.total() == count


def test_the_load_arrives_and_is_accounted_for(broker, tmp_path, capsys):
    ids = tmp_path / "ids"
    arguments = ["--count", "1500", "--connections", "2", "--keys", "3", "--sentinels", "--duplicates", "0.1"]

    assert load.main(["--broker", broker, *arguments, "--seed", "1", "--ids", str(ids)]) == 0

    sent = Counter(message.properties["message_id"] for message in taken(broker, "task_queue"))
    lines = ids.read_text().splitlines()
    assert len(lines) == len(set(lines)) == 1_500
    assert sent.keys() == {*lines, *(f"seed1-end-key-{key}" for key in range(3))}
    assert re.match(rf"{sent.total()} messages confirmed in ", capsys.readouterr().out)
