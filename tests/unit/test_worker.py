"""A worker over kombu's transport in memory, and over brokers that are not there or say nothing."""

from __future__ import annotations

import socket
import threading
import uuid
from contextlib import contextmanager
from itertools import count
from math import inf
from types import SimpleNamespace

import pytest
import structlog
from kombu import Connection
from prometheus_client import CollectorRegistry

from aggregator.delivery import Settlement
from aggregator.metrics import Metrics
from consumers.connecting import Broker
from consumers.worker import Worker

PATIENCE = 20


class Pipeline:
    """What a worker asks and tells; can be waited for."""

    name = "r"

    def __init__(self):
        self.consuming = True
        self.pausing = False
        self.quiet = None
        self.refusing = False
        self.has_room = True
        self.isolate_at = inf
        self.received = []
        self.opened = []
        self.lost = []
        self.threads = set()
        self.fail = None
        self.asked = threading.Event()
        self._changed = threading.Condition()

    @property
    def taking(self):
        return self.consuming and not self.pausing

    def link_quiet(self, link, *, quiet):
        with self._changed:
            self.quiet = quiet
            self._changed.notify_all()

    def wait_until_consuming(self, seconds):
        self.asked.set()
        with self._changed:
            self._changed.wait(seconds)
        return self.taking

    def accept(self, deliveries):
        failure, self.fail = self.fail, None
        if failure:
            raise failure
        with self._changed:
            self.received += deliveries
            self.threads.add(threading.current_thread())
            self._changed.notify_all()

    def link_opened(self, link, prefetch):
        with self._changed:
            self.opened.append((link, prefetch))
            self._changed.notify_all()

    def link_lost(self, link):
        with self._changed:
            self.lost.append(link)
            self._changed.notify_all()

    def until(self, holds):
        with self._changed:
            assert self._changed.wait_for(lambda: holds(self), PATIENCE)


def made(broker, pipeline, queue="q"):
    return Worker(
        Broker(broker, heartbeat=1.0),
        queue,
        pipeline,
        prefetch=10,
        name="r-1",
        epochs=count(1),
        metrics=Metrics(CollectorRegistry()).route("r"),
    )


@contextmanager
def running(worker):
    thread = threading.Thread(target=worker.run)
    thread.start()
    try:
        yield thread
    finally:
        worker.stopping.set()
        worker.released.set()
        worker.wake()
        thread.join(PATIENCE)
        assert not thread.is_alive()
        worker.close()


@pytest.fixture
def pipeline():
    return Pipeline()


@pytest.fixture
def queue():
    return f"q-{uuid.uuid4().hex}"


@contextmanager
def channel_of(queue):
    with Connection("memory://") as connection, connection.channel() as channel:
        channel.queue_declare(queue=queue)
        yield channel


def send(queue, bodies):
    with channel_of(queue) as channel:
        for body in bodies:
            channel.basic_publish(channel.prepare_message(body), "", queue)


def test_what_comes_is_handed_over_and_acked_by_the_worker_alone(pipeline, queue):
    send(queue, [b"1", b"2", b"3"])
    worker = made("memory://", pipeline, queue)
    with running(worker) as thread:
        pipeline.until(lambda p: len(p.received) == 3)
        assert pipeline.threads == {thread}
        ((link, prefetch),) = pipeline.opened
        assert prefetch == 10
        assert {delivery.link for delivery in pipeline.received} == {link}
        assert link.unsettled == 3
        acked = threading.Event()
        by = []
        ack = link._channel.basic_ack

        def basic_ack(tag, **more):
            by.append(threading.current_thread())
            ack(tag, **more)
            if len(by) == 3:
                acked.set()

        link._channel.basic_ack = basic_ack
        link.settle(pipeline.received, Settlement.ACK)
        assert acked.wait(PATIENCE)
        assert set(by) == {thread}
        assert worker.state == "consuming"
    assert worker.state == "stopped"
    assert pipeline.lost == [link]
    assert not link.alive


