"""Connections to brokers: what is verified, and how long anything may take."""

from __future__ import annotations

import socket
import ssl

import pytest
from amqp.exceptions import NotFound
from kombu.exceptions import ChannelError

from aggregator.testing.clock import VirtualClock
from consumers.connecting import CONNECT_SECONDS, Broker, is_not_found
from consumers.declaring import OWNER_SECONDS, OwnedQueue


@pytest.mark.parametrize(
    ("url", "amqp"),
    [
        ("amqp://h//", True),
        ("amqps://h//", True),
        ("pyamqp://h//", True),
        ("AMQP://h//", True),
        ("sqlite-queue:///amqp.db", False),
        ("redis://amqp/0", False),
        ("memory://", False),
    ],
)
def test_which_transports_speak_amqp(url, amqp):
    assert Broker(url).amqp is amqp


def test_every_wait_is_bounded_and_the_heart_beats():
    connection = Broker("amqp://guest:secret@127.0.0.1:1//", heartbeat=7.0).connection()
    assert connection.heartbeat == 7.0
    assert connection.connect_timeout == CONNECT_SECONDS
    assert connection.transport_options["socket_settings"][socket.TCP_USER_TIMEOUT] >= 5_000
    assert not connection.ssl
    assert "secret" not in connection.as_uri()


@pytest.mark.parametrize(
    ("url", "given", "name"),
    [
        ("amqps://broker.example//", None, "broker.example"),
        ("amqps://u:p@broker.example:5671/v", None, "broker.example"),
        ("amqps://localhost//", None, "localhost"),
        ("amqps://10.0.0.1//", "broker.example", "broker.example"),
        ("amqps://a.example//;amqps://b.example//", "cluster.example", "cluster.example"),
    ],
)
def test_the_host_is_verified_by_its_name(url, given, name):
    tls = Broker(url, server_hostname=given).tls
    assert tls["server_hostname"] == name
    assert tls["cert_reqs"] is ssl.CERT_REQUIRED
    assert Broker(url, server_hostname=given).connection().ssl == tls


@pytest.mark.parametrize(("first", "ports"), [(0, [1, 2, 3]), (1, [2, 3, 1]), (2, [3, 1, 2]), (3, [1, 2, 3])])
def test_any_of_several_hosts_may_be_the_first(first, ports):
    broker = Broker("amqp://127.0.0.1:1//;amqp://127.0.0.1:2//;amqp://127.0.0.1:3//")
    connection = broker.connection(first)
    tried = [connection.port]
    for _ in range(2):
        connection.maybe_switch_next()
        tried.append(connection.port)
    assert tried == ports


def test_the_authority_that_was_given_is_the_only_one():
    assert Broker("amqps://h//", ca="own.pem").tls["ca_certs"] == "own.pem"


@pytest.mark.parametrize("url", ["amqp://h//", "redis://h/0", "sqlite-queue:///q.db"])
def test_nothing_is_verified_where_nothing_is_encrypted(url):
    assert Broker(url).tls is None


@pytest.mark.parametrize(
    ("exc", "absent"),
    [
        (NotFound("no queue", (50, 10)), True),
        (ChannelError("NOT_FOUND", (50, 10), "Channel.queue_declare", "404"), True),
        (ChannelError("locked", (50, 10), "Channel.queue_declare", "405"), False),
        (ConnectionError("gone"), False),
    ],
)
def test_what_says_that_there_is_no_queue(exc, absent):
    assert is_not_found(exc) is absent


@pytest.mark.parametrize(
    ("url", "batched", "names"),
    [
        ("amqp://h//", True, ["amqp-batched"]),
        ("amqps://h//", True, ["amqps-batched"]),
        ("amqp://h//", False, ["amqp"]),
        ("amqp://a//;amqp://b//", True, ["amqp-batched", "amqp-batched"]),
        ("pyamqp://h//", True, ["pyamqp"]),
        ("redis://h/0", True, ["redis-noted"]),
        ("rediss://h/0", True, ["redis-noted"]),
        ("redis://h/0", False, ["redis"]),
    ],
)
def test_plain_amqp_is_read_in_batches_unless_told_otherwise(url, batched, names):
    connection = Broker(url, batched=batched).connection()
    assert [url.partition(":")[0] for url in connection.alt] == (names if len(names) > 1 else [])
    assert connection.transport_cls == names[0]


class FakeBroker:
    """A connection and its channel; notes what was declared, with ``queues`` that are there."""

    channel_errors = (NotFound,)

    def __init__(self):
        self.queues = set()
        self.declared = []
        self.connection_errors = ()

    def channel(self):
        return self

    def close(self):
        pass

    def queue_declare(self, name, *, passive, **_):
        if passive and name not in self.queues:
            raise NotFound("no queue", (50, 10))
        if not passive:
            self.declared.append(name)
            self.queues.add(name)


def test_a_queue_that_is_deleted_is_left_to_its_owner_for_a_moment():
    clock, broker = VirtualClock(), FakeBroker()
    owned = OwnedQueue("q", clock)
    owned.ensure(broker)
    assert broker.declared == ["q"]  # absent from the start: it is ours to make
    for _ in range(2):
        broker.queues.clear()
        for _ in range(2):
            with pytest.raises(NotFound):
                owned.ensure(broker)
            clock.advance(OWNER_SECONDS / 2)
        broker.queues.add("q")
        owned.ensure(broker)  # its owner has made it
    assert broker.declared == ["q"]
    broker.queues.clear()
    with pytest.raises(NotFound):
        owned.ensure(broker)
    clock.advance(OWNER_SECONDS)
    owned.ensure(broker)
    assert broker.declared == ["q", "q"]
