"""What every transport owes its consumers: one suite for the queue file, kombu's memory, and RabbitMQ."""

from __future__ import annotations

import time
import uuid
from contextlib import suppress
from typing import ClassVar

import pytest
from kombu import Connection, Consumer, Exchange, Producer, Queue

from consumers.transports import register

#: Seconds after which a broker in a process of its own has nothing more to deliver; one in this process.
QUIET, QUIET_HERE = 0.3, 0.1


class Bench:
    """Connections to one broker, and a queue that nobody else uses."""

    def __init__(self, url, patience=10.0):
        self.url = url
        self.patience = patience
        self.queue = Queue(f"test.{uuid.uuid4().hex}", durable=True)
        self.opened = []
        self.queues = [self.queue]
        self.connection = self.open()
        self.channel = self.connection.default_channel
        self.declare(self.queue)

    def open(self):
        connection = Connection(self.url)
        connection.ensure_connection(max_retries=1)
        # py-amqp decodes bodies unless told otherwise
        connection.default_channel.auto_decode = False
        self.opened.append(connection)
        return connection

    def declare(self, queue):
        self.queues.append(queue)
        queue(self.channel).declare()
        return queue

    def publish(self, *bodies, **options):
        producer = Producer(self.channel)
        options = {"routing_key": self.queue.name, "content_type": "application/octet-stream", **options}
        for body in bodies:
            producer.publish(body, **options)

    def publish_numbers(self, count, **options):
        self.publish(*(b"%d" % number for number in range(count)), **options)

    def consume(self, *queues, connection=None, **options):
        """Start a consumer on a channel of its own; return it with the list that it fills."""
        channel = (connection or self.connection).channel()
        channel.auto_decode = False
        taken = []
        consumer = Consumer(
            channel, queues or [self.queue], on_message=taken.append, auto_declare=False, **options
        )
        consumer.consume()
        return consumer, taken

    def get(self, queue=None):
        return (queue or self.queue)(self.channel).get()

    def ready(self, queue=None):
        return (queue or self.queue)(self.channel).queue_declare(passive=True).message_count

    def drain(self, condition, connection=None):
        """Deliver until ``condition()`` holds."""
        end = time.monotonic() + self.patience
        while not condition():
            assert time.monotonic() < end, "the messages did not come"
            with suppress(TimeoutError):
                (connection or self.connection).drain_events(timeout=0.1)

    def wait_ready(self, count):
        """Ask until so many messages are ready: RabbitMQ settles in its own time."""
        end = time.monotonic() + self.patience
        while self.ready() != count:
            assert time.monotonic() < end, f"{self.ready()} messages are ready, not {count}"
            time.sleep(0.01)

    def close(self):
        # first: py-amqp leaves its socket open where a cancelled consumer interrupts its good-bye
        for connection in self.opened:
            connection.release()
        with Connection(self.url) as cleaner:
            for queue in self.queues:
                queue(cleaner.channel()).delete()


def drain_quiet(connection):
    """Deliver until nothing has come for a while."""
    quiet = QUIET if connection.transport.driver_type == "amqp" else QUIET_HERE
    with suppress(TimeoutError):
        while True:
            connection.drain_events(timeout=quiet)


def bodies(messages):
    # py-amqp's empty body is text
    return [bytes(message.body or b"") for message in messages]


def numbers(*which):
    return [b"%d" % number for number in which]


