"""Queues at the start of a worker: taken as they stand, declared if absent, or declared as written."""

from __future__ import annotations

from contextlib import suppress
from math import inf
from typing import TYPE_CHECKING, Any

import structlog

from aggregator.errors import UnrecoverableError
from consumers.connecting import is_contradiction, is_not_found
from consumers.topology import declare_plan

if TYPE_CHECKING:
    from kombu.entity import Queue

    from aggregator.clock import Clock
    from aggregator.topology import Plan

log = structlog.get_logger()

#: A queue that was there before is declared anew after so many seconds, if nobody else has done it.
OWNER_SECONDS = 2.0


def ensure(
    connection: Any, queue: str | OwnedQueue, entity: Queue | None, plan: Plan, *, insist: bool = False
) -> None:
    """Make sure that a route's queue stands, with all that it needs; the queue as ``entity`` if given.

    ``insist`` and errors: those of :func:`consumers.topology.declare_plan`.
    """
    if entity is not None:
        declare_queue(connection, entity)
    elif plan.queue is None or plan.taken:
        if isinstance(queue, str):
            ensure_queue(connection, queue)
        else:
            queue.ensure(connection)
    if plan:
        declare_plan(connection, plan, insist=insist)


def ensure_queue(connection: Any, name: str) -> None:
    """Make sure that the queue exists; an absent one is declared durable, without arguments.

    It is asked for passively first: one that was declared otherwise is none of our business, and
    declaring it again would close the channel.
    """
    try:
        _declare(connection, name, passive=True)
    except connection.channel_errors as exc:
        if not is_not_found(exc):
            raise
        _declare(connection, name, passive=False)
        log.info("queue_declared", queue=name)


class OwnedQueue:
    """A queue that is made sure of at each connection; one that was there before has an owner.

    Whoever deletes a queue in order to declare it otherwise would meet ours, and a 406. For
    :data:`OWNER_SECONDS` its absence is an error of the channel; then it is declared as any other.
    """

    def __init__(self, name: str, clock: Clock) -> None:
        self._name = name
        self._clock = clock
        self._known = False
        self._absent_since = inf

    def ensure(self, connection: Any) -> None:
        """Make sure that it exists, as :func:`ensure_queue` does."""
        if not self._known or self._clock.monotonic() >= self._absent_since + OWNER_SECONDS:
            ensure_queue(connection, self._name)
        else:
            try:
                _declare(connection, self._name, passive=True)
            except connection.channel_errors as exc:
                if is_not_found(exc):
                    self._absent_since = min(self._absent_since, self._clock.monotonic())
                raise
        self._known, self._absent_since = True, inf


def declare_queue(connection: Any, queue: Queue) -> None:
    """Declare the queue as it is, with its exchange and bindings; nothing where it says ``no_declare``.

    Raises ``UnrecoverableError`` where something of the name stands there declared otherwise, or the
    broker takes no such declaration: trying again would not help.
    """
    channel = connection.channel()
    try:
        queue.bind(channel).declare()
    except (*connection.channel_errors, *connection.connection_errors) as exc:
        if not is_contradiction(exc):
            raise
        # the broker's words name the queue or exchange, the argument, and both values
        problem = (
            f"queue {queue.name!r} cannot be declared as it is written: {exc};"
            f" write it as it stands there, or give its name alone to take it as it is"
        )
        raise UnrecoverableError(problem) from exc
    finally:
        with suppress(*connection.channel_errors, *connection.connection_errors):
            channel.close()


def _declare(connection: Any, name: str, *, passive: bool) -> None:
    channel = connection.channel()
    try:
        channel.queue_declare(name, passive=passive, durable=True, auto_delete=False)
    finally:
        with suppress(*connection.channel_errors, *connection.connection_errors):
            channel.close()
