"""A worker: a thread with its own connection that takes deliveries, hands them over, and acks.

It does four things in turn, for as long as its link lasts: wait for the socket or for a settlement,
read what is there, hand all of it over at once, and ack what was settled meanwhile.
"""

from __future__ import annotations

import os
import select
from contextlib import contextmanager, suppress
from functools import partial
from math import ceil, inf
from typing import TYPE_CHECKING, Any

from amqp.exceptions import AMQPNotImplementedError, ResourceLocked
from kombu.entity import Queue
from kombu.mixins import ConsumerMixin

from aggregator.clock import SYSTEM_CLOCK
from aggregator.entities import arguments
from aggregator.errors import UnrecoverableError
from aggregator.intake import delivered_before
from aggregator.topology import NOTHING
from consumers.declaring import OwnedQueue, ensure
from consumers.delivery import AmqpDelivery, BatchedDelivery, KombuDelivery, undecoded
from consumers.link import ChannelLink
from consumers.redis_broker import refuse_unfit
from consumers.working import TICK_SECONDS, Working

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from aggregator.clock import Clock
    from aggregator.metrics import RouteMetrics
    from aggregator.pipeline import Pipeline
    from aggregator.topology import Plan
    from consumers.connecting import Broker

#: Bound on any single read or write of the socket: a frozen broker must not freeze the worker.
IO_SECONDS = 5.0
#: The same until it consumes: a broker that takes back a hundred thousand messages is long in answering,
#: and a link that is given up for it makes it take them back again.
OPENING_SECONDS = 30.0
#: So many messages that came before, none of them often, and no more are got singly.
CALM_MESSAGES = 1_000
#: The wait on transports that poll; bounds the lag of an ack there.
POLL_SECONDS = 0.05
#: How long a route that stops consuming waits for refused messages to be safe.
PARTING_SECONDS = 2.0
#: The wait for another worker that takes messages one at a time; the connection is kept alive meanwhile.
TURN_SECONDS = 0.25
#: Frames of one read at most, so that acks and heartbeats have their turn.
FRAMES_AT_ONCE = 3_000
MESSAGES_AT_ONCE = 1_000
#: Bodies of one read at most, so that the bound on what is held is asked again.
BYTES_AT_ONCE = 1024 * 1024


class LinkLostError(ConnectionError):
    """The connection that is consumed on is not the open one any more."""


