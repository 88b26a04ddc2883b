"""What within a topology contradicts something else in it, or would lose messages by being what it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aggregator import entities
from aggregator.entities import Declaration
from aggregator.errors import ConfigurationError
from aggregator.layers import nearest
from aggregator.option_types import MAX_NAME_BYTES
from aggregator.route_map import covered, overlaps
from aggregator.topic import pattern_problem
from aggregator.topology import BUILT_IN, EXCHANGE_TYPES, Exchange, Queue, Topology, settings_of
from aggregator.units import format_duration

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from aggregator.settings import Route
    from aggregator.topology import Binding, Plan

Fault = tuple[str, str]


def faults(topology: Topology) -> Iterator[ConfigurationError]:
    """Yield what is wrong with the entities themselves, whoever uses them."""
    for exchange in topology.exchanges.values():
        where = f"exchanges.{exchange.name}."
        for field, problem in (*_exchange(exchange, topology), *_bindings(exchange, topology)):
            yield ConfigurationError(where + field, problem)
    for queue in topology.queues.values():
        where = f"queues.{queue.name}."
        for field, problem in (*_queue(queue, topology), *_bindings(queue, topology)):
            yield ConfigurationError(where + field, problem)
    if topology.route_map is not None:
        yield from _route_map(topology)


def route_faults(
    topology: Topology, routes: Mapping[str, Route], label: Callable[[str | None, str], str]
) -> Iterator[ConfigurationError]:
    """Yield what is wrong between routes and what they use; ``label`` names a setting as it was written."""
    for name, route in routes.items():
        queue = topology.queues.get(route.queue)
        if queue is None:
            continue
        found = entities.faults(
            declaration(queue), delivery_limit=route.delivery_limit, ack_deadline=route.ack_deadline
        )
        for field, problem in found:
            where = f"queues.{queue.name}" if field == "queue" else label(name, field)
            yield ConfigurationError(where, problem)
    table = topology.route_map
    mapped = [routes[name] for name in dict.fromkeys(e.route for e in table.entries)] if table else []
    if table is not None and table.levels > 1 and mapped and not mapped[0].amqp:
        for pattern, before in overlapping(topology):
            problem = (
                f"{before!r} takes some of its names too, and without AMQP both routes would get them;"
                " make them differ"
            )
            yield ConfigurationError(f'route-map."{pattern}"', problem)
    for route in mapped:
        if route.from_tubes:
            problem = f"route {route.name!r} takes from tubes, which no exchange reaches; remove its patterns"
            yield ConfigurationError("route-map", problem)
        elif route.broker.get_secret_value() != mapped[0].broker.get_secret_value():
            problem = (
                f"routes {mapped[0].name!r} and {route.name!r} take from different brokers or vhosts,"
                " which one exchange does not reach; leave one of them out"
            )
            yield ConfigurationError("route-map", problem)


def homeless(names: tuple[str, ...]) -> Iterator[ConfigurationError]:
    """Yield what stands in the file and at no broker."""
    for name in names:
        problem = "no route takes from it, and none from the broker at the top; bind it to what one uses"
        yield ConfigurationError(name, problem)


def declaration(queue: Queue) -> Declaration:
    """Return what :mod:`aggregator.entities` judges."""
    return Declaration(
        durable=queue.durable,
        auto_delete=queue.auto_delete,
        arguments=queue.amqp_arguments(),
        declared=queue.declare == "declare",
    )


def notes(topology: Topology, plan: Plan, workers: int) -> Iterator[str]:
    """Yield what a route's topology means and may not be meant."""
    for queue in plan.queues:
        where = f"queues.{queue.name}"
        if queue.name in topology.queues:
            if plan.queue is not None and queue.name == plan.queue.name:
                yield from (f"{where}: {note}" for note in entities.notes(declaration(queue), workers))
            yield from (f"{where}.{field}: {note}" for field, note in _losses(queue))
        if queue.declare != "declare" and topology.route_map is not None:
            lost = [entry.pattern for entry in topology.route_map.entries if entry.queue == queue.name]
            if lost:
                kept = "has to be bound by whoever declares it"
                yield f"route-map: {where}.declare is {queue.declare!r}: to {', '.join(lost)} it {kept}"


