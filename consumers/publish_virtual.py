"""Publishing through kombu's virtual transports: what the call stored is confirmed.

There are no confirms and no returns there. A message is stored when ``basic_publish`` returns;
whether it has somewhere to go is asked before, of the transport's own tables.
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


class VirtualLine:
    """One kombu connection and channel; the counterpart of :class:`consumers.publish_amqp.AmqpLine`."""

    frame_max = _FRAME_MAX

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.channel = connection.channel()

    def poll(self) -> None:
        """Nothing comes unasked on a virtual transport."""

    def publish(self, messages: Sequence[Outgoing], outcomes: list[str | None]) -> None:
        """Publish one after the other; writes each verdict into ``outcomes``; raises as the transport."""
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
        named = {name: message.properties.get(name) for name in _NAMED}
        others = {
            name: value
            for name, value in message.properties.items()
            if name not in _NAMED and value is not None
        }
        named["headers"] = dict(named["headers"] or {})
        try:
            prepared = self.channel.prepare_message(message.body, properties=others, **named)
            self.channel.basic_publish(prepared, message.exchange, message.routing_key)
        except (EncodeError, TypeError, UnicodeError):
            return "unencodable"
        return None

    def _is_routable(self, exchange: str, routing_key: str) -> bool:
        channel: Any = self.channel
        if not isinstance(channel, virtual.Channel):
            return True
        try:
            if not exchange:
                channel.queue_declare(queue=routing_key, passive=True)
                return True
            table = channel.get_table(exchange)
            return bool(channel.typeof(exchange).lookup(table, exchange, routing_key, None))
        except (ChannelError, KeyError):
            return False