class Worker(Working, ConsumerMixin):  # type: ignore[misc]  # run takes nothing: it is a thread's
    """Consumes one queue for one route."""

    def __init__(
        self,
        broker: Broker,
        queue: str,
        pipeline: Pipeline,
        *,
        prefetch: int,
        name: str,
        epochs: Iterator[int],
        metrics: RouteMetrics,
        entity: Queue | None = None,
        plan: Plan = NOTHING,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        super().__init__(pipeline, name=name, prefetch=prefetch, metrics=metrics, clock=clock)
        self.connection = broker.connection()
        self.queue = queue
        self._entity = entity
        self._plan = plan
        self._owned = OwnedQueue(queue, clock)
        self._amqp = broker.amqp
        self._redis = broker.redis
        self._heartbeat = broker.heartbeat
        self._beat_at = 0.0
        self._broker = broker
        self._host = 0
        self._epochs = epochs
        self._inbox: list[Any] = []
        self._inbox_bytes = 0
        self._got: Callable[[Any], Any] = lambda message: message
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._wakes = select.poll()
        self._wakes.register(self._wake_read, select.POLLIN)
        # a queue with a single active consumer knows no get
        self._sifts = entity is None or not arguments(entity).get("x-single-active-consumer")
        self._quiet = False
        self._link: Any = None
        self._socket: Any = None
        self.losses = (*self.connection.connection_errors, *self.connection.channel_errors)

    @property
    def should_stop(self) -> bool:  # type: ignore[override]
        """Whether to stop: kombu's name for it."""
        return self.stopping.is_set()

    def _work(self) -> None:
        try:
            for _ in self.consume():
                pass
        except UnrecoverableError as exc:
            self._pipeline.stop(str(exc), lasting=True)

    def consume(
        self,
        limit: int | None = None,  # noqa: ARG002 - kombu's signature
        timeout: float | None = None,  # noqa: ARG002
        safety_interval: float = 1,  # noqa: ARG002
        **kwargs: Any,
    ) -> Iterator[None]:
        """Consume over one link, until it is lost or the route or the process wants no more."""
        with self.consumer_context(**kwargs) as (_, _, consumers):
            self._failures, self._quiet = 0, False
            self.state = "consuming"
            if self._socket is not None:
                self._socket.settimeout(IO_SECONDS)
            while self._iterate(consumers):
                yield

    def wake(self) -> None:
        """Have the worker look around at once. Any thread may call; never blocks."""
        with suppress(BlockingIOError):  # full: it will wake anyway
            os.write(self._wake_write, b"\0")

    def close(self) -> None:
        """Let go of the pipe that wakes it; the thread has ended."""
        os.close(self._wake_read)
        os.close(self._wake_write)

    def kick(self) -> None:
        """Break the connection from outside: for a watchdog, when the worker shows no life."""
        with suppress(Exception):
            self._socket.shutdown(2)

    # ── opening ──

    @contextmanager
    def establish_connection(self) -> Iterator[Any]:
        """Connect once; :meth:`run` decides when to try again."""
        with self._broker.connection(self._host) as connection:
            try:
                connection.ensure_connection(
                    errback=self._next_host,
                    max_retries=self._broker.hosts - 1,
                    interval_start=0,
                    interval_step=0,
                    reraise_as_library_errors=False,
                )
                self._established = connection.connection
                self._transport = connection.transport
                self._socket = getattr(self._established, "sock", None) if self._amqp else None
                self._prepare_wait()
                if self._redis:
                    refuse_unfit(connection)
                queue = self._owned if self._amqp else self.queue
                ensure(connection, queue, self._entity, self._plan)
                yield connection
            except BaseException:
                # one that takes connections may be of no use all the same: alone, frozen, starting
                self._next_host()
                # a frozen broker answers no good-bye: let go without one
                if self._amqp:
                    connection.collect()
                raise
            finally:
                self._lose_link()

    def _next_host(self, *_: object) -> None:
        """Of several brokers, try the next one first."""
        self._host += 1

    def get_consumers(self, Consumer: Any, channel: Any) -> list[Any]:  # noqa: N803 - kombu's name
        """Open the link, and the consumer on it."""
        multiple = getattr(channel, "supports_multiple_ack", self._amqp)
        link = ChannelLink(
            channel,
            next(self._epochs),
            multiple=multiple,
            # a transport that polls may have a way of its own to end its wait
            wake=getattr(self._established, "wake", self.wake),
            clock=self._clock,
            queue=self.queue,
        )
        if self._amqp:
            channel.auto_decode = False  # it would run any codec that a publisher names
            if hasattr(channel, "make_delivery"):  # the batched transport: the only object of a message
                channel.make_delivery = partial(BatchedDelivery, link)
                channel.on_deliveries = self._take
                channel.message_to_python = None
                self._got = lambda raw: BatchedDelivery(link, raw.arrival)
            else:
                self._got = channel.message_to_python = lambda raw: AmqpDelivery(raw, link)
        elif hasattr(channel, "message_to_python") and hasattr(channel, "qos"):
            channel.Message = undecoded(channel.Message)
        self._link = link
        self._pipeline.link_opened(link, self.prefetch)
        self._sift(channel)
        if self._leaves:
            return []  # what would be pushed now would only be given back
        # x-priority and its like
        priority = getattr(self._entity, "consumer_arguments", None)
        queue = Queue(self.queue, no_declare=True, consumer_arguments=priority)
        return [
            Consumer(
                queues=[queue],
                on_message=self._receive,
                prefetch_count=self.prefetch,
                auto_declare=False,
            )
        ]

    # ── before consuming: what came before ──

    @property
    def _leaves(self) -> bool:
        return self.should_stop or not self._pipeline.taking

    def _sift(self, channel: Any) -> None:
        """Get what was delivered before one by one, and nothing more while a suspect has no verdict.

        A consumer is sent its whole prefetch: where one message kills the process, the broker counts a
        delivery of them all. Got singly, it is that one's alone. What returns to a queue stands at its
        head: the first that never came before ends it, for most starts at the first look, and so do
        many of which none came often. One worker of the route does it at a time.

        Members of a group have no verdict before it is complete: all that came before is got then, and
        the groups are written alone, one after the other, until that does not help either.
        """
        counts = self._amqp or getattr(channel, "counts_deliveries", False)
        if not (counts and self._sifts and self._pipeline.isolate_at < inf):
            return
        turn = self._pipeline.sifting
        while not turn.acquire(timeout=TURN_SECONDS):
            if self._leaves:
                return
            if self._socket is None or self._pending() or self._readable.poll(0):
                self._read()
            self._settle()
        try:
            more = True
            while more:
                more = self._get_suspects(channel)
                self._await_verdicts()
        finally:
            self._pipeline.gather(on=False)
            turn.release()

    def _get_suspects(self, channel: Any) -> bool:
        """Get messages until some are to be tried; return whether there may be more that came before."""
        self.state = "connecting"
        isolate_at, alone_at, calm, got = self._pipeline.isolate_at, self._pipeline.alone_at, 0, False
        self._pipeline.gather(on=True)
        # what is held fills this link alone: to wait for groups with it would be to split them
        while not self._leaves and self._link.unsettled < self.prefetch and self._pipeline.has_room:
            delivered, got = self._get_one(channel), True
            calm = calm + 1 if delivered < isolate_at else 0
            if not delivered or calm == CALM_MESSAGES:
                return False
            if delivered >= alone_at:
                return True
        return got

    def _await_verdicts(self) -> None:
        self._pipeline.gather(on=False)
        while not self._leaves and self._pipeline.trying:
            self.state = "isolating"
            if self._wait():
                self._read()
            self._settle()

    def _get_one(self, channel: Any) -> int:
        """Get a message; return how often it came before."""
        try:
            message = channel.basic_get(self.queue)
        except (ResourceLocked, AMQPNotImplementedError):
            # a queue with a single active consumer, a stream
            self._sifts = False
            self._log.info("queue_without_get", queue=self.queue)
            raise
        if message is None:
            return 0
        self._receive(self._got(message))
        delivery = self._inbox[-1]
        self._hand_over()
        self._settle()
        return delivered_before(delivery) if delivery.redelivered else 0

    def _receive(self, message: Any) -> None:
        """Take one message, as kombu hands it out."""
        self._take([message if self._amqp else KombuDelivery(message, self._link)])

    def _take(self, deliveries: list[Any]) -> None:
        """Take messages: only noted here, so that nothing can go wrong inside another's callback."""
        self._link.delivered([delivery.tag for delivery in deliveries])
        self._inbox += deliveries
        self._inbox_bytes += sum([len(delivery.body) for delivery in deliveries])

    # ── one iteration ──

    def _iterate(self, consumers: list[Any]) -> bool:
        released = self.released.is_set()
        if not self._pipeline.consuming:
            self._part(consumers)
            return False  # closing the channel gives everything back, once
        if self._pipeline.taking is self._quiet and not self._turn_quiet(consumers):
            return False
        if self.should_stop and not self.cancelled.is_set():
            self.state = "stopping"
            for consumer in consumers:
                consumer.cancel()
            self._hand_over()
            self.cancelled.set()
        if not released and self._wait():
            self._read()
        self._hand_over()
        self._settle(flush=released)
        return not released

    def _turn_quiet(self, consumers: list[Any]) -> bool:
        """Take nothing more over the link, or take up again; return whether that can be done with it."""
        self._quiet = not self._quiet
        if not self._quiet:
            if not consumers:
                return False  # it was opened while nothing was to be taken
            self._pipeline.link_quiet(self._link, quiet=False)
            for consumer in consumers:
                consumer.consume()
            self.state = "consuming"
            return True
        self.state = "stopping" if self.should_stop else "pausing"
        for consumer in consumers:
            consumer.cancel()
        self._hand_over()
        self._pipeline.link_quiet(self._link, quiet=True)
        return True

    def _settle(self, *, flush: bool = False) -> None:
        self._link.perform(self._metrics.ack_lag_seconds.observe, flush=flush)
        self._tick()

    def _part(self, consumers: list[Any]) -> None:
        """Take no more, and ack what is being dead-lettered: given back, it would be so twice."""
        for consumer in consumers:
            consumer.cancel()
        until = self._clock.monotonic() + PARTING_SECONDS
        while self._pipeline.refusing and self._clock.monotonic() < until:
            self._wakes.poll(POLL_SECONDS * 1000)
            self._drain_wakes()
            self._settle()
        self._settle(flush=True)

    def _prepare_wait(self) -> None:
        if self._socket is not None:
            # every wait inside py-amqp is bounded by this, its close included
            self._socket.settimeout(OPENING_SECONDS)
            readers = (self._established, self._socket)
            self._pendings = [each.pending for each in readers if hasattr(each, "pending")]
            self._readable = select.poll()
            self._readable.register(self._socket, select.POLLIN)
            self._either = select.poll()
            self._either.register(self._socket, select.POLLIN)
            self._either.register(self._wake_read, select.POLLIN)

    def _wait(self) -> bool:
        """Wait for the socket or a settlement; return whether to read."""
        reading = self._pipeline.has_room
        if not reading:
            self._wakes.poll(POLL_SECONDS * 1000)
        elif self._socket is not None:
            reading = self._pending() or self._poll_socket()
        self._drain_wakes()
        return reading

    def _poll_socket(self) -> bool:
        held = self._link.held_until - self._clock.monotonic()
        # poll() counts in whole milliseconds: a part of one would be no wait at all
        events = self._either.poll(max(0, ceil(min(TICK_SECONDS, held) * 1000)))
        return any(descriptor != self._wake_read for descriptor, _ in events)

    def _pending(self) -> bool:
        """Whether something has been read that no poll shows: by TLS, or by the transport."""
        return any(pending() for pending in self._pendings)

    def _read(self) -> None:
        if self._socket is None:
            self._read_polling()
            return
        for _ in range(FRAMES_AT_ONCE):
            with suppress(TimeoutError):
                # by frames: after a heartbeat, drain_events would wait for the next method
                self._established.blocking_read(IO_SECONDS)
            if self._inbox_bytes >= BYTES_AT_ONCE or not (self._pending() or self._readable.poll(0)):
                return

    def _read_polling(self) -> None:
        timeout = POLL_SECONDS
        while len(self._inbox) < MESSAGES_AT_ONCE and self._inbox_bytes < BYTES_AT_ONCE:
            try:
                self._transport.drain_events(self._established, timeout=timeout)
            except TimeoutError:
                return
            timeout = 0.0

    def _hand_over(self) -> None:
        if self._inbox:
            inbox, self._inbox, self._inbox_bytes = self._inbox, [], 0
            self._pipeline.accept(inbox)

    def _tick(self) -> None:
        self.beat = self._clock.monotonic()
        # never through kombu's connection: it would connect anew, without consumers, and say nothing
        if not self._transport.verify_connection(self._established):
            raise LinkLostError("the connection is closed")
        if self._socket is not None and not self._pipeline.has_room:
            # unread, the broker's heartbeats prove nothing: only ours are sent
            if self.beat >= self._beat_at:
                self._beat_at = self.beat + self._heartbeat / 4
                self._established.send_heartbeat()
        else:
            self._transport.heartbeat_check(self._established)

    def _drain_wakes(self) -> None:
        with suppress(BlockingIOError):
            os.read(self._wake_read, 65_536)

    def _lose_link(self) -> None:
        link, self._link = self._link, None
        self._inbox, self._inbox_bytes = [], 0
        if link is not None:
            link.alive = False
            self._pipeline.link_lost(link)
