"""The parts of the queue file, one by one."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kombu.exceptions import EncodeError

from aggregator.errors import ConfigurationError
from aggregator.topic import matches
from consumers.transports.sqlite_connection import Connection
from consumers.transports.sqlite_consumers import Consumer, Unacked
from consumers.transports.sqlite_errors import LeaseLostError
from consumers.transports.sqlite_locks import OwnerLock, is_dead, sweep
from consumers.transports.sqlite_message import Prepared
from consumers.transports.sqlite_properties import pack, unpack
from consumers.transports.sqlite_settings import Settings, parse_url
from consumers.transports.sqlite_store import Outgoing


class Time:
    def __init__(self):
        self.now = self.wall = 1000.0

    def monotonic(self):
        return self.now

    def time(self):
        return self.wall


# where and how


def test_urls():
    assert parse_url("sqlite-queue:////var/queue.db").path == Path("/var/queue.db")
    assert parse_url("sqlite-queue:///data/queue.db").path == Path.cwd() / "data/queue.db"
    assert parse_url("sqlite-queue:////a%3F%23b%25.db").path == Path("/a?#b%.db")


def test_options():
    url = "sqlite-queue:////q.db?synchronous=normal&lease=2m&busy_timeout=5s&batch=10&batch_bytes=1MB"
    assert parse_url(url, {"poll": 0.5, "lease": 7, "max_retries": 3}) == Settings(
        path=Path("/q.db"),
        synchronous="normal",
        lease=120.0,
        poll=0.5,
        busy_timeout=5.0,
        batch=10,
        batch_bytes=1_000_000,
    )


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("sqlite-queue://data/queue.db", "names a host"),
        ("sqlite-queue://", "missing"),
        ("sqlite-queue:///", "missing"),
        ("sqlite-queue:///data/", "missing"),
        ("sqlite-queue:///:memory:", "memory"),
        ("sqlite-queue:///a#b.db", "%23"),
        ("sqlite-queue:///a%00.db", "NUL"),
        ("sqlite-queue:///q.db?lease=60", "has no unit"),
        ("sqlite-queue:///q.db?lease=0", "longer than nothing"),
        ("sqlite-queue:///q.db?synchronous=off", "full or normal"),
        ("sqlite-queue:///q.db?batch=0", "at least 1"),
        ("sqlite-queue:///q.db?leese=60s", "there are synchronous, lease"),
    ],
)
def test_bad_urls_name_what_would_be_right(url, problem):
    with pytest.raises(ConfigurationError, match=problem) as raised:
        parse_url(url)
    assert raised.value.field == "broker"


# headers


def test_every_value_comes_back():
    value = {
        "bytes": b"\x00\xff",
        "moment": datetime(2024, 2, 29, 12, 30, 1, 5, tzinfo=timezone(timedelta(hours=2))),
        "decimal": Decimal("1.10"),
        "infinite": math.inf,
        "table": {"list": [1, {"b": b"x"}]},
        "odd": {"!bytes": "aGk=", "x": 1},
        "odder": {"!dict": {"!float": "nan"}},
    }
    assert unpack(pack(value)) == value
    assert math.isnan(unpack(pack({"a": math.nan}))["a"])
    assert unpack(pack({"a": datetime(2024, 1, 1)})) == {"a": datetime(2024, 1, 1, tzinfo=UTC)}  # noqa: DTZ001


_scalars = st.none() | st.booleans() | st.integers(-(2**63) + 1, 2**63 - 1) | st.text() | st.binary()
_values = st.recursive(
    _scalars | st.floats(allow_nan=False) | st.decimals(allow_nan=False),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.sampled_from(["!bytes", "!dict"]), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.text() | st.sampled_from(["!bytes", "!dict", "!x"]), _values))
def test_any_table_comes_back(table):
    assert unpack(pack(table)) == table


@pytest.mark.parametrize("value", [object(), {1: 2}, 2**63, {"a"}, "\ud800"])
def test_what_cannot_be_stored_is_refused(value):
    with pytest.raises(EncodeError):
        pack({"name": value})


def test_nesting_without_end_is_refused():
    deep = []
    for _ in range(10_000):
        deep = [deep]
    with pytest.raises(EncodeError):
        pack({"name": deep})


@pytest.mark.parametrize("expiration", ["soon", -1, [1]])
def test_a_bad_expiration_is_refused(expiration):
    with pytest.raises(EncodeError, match="expiration"):
        Prepared(b"", {"expiration": expiration}, {})


def test_bodies_are_bytes_or_text():
    assert Prepared("é", {}, {}).body == b"\xc3\xa9"
    assert Prepared(memoryview(b"a"), {}, {}).body == b"a"
    assert Prepared(None, {}, {}).body == b""
    with pytest.raises(EncodeError, match="int"):
        Prepared(5, {}, {})


# routing


def _matches(pattern, words):
    """AMQP's rule, word by word: slow and plain."""
    if not pattern:
        return not words
    if pattern[0] == "#":
        return any(_matches(pattern[1:], words[skip:]) for skip in range(len(words) + 1))
    return bool(words) and pattern[0] in ("*", words[0]) and _matches(pattern[1:], words[1:])


_words = st.lists(st.sampled_from(["a", "b", ""]), min_size=1, max_size=5)


