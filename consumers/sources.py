"""Which source a broker's URL stands for; the client of each is imported once it is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aggregator.ports import Refused
    from aggregator.settings import Route
    from consumers.source import Source


def make_source(
    route: Route,
    *,
    heartbeat: float,
    on_dead_lettered: Callable[[Sequence[Refused]], None],
    on_retried: Callable[[Sequence[Refused]], None],
) -> Source:
    """Return the source of a route; nothing connects yet.

    Told what is safe: ``on_dead_lettered`` in the dead-letter queue, ``on_retried`` in a retry queue.
    """
    if route.from_tubes:
        from consumers.tube_source import TubeSource  # noqa: PLC0415 - only who has Tarantool needs its client

        return TubeSource(route, heartbeat=heartbeat, on_dead_lettered=on_dead_lettered)
    from consumers.broker_source import BrokerSource  # noqa: PLC0415 - as above

    return BrokerSource(route, heartbeat=heartbeat, on_dead_lettered=on_dead_lettered, on_retried=on_retried)
