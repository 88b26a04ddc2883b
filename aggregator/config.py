"""The settings of a process: read from flags, environment and TOML, checked, and frozen.

This is the only reader of them; everything else is handed a :class:`Settings` or a :class:`Route`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from math import ceil
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from pydantic import ValidationError

from aggregator import rules, topology_rules
from aggregator.defaults import DEFAULT_BROKER, DEFAULT_SINK, SINGLE_ROUTE
from aggregator.errors import ConfigurationError, ConfigurationErrors
from aggregator.faults import problem_of
from aggregator.layers import Layers, read
from aggregator.masking import SecretUrl
from aggregator.option_types import MAX_PREFETCH
from aggregator.options import Connection, Options, ProcessOptions, RouteOptions, RunOptions
from aggregator.settings import Route, Settings, is_amqp, is_tarantool, with_vhost
from aggregator.topology import Plan, Topology
from aggregator.topology_plan import plans
from aggregator.topology_reading import read_periodic, read_topology

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from aggregator.layers import Application

AMQP_WORKERS = 5
LEAST_PREFETCH = 10
"""A worker's prefetch is never derived smaller: small groups must not mean idle round trips."""
PARTITION_PREFETCH = 500
"""The same for a partition, whose own keys have to fit."""
KEYED_REQUEST_ITEMS = 1000
KEYED_LINGER = 0.005

#: Asked about a broker's URL and what is to be declared there; yields (setting, what is wrong).
TopologyFault = Callable[[str, Plan], Iterable[tuple[str, str]]]
Checked = TypeVar("Checked", bound=Options)


class _Given(NamedTuple):
    """What a topology is judged by; ``broker``: the URL at the file's top, None if it is wrong."""

    exchange: str
    broker: str | None
    topology_fault: TopologyFault | None


def load(
    argv: Sequence[str] | None = None,
    *,
    broker_fault: Callable[[str], str | None] | None = None,
    topology_fault: TopologyFault | None = None,
    application: Application | None = None,
) -> Settings:
    """Return the settings from ``argv`` (default: the process's own), environment and file.

    ``application`` stands in the place of the file. ``broker_fault`` is asked about each broker's
    URL and returns what is wrong with it, or None; ``topology_fault`` about what is to be declared
    there, and yields (setting, problem). Raises ``ConfigurationErrors`` with all faults
    at once, ``SystemExit`` (0) after ``--help``.
    """
    layers = read(sys.argv[1:] if argv is None else argv, application)
    return resolve(layers, broker_fault=broker_fault, topology_fault=topology_fault)


def resolve(
    layers: Layers,
    *,
    broker_fault: Callable[[str], str | None] | None = None,
    topology_fault: TopologyFault | None = None,
) -> Settings:
    """Return the settings that were read, wherever from; arguments and errors as those of :func:`load`."""
    faults = list(layers.faults)
    process = _checked(ProcessOptions, layers, None, faults)
    run = _checked(RunOptions, layers, None, faults)
    shared = _checked(Connection, layers, None, faults)
    names = list(layers.routes) or ([] if layers.application else [SINGLE_ROUTE])
    # the top of the file is judged as part of each route that it holds for
    checked = {name: _checked(RouteOptions, layers, name, faults) for name in names}
    entities = layers.application.entities if layers.application else {}
    routes = {
        name: _complete(name, options, entities.get(name)) for name, options in checked.items() if options
    }
    if run is not None and run.connect and not run.check:
        faults.append(
            ConfigurationError(layers.label(None, "connect"), "it goes with check; add that, or remove this")
        )
    for name in names:
        faults += _route_faults(layers, name, routes.get(name), broker_fault)
    faults += rules.common_faults(routes, layers.label)
    if process is not None:
        faults += rules.process_faults(process.processes, routes, layers.label)
    given = _Given(
        process.route_map_exchange if process else "",
        with_vhost(shared.broker.get_secret_value(), shared.vhost) if shared else None,
        topology_fault,
    )
    topology, routes, found = _plan(layers, routes, names, given)
    faults += found
    periodic = read_periodic(layers.tables, faults)
    if periodic and given.broker is not None and not is_amqp(given.broker):
        problem = "messages by the clock need RabbitMQ; set broker above the first table to an amqp:// URL"
        faults.append(ConfigurationError("periodic", problem))
    faults = list({str(fault): fault for fault in faults}.values())
    if faults or process is None or run is None or shared is None:
        raise ConfigurationErrors(faults, file=layers.file, argv=layers.argv)
    values = {**dict(process), **dict(run), **dict(shared)}
    return Settings.model_construct(
        **values, routes=routes, topology=topology, periodic=periodic, notes=tuple(layers.notes)
    )


