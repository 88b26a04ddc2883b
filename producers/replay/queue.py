"""Walking over a dead-letter queue: each letter once, none lost, none moved.

Letters are got one by one and stay unacked until the walk ends: what was not settled stands in its
place again then, also when the process is killed. What comes in meanwhile is left for the next walk.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from kombu.exceptions import OperationalError

from aggregator.errors import ConfigurationError, PublisherUnavailableError, UnrecoverableError
from aggregator.intake import delivered_before
from aggregator.masking import masked
from consumers.connecting import Broker, is_not_found
from consumers.delivery import AmqpDelivery, KombuDelivery, undecoded
from consumers.publisher import Outgoing, Publisher
from producers.replay.letter import read

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aggregator.delivery import Delivery
    from producers.replay.letter import DeadLetter

#: Delivered so often, a letter is put into its queue anew: RabbitMQ 4 counts each look at a letter of a
#: quorum queue, and drops it silently at 20.
MOST_LOOKS: Final = 15


class _NoLink:
    """Letters are settled by the walk itself, on their channel."""

    epoch = 0
    alive = True

    def settle(self, deliveries: Any, how: Any) -> None:
        """Never asked."""


class DeadLetterQueue:
    """One queue, open for one walk; made by :func:`opened`."""

    def __init__(self, channel: Any, name: str, publisher: Publisher, *, amqp: bool) -> None:
        self._channel = channel
        self._name = name
        self._publisher = publisher
        self._amqp = amqp
        self._link: Any = _NoLink()
        if amqp:
            channel.auto_decode = False  # it would run any codec that a publisher names
        elif hasattr(channel, "message_to_python") and hasattr(channel, "qos"):
            channel.Message = undecoded(channel.Message)
        self.letters = channel.queue_declare(name, passive=True).message_count

    def walk(self) -> Iterator[tuple[DeadLetter, Any]]:
        """Yield each letter with the tag to :meth:`remove` it by: no more than there were at the first."""
        left = 1
        first = True
        while left > 0 and (message := self._channel.basic_get(self._name)) is not None:
            if first:
                # a quorum queue's declaration tells a number that may be seconds old
                info = message.delivery_info or {}
                left, first = 1 + (info.get("message_count") or max(self.letters - 1, 0)), False
            left -= 1
            delivery: Delivery = (
                AmqpDelivery(message, self._link) if self._amqp else KombuDelivery(message, self._link)
            )
            tag = delivery.tag
            if delivered_before(delivery) >= MOST_LOOKS:
                left += self._put_anew(delivery)
                continue
            yield read(delivery), tag

    def remove(self, tag: Any) -> None:
        """Take a letter out of the queue for good."""
        self._channel.basic_ack(tag)

    def _put_anew(self, delivery: Delivery) -> bool:
        """Give a letter a new count of deliveries, at the end of its queue; return whether it has."""
        properties = {**delivery.properties, "headers": {**delivery.headers}}
        properties["headers"].pop("x-delivery-count", None)
        (outcome,) = self._publisher.publish([Outgoing("", self._name, delivery.body, properties)])
        if outcome is None:
            self.remove(delivery.tag)
        return outcome is None


@contextmanager
def opened(url: str, name: str, publisher: Publisher) -> Iterator[DeadLetterQueue]:
    """Open a dead-letter queue; at the end every letter that was not removed is where it was.

    Raises ``ConfigurationError`` for a queue that is not there,
    ``PublisherUnavailableError`` where the broker is away.
    """
    broker = Broker(url, batched=False)
    connection = broker.connection()
    try:
        try:
            connection.ensure_connection(max_retries=1, reraise_as_library_errors=False)
            channel = connection.channel()
            queue = DeadLetterQueue(channel, name, publisher, amqp=broker.amqp)
        except connection.channel_errors as exc:
            if not is_not_found(exc):
                raise UnrecoverableError(f"{name}: {exc}") from exc
            problem = f"there is no queue {name!r} at {masked(url)}; --from names another"
            raise ConfigurationError("--queue", problem) from None
        yield queue
        channel.close()
    except (*connection.connection_errors, OperationalError, OSError) as exc:
        raise PublisherUnavailableError(f"{masked(url)}: {exc}") from exc
    finally:
        connection.release()