def map_notes(topology: Topology) -> Iterator[str]:
    """Yield which patterns of the route map never win."""
    table = topology.route_map
    for entry, before in covered(table.entries) if table else ():
        yield f'route-map."{entry.pattern}": {before.pattern!r} stands before it and takes all of it'


def _exchange(exchange: Exchange, topology: Topology) -> Iterator[Fault]:
    yield from _reserved(exchange)
    yield from _doubly_said(exchange)
    if exchange.alternate_exchange == exchange.name:
        yield "alternate_exchange", "it is the exchange itself; name another"
    elif exchange.alternate_exchange is not None:
        yield from _known("alternate_exchange", exchange.alternate_exchange, topology)
    if exchange.name in BUILT_IN and exchange.type != BUILT_IN[exchange.name]:
        yield "type", f"the broker's own is of type {BUILT_IN[exchange.name]}"


def _queue(queue: Queue, topology: Topology) -> Iterator[Fault]:
    yield from _reserved(queue)
    yield from _doubly_said(queue)
    key = queue.dead_letter_routing_key
    if queue.dead_letter_exchange is None:
        if key is not None:
            problem = 'there is no dead_letter_exchange; name one, or "" for a queue of this name'
            yield "dead_letter_routing_key", problem
    else:
        yield from _known("dead_letter_exchange", queue.dead_letter_exchange, topology)
        own = queue.dead_letter_exchange == "" and (key or queue.name) == queue.name
        if own:
            problem = "it is the queue itself: what is dead would come again; name another queue"
            yield "dead_letter_routing_key", problem
    if key is not None and len(key.encode()) > MAX_NAME_BYTES:
        yield "dead_letter_routing_key", f"it has {len(key.encode())} bytes; AMQP allows {MAX_NAME_BYTES}"
    if queue.overflow is not None and queue.max_length is None and queue.max_length_bytes is None:
        yield "overflow", "there is no max_length or max_length_bytes; set one, or remove it"
    yield from _queue_type(queue)


def _queue_type(queue: Queue) -> Iterator[Fault]:
    quorum = queue.type == "quorum"
    if quorum and queue.max_priority is not None:
        yield "max_priority", "a quorum queue takes none; a classic one does, or a queue for each priority"
    if quorum and queue.overflow == "reject-publish-dlx":
        yield "overflow", "a quorum queue knows drop-head and reject-publish"
    for field, right in (("durable", True), ("auto_delete", False)):
        if quorum and getattr(queue, field) is not right:
            yield (
                field,
                f"a quorum queue is always durable and never deletes itself; {str(right).lower()} is needed",
            )
    if not quorum and queue.delivery_limit is not None:
        yield "delivery_limit", 'only quorum queues count deliveries; type = "quorum" is needed'


def _reserved(entity: Exchange | Queue) -> Iterator[Fault]:
    if entity.name.startswith("amq.") and entity.declare == "declare" and entity.name not in BUILT_IN:
        yield (
            "declare",
            "brokers keep names with amq. for themselves; choose another name, or check or leave it",
        )


def _doubly_said(entity: Exchange | Queue) -> Iterator[Fault]:
    named = settings_of(entity)
    for argument in entity.arguments or ():
        if argument in named:
            yield "arguments", f"{argument} has a setting of its own; write {named[argument]}"


def _known(field: str, name: str, topology: Topology) -> Iterator[Fault]:
    if topology.type_of(name) is not None or name in topology.unread or _of_route_map(name, topology):
        return
    hint = nearest(name, topology.exchanges)
    yield (
        field,
        f'no exchange {name!r}{hint}; describe it: [exchanges.{name}], declare = "leave" if it is another\'s',
    )


def _of_route_map(name: str, topology: Topology) -> bool:
    table = topology.route_map
    return table is not None and name in {table.exchange_of(level) for level in range(table.levels)}