@pytest.mark.parametrize("url", ["memory://", "sqlite"])
def test_a_pausing_route_keeps_its_link_and_takes_up_again_over_it(pipeline, queue, url, tmp_path):
    url = f"sqlite-queue:///{tmp_path}/q.db" if url == "sqlite" else url
    with Connection(url) as connection, connection.channel() as channel:
        channel.queue_declare(queue=queue, durable=True, auto_delete=False)
        worker = made(url, pipeline, queue)
        with running(worker):
            pipeline.until(lambda p: p.opened)
            pipeline.pausing = True
            worker.wake()
            pipeline.until(lambda p: p.quiet)
            assert worker.state == "pausing"
            channel.basic_publish(channel.prepare_message(b"1"), "", queue)
            pipeline.pausing = False
            worker.wake()
            pipeline.until(lambda p: len(p.received) == 1)
            assert (worker.state, pipeline.quiet) == ("consuming", False)
            assert (len(pipeline.opened), pipeline.lost) == (1, [])


def test_cancelled_first_and_closed_only_once_released(pipeline, queue):
    worker = made("memory://", pipeline, queue)
    with running(worker):
        pipeline.until(lambda p: p.opened)
        worker.stopping.set()
        assert worker.cancelled.wait(PATIENCE)
        assert not pipeline.lost
        send(queue, [b"late"])
    assert pipeline.received == []
    assert len(pipeline.lost) == 1


def test_an_absent_queue_is_declared(pipeline, queue):
    with running(made("memory://", pipeline, queue)):
        pipeline.until(lambda p: p.opened)
        with Connection("memory://") as connection, connection.channel() as channel:
            channel.queue_declare(queue=queue, passive=True)


def test_a_fault_of_ours_costs_the_link_and_not_the_thread(pipeline, queue):
    pipeline.fail = ZeroDivisionError()
    send(queue, [b"1"])
    with structlog.testing.capture_logs() as logs, running(made("memory://", pipeline, queue)):
        pipeline.until(lambda p: len(p.opened) == 2)
    assert [line["event"] for line in logs if line["log_level"] == "error"] == ["worker_failed"]
    (first, _), (second, _) = pipeline.opened
    assert (first.epoch, second.epoch) == (1, 2)
    assert pipeline.lost[0] is first


def test_a_route_that_does_not_consume_lets_go_and_waits(pipeline, queue):
    worker = made("memory://", pipeline, queue)
    with running(worker):
        pipeline.until(lambda p: p.opened)
        pipeline.consuming = False
        pipeline.until(lambda p: p.lost)
        assert pipeline.asked.wait(PATIENCE)
        assert worker.state == "waiting"
        assert len(pipeline.opened) == 1
        pipeline.consuming = True
        pipeline.until(lambda p: len(p.opened) == 2)


def test_nothing_more_is_read_while_there_is_no_room(pipeline, queue):
    pipeline.has_room = False
    send(queue, [b"1"])
    worker = made("memory://", pipeline, queue)
    with running(worker):
        pipeline.until(lambda p: p.opened)
        beat = worker.beat
        turned = threading.Event()
        worker._hand_over = turned.set
        assert turned.wait(PATIENCE)
        turned.clear()
        assert turned.wait(PATIENCE)
        assert worker.beat > beat
        assert pipeline.received == []
        del worker._hand_over
        pipeline.has_room = True
        pipeline.until(lambda p: len(p.received) == 1)


def test_it_stops_while_the_broker_is_away(pipeline):
    worker = made("amqp://guest:secret@127.0.0.1:1//", pipeline)
    with structlog.testing.capture_logs() as logs, running(worker):
        while not logs:
            worker.stopping.wait(0.01)
        assert worker.state == "connecting"
    assert worker.state == "stopped"
    assert "secret" not in str(logs)
    assert not pipeline.opened


