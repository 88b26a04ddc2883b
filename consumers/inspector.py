"""Looks at a queue from outside the workers, over a connection of its own."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from amqp.exceptions import ChannelError

from consumers.connecting import is_not_found
from consumers.source import QueueStatus

if TYPE_CHECKING:
    from consumers.connecting import Broker


#: Seconds that the broker has for an answer.
ANSWER_SECONDS = 2.0


class BrokerInspector:
    """Asks the broker about these queues, as if they were one; nothing it meets is an error.

    One thread owns it.
    """

    def __init__(self, broker: Broker, *queues: str) -> None:
        self._broker = broker
        self._queues = queues
        self._connection: Any = None
        self._host = 0

    def status(self) -> QueueStatus | None:
        """Return what the broker says, or None where it does not answer."""
        try:
            if self._connection is None:
                connection = self._broker.connection(self._host)
                connection.ensure_connection(
                    max_retries=self._broker.hosts - 1, interval_start=0, interval_step=0
                )
                self._connection = connection
                # a frozen broker must not freeze the thread that signals come to
                socket = getattr(connection.connection, "sock", None)
                if socket is not None:
                    socket.settimeout(ANSWER_SECONDS)
            channel = self._connection.default_channel
            told = [channel.queue_declare(queue, passive=True) for queue in self._queues]
            messages = sum(messages or 0 for _, messages, _ in told)
            return QueueStatus(messages, sum(consumers or 0 for *_, consumers in told), {"ready": messages})
        except ChannelError as exc:
            self.close()
            # on kombu's Redis an empty queue is none
            absent = is_not_found(exc) and not self._broker.amqp
            return QueueStatus(0, 0) if absent else None
        except Exception:  # noqa: BLE001 - whatever it is, there is no answer
            self._host += 1  # of several, another may have one
            self.close()
            return None

    def close(self) -> None:
        """Drop the connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(Exception):
                connection.collect()
