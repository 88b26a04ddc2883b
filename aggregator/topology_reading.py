"""The tables of a file beside its routes: exchanges, queues, route map, periodic; validated one by one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ValidationError

from aggregator.errors import ConfigurationError
from aggregator.faults import problem_of
from aggregator.layers import nearest
from aggregator.periodic import Periodic
from aggregator.route_map import RouteMap, route_map
from aggregator.topic import pattern_problem
from aggregator.topology import Binding, Entity, Exchange, Queue, Topology, name_problem

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pydantic.fields import FieldInfo
    from pydantic_core import ErrorDetails

Described = TypeVar("Described", Exchange, Queue, Periodic)


def read_topology(
    tables: Mapping[str, Any],
    queues: Mapping[str, str],
    routes: Sequence[str],
    exchange: str,
    faults: list[ConfigurationError],
) -> Topology:
    """Return what the tables describe; what is wrong with them is added to ``faults``.

    ``queues``: the queue of each route that is right so far; ``routes``: the names of all.
    ``exchange``: what the route map's exchange is called.
    """
    described = tables.get("exchanges", {})
    exchanges = dict(_entities("exchanges", Exchange, described, faults))
    return Topology(
        exchanges,
        dict(_entities("queues", Queue, tables.get("queues", {}), faults)),
        _route_map(tables.get("route-map", {}), queues, routes, exchange, faults),
        frozenset(described) - set(exchanges) if isinstance(described, dict) else frozenset(),
    )


def read_periodic(tables: Mapping[str, Any], faults: list[ConfigurationError]) -> dict[str, Periodic]:
    """Return what is published by the clock, by name; what is wrong is added to ``faults``."""
    return dict(_entities("periodic", Periodic, tables.get("periodic", {}), faults))


def _entities(
    kind: str, model: type[Described], tables: Any, faults: list[ConfigurationError]
) -> Iterator[tuple[str, Described]]:
    one = kind.removesuffix("s")
    if not isinstance(tables, dict):
        faults.append(ConfigurationError(kind, f"a table for each {one} is needed: [{kind}.NAME]"))
        return
    for name, table in tables.items():
        where = f"{kind}.{name}"
        problem = name_problem(name)
        if not isinstance(table, dict):
            problem = f"a table is needed: [{where}]"
        if problem:
            faults.append(ConfigurationError(where if len(where) < 80 else f"{where[:77]}…", problem))  # noqa: PLR2004 - one line
            continue
        try:
            yield name, model.model_validate({**table, "name": name})
        except ValidationError as exc:
            for error in exc.errors(include_url=False):
                label, text = _said(model, error)
                faults.append(ConfigurationError(f"{where}{label}", text))


def _said(model: type[Entity], error: ErrorDetails) -> tuple[str, str]:
    """Return where within the table a value is wrong (``.bindings[0].exchange``), and how."""
    if not error["loc"]:  # settings that contradict one another
        return "", error["msg"].removeprefix("Value error, ")
    label = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in _path(error))
    fields, info = _field(model, error)
    kind, last = error["type"], str(_path(error)[-1])
    if kind == "extra_forbidden":
        return label, f"no such setting{nearest(last.replace('-', '_'), fields)}"
    if kind == "missing":
        return label, "it is not said; the name of an exchange is needed"
    if kind in {"tuple_type", "model_type", "model_attributes_type"}:
        return label, 'a list of tables is needed: [{ exchange = "NAME", pattern = "…" }]'
    return label, problem_of(error, info) if info else error["msg"]


def _path(error: ErrorDetails) -> list[str | int]:
    """Return the path without what the validator adds of itself: the branches of unions."""
    path: list[str | int] = []
    for part in error["loc"]:
        if path and path[-1] in {"arguments", "headers"}:
            return [*path, part]
        path.append(part)
    return path


def _field(model: type[BaseModel], error: ErrorDetails) -> tuple[list[str], FieldInfo | None]:
    inner = Binding if error["loc"][0] == "bindings" and len(error["loc"]) > 2 else model  # noqa: PLR2004 - name and index
    names = [name for name in inner.model_fields if name != "name"]
    return names, next(
        (inner.model_fields[str(part)] for part in reversed(error["loc"]) if part in names), None
    )


def _route_map(
    table: Any,
    queues: Mapping[str, str],
    routes: Sequence[str],
    exchange: str,
    faults: list[ConfigurationError],
) -> RouteMap | None:
    if not isinstance(table, dict):
        faults.append(ConfigurationError("route-map", 'a table is needed: [route-map] "video.*" = "ROUTE"'))
        return None
    patterns = []
    for pattern, route in table.items():
        where = f'route-map."{pattern}"'
        if problem := pattern_problem(pattern):
            faults.append(ConfigurationError(where, problem))
        elif not isinstance(route, str):
            faults.append(ConfigurationError(where, "the name of a route is needed"))
        elif route not in routes:
            known = ", ".join(routes)
            problem = f"no route {route!r}{nearest(route, routes)}; there are {known}"
            faults.append(ConfigurationError(where, problem))
        elif route in queues:
            patterns.append((pattern, route, queues[route]))
    return route_map(exchange, patterns) if patterns else None
