"""The test producer: 40 persistent plain-text messages to the durable queue ``task_queue``.

``python -m producers.tasks --count 40`` publishes through the default exchange, each message
confirmed and mandatory: with pika to ``amqp://`` and ``amqps://``, with kombu to all other URLs.
"""

from __future__ import annotations

import ssl
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import orjson
from kombu.utils.url import parse_url

from aggregator.errors import ConfigurationError, PublisherUnavailableError, UnrecoverableError
from aggregator.masking import masked
from consumers.publisher import Publisher
from producers.cli import Parser, duration, run, whole
from producers.delay import declare, delayed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pika.adapters.blocking_connection import BlockingChannel

PROG: Final = "producers.tasks"
_PERSISTENT: Final = 2
_CONNECT_SECONDS, _BLOCKED_SECONDS = 5, 30
_NOT_FOUND: Final = 404


def bodies(count: int, *, identical: bool = False, as_json: bool = False) -> list[bytes]:
    """Return the messages' bodies: ``Message 1 of 40`` and so on, as text or as JSON objects."""
    texts = ["A message" if identical else f"Message {number} of {count}" for number in range(1, count + 1)]
    return [orjson.dumps({"message": text}) if as_json else text.encode() for text in texts]


def publish(
    broker: str,
    queue: str,
    messages: Sequence[bytes],
    *,
    content_type: str | None = None,
    delay: float = 0.0,
) -> None:
    """Declare the durable queue if it is absent, and publish each body to it, confirmed.

    ``delay``: seconds until they come there (:mod:`producers.delay`).

    Raises ``PublisherUnavailableError``, ``UnrecoverableError`` or ``ConfigurationError``.
    """
    properties = {"delivery_mode": _PERSISTENT, "content_type": content_type}
    if delay:
        declare(broker, queue, delay)
        _publish_with_kombu(broker, queue, messages, properties, delay)
    elif broker.startswith(("amqp://", "amqps://")):
        _publish_with_pika(broker, queue, messages, properties)
    else:
        _publish_with_kombu(broker, queue, messages, properties)


def _publish_with_kombu(
    broker: str, queue: str, messages: Sequence[bytes], properties: dict[str, Any], delay: float = 0.0
) -> None:
    publisher = Publisher(broker)
    try:
        publisher.declare_queue(queue)
        outcomes = publisher.publish([delayed(queue, body, properties, delay) for body in messages])
    finally:
        publisher.close()
    refused = [outcome for outcome in outcomes if outcome]
    if refused:
        raise UnrecoverableError(f"{len(refused)} of {len(messages)} messages were refused: {refused[0]}")


def _publish_with_pika(
    broker: str, queue: str, messages: Sequence[bytes], properties: dict[str, Any]
) -> None:
    try:
        import pika  # noqa: PLC0415  an extra
        from pika import exceptions  # noqa: PLC0415
    except ImportError:
        raise ConfigurationError("broker", "pip install 'kombu-aggregator[producers]' for amqp") from None
    try:
        connection = pika.BlockingConnection([_parameters(each) for each in broker.split(";")])
    except (exceptions.AMQPError, OSError) as exc:
        raise PublisherUnavailableError(f"{masked(broker)}: {_reason(exc)}") from exc
    try:
        channel = _declared(connection, queue)
        channel.confirm_delivery()
        for body in messages:
            channel.basic_publish("", queue, body, pika.BasicProperties(**properties), mandatory=True)
    except (exceptions.UnroutableError, exceptions.NackError) as exc:
        raise UnrecoverableError(f"{masked(broker)}: queue {queue!r} refused: {type(exc).__name__}") from exc
    except (exceptions.AMQPError, OSError) as exc:
        raise PublisherUnavailableError(f"{masked(broker)}: {_reason(exc)}") from exc
    finally:
        with suppress(exceptions.AMQPError):
            connection.close()


def _declared(connection: Any, queue: str) -> BlockingChannel:
    """Return a channel on which the queue is known to exist; taken as it is if it does."""
    from pika.exceptions import ChannelClosedByBroker  # noqa: PLC0415  an extra

    channel: BlockingChannel = connection.channel()
    try:
        channel.queue_declare(queue, passive=True)
    except ChannelClosedByBroker as exc:
        if exc.reply_code != _NOT_FOUND:
            raise
        channel = connection.channel()
        channel.queue_declare(queue, durable=True)
    return channel


def _parameters(broker: str) -> Any:
    """Read a URL as kombu reads it: ``//`` at its end is the virtual host ``/``."""
    import pika  # noqa: PLC0415  an extra

    parts = parse_url(broker)
    host = parts["hostname"] or "localhost"
    secure = broker.startswith("amqps://")
    return pika.ConnectionParameters(
        host=host,
        port=parts["port"] or (5671 if secure else 5672),
        virtual_host=parts["virtual_host"] or "/",
        credentials=pika.PlainCredentials(parts["userid"] or "guest", parts["password"] or "guest"),
        ssl_options=pika.SSLOptions(ssl.create_default_context(), host) if secure else None,
        socket_timeout=_CONNECT_SECONDS,
        stack_timeout=_CONNECT_SECONDS * 2,
        blocked_connection_timeout=_BLOCKED_SECONDS,
    )


def _reason(exc: BaseException) -> str:
    """Return the cause at the bottom of pika's nested exceptions, as text."""
    while True:
        inner = getattr(exc, "exception", None) or next(
            (each for each in exc.args if isinstance(each, BaseException)), None
        )
        if not isinstance(inner, BaseException):
            return str(exc) or type(exc).__name__
        exc = inner


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = Parser(PROG, "Publish test messages: persistent, confirmed, to a durable queue.")
    parser.add_argument("--count", type=whole(0), default=40, metavar="N", help="messages (40)")
    parser.add_argument("--identical", action="store_true", help="all bodies are the same")
    parser.add_argument("--json", action="store_true", help="JSON objects instead of plain text")
    parser.add_argument(
        "--delay",
        type=duration,
        default=0.0,
        metavar="DURATION",
        help="come so much later; AMQP only (0)",
    )
    given = parser.parse_args(arguments)

    def work() -> None:
        messages = bodies(given.count, identical=given.identical, as_json=given.json)
        content_type = "application/json" if given.json else None
        publish(given.broker, given.queue, messages, content_type=content_type, delay=given.delay)
        sys.stdout.write(f"{len(messages)} messages confirmed in {given.queue} at {masked(given.broker)}\n")

    return run(PROG, work)


if __name__ == "__main__":
    sys.exit(main())
