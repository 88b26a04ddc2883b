"""A channel on a queue file, with the methods and meanings of a channel of py-amqp."""

# ruff: noqa: ARG002, PLR0917 - the signatures are py-amqp's

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from amqp.exceptions import AMQPNotImplementedError, ConsumerCancelled
from kombu.transport.base import StdChannel

from consumers.transports import sqlite_message
from consumers.transports.sqlite_consumers import Consumer, Unacked
from consumers.transports.sqlite_declaring import Declaring
from consumers.transports.sqlite_errors import UnroutableError, not_found, refused
from consumers.transports.sqlite_leases import remove_consumers
from consumers.transports.sqlite_message import Prepared
from consumers.transports.sqlite_publishing import PublishBatch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from consumers.transports.sqlite_connection import Connection
    from consumers.transports.sqlite_leases import Owner
    from consumers.transports.sqlite_topology import Topology

_ACKS = 1000


class Channel(Declaring, StdChannel):
    """What kombu's producers and consumers talk to. Used by the thread of its connection only.

    Where AMQP answers later, this raises at once: 404 ``NotFound``, 406 ``PreconditionFailed``,
    312 ``UnroutableError``; the channel stays usable after each. A consumer whose queue is deleted
    gets ``ConsumerCancelled`` from the next drain, as with py-amqp.

    Acks are collected: they are committed by the next drain, heartbeat check, or other operation
    on the channel, by every thousandth, and by ``close``; ``multiple`` and :meth:`ack_many`
    commit at once.
    """

    Message = sqlite_message.Message

    #: ``basic_ack(tag, multiple=True)`` acks every lower tag of this channel too
    supports_multiple_ack = True
    supports_batch_publish = True
    #: a redelivered message has the header ``x-delivery-count``
    counts_deliveries = True

    def __init__(self, connection: Connection, channel_id: int) -> None:
        self.connection: Connection | None = connection
        self.channel_id = channel_id
        self.closed = False
        self.no_ack_consumers: set[str] = set()  # type: ignore[assignment]
        #: ``events["basic_return"]``: who is told of unroutable messages, in place of the exception
        self.events: defaultdict[str, set[Callable[..., Any]]] = defaultdict(set)
        self._prefetch = 0
        self._prefetch_of_channel = 0
        self._consumers: dict[str, Consumer] = {}
        self._unacked = Unacked()
        self._acks: list[int] = []
        self._owner: Owner | None = None
        self._looked: tuple[int, int] | None = None

    # publishing

    def prepare_message(
        self,
        body: bytes | str,
        priority: int | None = None,
        content_type: str | None = None,
        content_encoding: str | None = None,
        headers: Mapping[str, Any] | None = None,
        properties: Mapping[str, Any] | None = None,
    ) -> Prepared:
        """Return the message that kombu then publishes; raises ``EncodeError`` for what cannot be stored."""
        basic = {
            **(properties or {}),
            "priority": priority,
            "content_type": content_type,
            "content_encoding": content_encoding,
        }
        return Prepared(body, basic, headers or {})

    def basic_publish(
        self,
        message: Prepared,
        exchange: str = "",
        routing_key: str = "",
        mandatory: bool = False,
        **_options: Any,
    ) -> None:
        """Store a message in every queue that takes it; it is on the disk when this returns.

        One that no queue takes is dropped, as in AMQP; where it is ``mandatory``, the handlers in
        ``events["basic_return"]`` are called with (error, exchange, routing key, message), and
        without any handler ``UnroutableError`` is raised.
        """
        with PublishBatch(self, max_size=1) as batch:
            batch.publish(message, exchange=exchange, routing_key=routing_key, mandatory=mandatory)

    def create_publish_batch(self, max_size: int = _ACKS) -> PublishBatch:
        """Return a batch: kombu's ``Producer.batch()`` publishes through it, one commit for many."""
        return PublishBatch(self, max_size=max_size)

    def store(self, messages: Sequence[tuple[Prepared, str, str, bool]]) -> None:
        """Store messages, each with its exchange, routing key and whether it is mandatory, in one commit."""
        outgoing = {}
        for message, exchange, key, mandatory in messages:
            addressed = message.outgoing(exchange, key)
            outgoing[id(addressed)] = (addressed, message, mandatory)
        unroutable = self._open().store.publish(each[0] for each in outgoing.values())
        for addressed in unroutable:
            _, message, mandatory = outgoing[id(addressed)]
            if mandatory:
                self._return(message, addressed.exchange, addressed.routing_key)

    def _return(self, message: Prepared, exchange: str, key: str) -> None:
        error = UnroutableError(
            f"NO_ROUTE - no queue takes {key!r} from exchange {exchange!r}", reply_code=312
        )
        handlers = self.events["basic_return"]
        if not handlers:
            raise error
        for handler in handlers:
            handler(error, exchange, key, message)

    # consuming

    def basic_qos(self, prefetch_size: int = 0, prefetch_count: int = 0, apply_global: bool = False) -> None:
        """Bound the unacked messages of each consumer of this channel, with ``apply_global`` of all together.

        0 is no bound. It holds from now on, for the consumers that exist as well.
        """
        if apply_global:
            self._prefetch_of_channel = prefetch_count
        else:
            self._prefetch = prefetch_count
        self._looked = None

    def basic_consume(
        self,
        queue: str,
        no_ack: bool = False,
        callback: Callable[[sqlite_message.Message], Any] | None = None,
        consumer_tag: str = "",
        **_options: Any,
    ) -> str:
        """Start a consumer; messages come to ``callback`` during ``drain_events``. Returns its tag."""
        connection = self._open()
        tag = consumer_tag or uuid4().hex
        if tag in self._consumers:
            raise refused(f"consumer tag {tag!r} is in use")
        number = connection.topology.queue_id(queue)
        owner = self.own()
        with connection.file.writing() as database:
            database.execute("INSERT INTO consumers VALUES (?, ?, ?)", (owner.number, tag, number))
        self._consumers[tag] = Consumer(tag, queue, number, callback or _ignore, no_ack=no_ack)
        if no_ack:
            self.no_ack_consumers.add(tag)
        self._looked = None
        return tag

    def basic_cancel(self, consumer_tag: str, **_options: Any) -> None:
        """End a consumer; what its callback has seen stays unacked, what it has not goes back."""
        consumer = self._consumers.pop(consumer_tag, None)
        self.no_ack_consumers.discard(consumer_tag)
        if consumer is None or self._owner is None:
            return
        self.flush()
        connection = self._open()
        connection.store.give_back(self._owner, [each.id for each in consumer.fetched], counted=False)
        with connection.file.writing() as database:
            remove_consumers(database, "owner = ? AND tag = ?", self._owner.number, consumer_tag)

    def basic_get(self, queue: str, no_ack: bool = False) -> sqlite_message.Message | None:
        """Return the oldest message of a queue, or ``None``; the prefetch does not count here."""
        self.flush()
        connection = self._open()
        number = connection.topology.queue_id(queue)
        owner = self.own()
        connection.tend()
        if not connection.store.look(number)[1]:
            return None
        for leased in connection.store.lease(owner, number, 1, 1):
            tag = self._unacked.add(leased.id, None)
            if no_ack:
                self._settle(tag)
            return sqlite_message.Message(leased, self, tag, "")
        return None

    def deliver(self) -> bool:
        """Give what is there to the callbacks; tell whether there was anything.

        A callback's exception goes through; what it has kept from others comes with the next call.
        """
        self.flush()
        self._fetch()
        delivered = False
        for consumer in list(self._consumers.values()):
            while consumer.fetched and consumer.tag in self._consumers:
                delivered = True
                self._hand_over(consumer)
        return delivered

    def _hand_over(self, consumer: Consumer) -> None:
        leased = consumer.fetched.popleft()
        if consumer.no_ack:
            tag = self._unacked.next_tag()
            self._acks.append(leased.id)
        else:
            tag = self._unacked.add(leased.id, consumer)
        consumer.callback(sqlite_message.Message(leased, self, tag, consumer.tag))

    def _fetch(self) -> None:
        """Lease what is ready, consumer by consumer; the next time another one begins."""
        connection = self._open()
        state = connection.file.state()
        if state == self._looked or self._owner is None:
            return
        settings = connection.settings
        self._looked = state
        for tag in list(self._consumers):
            consumer = self._consumers[tag]
            wanted = min(self._free(consumer), settings.batch)
            if not wanted:
                continue
            exists, ready = connection.store.look(consumer.queue)
            if not exists:
                self._cancelled(consumer)
            if ready:
                taken = connection.store.lease(self._owner, consumer.queue, wanted, settings.batch_bytes)
                consumer.fetched.extend(taken)
                # there may be more, or less than that: look again next time
                self._looked = None
        first = next(iter(self._consumers), None)
        if first is not None:
            self._consumers[first] = self._consumers.pop(first)

    def _free(self, consumer: Consumer) -> int:
        free = [self._open().settings.batch]
        if not consumer.no_ack:
            if self._prefetch:
                free.append(self._prefetch - consumer.unacked - len(consumer.fetched))
            if self._prefetch_of_channel:
                fetched = sum(len(each.fetched) for each in self._consumers.values())
                free.append(self._prefetch_of_channel - len(self._unacked) - fetched)
        return max(0, min(free))

    def _cancelled(self, consumer: Consumer) -> None:
        del self._consumers[consumer.tag]
        raise ConsumerCancelled(f"queue {consumer.name!r} was deleted", (60, 30))

    # settling

    def basic_ack(self, delivery_tag: int, multiple: bool = False) -> None:
        """Ack a message, with ``multiple`` all up to it; 406 for a tag that is not unacked."""
        self._settle(delivery_tag, multiple=multiple)
        if multiple or len(self._acks) >= _ACKS:
            self.flush()

    def ack_many(self, delivery_tags: Sequence[int]) -> None:
        """Ack messages in one commit, and commit it now."""
        for tag in delivery_tags:
            self._settle(tag)
        self.flush()

    def _settle(self, tag: int, *, multiple: bool = False) -> None:
        self._acks.extend(self._take(tag, multiple=multiple))

    def _take(self, tag: int, *, multiple: bool = False) -> list[int]:
        taken = self._unacked.take(tag, multiple=multiple)
        if not taken and tag:
            raise refused(f"unknown delivery tag {tag}")
        # room for more
        self._looked = None
        return taken

    def basic_reject(self, delivery_tag: int, requeue: bool = False) -> None:
        """Give a message back to its old place, or discard it (to the queue's dead-letter exchange)."""
        self.flush()
        taken = self._take(delivery_tag)
        store, owner = self._open().store, self.own()
        if requeue:
            store.give_back(owner, taken)
        else:
            store.reject(owner, taken)

    def basic_recover(self, requeue: bool = True) -> None:
        """Give all unacked messages of this channel back."""
        self.flush()
        taken = self._unacked.take(0, multiple=True)
        if taken:
            self._open().store.give_back(self.own(), taken)
        self._looked = None

    def flush(self) -> None:
        """Commit the collected acks. Raises ``LeaseLostError`` if others have the messages by now."""
        if self._acks and self._owner is not None:
            self._open().store.ack(self._owner, self._acks)
            self._acks = []

    # its end

    def flow(self, active: bool = True) -> None:
        """Refuse: who wants no messages cancels or does not drain."""
        raise AMQPNotImplementedError("a queue file has no flow control", reply_code=540)

    def close(self) -> None:
        """Commit the acks, give everything else back, and end; may be called twice."""
        if self.closed:
            return
        self.closed = True
        try:
            self._give_all_back()
        finally:
            if self.connection is not None:
                self.connection.forget(self)
            self.connection = None
            self._consumers.clear()

    def _give_all_back(self) -> None:
        if self._owner is None or self.connection is None:
            return
        owner, self._owner = self._owner, None
        store, leases = self.connection.store, self.connection.leases
        try:
            if self._acks:
                store.ack(owner, self._acks)
            unseen = [each.id for consumer in self._consumers.values() for each in consumer.fetched]
            if unseen:
                store.give_back(owner, unseen, counted=False)
        finally:
            leases.leave(owner)

    def own(self) -> Owner:
        """Return this channel as an owner of leases; it becomes one when it first needs to."""
        if self._owner is None:
            self._owner = self._open().leases.enter()
        return self._owner

    def topology(self) -> Topology:
        """Return the file's topology."""
        return self._open().topology

    def _open(self) -> Connection:
        if self.connection is None:
            raise not_found("open channel", str(self.channel_id))
        return self.connection


def _ignore(_message: sqlite_message.Message) -> None:
    """Take a message without a word, for a consumer without a callback."""
