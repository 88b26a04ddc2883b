"""The route map of a settings file, for those who publish: which queue messages of a name belong to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aggregator.defaults import DEFAULT_QUEUE
from aggregator.errors import ConfigurationError, ConfigurationErrors
from aggregator.layers import read
from aggregator.options import ProcessOptions
from aggregator.topology_reading import read_topology

if TYPE_CHECKING:
    from pathlib import Path

    from aggregator.route_map import RouteMap


def load_route_map(path: str | Path) -> RouteMap:
    """Return the route map of a file: ``queue(name)``, and the ``exchange`` that takes names as routing keys.

    Reads the file, and the service's variables where they say which queues there are; connects to nothing,
    and needs no sink's client. Raises ``ConfigurationErrors`` with all that is wrong with the map, or
    that there is none.
    """
    layers = read(["--config", str(path)])
    faults = list(layers.faults)
    queues = {
        name: str(layers.values(name, ("queue",)).get("queue", DEFAULT_QUEUE)) for name in layers.routes
    }
    default = ProcessOptions.model_fields["route_map_exchange"].default
    exchange = str(layers.values(None, ("route_map_exchange",)).get("route_map_exchange", default))
    found = read_topology(layers.tables, queues, list(queues), exchange, faults).route_map
    if found is None and not faults:
        faults.append(ConfigurationError("route-map", "the file has none; [route-map] is needed"))
    if faults or found is None:
        raise ConfigurationErrors(faults)
    return found
