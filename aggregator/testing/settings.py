"""The route that a harness runs, from wherever its settings come; checked as the service checks them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from aggregator.config import resolve
from aggregator.errors import ConfigurationError
from aggregator.layers import PREFIX, Layer, Layers, nearest, read
from aggregator.options import RouteOptions
from aggregator.settings import Route

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from aggregator.settings import Settings


class Application(Protocol):
    """What a harness asks of an application: its settings, with its routes."""

    def settings(self) -> Settings:
        """Return them; raises ``ConfigurationErrors``."""
        ...


def from_arguments(values: Mapping[str, Any]) -> Route:
    """Return the route of these settings, by the names of the file. Raises ``ConfigurationErrors``."""
    nothing = Layer({}, PREFIX + "{}")
    layers = Layers(Layer(values, "{}"), nothing, nothing, {}, faults=list(_unknown(values)))
    return choose(resolve(layers).routes, None)


def from_file(path: str | Path, name: str | None, values: Mapping[str, Any]) -> Route:
    """Return a route of a file, read as the service reads it; ``values`` beat the file and the environment.

    Raises ``ConfigurationErrors``, and ``ValueError`` where ``name`` names none.
    """
    layers = read(["--config", str(path)])
    layers = replace(layers, flags=Layer({**layers.flags.values, **values}, "{}"))
    layers.faults.extend(_unknown(values))
    return choose(resolve(layers).routes, name)


def from_source(source: Route | Application, name: str | None) -> Route:
    """Return the route itself, or that of an application. Raises ``ValueError`` where there is none."""
    if isinstance(source, Route):
        return source
    return choose(source.settings().routes, name)


def choose(routes: Mapping[str, Route], name: str | None) -> Route:
    """Return the route of this name, or the only one. Raises ``ValueError``."""
    if name is None and len(routes) == 1:
        return next(iter(routes.values()))
    if name is None or name not in routes:
        known = ", ".join(routes)
        raise ValueError(
            f"{'no route is named' if name is None else f'no route {name!r}'}; there are {known}"
        )
    return routes[name]


def _unknown(values: Mapping[str, Any]) -> Iterator[ConfigurationError]:
    for name in values:
        if name not in RouteOptions.model_fields:
            yield ConfigurationError(name, f"no such setting{nearest(name, RouteOptions.model_fields)}")
