"""Messages for later: RabbitMQ keeps them in queues whose times to live are powers of two of a second.

A delay is a binary number, and a message waits in the queue of each of its ones: 13 seconds are 8, 4 and 1.
The levels are shared by all queues of a virtual host, so their number does not grow with the delays. Level
``n`` is the topic exchange ``aggregator.delay.n`` and the quorum queue of that name; the routing key of a
message has the bits of its delay, the highest first, and then the name of its queue::

    aggregator.delay.3 ─1→ 8 s ┐   aggregator.delay.2 ─1→ 4 s ┐       aggregator.delay.to
          └──────────0─────────┴→        └──────────0─────────┴→ … →  ─(by name)→ queue

A message arrives no earlier than asked, and as a rule within the second after it: delays are whole seconds,
rounded up. It keeps its properties; its exchange is ``aggregator.delay.to`` then.
"""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING, Any, Final

from kombu.connection import Connection

from aggregator.errors import ConfigurationError, PublisherUnavailableError, UnrecoverableError
from aggregator.settings import is_amqp
from aggregator.units import format_duration
from consumers.publisher import Outgoing, Publisher
from consumers.refusals import advice

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Bits of a delay: the longest is somewhat more than twelve days.
LEVELS: Final = 20
LONGEST: Final = 2**LEVELS - 1
_PREFIX: Final = "aggregator.delay."
#: Where every delayed message comes out.
LAST: Final = _PREFIX + "to"
_CONNECT_SECONDS: Final = 5
_SHORT_BYTES: Final = 255


def delayed(queue: str, body: bytes, properties: Mapping[str, Any], seconds: float) -> Outgoing:
    """Return the message that comes to ``queue`` so many seconds after it was published; 0: at once.

    The levels have to stand: :func:`declare`. Raises ``ConfigurationError`` where it cannot be kept so long.
    """
    whole = _whole(seconds)
    if not whole:
        return Outgoing("", queue, body, dict(properties))
    key = f"{'.'.join(f'{whole:0{LEVELS}b}')}.{_checked(queue)}"
    if properties.get("expiration") is not None:
        problem = "the broker would let the message go early by it; name the moment in a header (expires)"
        raise ConfigurationError("expiration", problem)
    # the levels above its highest one are none of its business
    return Outgoing(f"{_PREFIX}{whole.bit_length() - 1}", key, body, dict(properties))


def declare(broker: str, queue: str, seconds: float) -> None:
    """Make sure that the queue stands, and the levels for delays up to these seconds; it may be repeated.

    Raises ``ConfigurationError`` for what is not RabbitMQ or too long, ``UnrecoverableError`` where the
    broker refuses, ``PublisherUnavailableError`` where it cannot be reached.
    """
    whole = _whole(seconds)
    if whole and not is_amqp(broker):
        raise ConfigurationError("delay", "messages wait in queues of RabbitMQ; amqp:// is needed")
    publisher = Publisher(broker)
    try:
        publisher.declare_queue(queue)
    finally:
        publisher.close()
    if not whole:
        return
    with Connection(broker, connect_timeout=_CONNECT_SECONDS) as connection:
        try:
            connection.ensure_connection(max_retries=1, reraise_as_library_errors=False)
            _declare(connection.channel(), _checked(queue), whole.bit_length())
        except (*connection.connection_errors, *connection.channel_errors) as exc:
            connection.collect()
            if (what := advice(exc)) is not None:
                raise UnrecoverableError(what) from exc
            raise PublisherUnavailableError(f"{connection.as_uri()}: {exc}") from exc


def _declare(channel: Any, queue: str, levels: int) -> None:
    """Make the levels from the last one up: each leads somewhere before anything can come to it."""
    channel.exchange_declare(LAST, "topic", durable=True, auto_delete=False)
    channel.queue_bind(queue, LAST, "*." * LEVELS + queue)
    below = LAST
    for level in range(levels):
        name = f"{_PREFIX}{level}"
        above = "*." * (LEVELS - 1 - level)
        channel.exchange_declare(name, "topic", durable=True, auto_delete=False)
        channel.exchange_bind(below, name, f"{above}0.#")
        channel.queue_declare(name, durable=True, auto_delete=False, arguments=_arguments(level, below))
        channel.queue_bind(name, name, f"{above}1.#")
        below = name


def _arguments(level: int, below: str) -> dict[str, Any]:
    # let go only once the next one has confirmed it, as in aggregator.retrying
    return {
        "x-queue-type": "quorum",
        "x-message-ttl": 1000 * 2**level,
        "x-dead-letter-exchange": below,
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",
    }


def _whole(seconds: float) -> int:
    if not 0 <= seconds <= LONGEST:
        longest = format_duration(LONGEST)
        raise ConfigurationError("delay", f"{seconds:g} s is not between 0 and {longest}; less is needed")
    return ceil(seconds)


def _checked(queue: str) -> str:
    if {"*", "#"} & set(queue.split(".")):
        raise ConfigurationError("queue", f"{queue!r}: * and # stand for other words; name another queue")
    if len(queue.encode()) + 2 * LEVELS > _SHORT_BYTES:
        most = _SHORT_BYTES - 2 * LEVELS
        raise ConfigurationError("queue", f"the name is too long for a delay; {most} bytes are possible")
    return queue