def _bindings(entity: Exchange | Queue, topology: Topology) -> Iterator[Fault]:
    for index, binding in enumerate(entity.bindings):
        where = f"bindings[{index}]"
        if binding.exchange == "":
            yield (
                f"{where}.exchange",
                "the default exchange has every queue by its name, and no other binding; remove it",
            )
        elif isinstance(entity, Exchange) and binding.exchange == entity.name:
            yield f"{where}.exchange", "it is the exchange itself; name another"
        else:
            yield from (
                (f"{where}.{field}", text) for field, text in _known("exchange", binding.exchange, topology)
            )
            kind = (
                "topic" if _of_route_map(binding.exchange, topology) else topology.type_of(binding.exchange)
            )
            yield from ((f"{where}.{field}", text) for field, text in _binding(binding, kind))


def _binding(binding: Binding, kind: str | None) -> Iterator[Fault]:
    """Yield what an exchange of this type would not understand; a plugin's own type is not judged."""
    named = f"{binding.exchange!r} is a {kind} exchange"
    if kind == "headers":
        yield from _by_headers(binding, named)
    elif kind in EXCHANGE_TYPES:
        yield from _by_key(binding, kind, named)
    if (size := len(binding.pattern.encode())) > MAX_NAME_BYTES:
        yield "pattern", f"it has {size} bytes; AMQP allows {MAX_NAME_BYTES}"


def _by_headers(binding: Binding, named: str) -> Iterator[Fault]:
    if binding.pattern:
        yield "pattern", f"{named}, which looks at no routing key; write headers = {{NAME = VALUE}}"
    elif not binding.headers:
        yield "headers", f"{named}; say which headers: headers = {{NAME = VALUE}}"
    elif "x-match" in binding.headers:
        yield "headers", "x-match has a setting of its own; write match"


def _by_key(binding: Binding, kind: str, named: str) -> Iterator[Fault]:
    if binding.headers is not None:
        right = "remove them" if kind == "fanout" else "write pattern, or make it a headers exchange"
        yield "headers", f"{named}, which looks at no headers; {right}"
    elif "match" in binding.model_fields_set:
        yield "match", f"{named}, which looks at no headers; remove it"
    elif kind == "fanout" and binding.pattern:
        yield "pattern", f"{named}, which gives everything to all; remove it, or make it a topic exchange"
    elif kind == "topic" and (problem := pattern_problem(binding.pattern)):
        yield "pattern", problem
    elif kind == "direct" and {"*", "#"} & set(binding.pattern.split(".")):
        yield "pattern", f"{named}, to which * and # are letters like others; make it a topic exchange"


def _route_map(topology: Topology) -> Iterator[ConfigurationError]:
    table = topology.route_map
    for level in range(table.levels if table else 0):
        if table and table.exchange_of(level) in topology.exchanges:
            where = f"exchanges.{table.exchange_of(level)}"
            problem = (
                "the route map makes an exchange of this name; rename this one, or set route_map_exchange"
            )
            yield ConfigurationError(where, problem)


def _losses(queue: Queue) -> Iterator[Fault]:
    if queue.dead_letter_exchange is not None:
        return
    kept = "set dead_letter_exchange to keep it"
    if queue.message_ttl is not None:
        yield "message_ttl", f"what waited {format_duration(queue.message_ttl)} is lost; {kept}"
    for field in ("max_length", "max_length_bytes"):
        if getattr(queue, field) is not None and queue.overflow in {None, "drop-head"}:
            yield field, f'beyond it the oldest message is lost; {kept}, or overflow = "reject-publish"'


def overlapping(topology: Topology) -> Iterator[tuple[str, str]]:
    """Yield (pattern, earlier pattern) of different routes that share a name."""
    entries = topology.route_map.entries if topology.route_map else ()
    for index, entry in enumerate(entries):
        for before in overlaps(entry.pattern, entry.route, entries[:index]):
            yield entry.pattern, before.pattern
