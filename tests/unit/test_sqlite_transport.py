"""The queue file as kombu uses it: what its contract with other transports does not cover."""

from __future__ import annotations

import sqlite3
import threading
import zlib
from contextlib import suppress

import pytest
from amqp.exceptions import NotFound, PreconditionFailed
from kombu import Connection, Consumer, Exchange, Producer, Queue
from kombu.exceptions import EncodeError
from kombu.mixins import ConsumerMixin
from kombu.transport import TRANSPORT_ALIASES
from kombu.utils.limits import TokenBucket

from aggregator.errors import UnrecoverableError
from consumers.transports import SQLITE_QUEUE, register
from consumers.transports.sqlite_errors import (
    LeaseLostError,
    NotAQueueFileError,
    QueueFileBusyError,
    QueueFileError,
    QueueFileFullError,
    UnroutableError,
)

QUEUE = Queue("tasks", durable=True)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "queue.db"


@pytest.fixture
def connect(path):
    register()
    opened = []

    def open_one(query="", **options):
        connection = Connection(f"sqlite-queue:///{path}{query}", **options)
        opened.append(connection)
        return connection

    yield open_one
    for connection in opened:
        connection.release()


@pytest.fixture
def connection(connect):
    connection = connect()
    QUEUE(connection.default_channel).declare()
    return connection


def publish(connection, *bodies, **options):
    for body in bodies:
        options = {"routing_key": QUEUE.name, "content_type": "application/octet-stream", **options}
        Producer(connection.default_channel).publish(body, **options)


def consume(connection, **options):
    taken = []
    consumer = Consumer(connection.channel(), [QUEUE], on_message=taken.append, **options)
    consumer.consume()
    return consumer, taken


def counts(connection):
    ready, unacked, _ = connection.default_channel.queue_counts(QUEUE.name)
    return ready, unacked


def test_registering_twice_changes_nothing():
    register()
    before = dict(TRANSPORT_ALIASES)
    register()
    assert before == TRANSPORT_ALIASES
    assert SQLITE_QUEUE in before


def test_a_relative_url(tmp_path, monkeypatch):
    register()
    monkeypatch.chdir(tmp_path)
    with Connection("sqlite-queue:///made/queue.db") as connection:
        connection.connect()
        assert (tmp_path / "made" / "queue.db").is_file()
        assert connection.as_uri() == "sqlite-queue:///made/queue.db"
        assert connection.clone().as_uri() == connection.as_uri()


def test_the_topology_is_the_same_for_all(connect):
    exchange = Exchange("logs", "topic", durable=True)
    queue = Queue("errors", exchange, routing_key="*.error", durable=True)
    queue(connect().default_channel).declare()
    other = connect()
    publish(other, b"x", exchange=exchange, routing_key="a.error")
    assert queue(other.default_channel).get().body == b"x"
    queue(other.default_channel).queue_unbind()
    publish(other, b"y", exchange=exchange, routing_key="a.error")
    assert queue(other.default_channel).get() is None


def test_an_exchange_declared_otherwise_is_refused(connection):
    channel = connection.default_channel
    Exchange("x", "direct", durable=True)(channel).declare()
    Exchange("x", "direct", durable=True)(channel).declare()
    with pytest.raises(PreconditionFailed):
        Exchange("x", "topic", durable=True)(channel).declare()
    with pytest.raises(PreconditionFailed, match="headers"):
        Exchange("h", "headers")(channel).declare()
    with pytest.raises(NotFound):
        Exchange("absent", passive=True)(channel).declare()
    with pytest.raises(NotFound):
        publish(connection, b"x", exchange="absent")


def test_unroutable_and_mandatory(connection):
    with pytest.raises(UnroutableError, match="absent") as raised:
        publish(connection, b"x", routing_key="absent", mandatory=True)
    assert raised.value.code == 312
    assert isinstance(raised.value, connection.channel_errors)


