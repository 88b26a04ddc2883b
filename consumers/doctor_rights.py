"""What a user may do, asked so that only a refusal can come: nothing is made, taken or published.

The broker looks at rights before it looks at arguments. So each question holds an argument that it
always refuses: 406 says that the right is there, 403 that it is missing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from amqp import Message
from amqp.exceptions import AccessRefused, ChannelError, PreconditionFailed

from consumers.connecting import is_not_found
from consumers.doctor_queue import IMPOSSIBLE

if TYPE_CHECKING:
    from collections.abc import Callable


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
