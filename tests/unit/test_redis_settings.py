"""Settings that name Redis: what is refused, and what would be right."""

from __future__ import annotations

import os
import ssl

import pytest

from aggregator.check import check
from aggregator.config import load
from aggregator.consume import load_settings
from aggregator.errors import ConfigurationError, ConfigurationErrors
from aggregator.redis_transport import VISIBILITY_TIMEOUT, is_redis, split_url, visibility_timeout
from aggregator.sinks.seen import SeenSink, seen_options, with_seen_ids
from aggregator.stores.redis_url import SeenOptions, read_url
from aggregator.testing.sink import MemorySink
from consumers.connecting import Broker

SEEN = "redis://:hunter2@h/0"
ENDS = ("--broker", "memory://", "--sink", "jsonl:///out")


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    for name in list(os.environ):
        if name.upper().startswith("AGGREGATOR_"):
            monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://h", "'http' is no scheme of Redis"),
        ("redis://", "it names no host"),
        ("redis://:hunter2@h:x/0", "the port is no number, or the password holds"),
        ("redis://h/zero", "'zero' is no number of a database"),
        ("redis://:hunter2@h/0#x", "it holds a #"),
        (f"{SEEN}?colour=red", "'colour' is not among its options: prefix, timeout, ca, ttl, most, interval"),
        (f"{SEEN}?ttl=1d&ttl=2d", "each option may stand in the URL once"),
        (f"{SEEN}?ttl=5", "ttl: 5 has no unit; a number with its unit is needed"),
        (f"{SEEN}?ttl=1s", "ttl: it should be greater than or equal to 10"),
        (f"{SEEN}?most=many", "most: it should be a valid integer"),
        (f"{SEEN}?most=10", "most: it should be greater than or equal to 1000"),
        (f"{SEEN}?timeout=0", "timeout: it should be greater than 0"),
        (f"{SEEN}?prefix=a%20b", "prefix: a name without spaces in printable ASCII is needed"),
        (f"{SEEN}?ca=/nowhere.pem", "ca: redis:// is not encrypted"),
        ("rediss://h?ca=/nowhere.pem", "ca: /nowhere.pem cannot be used"),
    ],
)
def test_a_wrong_store_of_seen_ids(url, words):
    with pytest.raises(ConfigurationErrors) as refused:
        load([*ENDS, "--seen", url])
    (line,) = str(refused.value).splitlines()
    assert line.startswith(f"--seen: {words}")
    assert "hunter2" not in line


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--id", "none"], "--id: ids made at receipt are never seen twice"),
        (
            ["--aggregate", "list"],
            "--seen: it knows ids of messages, and with this aggregate no document has",
        ),
        (
            ["--sink", "elasticsearch+http://h/tasks?op=index"],
            "--seen: with op=index a later message of the same id is an update",
        ),
    ],
)
def test_what_seen_ids_cannot_be_had_with(flags, line):
    with pytest.raises(ConfigurationErrors) as refused:
        load([*ENDS, "--seen", SEEN, *flags])
    assert str(refused.value).startswith(line)


def test_what_a_url_says_is_read():
    server, options = read_url(
        "rediss://us%40er:p%2Fw@[::1]:7000/3?ttl=2h&most=5000&timeout=50ms", SeenOptions, "seen"
    )
    assert (server.host, server.port, server.db, server.tls) == ("::1", 7000, 3, True)
    assert (server.username, server.password) == ("us@er", "p/w")
    assert (options.ttl, options.most, options.timeout) == (7200.0, 5000, 0.05)
    assert "p/w" not in repr(server)


def test_routes_have_ids_of_their_own_unless_they_are_told():
    assert seen_options("redis://h", "logs")[1].prefix == "seen:logs"
    assert seen_options("redis://h?prefix=all", "logs")[1].prefix == "all"


def test_without_its_client_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr("aggregator.stores.redis_url.find_spec", lambda _name: None)
    with pytest.raises(ConfigurationError, match=r"pip install 'kombu-aggregator\[redis\]'"):
        with_seen_ids(MemorySink(), SEEN, "logs")
    with pytest.raises(ConfigurationErrors, match=r"--results: .*pip install 'kombu-aggregator\[redis\]'"):
        load([*ENDS, "--results", SEEN])


def test_it_stands_around_the_sink():
    sink = with_seen_ids(MemorySink(), SEEN, "logs")
    assert isinstance(sink, SeenSink)
    sink.close()  # never opened: nothing connects


