"""What the service tells people at its start and at its end."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import structlog

from aggregator.check import check
from aggregator.correlation import shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from aggregator.settings import Route, Settings

log = structlog.get_logger()


def announce(settings: Settings) -> None:
    """Log what was noticed about the settings, and where the documents' ids come from."""
    for note in check(settings).warnings:
        log.warning("configuration", note=str(note))
    for route in settings.routes.values():
        log.info("ids", route=route.name, note=_ids(route))


def wanted(settings: Settings) -> bool:
    """Return whether it is worth looking further for a place for a live summary."""
    return settings.summary != "off" and (sys.stderr.isatty() or sys.stdout.isatty())


def print_totals(
    totals: Mapping[str, Mapping[str, int]], routes: Iterable[str], places: Iterable[str]
) -> None:
    """Print what became of the messages of each route, and where to look at them."""
    for name in routes:
        counts = ", ".join(
            f"{number} {verdict}" for verdict, number in totals.get(name, {}).items() if number
        )
        print(f"{name}: {counts or 'no messages'}")  # noqa: T201
    for place in places:
        print(f"Look at them: {place}")  # noqa: T201


def _ids(route: Route) -> str:
    made = "made at receipt: a crash or a lost connection between write and ack duplicates"
    return f"{shown(route.id)}; where that is missing, {made}" if route.id else made
