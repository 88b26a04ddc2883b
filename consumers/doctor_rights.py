"""What a user may do, asked so that only a refusal can come: nothing is made, taken or published.

The broker looks at rights before it looks at arguments. So each question holds an argument that it
always refuses: 406 says that the right is there, 403 that it is missing. Brokers that do not look at
these arguments would make the queue, hand out messages or take one: they are not asked (:func:`harmless`).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from amqp import Message
from amqp.exceptions import AccessRefused, ChannelError, PreconditionFailed

from aggregator.doctor.finding import note
from consumers.connecting import is_not_found
from consumers.doctor_queue import IMPOSSIBLE

if TYPE_CHECKING:
    from collections.abc import Callable

    from aggregator.doctor.finding import Finding

#: The first version of RabbitMQ that this was tried on; before 3.9 a queue is made whatever its x-max-age.
OLDEST = (3, 10)


def version_of(connection: Any) -> tuple[int, ...]:
    """Return the version that a broker tells, in numbers; empty where it tells none."""
    text = str(connection.server_properties.get("version", ""))
    return tuple(int(part) for part in re.findall(r"\d+", text)[:3])


def harmless(connection: Any) -> bool:
    """Return whether the broker is known to refuse the questions of this module, and to do nothing."""
    product = connection.server_properties.get("product")
    return product == "RabbitMQ" and version_of(connection) >= OLDEST


def unasked() -> Finding:
    """Return the note that a broker was not asked."""
    says = "what the user may do was not asked: this broker might do it instead of refusing"
    return note("rights", says, "rights that are missing, and arguments of queues, are not seen")


def may_read(channel: Any, queue: str) -> bool:
    """Return whether the user may consume from a queue that is there."""
    return _refused(
        lambda: channel.basic_consume(queue, arguments={"x-priority": "none"}, callback=lambda _: None)
    )


def may_configure(channel: Any, queue: str) -> bool:
    """Return whether the user may declare a queue of this name."""
    return _refused(
        lambda: channel.queue_declare(queue, durable=True, auto_delete=False, arguments=IMPOSSIBLE)
    )


def may_write(channel: Any, exchange: str) -> bool | None:
    """Return whether the user may publish to an exchange; None if it is not there."""

    def publish() -> None:
        channel.basic_publish(Message("", expiration="never"), exchange=exchange, routing_key="")
        # the answer comes with that to the next question, which is harmless as well
        channel.basic_qos(0, 1, a_global=False)

    try:
        return _refused(publish)
    except ChannelError as exc:
        if is_not_found(exc):
            return None
        raise


def _refused(ask: Callable[[], object]) -> bool:
    """Return whether what was refused was the argument, not the user. Raises any other refusal."""
    try:
        ask()
    except PreconditionFailed:
        return True
    except AccessRefused:
        return False
    return True  # a queue that is there, and has no such argument to compare