def test_nothing_is_decompressed_at_receipt(connection):
    bomb = zlib.compress(bytes(50_000_000), 9)
    publish(connection, bomb, headers={"compression": "application/x-gzip"})
    _, taken = consume(connection)
    connection.drain_events(timeout=1)
    assert taken[0].body == bomb
    assert taken[0].errors == ()


@pytest.mark.parametrize("headers", [{"a": object()}, {"a": {1: 2}}, {"a": 2**64}, {"a": "\ud800"}])
def test_headers_that_cannot_be_stored_are_refused(connection, headers):
    with pytest.raises(EncodeError):
        publish(connection, b"x", headers=headers)
    assert counts(connection) == (0, 0)


def test_a_published_delivery_count_does_not_count(connection):
    publish(connection, b"x", headers={"x-delivery-count": 15})
    message = QUEUE(connection.default_channel).get()
    assert message.headers == {}
    message.requeue()
    assert QUEUE(connection.default_channel).get().headers == {"x-delivery-count": 1}


def test_acks_are_collected_until_the_next_drain(connection, connect):
    publish(connection, b"1", b"2", b"3")
    _, taken = consume(connection)
    connection.drain_events(timeout=1)
    other = connect()
    taken[0].ack()
    taken[1].ack()
    assert counts(other) == (0, 3)
    with suppress(TimeoutError):
        connection.drain_events(timeout=0)
    assert counts(other) == (0, 1)
    taken[2].ack()
    connection.heartbeat_check()
    assert counts(other) == (0, 0)


def test_acks_are_committed_by_the_close(connection, connect):
    publish(connection, b"1", b"2")
    consumer, taken = consume(connection)
    connection.drain_events(timeout=1)
    taken[0].ack()
    consumer.channel.close()
    assert counts(connect()) == (1, 0)


def test_many_acks_are_committed_at_once(connection, connect):
    publish(connection, *(b"%d" % number for number in range(5)))
    consumer, taken = consume(connection)
    connection.drain_events(timeout=1)
    consumer.channel.ack_many([message.delivery_tag for message in taken[1:]])
    assert counts(connect()) == (0, 1)
    assert consumer.channel.supports_multiple_ack


def test_what_no_callback_has_seen_is_not_counted(connection):
    publish(connection, b"1", b"2", b"3")
    seen = []

    def fail(message):
        seen.append(message)
        raise ValueError("mine")

    consumer = Consumer(connection.channel(), [QUEUE], on_message=fail)
    consumer.consume()
    with pytest.raises(ValueError, match="mine"):
        connection.drain_events(timeout=1)
    assert [message.body for message in seen] == [b"1"]
    assert counts(connection) == (0, 3)
    consumer.channel.close()
    _, again = consume(connection)
    connection.drain_events(timeout=1)
    assert [message.body for message in again] == [b"1", b"2", b"3"]
    assert [message.delivery_info["redelivered"] for message in again] == [True, False, False]


def test_after_a_failing_callback_the_rest_comes(connection):
    publish(connection, b"1", b"2", b"3")
    seen = []

    def fail_once(message):
        seen.append(message.body)
        if len(seen) == 1:
            raise ValueError("mine")

    with Consumer(connection.channel(), [QUEUE], on_message=fail_once):
        with pytest.raises(ValueError, match="mine"):
            connection.drain_events(timeout=1)
        connection.drain_events(timeout=1)
    assert seen == [b"1", b"2", b"3"]


def test_a_batch_is_one_commit(connection, connect):
    other = connect()
    producer = Producer(connection.default_channel)
    with producer.batch(max_size=100) as batch:
        for number in range(3):
            producer.publish(number, routing_key=QUEUE.name)
        assert counts(other) == (0, 0)
        batch.flush()
        assert counts(other) == (3, 0)
        producer.publish(3, routing_key=QUEUE.name)
    assert counts(other) == (4, 0)


def test_a_failed_batch_stores_nothing(connection):
    producer = Producer(connection.default_channel)

    def fail():
        with producer.batch():
            producer.publish(1, routing_key=QUEUE.name)
            raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        fail()
    assert counts(connection) == (0, 0)