def _plan(
    layers: Layers, routes: dict[str, Route], names: Sequence[str], given: _Given
) -> tuple[Topology, dict[str, Route], list[ConfigurationError]]:
    """Return the topology, the routes with what each needs of it, and what is wrong."""
    faults: list[ConfigurationError] = []
    queues = {name: route.queue for name, route in routes.items()}
    topology = read_topology(layers.tables, queues, names, given.exchange, faults)
    faults += topology_rules.faults(topology)
    faults += topology_rules.route_faults(topology, routes, layers.label)
    if faults or given.broker is None or len(routes) < len(names):
        return topology, routes, faults
    found = plans(topology, routes, given.broker)
    faults += topology_rules.homeless(found.homeless)
    planned = {}
    for name, route in routes.items():
        plan = found.routes[name]
        planned[name] = route.model_copy(update={"topology": plan})
        judged = given.topology_fault(route.broker.get_secret_value(), plan) if given.topology_fault else ()
        faults += [ConfigurationError(where, problem) for where, problem in judged]
    return topology, planned, faults


def _servers(broker: str) -> int:
    """Return how many servers a URL of Tarantool names; 1 for any other."""
    hosts = broker.partition("://")[2].rpartition("@")[2].partition("/")[0]
    return hosts.count(",") + 1 if is_tarantool(broker) else 1


def _route_faults(
    layers: Layers, name: str, route: Route | None, broker_fault: Callable[[str], str | None] | None
) -> Iterator[ConfigurationError]:
    def label(field: str) -> str:
        return layers.label(name, field)

    # URLs are judged even where another value of the route is wrong: all faults at once
    urls = {"broker": DEFAULT_BROKER, "sink": DEFAULT_SINK, **layers.values(name, ("broker", "sink"))}
    if isinstance(urls["broker"], str):
        yield from rules.broker_faults(urls["broker"], label, broker_fault)
    if isinstance(urls["sink"], str):
        yield from rules.sink_faults(urls["sink"], label)
    if route:
        yield from rules.route_faults(route, label)


def _checked(
    model: type[Checked], layers: Layers, route: str | None, faults: list[ConfigurationError]
) -> Checked | None:
    try:
        return model.model_validate(layers.values(route, model.model_fields))
    except ValidationError as exc:
        for error in exc.errors(include_url=False):
            name = str(error["loc"][0])
            faults.append(
                ConfigurationError(layers.label(route, name), problem_of(error, model.model_fields[name]))
            )
        return None


def _complete(name: str, options: RouteOptions, entity: Any = None) -> Route:
    """Fill in what depends on other settings. Already validated: not to be parsed a second time."""
    values: dict[str, Any] = dict(options)
    values["broker"] = SecretUrl(with_vhost(options.broker.get_secret_value(), options.vhost))
    keyed = options.correlate is not None
    broker = options.broker.get_secret_value()
    workers = options.workers or options.partitions or (AMQP_WORKERS if is_amqp(broker) else 1)
    workers *= _servers(broker)
    pushes = options.aggregate == "push"
    if pushes and is_tarantool(broker) and "size" not in options.model_fields_set:
        values["size"] = 1  # a task is a bulk already
    size = values["size"] or KEYED_REQUEST_ITEMS
    items = options.request_items or (max(size, KEYED_REQUEST_ITEMS) if keyed or pushes else size)
    linger = options.linger if options.linger is not None else (KEYED_LINGER if keyed else 0.0)
    # every flush thread busy with a group, one complete and waiting, one being filled
    total = size * (options.concurrency + 2)
    # all members of a key come over one partition
    least = max(size, PARTITION_PREFETCH) if options.partitions else LEAST_PREFETCH
    prefetch = options.prefetch or min(max(ceil(total / workers), least), MAX_PREFETCH)
    values |= {"workers": workers, "prefetch": prefetch, "request_items": items, "linger": linger}
    return Route.model_construct(name=name, entity=entity, **values)