def test_the_check_tells_of_both_without_their_passwords():
    told = str(check(load([*ENDS, "--seen", f"{SEEN}?ttl=2h", "--results", SEEN])))
    assert "written once by the ids in redis://:***@h/0?ttl=2h" in told
    assert "told to      redis://:***@h/0" in told
    assert "hunter2" not in told


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--results", "http://h"], "--results: 'http' is no scheme of Redis"),
        (
            ["--results", f"{SEEN}?most=5"],
            "--results: 'most' is not among its options: prefix, timeout, ca, ttl",
        ),
        (
            ["--results", SEEN, "--aggregate", "push"],
            "--results: a push message has a word for each recipient",
        ),
    ],
)
def test_wrong_results(flags, line):
    with pytest.raises(ConfigurationErrors) as refused:
        load([*ENDS, *flags])
    assert any(each.startswith(line) for each in str(refused.value).splitlines()), str(refused.value)


# ── the broker ──


def test_redis_is_told_from_others():
    assert all(map(is_redis, ("redis://h", "rediss://h", "sentinel://h")))
    assert not any(map(is_redis, ("amqp://redis", "memory://", "")))


def test_options_of_the_transport_stand_in_the_url():
    url = "redis://:p%2Fw@h:1/2?visibility_timeout=2h&global_keyprefix=my%3A&ssl_cert_reqs=none"
    assert split_url(url) == (
        "redis://:p%2Fw@h:1/2?ssl_cert_reqs=none",
        {"visibility_timeout": 7200.0, "global_keyprefix": "my:"},
    )
    assert split_url("amqp://h//?visibility_timeout=1") == ("amqp://h//?visibility_timeout=1", {})
    assert visibility_timeout("redis://h") == VISIBILITY_TIMEOUT
    connection = Broker("redis://h/0?visibility_timeout=90s").connection()
    assert connection.transport_options == {"visibility_timeout": 90.0}


@pytest.mark.parametrize(
    ("url", "verified"),
    [
        ("rediss://h", {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_check_hostname": True}),
        ("rediss://h?ssl_cert_reqs=CERT_NONE", {"ssl_cert_reqs": ssl.CERT_NONE}),
        ("redis://h", None),
    ],
)
def test_an_encrypted_server_is_verified_unless_its_url_says_otherwise(url, verified):
    assert (Broker(url).connection().ssl or None) == verified


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--broker", "redis://h?visibility_timeout=60"], "--broker: visibility_timeout: 60 has no unit"),
        (["--broker", "redis://h?visibility_timeout=1ms"], "--broker: visibility_timeout: 1ms is too short"),
        (
            ["--broker", "redis://h?visibility_timeout=60s&visibility_timeout=60s"],
            "--broker: visibility_timeout stands in the URL twice",
        ),
        (
            ["--broker", "redis://a?visibility_timeout=60s;redis://b"],
            "--broker: its servers have different options",
        ),
        (
            ["--broker", "redis://h?visibility_timeout=10m"],
            "ack_deadline: 30m is longer than the visibility_timeout of 10m: Redis would hand out a second",
        ),
        (
            ["--broker", "redis://h", "--ack-deadline", "2h"],
            "--ack-deadline: 2h is longer than the visibility_timeout of 1h",
        ),
        (
            ["--broker", "redis://h?visibility_timeout=1m", "--ack-deadline", "1m", "--age", "40s"],
            "--age: 40s is more than half the ack deadline of 1m; 30s at most",
        ),
        (
            ["--broker", "redis://h", "--age", "off", "--deadline-share", "off"],
            "--age: off: a group that is not filled is held past the ack deadline",
        ),
    ],
)
def test_what_would_be_held_for_longer_than_redis_keeps_it_from_others(flags, line):
    with pytest.raises(ConfigurationErrors) as refused:
        load_settings(["--sink", "jsonl:///out", *flags])
    assert any(each.startswith(line) for each in str(refused.value).splitlines()), str(refused.value)


def test_what_would_be_right_is_said():
    with pytest.raises(ConfigurationErrors) as refused:
        load_settings(["--sink", "jsonl:///out", "--broker", "redis://h?visibility_timeout=10m"])
    right = "10m at most, or ?visibility_timeout=30m in the broker's URL"
    assert str(refused.value).endswith(f"what is still held; {right}")


def test_what_fits_is_taken():
    flags = ["--broker", "redis://h?visibility_timeout=1m", "--ack-deadline", "1m", "--sink", "jsonl:///out"]
    assert load_settings(flags).routes["default"].ack_deadline == 60.0