@given(st.lists(st.sampled_from(["a", "b", "*", "#"]), min_size=1, max_size=5), _words)
def test_topics_match_as_amqp_says(pattern, words):
    assert matches(".".join(pattern), ".".join(words)) == _matches(pattern, words)


# tags


def test_tags():
    unacked = Unacked()
    consumer = Consumer("tag", "queue", 1, print, no_ack=False)
    assert [unacked.add(number, consumer) for number in (10, 20, 30, 40)] == [1, 2, 3, 4]
    assert unacked.take(2) == [20]
    assert unacked.take(2) == []
    assert unacked.take(3, multiple=True) == [10, 30]
    assert consumer.unacked == len(unacked) == 1
    assert unacked.add(50, None) == 5
    assert unacked.take(0, multiple=True) == [40, 50]
    assert consumer.unacked == len(unacked) == 0


# locks


def test_a_lock_shows_whether_its_owner_lives(tmp_path):
    lock = OwnerLock(tmp_path)
    assert not is_dead(tmp_path, lock.name)
    lock.release()
    assert is_dead(tmp_path, lock.name)
    assert not is_dead(tmp_path, "never-there")


def test_a_forgotten_lock_is_let_go(tmp_path):
    name = OwnerLock(tmp_path).name
    assert is_dead(tmp_path, name)


def test_sweeping_takes_what_nobody_knows_and_nobody_holds(tmp_path):
    living, known, unknown = (OwnerLock(tmp_path) for _ in range(3))
    known.release()
    unknown.release()
    sweep(tmp_path, {known.name})
    assert {file.name for file in tmp_path.iterdir()} == {living.name, known.name}
    living.remove()
    living.remove()


# leases and time


@pytest.fixture
def clock():
    return Time()


@pytest.fixture
def open_one(tmp_path, clock):
    opened = []

    def make(**options):
        settings = Settings(path=tmp_path / "queue.db", lease=60.0, **options)
        opened.append(Connection(settings, clock=clock))
        return opened[-1]

    yield make
    for connection in opened:
        connection.collect()


@pytest.fixture
def first(open_one):
    connection = open_one()
    declare(connection, "q")
    return connection


def declare(connection, name, **arguments):
    connection.topology.declare_queue(name, durable=True, auto_delete=False, arguments=arguments, holder=None)


def put(connection, body, queue="q", expiration=None):
    connection.store.publish([Outgoing("", queue, b"{}", body, expiration)])


def lease(connection, queue="q"):
    owner = connection.leases.enter()
    return [each.body for each in connection.store.lease(owner, connection.topology.queue_id(queue), 9, 999)]


def test_a_living_owner_that_beats_keeps_its_lease(first, open_one, clock):
    put(first, b"x")
    lease(first)
    other = open_one()
    for _ in range(20):
        clock.now += 15
        first.leases.renew()
        assert other.leases.recover() == 0


def test_an_owner_without_a_beat_loses_its_lease(first, open_one, clock):
    put(first, b"x")
    lease(first)
    other = open_one()
    for _ in range(6):
        assert other.leases.recover() == 0
        clock.now += 10
    assert other.leases.recover() == 1
    assert other.topology.counts("q")[:2] == (1, 0)
    assert first.connected
    with pytest.raises(LeaseLostError):
        first.tend()
    assert not first.connected


def test_an_observer_that_slept_starts_anew(first, open_one, clock):
    put(first, b"x")
    lease(first)
    other = open_one()
    assert other.leases.recover() == 0
    clock.now += 1000
    assert other.leases.recover() == 0
    clock.now += 20
    assert other.leases.recover() == 0


def test_a_beat_between_the_look_and_the_takeover_counts(first, open_one):
    put(first, b"x")
    owner = first.leases.enter()
    first.store.lease(owner, first.topology.queue_id("q"), 1, 1)
    other = open_one()
    assert other.leases._take_over(owner.number, owner.lock.name, 0) == 0
    assert first.topology.counts("q")[:2] == (0, 1)


def test_expired_messages_are_skipped(first, clock):
    put(first, b"brief", expiration=500)
    put(first, b"long", expiration=60_000)
    put(first, b"for ever")
    clock.wall += 1
    assert lease(first) == [b"long", b"for ever"]
    assert first.topology.counts("q")[:2] == (0, 2)


def test_a_queue_has_a_time_to_live_too(first, clock):
    declare(
        first,
        "brief",
        **{"x-message-ttl": 500, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": "q"},
    )
    put(first, b"x", "brief")
    clock.wall += 1
    assert lease(first, "brief") == []
    assert lease(first) == [b"x"]


def test_an_absent_dead_letter_exchange_does_not_block_the_queue(first):
    declare(first, "bad", **{"x-dead-letter-exchange": "absent"})
    put(first, b"x", "bad", expiration=0)
    put(first, b"y", "bad")
    assert lease(first, "bad") == [b"y"]


def test_a_publish_syncs_and_an_ack_does_not(first):
    level = lambda: first.file.rows("PRAGMA synchronous")[0][0]  # noqa: E731
    put(first, b"x")
    assert level() == 2
    lease(first)
    assert level() == 1


def test_less_durability_is_possible(open_one):
    connection = open_one(synchronous="normal")
    declare(connection, "q")
    put(connection, b"x")
    assert connection.file.rows("PRAGMA synchronous") == [(1,)]
