"""Publishing through transports without confirms: what the call stored is confirmed.

A message is stored when the call returns. Where a transport takes batches (kombu's
``create_publish_batch``), many are stored at once, and ``basic_return`` names those without a queue.
On kombu's virtual transports each goes alone, and the transport's own tables are asked before.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from amqp.exceptions import ChannelError
from kombu.exceptions import EncodeError
from kombu.transport import virtual

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kombu.connection import Connection

    from consumers.publisher import Outgoing

#: kombu takes these by name, all other properties in one mapping.
_NAMED: Final = ("content_type", "content_encoding", "priority", "headers")
#: No frames here: a bound that keeps headers sensible.
_FRAME_MAX: Final = 131_072
_BATCH: Final = 500
#: Where a queue is a list that is there while it holds something.
_LISTS: Final = "redis"
_UNENCODABLE: Final = (EncodeError, TypeError, UnicodeError)


class VirtualLine:
    """One kombu connection and channel; the counterpart of :class:`consumers.publish_amqp.AmqpLine`."""

    frame_max = _FRAME_MAX

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.channel = connection.channel()

    def poll(self) -> None:
        """Nothing comes unasked on a virtual transport."""

    def publish(self, messages: Sequence[Outgoing], outcomes: list[str | None]) -> None:
        """Publish all; writes each verdict into ``outcomes``; raises as the transport."""
        # kombu's Redis takes batches too, but cannot tell what was unroutable
        if hasattr(self.channel, "create_publish_batch") and not isinstance(self.channel, virtual.Channel):
            self._publish_batches(messages, outcomes)
        else:
            self._publish_singly(messages, outcomes)

    def _publish_batches(self, messages: Sequence[Outgoing], outcomes: list[str | None]) -> None:
        for start in range(0, len(messages), _BATCH):
            self._publish_batch(messages[start : start + _BATCH], start, outcomes)

    def _publish_batch(self, messages: Sequence[Outgoing], start: int, outcomes: list[str | None]) -> None:
        batch = self.channel.create_publish_batch(max_size=len(messages) + 1)
        sent: dict[int, int] = {}
        prepared = []  # keeps the objects, and so their ids, alive
        for index, message in enumerate(messages, start):
            try:
                prepared.append(self._prepare(message))
            except _UNENCODABLE:
                outcomes[index] = "unencodable"
                continue
            sent[id(prepared[-1])] = index
            batch.publish(
                prepared[-1], exchange=message.exchange, routing_key=message.routing_key, mandatory=True
            )
        returned: set[int] = set()

        def on_return(_error: Exception, _exchange: str, _routing_key: str, message: Any) -> None:
            returned.add(id(message))

        self.channel.events["basic_return"].add(on_return)
        try:
            batch.flush()
        finally:
            self.channel.events["basic_return"].discard(on_return)
        for identity, index in sent.items():
            outcomes[index] = "unroutable" if identity in returned else None

    def _publish_singly(self, messages: Sequence[Outgoing], outcomes: list[str | None]) -> None:
        routable: dict[tuple[str, str], bool] = {}
        for index, message in enumerate(messages):
            route = (message.exchange, message.routing_key)
            if route not in routable:
                routable[route] = self._is_routable(*route)
            outcomes[index] = self._put(message) if routable[route] else "unroutable"

    def abort(self) -> None:
        """Nothing to break: each publish is short."""

    def close(self) -> None:
        """Close channel and connection; never raises."""
        with suppress(Exception):
            self._connection.release()

    drop = close

    def _put(self, message: Outgoing) -> str | None:
        try:
            self.channel.basic_publish(self._prepare(message), message.exchange, message.routing_key)
        except _UNENCODABLE:
            return "unencodable"
        return None

    def _prepare(self, message: Outgoing) -> Any:
        named = {name: message.properties.get(name) for name in _NAMED}
        others = {
            name: value
            for name, value in message.properties.items()
            if name not in _NAMED and value is not None
        }
        named["headers"] = dict(named["headers"] or {})
        return self.channel.prepare_message(message.body, properties=others, **named)

    def _is_routable(self, exchange: str, routing_key: str) -> bool:
        channel: Any = self.channel
        if not isinstance(channel, virtual.Channel):
            return True
        if not exchange and self._connection.transport.driver_type == _LISTS:
            return True  # an empty list is none: asked for, the queue would seem absent
        try:
            if not exchange:
                channel.queue_declare(queue=routing_key, passive=True)
                return True
            table = channel.get_table(exchange)
            return bool(channel.typeof(exchange).lookup(table, exchange, routing_key, None))
        except (ChannelError, KeyError):
            return False
