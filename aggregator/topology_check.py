"""A topology for people: what a file describes, a line for each thing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aggregator.topology import Binding, Exchange, Queue
from aggregator.units import format_duration

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aggregator.settings import Settings
    from aggregator.topology import Plan

_MODES = {"declare": "", "check": "has to be there", "leave": "left alone"}


def topology_lines(settings: Settings) -> Iterator[tuple[str, str]]:
    """Yield (what, its description) for exchanges, queues and the route map."""
    topology = settings.topology
    for exchange in topology.exchanges.values():
        yield f"exchange {exchange.name!r}", described(exchange)
    for queue in topology.queues.values():
        yield f"queue {queue.name!r}", described(queue)
    table = topology.route_map
    for entry in table.entries if table else ():
        by = table.exchange_of(entry.level) if table else ""
        yield f"name {entry.pattern}", f"to route {entry.route!r}, queue {entry.queue!r}, by exchange {by!r}"


def described(entity: Exchange | Queue) -> str:
    """Return a declaration in one line: what it is, what is set, and where its messages come from."""
    kind = entity.type if isinstance(entity, Exchange) else entity.type or "the broker's default type"
    flags = [name for name in ("auto_delete", "internal") if getattr(entity, name, False)]
    durable = "durable" if entity.durable else "not durable"
    unshown = {"declare", "type", "durable", "auto_delete", "internal", "bindings", "name"}
    values = [
        f"{name} {_value(name, getattr(entity, name))}"
        for name in type(entity).model_fields
        if name not in unshown and getattr(entity, name) not in (None, False)
    ]
    bound = [f"from {binding.exchange!r}{_by(binding)}" for binding in entity.bindings]
    return "; ".join(
        filter(None, [", ".join([kind, durable, *flags, *values]), *bound, _MODES[entity.declare]])
    )


def ends(plan: Plan) -> str | None:
    """Return what is done with a route's own queue; None where nothing is said of it."""
    if plan.queue is None:
        return None
    if plan.taken:
        bound = "; ".join(f"from {binding.exchange!r}{_by(binding)}" for binding in plan.queue.bindings)
        return f"as it stands, durable if it is absent; {bound}"
    return described(plan.queue)


def _by(binding: Binding) -> str:
    if binding.headers:
        wanted = ", ".join(f"{name} = {value}" for name, value in binding.headers.items())
        return f" where {binding.match} of {wanted}"
    return f" by {binding.pattern!r}" if binding.pattern else ""


def _value(name: str, value: Any) -> str:
    if name in {"message_ttl", "expires"}:
        return format_duration(value)
    if isinstance(value, dict):
        return ", ".join(f"{key} {one}" for key, one in value.items())
    return "on" if value is True else repr(value) if isinstance(value, str) else str(value)
