"""Queues that are declared by code or by a file: what their declaration means for a route.

A ``kombu.Queue`` is read by its attributes alone: the core knows no broker.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


class Declaration(NamedTuple):
    """A queue's declaration in AMQP's words; ``declared``: it is declared by us."""

    arguments: Mapping[str, Any]
    durable: bool = True
    auto_delete: bool = False
    exclusive: bool = False
    no_ack: bool = False
    declared: bool = True


def declaration(queue: Any) -> Declaration:
    """Return what a ``kombu.Queue`` declares."""
    return Declaration(
        arguments(queue),
        queue.durable,
        queue.auto_delete,
        queue.exclusive,
        queue.no_ack,
        not queue.no_declare,
    )


def arguments(queue: Any) -> dict[str, Any]:
    """Return the arguments of a ``kombu.Queue``, those included that kombu has words for (in seconds)."""
    named = {
        "x-expires": _ms(queue.expires),
        "x-message-ttl": _ms(queue.message_ttl),
        "x-max-length": queue.max_length,
        "x-max-length-bytes": queue.max_length_bytes,
        "x-max-priority": queue.max_priority,
    }
    return {key: value for key, value in named.items() if value is not None} | dict(
        queue.queue_arguments or {}
    )


def _ms(seconds: float | None) -> int | None:
    return None if seconds is None else int(seconds * 1000)


def faults(queue: Declaration, *, delivery_limit: int, ack_deadline: float) -> Iterator[tuple[str, str]]:
    """Yield (setting, what is wrong) for a queue that would lose messages by being what it is.

    ``ack_deadline`` in seconds.
    """
    if queue.no_ack:
        yield "queue", "no_ack: the broker would forget messages before they are written; remove it"
    for kind in ("auto_delete", "exclusive"):
        # exclusive implies auto_delete in kombu
        if getattr(queue, kind) and not (kind == "auto_delete" and queue.exclusive):
            yield "queue", f"{kind}: a lost connection would delete it, with its messages; remove it"
    given = queue.arguments
    if given.get("x-queue-type") == "stream":
        yield (
            "queue",
            "a stream takes nothing back and keeps what is acked; a quorum or classic queue is needed",
        )
    limit = given.get("x-delivery-limit")
    if isinstance(limit, int) and 0 <= limit <= delivery_limit and "x-dead-letter-exchange" not in given:
        problem = (
            f"the queue's x-delivery-limit {limit} drops a message before {delivery_limit} deliveries;"
            f" less than {limit} is needed, or x-dead-letter-exchange"
        )
        yield "delivery_limit", problem
    timeout = given.get("x-consumer-timeout")
    if isinstance(timeout, int) and timeout < ack_deadline * 1000:
        yield "ack_deadline", f"the queue's x-consumer-timeout is {timeout} ms; that is needed at most"


def notes(queue: Declaration, workers: int) -> Iterator[str]:
    """Yield what a queue's declaration means and may not be meant."""
    given = queue.arguments
    if not queue.durable:
        yield "not durable: a restart of the broker deletes it, with its messages"
    if "x-expires" in given:
        yield f"expires: without consumers for {given['x-expires']} ms it is deleted, with its messages"
    if given.get("x-single-active-consumer") and workers > 1:
        yield f"x-single-active-consumer: one of {workers} workers gets all messages; workers = 1 would do"


def described(queue: Any) -> str:
    """Return a queue's declaration for people, in one line."""
    if queue.no_declare:
        return "not at all: it has to be there"
    given = ", ".join(f"{key} {value}" for key, value in sorted(arguments(queue).items()))
    bound = [(queue.exchange, queue.routing_key)]
    bound += [(binding.exchange, binding.routing_key) for binding in queue.bindings or ()]
    places = sorted(
        f"to {exchange.type} exchange {exchange.name!r} by {key or ''!r}"
        for exchange, key in bound
        if exchange is not None and exchange.name
    )
    durable = "durable" if queue.durable else "not durable"
    return "; ".join(filter(None, [durable, given, *(f"bound {place}" for place in places)]))