def test_the_bytes_of_one_look_are_bounded(connect):
    connection = connect("?batch_bytes=1000")
    QUEUE(connection.default_channel).declare()
    publish(connection, *[bytes(600)] * 5)
    _, taken = consume(connection)
    connection.drain_events(timeout=1)
    assert len(taken) == 2
    connection.drain_events(timeout=1)
    assert len(taken) == 4


def test_an_exclusive_queue_ends_with_its_channel(connection):
    channel = connection.channel()
    queue = Queue("", exclusive=True)(channel)
    queue.declare()
    name = queue.name
    assert channel.queue_declare(name, passive=True).message_count == 0
    channel.close()
    with pytest.raises(NotFound):
        connection.default_channel.queue_declare(name, passive=True)


def test_an_auto_delete_queue_ends_with_its_last_consumer(connection):
    queue = Queue("brief", auto_delete=True)
    one, two = (Consumer(connection.channel(), [queue], on_message=print) for _ in range(2))
    one.consume()
    two.consume()
    one.cancel()
    assert connection.default_channel.queue_declare("brief", passive=True).consumer_count == 1
    two.channel.close()
    with pytest.raises(NotFound):
        connection.default_channel.queue_declare("brief", passive=True)


def test_a_rejected_message_is_dead_lettered(connection):
    arguments = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": QUEUE.name}
    source = Queue("source", durable=True, queue_arguments=arguments)
    source(connection.default_channel).declare()
    publish(connection, b"bad", routing_key="source", message_id="m")
    source(connection.default_channel).get().reject()
    message = QUEUE(connection.default_channel).get()
    assert (message.body, message.properties["message_id"]) == (b"bad", "m")
    assert connection.default_channel.queue_counts("source")[:2] == (0, 0)


def test_conditions_of_deletion(connection):
    channel = connection.default_channel
    publish(connection, b"x")
    with pytest.raises(PreconditionFailed):
        channel.queue_delete(QUEUE.name, if_empty=True)
    consumer, _ = consume(connection)
    with pytest.raises(PreconditionFailed):
        channel.queue_delete(QUEUE.name, if_unused=True)
    consumer.cancel()
    assert channel.queue_delete(QUEUE.name) == 1
    assert channel.queue_delete(QUEUE.name) == 0


def test_another_thread_may_wake_and_nothing_else(connection):
    consume(connection)
    errors = []

    def meddle():
        try:
            connection.default_channel.queue_counts(QUEUE.name)
        except sqlite3.ProgrammingError as error:
            errors.append(error)
        connection.connection.wake()

    thread = threading.Thread(target=meddle)
    thread.start()
    with pytest.raises(TimeoutError):
        connection.drain_events()
    thread.join()
    assert errors


def test_a_lock_held_for_too_long(connect, connection, path):
    impatient = connect("?busy_timeout=1ms")
    impatient.connect()
    rival = sqlite3.connect(path, isolation_level=None)
    rival.execute("BEGIN IMMEDIATE")
    with pytest.raises(QueueFileBusyError, match="locked") as raised:
        publish(impatient, b"x")
    assert isinstance(raised.value, impatient.recoverable_connection_errors)
    rival.execute("ROLLBACK")
    rival.close()
    publish(impatient, b"x")
    assert counts(connection) == (1, 0)


def test_a_full_disk(connection):
    database = connection.connection.file._database
    pages = database.execute("PRAGMA page_count").fetchone()[0]
    database.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(QueueFileFullError, match="full") as raised:
        publish(connection, bytes(100_000))
    assert isinstance(raised.value, connection.connection_errors)
    assert counts(connection) == (0, 0)
    database.execute("PRAGMA max_page_count = 1000000")
    publish(connection, bytes(100_000))
    assert counts(connection) == (1, 0)


def _foreign(path):
    database = sqlite3.connect(path)
    database.execute("CREATE TABLE mine (a)")
    database.commit()
    database.close()