class Contract:
    """The clauses. ``cannot`` names those that a transport is known not to keep, with the reason."""

    cannot: ClassVar[dict[str, str]] = {}

    @pytest.fixture
    def url(self):
        raise NotImplementedError

    @pytest.fixture
    def bench(self, url, request):
        reason = self.cannot.get(request.function.__name__)
        if reason:
            request.applymarker(pytest.mark.xfail(reason=reason, strict=True))
        register()
        # what is known to fail need not take long
        bench = Bench(url, patience=0.2 if reason else 10.0)
        yield bench
        bench.close()

    def test_order_is_kept(self, bench):
        bench.publish_numbers(20)
        _, taken = bench.consume()
        bench.drain(lambda: len(taken) >= 20)
        assert bodies(taken) == numbers(*range(20))
        assert not any(message.delivery_info.get("redelivered") for message in taken)

    def test_prefetch_bounds_what_is_unacked(self, bench):
        bench.publish_numbers(10)
        _, taken = bench.consume(prefetch_count=3)
        bench.drain(lambda: len(taken) >= 3)
        drain_quiet(bench.connection)
        assert bodies(taken) == numbers(0, 1, 2)
        taken[0].ack()
        taken[1].ack()
        bench.drain(lambda: len(taken) >= 5)
        drain_quiet(bench.connection)
        assert bodies(taken) == numbers(*range(5))

    def test_prefetch_counts_for_each_consumer(self, bench):
        other = bench.declare(Queue(f"{bench.queue.name}.other", durable=True))
        bench.publish_numbers(5)
        bench.publish_numbers(5, routing_key=other.name)
        _, taken = bench.consume(bench.queue, other, prefetch_count=2)
        bench.drain(lambda: len(taken) >= 4)
        drain_quiet(bench.connection)
        assert sorted(bodies(taken)) == numbers(0, 0, 1, 1)

    def test_acked_messages_are_gone(self, bench):
        bench.publish_numbers(5)
        consumer, taken = bench.consume()
        bench.drain(lambda: len(taken) >= 5)
        for message in taken:
            message.ack()
        consumer.channel.close()
        _, again = bench.consume(connection=bench.open())
        drain_quiet(bench.opened[-1])
        assert again == []

    def test_unacked_messages_return_when_the_channel_closes(self, bench):
        bench.publish_numbers(5)
        consumer, taken = bench.consume()
        bench.drain(lambda: len(taken) >= 5)
        taken[1].ack()
        consumer.channel.close()
        _, again = bench.consume()
        bench.drain(lambda: len(again) >= 4)
        assert bodies(again) == numbers(0, 2, 3, 4)
        assert all(message.delivery_info["redelivered"] for message in again)

    def test_unacked_messages_return_when_the_connection_closes(self, bench):
        bench.publish_numbers(3)
        other = bench.open()
        _, taken = bench.consume(connection=other)
        bench.drain(lambda: len(taken) >= 3, other)
        other.release()
        bench.wait_ready(3)
        message = bench.get()
        assert message.delivery_info["redelivered"]

    def test_a_requeued_message_takes_its_old_place(self, bench):
        bench.publish_numbers(3)
        _, taken = bench.consume(prefetch_count=1)
        bench.drain(lambda: len(taken) >= 1)
        taken[0].reject(requeue=True)
        bench.drain(lambda: len(taken) >= 2)
        assert bodies(taken) == numbers(0, 0)
        assert not taken[0].delivery_info["redelivered"]
        assert taken[1].delivery_info["redelivered"]

    def test_a_rejected_message_is_gone(self, bench):
        bench.publish_numbers(2)
        _, taken = bench.consume(prefetch_count=1)
        bench.drain(lambda: len(taken) >= 1)
        taken[0].reject(requeue=False)
        bench.drain(lambda: len(taken) >= 2)
        assert bodies(taken) == numbers(0, 1)

    def test_a_multiple_ack_settles_all_up_to_it(self, bench):
        bench.publish_numbers(5)
        consumer, taken = bench.consume()
        bench.drain(lambda: len(taken) >= 5)
        taken[2].ack(multiple=True)
        consumer.channel.close()
        _, again = bench.consume()
        bench.drain(lambda: len(again) >= 2)
        drain_quiet(bench.connection)
        assert bodies(again) == numbers(3, 4)

    def test_delivery_tags_count_from_one(self, bench):
        bench.publish_numbers(5)
        _, taken = bench.consume(prefetch_count=2)
        while len(taken) < 5:
            bench.drain(lambda: any(not message.acknowledged for message in taken))
            for message in taken:
                if not message.acknowledged:
                    message.ack()
        assert [message.delivery_tag for message in taken] == [1, 2, 3, 4, 5]

    def test_an_unknown_tag_is_a_channel_error(self, bench):
        channel = bench.connection.channel()

        def ack():
            channel.basic_ack(99)
            drain_quiet(bench.connection)

        with pytest.raises(bench.connection.channel_errors):
            ack()

    def test_an_absent_queue_is_a_channel_error(self, bench):
        connection = bench.open()
        absent = Queue(f"absent.{uuid.uuid4().hex}")
        with pytest.raises(connection.channel_errors) as raised:
            absent(connection.channel()).queue_declare(passive=True)
        assert int(raised.value.reply_code) == 404

    def test_an_absent_queue_cannot_be_consumed(self, bench):
        connection = bench.open()
        with pytest.raises(connection.channel_errors) as raised:
            bench.consume(Queue(f"absent.{uuid.uuid4().hex}"), connection=connection)
        assert int(raised.value.reply_code) == 404

    def test_a_queue_declared_otherwise_is_a_channel_error(self, bench):
        connection = bench.open()
        other = Queue(bench.queue.name, durable=True, queue_arguments={"x-message-ttl": 60_000})
        with pytest.raises(connection.channel_errors) as raised:
            other(connection.channel()).queue_declare()
        assert int(raised.value.reply_code) == 406

    def test_a_deleted_queue_ends_its_consumers(self, bench):
        connection = bench.open()
        bench.consume(connection=connection)
        bench.queue(bench.channel).delete()
        with pytest.raises(connection.connection_errors):
            bench.drain(lambda: False, connection)

    @pytest.mark.parametrize("body", [bytes(range(256)), b"", b"\xff\xfe\x00", "grüße".encode()])
    def test_bodies_are_bytes(self, bench, body):
        bench.publish(body)
        _, taken = bench.consume()
        bench.drain(lambda: taken)
        assert bodies(taken) == [body]

    def test_a_large_body(self, bench):
        body = bytes(range(256)) * 4096 * 3
        bench.publish(body)
        _, taken = bench.consume()
        bench.drain(lambda: taken)
        assert bodies(taken) == [body]

    def test_headers_and_properties_are_kept(self, bench):
        headers = {"text": "grüße", "int": 5, "big": 2**40, "yes": True, "none": None, "float": 1.5}
        headers |= {
            "list": [1, "a", {"deep": [None]}],
            "table": {"a": {"b": "c"}},
            "!odd": {"!bytes": "text"},
        }
        properties = {
            "message_id": "m-1",
            "correlation_id": "c-1",
            "reply_to": "r-1",
            "type": "t-1",
            "app_id": "a-1",
            "timestamp": 1_700_000_000,
        }
        bench.publish(
            b"{}",
            content_type="application/json",
            content_encoding="utf-8",
            headers=headers,
            priority=3,
            **properties,
        )
        _, taken = bench.consume()
        bench.drain(lambda: taken)
        (message,) = taken
        assert message.headers == headers
        assert {name: message.properties[name] for name in properties} == properties
        assert message.properties["delivery_mode"] == 2
        assert message.properties["priority"] == 3
        assert (message.content_type, message.content_encoding) == ("application/json", "utf-8")
        assert message.delivery_info["exchange"] == ""
        assert message.delivery_info["routing_key"] == bench.queue.name

    def test_what_is_not_set_is_not_there(self, bench):
        bench.publish(b"x")
        _, taken = bench.consume()
        bench.drain(lambda: taken)
        assert taken[0].headers == {}
        assert "message_id" not in taken[0].properties

    def test_payload_decodes_on_demand(self, bench):
        bench.publish({"a": [1, "é"]}, content_type=None, serializer="json", compression="zlib")
        _, taken = bench.consume(accept=["json"])
        bench.drain(lambda: taken)
        assert taken[0].payload == {"a": [1, "é"]}

    @pytest.mark.parametrize(
        ("pattern", "key", "matches"),
        [
            ("a.*", "a.b", True),
            ("a.*", "a.b.c", False),
            ("a.*", "a", False),
            ("a.#", "a.b.c", True),
            ("#.z", "a.b.z", True),
            ("a.#.z", "a.b.c.z", True),
            ("*.b.#", "a.b.c", True),
            ("#", "", True),
            ("a.b", "a.b", True),
            ("a.b", "a.c", False),
        ],
    )
    def test_topics(self, bench, pattern, key, matches):
        assert self._routed(bench, "topic", pattern, key) == matches

    @pytest.mark.parametrize(("pattern", "key"), [("a.#", "a"), ("#.a", "a"), ("a.#.b", "a.b")])
    def test_a_hash_is_no_word_too(self, bench, pattern, key):
        assert self._routed(bench, "topic", pattern, key)

    @pytest.mark.parametrize(("kind", "other"), [("direct", False), ("fanout", True)])
    def test_direct_and_fanout(self, bench, kind, other):
        assert self._routed(bench, kind, "key", "key")
        assert self._routed(bench, kind, "key", "other") == other

    def _routed(self, bench, kind, pattern, key):
        exchange = Exchange(f"x.{uuid.uuid4().hex}", kind, durable=True)
        queue = bench.declare(Queue(f"q.{uuid.uuid4().hex}", exchange, routing_key=pattern, durable=True))
        bench.publish(b"routed", exchange=exchange, routing_key=key)
        # what comes after it to the same queue shows that it had its chance
        bench.publish(b"last", routing_key=queue.name)
        consumer, taken = bench.consume(queue)
        bench.drain(lambda: b"last" in bodies(taken))
        consumer.cancel()
        exchange(bench.channel).delete()
        if bodies(taken) == [b"routed", b"last"]:
            assert taken[0].delivery_info["exchange"] == exchange.name
            assert taken[0].delivery_info["routing_key"] == key
            return True
        assert bodies(taken) == [b"last"]
        return False

    def test_every_bound_queue_has_a_copy(self, bench):
        exchange = Exchange(f"x.{uuid.uuid4().hex}", "fanout", durable=True)
        one, two = (bench.declare(Queue(f"q.{uuid.uuid4().hex}", exchange, durable=True)) for _ in range(2))
        bench.publish(b"x", exchange=exchange, routing_key="")
        _, taken = bench.consume(one, two)
        bench.drain(lambda: len(taken) >= 2)
        taken[0].ack()
        drain_quiet(bench.connection)
        assert bodies(taken) == [b"x", b"x"]
        exchange(bench.channel).delete()

    def test_an_unroutable_mandatory_message_is_returned(self, bench):
        returned = []
        connection = bench.open()
        producer = Producer(
            connection.channel(), on_return=lambda error, *where: returned.append((error.code, *where[:2]))
        )
        producer.publish(b"x", routing_key="absent", mandatory=True)
        bench.drain(lambda: returned, connection)
        assert returned[0][1:] == ("", "absent")

    def test_an_unroutable_message_is_dropped(self, bench):
        bench.publish(b"lost", routing_key=f"absent.{uuid.uuid4().hex}")
        bench.publish(b"kept")
        _, taken = bench.consume()
        bench.drain(lambda: taken)
        assert bodies(taken) == [b"kept"]

    def test_two_consumers_share(self, bench):
        one, two = bench.open(), bench.open()
        _, first = bench.consume(connection=one, prefetch_count=5)
        _, second = bench.consume(connection=two, prefetch_count=5)
        bench.publish_numbers(40)
        end = time.monotonic() + bench.patience
        while len(first) + len(second) < 40:
            assert time.monotonic() < end
            for connection, taken in ((one, first), (two, second)):
                with suppress(TimeoutError):
                    connection.drain_events(timeout=0.02)
                for message in taken:
                    if not message.acknowledged:
                        message.ack()
        assert sorted(bodies(first + second)) == sorted(numbers(*range(40)))
        assert first
        assert second

    def test_counts_are_of_ready_messages(self, bench):
        bench.publish_numbers(5)
        bench.wait_ready(5)
        _, taken = bench.consume(prefetch_count=2)
        bench.drain(lambda: len(taken) >= 2)
        bench.wait_ready(3)
        assert bench.queue(bench.channel).queue_declare(passive=True).consumer_count == 1

    def test_a_purge_takes_ready_messages_only(self, bench):
        bench.publish_numbers(5)
        consumer, taken = bench.consume(prefetch_count=2)
        bench.drain(lambda: len(taken) >= 2)
        bench.wait_ready(3)
        assert bench.queue(bench.channel).purge() == 3
        consumer.channel.close()
        bench.wait_ready(2)

    def test_get_and_its_end(self, bench):
        bench.publish_numbers(2)
        bench.wait_ready(2)
        first, second = bench.get(), bench.get()
        assert bodies([first, second]) == numbers(0, 1)
        assert bench.get() is None
        second.ack()
        first.requeue()
        bench.wait_ready(1)

    def test_a_cancelled_consumer_gets_nothing_more_but_may_ack(self, bench):
        bench.publish_numbers(4)
        consumer, taken = bench.consume(prefetch_count=2)
        bench.drain(lambda: len(taken) >= 2)
        consumer.cancel()
        for message in taken:
            message.ack()
        consumer.channel.close()
        assert len(taken) == 2
        bench.wait_ready(2)

    def test_without_acks_nothing_comes_back(self, bench):
        bench.publish_numbers(3)
        consumer, taken = bench.consume(no_ack=True)
        bench.drain(lambda: len(taken) >= 3)
        consumer.channel.close()
        drain_quiet(bench.connection)
        assert bench.ready() == 0

    def test_a_drain_ends_in_time(self, bench):
        bench.consume()
        with pytest.raises(TimeoutError):
            bench.connection.drain_events(timeout=0.05)


