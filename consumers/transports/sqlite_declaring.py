"""The methods of a channel that declare, bind, count and delete, as py-amqp has them."""

# ruff: noqa: ARG002, PLR0917 - the signatures are py-amqp's

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import uuid4

from amqp.exceptions import AMQPNotImplementedError
from amqp.protocol import queue_declare_ok_t

if TYPE_CHECKING:
    from collections.abc import Mapping

    from consumers.transports.sqlite_leases import Owner
    from consumers.transports.sqlite_topology import QueueCounts, Topology


class Declaring:
    """The part of a channel that is about exchanges, queues and bindings."""

    def topology(self) -> Topology:
        """Return the file's topology."""
        raise NotImplementedError

    def flush(self) -> None:
        """Commit the collected acks."""
        raise NotImplementedError

    def own(self) -> Owner:
        """Return this channel as an owner of leases."""
        raise NotImplementedError

    def exchange_declare(
        self,
        exchange: str,
        type: str = "direct",  # noqa: A002 - kombu passes it by this name
        passive: bool = False,
        durable: bool = False,
        auto_delete: bool = True,
        nowait: bool = False,
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        """Declare an exchange (direct, topic, fanout); ``passive`` only asks whether it exists."""
        topology = self.topology()
        if passive:
            topology.require_exchange(exchange)
        else:
            topology.declare_exchange(
                exchange, type, durable=durable, auto_delete=auto_delete, arguments=arguments or {}
            )

    def exchange_delete(self, exchange: str, if_unused: bool = False, nowait: bool = False) -> None:
        """Delete an exchange and its bindings; the queues stay."""
        self.topology().delete_exchange(exchange, if_unused=if_unused)

    def exchange_bind(self, *_args: Any, **_options: Any) -> None:
        """Refuse: exchanges cannot be bound to exchanges here."""
        raise AMQPNotImplementedError("a queue file binds no exchange to another", reply_code=540)

    exchange_unbind = exchange_bind

    def queue_declare(
        self,
        queue: str = "",
        passive: bool = False,
        durable: bool = False,
        exclusive: bool = False,
        auto_delete: bool = True,
        nowait: bool = False,
        arguments: Mapping[str, Any] | None = None,
    ) -> queue_declare_ok_t:
        """Declare a queue; ``passive`` only asks for it (404 if absent).

        Returns ``(queue, message_count, consumer_count)``: the count is of ready messages, as in AMQP;
        :meth:`queue_counts` knows the unacked as well. An exclusive queue lasts as long as this
        channel. ``x-message-ttl``, ``x-dead-letter-exchange`` and ``-routing-key`` are honoured, all other
        arguments kept and ignored.
        """
        topology = self.topology()
        name = queue or f"amq.gen-{uuid4()}"
        if not passive:
            holder = self.own().number if exclusive else None
            topology.declare_queue(
                name, durable=durable, auto_delete=auto_delete, arguments=arguments or {}, holder=holder
            )
        counts = self.queue_counts(name)
        return queue_declare_ok_t(name, counts.ready, counts.consumers)

    def queue_counts(self, queue: str) -> QueueCounts:
        """Count ready and unacked messages and consumers, of all processes; 404 if absent."""
        self.flush()
        return self.topology().counts(queue)

    def queue_bind(
        self,
        queue: str,
        exchange: str = "",
        routing_key: str = "",
        nowait: bool = False,
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        """Bind a queue to an exchange."""
        self.topology().bind(queue, exchange or "amq.direct", routing_key or "")

    def queue_unbind(
        self,
        queue: str,
        exchange: str,
        routing_key: str = "",
        nowait: bool = False,
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        """Remove a binding."""
        self.topology().unbind(queue, exchange or "amq.direct", routing_key or "")

    def queue_purge(self, queue: str, nowait: bool = False) -> int:
        """Delete all ready messages; return their number."""
        self.flush()
        return self.topology().purge(queue)

    def queue_delete(
        self, queue: str, if_unused: bool = False, if_empty: bool = False, nowait: bool = False
    ) -> int:
        """Delete a queue with all its messages; return how many were ready."""
        self.flush()
        return self.topology().delete_queue(queue, if_unused=if_unused, if_empty=if_empty)

    def after_reply_message_received(self, queue: str) -> None:
        """Delete a queue that was made for one reply."""
        self.queue_delete(queue)