def _newer(path):
    register()
    Connection(f"sqlite-queue:///{path}").connect().close()
    database = sqlite3.connect(path)
    database.execute("PRAGMA user_version = 99")
    database.close()


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (
            lambda path: path.write_bytes(b"no database, but long enough to be looked at" * 40),
            "not a database",
        ),
        (_foreign, "something else"),
        (_newer, "newer version"),
        (lambda path: path.mkdir(), "folder"),
    ],
)
def test_a_file_that_is_no_queue_is_left_alone(path, connect, make, problem):
    make(path)
    before = path.is_file() and path.read_bytes()
    connection = connect()
    with pytest.raises(NotAQueueFileError, match=problem) as raised:
        connection.ensure_connection(max_retries=1)
    assert isinstance(raised.value, UnrecoverableError)
    assert not isinstance(raised.value, connection.connection_errors + connection.channel_errors)
    assert (path.is_file() and path.read_bytes()) == before


def test_a_folder_that_cannot_be_made(tmp_path):
    register()
    (tmp_path / "file").touch()
    connection = Connection(f"sqlite-queue:///{tmp_path}/file/queue.db")
    with pytest.raises(QueueFileError), connection:
        connection.transport.establish_connection()


@pytest.mark.parametrize("attempt", range(5))
def test_many_open_a_new_file_at_once(path, attempt):
    register()
    start = threading.Barrier(6)
    errors = []

    def run():
        start.wait()
        try:
            with Connection(f"sqlite-queue:///{path}") as connection:
                QUEUE(connection.default_channel).declare()
                publish(connection, b"x")
        except Exception as error:  # noqa: BLE001 - it is asserted on
            errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    with Connection(f"sqlite-queue:///{path}") as connection:
        assert counts(connection) == (6, 0)


def test_a_mixin_reconnects_when_it_has_lost_its_lease(connection, connect):
    class Worker(ConsumerMixin):
        restart_limit = TokenBucket(1000)  # kombu would wait a second before it tries again

        def __init__(self):
            self.connection = connect()
            self.taken = []
            self.revived = 0

        def get_consumers(self, consumer, channel):
            return [consumer([QUEUE], on_message=self.on_message)]

        def on_connection_revived(self):
            self.revived += 1

        def on_message(self, message):
            self.taken.append(message)
            if len(self.taken) == 1:
                # what somebody does who takes the leases of a consumer that hangs
                leases = connection.connection.leases
                (number, lock), *_ = connection.connection.file.rows("SELECT id, lock FROM owners")
                leases._take_over(number, lock, None)
                message.ack()
            else:
                message.ack()
                self.should_stop = True

    publish(connection, b"x")
    worker = Worker()
    worker.run()
    assert worker.revived == 2
    assert [message.headers.get("x-delivery-count") for message in worker.taken] == [None, 1]
    assert counts(connection) == (0, 0)


def test_an_ack_that_comes_too_late_deletes_nothing(connection, connect):
    publish(connection, b"x")
    late = connect()
    _, taken = consume(late)
    late.drain_events(timeout=1)
    ((number, lock),) = connection.connection.file.rows("SELECT id, lock FROM owners")
    connection.connection.leases._take_over(number, lock, None)
    with pytest.raises(LeaseLostError):
        taken[0].ack(multiple=True)
    assert not late.connected
    assert counts(connection) == (1, 0)


def test_a_closed_channel_says_so(connection):
    channel = connection.channel()
    channel.close()
    channel.close()
    with pytest.raises(connection.channel_errors):
        channel.queue_counts(QUEUE.name)


def test_nothing_is_left_beside_the_file(connect, path):
    connection = connect()
    QUEUE(connection.default_channel).declare()
    consume(connection)
    assert len(list(path.with_name("queue.db-owners").iterdir())) == 1
    connection.release()
    assert list(path.with_name("queue.db-owners").iterdir()) == []
    assert not path.with_name("queue.db-wal").exists()