class TestQueueFile(Contract):
    """This project's transport."""

    @pytest.fixture
    def url(self, tmp_path):
        return f"sqlite-queue:///{tmp_path}/queue.db"


class TestMemory(Contract):
    """kombu's own: shows which clauses virtual transports cannot keep."""

    cannot: ClassVar[dict[str, str]] = {
        "test_prefetch_counts_for_each_consumer": "its prefetch is of the channel",
        "test_unacked_messages_return_when_the_channel_closes": "it forgets them",
        "test_unacked_messages_return_when_the_connection_closes": "it forgets them",
        "test_a_requeued_message_takes_its_old_place": "it goes to the end",
        "test_a_multiple_ack_settles_all_up_to_it": "it ignores multiple",
        "test_delivery_tags_count_from_one": "its tags are UUIDs",
        "test_an_unknown_tag_is_a_channel_error": "it takes any tag",
        "test_an_absent_queue_cannot_be_consumed": "it makes the queue",
        "test_a_queue_declared_otherwise_is_a_channel_error": "it keeps no arguments",
        "test_a_deleted_queue_ends_its_consumers": "it makes the queue again",
        "test_a_hash_is_no_word_too": "kombu's pattern wants a word there",
        "test_an_unroutable_mandatory_message_is_returned": "it returns nothing",
        "test_counts_are_of_ready_messages": "it counts no consumers",
        "test_a_purge_takes_ready_messages_only": "it forgets the unacked ones",
    }

    @pytest.fixture
    def url(self):
        return f"memory://{uuid.uuid4().hex}"


@pytest.mark.integration
class TestRabbitMQ(Contract):
    """The real one, in the versions that the fixture has."""

    @pytest.fixture
    def url(self, rabbitmq):
        return rabbitmq.url