def test_a_broker_that_says_nothing_holds_it_for_seconds_only(pipeline, monkeypatch):
    monkeypatch.setattr("consumers.connecting.CONNECT_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        worker = made(f"amqp://guest:guest@127.0.0.1:{silent.getsockname()[1]}//", pipeline)
        with structlog.testing.capture_logs() as logs, running(worker):
            while not logs:
                worker.stopping.wait(0.01)
    assert logs[0]["event"] == "link_lost"


def test_waking_never_blocks(pipeline):
    worker = made("memory://", pipeline)
    for _ in range(100_000):  # more than a pipe holds
        worker.wake()
    worker._drain_wakes()
    worker.close()


# ── what came before is got singly ──


class Getting:
    """A channel that hands out messages by ``basic_get``; each says how often it came before."""

    counts_deliveries = True

    def __init__(self, *counts):
        self.waiting = list(counts)

    def basic_get(self, _queue):
        if not self.waiting:
            return None
        delivered = self.waiting.pop(0)
        return SimpleNamespace(
            body=b"x",
            delivery_tag=len(self.waiting),
            headers={"x-delivery-count": delivered} if delivered else {},
            properties={},
            delivery_info={"redelivered": bool(delivered)},
        )


@pytest.fixture
def sifting(pipeline, monkeypatch):
    """A worker that is connected, but for the broker; what it got is in ``pipeline.received``."""
    pipeline.isolate_at = 5
    pipeline.sifting = threading.Lock()
    pipeline.trying = False
    pipeline.alone_at = 5
    pipeline.gathered = []
    pipeline.gather = lambda *, on: pipeline.gathered.append(on)
    worker = made("memory://", pipeline)
    worker._link = SimpleNamespace(delivered=lambda tags: None, unsettled=0)
    monkeypatch.setattr(worker, "_settle", lambda: None)
    yield worker
    worker.close()


def test_what_came_before_is_got_until_the_first_that_did_not(sifting, pipeline):
    channel = Getting(1, 7, 2, 0, 3)
    sifting._sift(channel)
    assert channel.waiting == [3]
    assert len(pipeline.received) == 4
    assert not pipeline.sifting.locked()


def test_many_of_which_none_came_often_end_it(sifting, pipeline, monkeypatch):
    monkeypatch.setattr("consumers.worker.CALM_MESSAGES", 3)
    sifting._sift(Getting(1, 1, 5, 1, 1, 1, 1, 1))
    assert len(pipeline.received) == 6


def test_a_full_link_ends_it(sifting, pipeline):
    sifting._link.unsettled = sifting.prefetch
    sifting._sift(Getting(1, 1))
    assert pipeline.received == []


def test_a_suspect_is_waited_for(sifting, pipeline, monkeypatch):
    """Nothing more is got while it is written alone."""
    seen = []
    channel = Getting(6, 1)

    def waits():
        seen.append(list(channel.waiting))
        pipeline.trying = len(seen) < 3
        return False

    monkeypatch.setattr(sifting, "_wait", waits)
    pipeline.trying = True
    sifting._sift(channel)
    assert seen == [[1]] * 3
    assert channel.waiting == []


def test_of_groups_all_is_got_before_they_are_tried(sifting, pipeline, monkeypatch):
    """But for what would be dead-lettered soon: that is tried by itself."""
    pipeline.alone_at, tried = 11, []
    pipeline.trying = True

    def waits():
        tried.append(len(pipeline.received))
        pipeline.trying = len(tried) % 2 == 0
        return False

    monkeypatch.setattr(sifting, "_wait", waits)
    sifting._sift(Getting(6, 1, 11, 5, 0, 1))
    assert tried == [3]
    assert len(pipeline.received) == 5


def test_without_isolation_nothing_is_got(sifting, pipeline):
    pipeline.isolate_at = inf
    channel = Getting(1)
    sifting._sift(channel)
    assert channel.waiting == [1]


def test_a_host_that_takes_connections_and_is_of_no_use_is_not_tried_first_again(pipeline, monkeypatch):
    """Alone in a partition a broker lets everybody in, and answers nothing about the queue."""
    firsts, served = [], threading.Event()

    class Several(Broker):
        def connection(self, first=0):
            firsts.append(first)
            return Broker("memory://").connection()

    def ensure(connection, queue, entity, plan):
        if len(firsts) < 3:
            raise ConnectionResetError("nothing came")
        served.set()
        raise ConnectionResetError("enough")

    monkeypatch.setattr("consumers.worker.ensure", ensure)
    worker = made("memory://", pipeline)
    firsts.clear()
    worker._broker = Several("memory://;memory://;memory://")
    with running(worker):
        assert served.wait(PATIENCE)
    assert firsts[:3] == [0, 1, 2]
