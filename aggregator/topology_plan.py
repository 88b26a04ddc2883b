"""What of a topology each route needs at its own broker, and in which order.

A queue that a route takes from stands at that route's broker, and nowhere else. Exchanges and other
queues stand wherever something that they are tied to stands; what is tied to nothing stands at the
broker that the file's top names.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

from aggregator.topology import Binding, Exchange, Plan, Queue, Topology

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from aggregator.route_map import RouteMap
    from aggregator.settings import Route


class Node(NamedTuple):
    """An exchange or a queue, by its name."""

    kind: str
    name: str


class Plans(NamedTuple):
    """The plan of each route, and what no route's broker is there for."""

    routes: Mapping[str, Plan]
    homeless: tuple[str, ...]


def plans(topology: Topology, routes: Mapping[str, Route], broker: str) -> Plans:
    """Return what each route has to declare. ``broker``: the URL that the file's top names."""
    whole = with_route_map(topology, amqp=_amqp(topology, routes))
    ties = _ties(whole)
    taken = {route.queue for route in routes.values()}
    reached = {
        name: _reached(ties, _roots(route), {Node("queue", queue) for queue in taken - {route.queue}})
        for name, route in routes.items()
    }
    known = [Node("exchange", name) for name in whole.exchanges] + [
        Node("queue", name) for name in whole.queues
    ]
    alone = [node for node in known if not any(node in nodes for nodes in reached.values())]
    home = next((name for name, route in routes.items() if route.broker.get_secret_value() == broker), None)
    if home is not None:
        reached[home].update(alone)
        alone = []
    found = {name: _plan(topology, whole, route.queue, reached[name]) for name, route in routes.items()}
    return Plans(found, tuple(f"{kind}s.{name}" for kind, name in alone))


def _amqp(topology: Topology, routes: Mapping[str, Route]) -> bool:
    entries = topology.route_map.entries if topology.route_map else ()
    return all(routes[entry.route].amqp for entry in entries)


def with_route_map(topology: Topology, *, amqp: bool) -> Topology:
    """Return the topology with the exchanges and bindings that the route map stands for.

    ``amqp``: whether an exchange can have an alternate one.
    """
    table = topology.route_map
    if table is None:
        return topology
    exchanges, queues = dict(topology.exchanges), dict(topology.queues)
    for level in range(table.levels):
        # the last one's does not exist: so the map can grow without the exchanges having to change
        exchanges[table.exchange_of(level)] = Exchange(
            name=table.exchange_of(level),
            type="topic",
            alternate_exchange=table.exchange_of(level + 1) if amqp else None,
        )
    for entry in table.entries:
        queue = queues.get(entry.queue) or Queue(name=entry.queue)
        binding = Binding(exchange=table.exchange_of(entry.level), pattern=entry.pattern)
        queues[entry.queue] = queue.model_copy(update={"bindings": (*queue.bindings, binding)})
    return Topology(exchanges, queues, table)


def _plan(topology: Topology, whole: Topology, name: str, nodes: set[Node]) -> Plan:
    queue = whole.queues.get(name)
    return Plan(
        tuple(each for each in whole.exchanges.values() if Node("exchange", each.name) in nodes),
        tuple(each for each in whole.queues.values() if Node("queue", each.name) in nodes),
        queue,
        name not in topology.queues,
        tuple(_stale(topology.route_map, name)) if queue and queue.declare == "declare" else (),
    )


def _stale(table: RouteMap | None, queue: str) -> Iterator[tuple[str, str]]:
    """Yield what an earlier map of the same patterns may have bound the queue to."""
    if table is None:
        return
    bound = {(entry.level, entry.pattern) for entry in table.entries if entry.queue == queue}
    for pattern in dict.fromkeys(entry.pattern for entry in table.entries):
        for level in range(table.levels):
            if (level, pattern) not in bound:
                yield table.exchange_of(level), pattern


def _roots(route: Route) -> list[Node]:
    roots = [Node("queue", route.queue), Node("queue", route.dead_letter_queue or route.queue)]
    return [*roots, Node("exchange", route.dead_letter_exchange)] if route.dead_letter_exchange else roots


def _reached(ties: Mapping[Node, set[Node]], roots: list[Node], closed: set[Node]) -> set[Node]:
    reached: set[Node] = set()
    todo = list(roots)
    while todo:
        node = todo.pop()
        if node not in reached and node not in closed:
            reached.add(node)
            todo += ties.get(node, ())
    return reached


def _ties(topology: Topology) -> dict[Node, set[Node]]:
    """Return what is tied to what, both ways: bindings, alternate exchanges, dead-lettering."""
    ties: dict[Node, set[Node]] = defaultdict(set)
    entities: list[tuple[str, Exchange | Queue]] = [
        ("exchange", each) for each in topology.exchanges.values()
    ]
    entities += [("queue", each) for each in topology.queues.values()]
    for kind, entity in entities:
        node = Node(kind, entity.name)
        others = {Node("exchange", binding.exchange) for binding in entity.bindings}
        if isinstance(entity, Exchange):
            others.add(Node("exchange", entity.alternate_exchange or ""))
        elif entity.dead_letter_exchange == "":
            others.add(Node("queue", entity.dead_letter_routing_key or ""))
        else:
            others.add(Node("exchange", entity.dead_letter_exchange or ""))
        for other in others:
            # what every broker has ties nothing together
            if other.name in (topology.exchanges if other.kind == "exchange" else topology.queues):
                ties[node].add(other)
                ties[other].add(node)
    return ties
