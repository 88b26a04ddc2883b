"""Publishes what ``[periodic.NAME]`` says, from one of all processes at a time. RabbitMQ alone.

For each table there is a queue ``NAMESPACE.periodic.NAME`` with a single active consumer, and in it a
token: a message that tells the last moment that was published for. Who has the token publishes; it is
never acked before another lies behind it, so it outlives whoever has it. Each process brings one that
tells of no moment, for it does not know whether there is any.

At a moment: the message, confirmed and routed; then the new token, confirmed; then the old one is
acked. A kill between leaves the moment to the next process, which publishes it with the same id.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import amqp
from kombu.entity import Queue
from kombu.messaging import Consumer

from aggregator.errors import PublisherUnavailableError, UnrecoverableError
from aggregator.periodic import Timetable
from aggregator.settings import with_vhost
from consumers.attendant import Attendant
from consumers.connecting import Broker
from consumers.publisher import Outgoing, Publisher
from consumers.refusals import advice

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kombu.connection import Connection

    from aggregator.clock import Clock
    from aggregator.periodic import Periodic
    from aggregator.settings import Settings

LAST_HEADER: Final = "x-aggregator-last"
#: A token of a moment so far ahead is a clock's that was wrong.
_AHEAD_SECONDS: Final = 60.0
#: How long after a refusal it is tried again.
_REFUSED_SECONDS: Final = 5.0
#: A queue that no process has asked for in so long goes: its table was taken out.
_UNUSED_MS: Final = 30 * 86_400 * 1000


class _Token(NamedTuple):
    """What is held of one table: the last moment, 0 for unknown, and the message that tells it."""

    last: float
    message: Any


class PeriodicSender(Attendant):
    """Publishes the messages of all tables, by name, from :meth:`start` to :meth:`stop`."""

    def __init__(
        self, broker: Broker, namespace: str, tables: Mapping[str, Periodic], *, clock: Clock
    ) -> None:
        self._tables = {name: Timetable(periodic) for name, periodic in tables.items()}
        self._namespace = namespace
        self._clock = clock
        self._tokens: dict[str, _Token] = {}
        #: tables whose token was not put there by this connection
        self._inherited: set[str] = set()
        #: what was published, though its token may not be there yet
        self._done: dict[str, float] = {}
        self._refused: dict[str, str] = {}
        self._try_at: dict[str, float] = {}
        self._publisher = Publisher(broker.url, tls=broker.tls)
        super().__init__(broker, "periodic")

    def notes(self) -> list[str]:
        """Return what keeps it from its work, for people."""
        refused = [f"periodic.{name}: {problem}" for name, problem in self._refused.items()]
        return [*super().notes(), *refused]

    def attend(self, connection: Connection) -> None:
        """Hold the tokens that are to be had, and publish by the clock."""
        channel = connection.channel()
        queues = {name: self._queue(name) for name in self._tables}
        for queue in queues.values():
            queue(channel).queue_declare()
        consumers = [
            Consumer(channel, [queue], on_message=partial(self._take, name), auto_declare=False)
            for name, queue in queues.items()
        ]
        for consumer in consumers:
            consumer.consume()
        for name in self._tables:
            self._put(name, 0.0)
        self.served()
        self._log.info("periodic_ready", tables=len(self._tables))
        while not self.stopping:
            if not self.turn(connection):  # all tokens that there are have come
                self._look()

    def parted(self) -> None:
        """Forget the tokens: they went back, and another process has them."""
        self._publisher.close()
        self._tokens.clear()
        self._inherited.clear()

    def _queue(self, name: str) -> Queue:
        arguments = {
            "x-queue-type": "quorum",
            "x-single-active-consumer": True,
            "x-expires": _UNUSED_MS,
        }
        return Queue(f"{self._namespace}.periodic.{name}", durable=True, queue_arguments=arguments)

    def _take(self, name: str, message: Any) -> None:
        """Hold a token, and ack the one that it takes the place of."""
        told = (message.headers or {}).get(LAST_HEADER)
        last = float(told) if isinstance(told, int | float) else 0.0
        if last > self._clock.time() + _AHEAD_SECONDS:
            last = 0.0
        held = self._tokens.get(name)
        if held is None:
            self._inherited.add(name)
        if held is not None and held.last > last:
            message.ack()
            return
        self._tokens[name] = _Token(last, message)
        if held is not None:
            held.message.ack()

    def _look(self) -> None:
        now = self._clock.time()
        for name, token in list(self._tokens.items()):
            last = max(token.last, self._done.get(name, 0.0))
            if last > now + _AHEAD_SECONDS:  # the clock was set back: what is held gives way to a new token
                last = self._done[name] = 0.0
                self._tokens[name] = token._replace(last=0.0)
            if not last or (name in self._inherited):
                # a new one in its place: brokers count how often a message was handed out
                self._inherited.discard(name)
                self._put(name, last or now)
                self._done[name] = last or now
                continue
            if now < self._try_at.get(name, now):
                continue
            if (moment := self._tables[name].due(last, now)) is not None:
                self._publish(name, moment)

    def _publish(self, name: str, moment: float) -> None:
        message = self._tables[name].message(moment)
        outgoing = Outgoing(message.exchange, message.routing_key, message.body, message.properties)
        try:
            (refusal,) = self._publisher.publish([outgoing])
        except PublisherUnavailableError as exc:
            # an exchange that is not there, or no right to it: this table's fault, not the broker's
            if not isinstance(exc.__cause__, amqp.ChannelError):
                raise
            refusal = advice(exc.__cause__, message.exchange) or str(exc.__cause__)
        if refusal is not None:
            self._try_at[name] = self._clock.time() + _REFUSED_SECONDS
            if self._refused.get(name) != refusal:
                self._refused[name] = refusal
                self._log.warning("periodic_refused", name=name, problem=refusal)
            return
        self._refused.pop(name, None)
        self._done[name] = moment
        self._log.info("periodic_published", name=name, message_id=message.properties["message_id"])
        self._put(name, moment)

    def _put(self, name: str, last: float) -> None:
        queue = f"{self._namespace}.periodic.{name}"
        headers = {LAST_HEADER: last}
        (refusal,) = self._publisher.publish(
            [Outgoing("", queue, b"", {"delivery_mode": 2, "headers": headers})]
        )
        if refusal is not None:
            raise UnrecoverableError(f"queue {queue!r} takes no token: {refusal}")


def make_periodic(settings: Settings, clock: Clock) -> PeriodicSender:
    """Return what publishes to the broker that stands above the file's tables."""
    url = with_vhost(settings.broker.get_secret_value(), settings.vhost)
    encrypted = url.startswith("amqps")
    broker = Broker(
        url,
        heartbeat=settings.heartbeat,
        ca=str(settings.broker_ca) if settings.broker_ca and encrypted else None,
        server_hostname=settings.server_hostname if encrypted else None,
        batched=False,
    )
    return PeriodicSender(broker, settings.control_namespace, settings.periodic, clock=clock)
