"""What a summary looks like: a table as wide as the terminal, reasons, and a line at its foot."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from aggregator.standing import RouteState
from aggregator.summary_figures import Detail, Figures
from aggregator.units import format_duration

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from aggregator.history import BatchReport
    from aggregator.summary_figures import Rates

#: Columns of a terminal from which on groups, and last batches, have a place.
GROUPS_WIDTH, BATCH_WIDTH, RATES_WIDTH = 90, 74, 54
_THOUSANDS, _MILLIONS = 100_000, 10_000_000
_STYLES = {RouteState.RUNNING.value: "green", RouteState.DRAINING.value: "cyan"}
_TROUBLE = {RouteState.STOPPED.value: "bold red"}


class Board:
    """What is drawn once."""

    def __init__(
        self,
        routes: list[str],
        figures: Mapping[str, Figures],
        details: Mapping[str, Detail],
        rates: Rates,
        seconds: float,
    ) -> None:
        self._routes = routes
        self._figures = {name: figures.get(name, Figures()) for name in routes}
        self._details = details
        self._rates = rates
        self._seconds = seconds

    def drawn(self, width: int, height: int) -> Group:
        """Return it for a terminal of so many columns, in so many lines at most."""
        chosen = self._chosen(max(1, height - 3))
        reasons = [text for name in chosen for text in self._reason(name, width)]
        room = max(1, height - 3 - len(reasons))
        rule = Text("─" * width, style="dim", no_wrap=True)
        return Group(rule, self._table(chosen[:room], width), *reasons, self._foot(len(chosen[:room]), width))

    def _chosen(self, most: int) -> list[str]:
        """Return the routes that are shown: all, or those in trouble first, in their own order."""
        if len(self._routes) <= most:
            return self._routes
        healthy = RouteState.RUNNING.value
        troubled = sorted(self._routes, key=lambda name: self._figures[name].state == healthy)[:most]
        return [name for name in self._routes if name in set(troubled)]

    def _table(self, routes: list[str], width: int) -> Table:
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim", show_edge=False)
        table.add_column("route", no_wrap=True, max_width=max(8, width // 4), overflow="ellipsis")
        table.add_column("state", no_wrap=True)
        names = ["in/s", "written/s", "held"]
        names += ["groups"] if width >= GROUPS_WIDTH else []
        names += ["last batch"] if width >= BATCH_WIDTH else []
        names += ["dead"]
        if width < RATES_WIDTH:
            names = ["written/s", "held"]
        for name in names:
            table.add_column(name, no_wrap=True, justify="left" if name == "last batch" else "right")
        for route in routes:
            cells = self._cells(route)
            table.add_row(route, self._state(route), *(cells[name] for name in names))
        return table

    def _cells(self, route: str) -> Mapping[str, Any]:
        figures = self._figures[route]
        received, written = self._rates.of(route)
        detail = self._details.get(route, Detail())
        return {
            "in/s": short(received),
            "written/s": short(written),
            "held": short(figures.held + figures.outgoing),
            "groups": short(figures.groups),
            "last batch": batch_words(detail.last),
            "dead": Text(short(figures.dead), style="red" if figures.dead else "dim"),
        }

    def _state(self, route: str) -> Text:
        state = self._figures[route].state
        return Text(state, style=_TROUBLE.get(state) or _STYLES.get(state, "yellow"))

    def _reason(self, route: str, width: int) -> Iterator[Text]:
        reason = self._details.get(route, Detail()).reason
        if reason and self._figures[route].state != RouteState.RUNNING.value:
            words = f"{route}: {' '.join(reason.split())}"
            shown = words if len(words) <= width else f"{words[: width - 1]}…"
            yield Text(shown, style="yellow", no_wrap=True)

    def _foot(self, drawn: int, width: int) -> Text:
        total = sum(figures.written for figures in self._figures.values())
        parts = [format_duration(int(self._seconds)), f"{short(total)} written", "Ctrl-C ends cleanly"]
        if drawn < len(self._routes):
            parts.insert(0, f"and {len(self._routes) - drawn} more routes")
        words = " · ".join(parts)
        return Text(words[:width], style="dim", no_wrap=True)


def short(number: float) -> str:
    """Return a number in six characters at most: ``12,345``, ``1,234k``, ``0.4``."""
    if 0 < number < 1:
        return f"{number:.1f}"
    if number < _THOUSANDS:
        return f"{number:,.0f}"
    return f"{number / 1e3:,.0f}k" if number < _MILLIONS else f"{number / 1e6:,.0f}M"


def batch_words(report: BatchReport | None) -> str:
    """Return the last batch in a few words: size, what completed it, how long it took from there."""
    if report is None:
        return "-"
    seconds = report.queueing + report.writing
    took = f"{seconds * 1000:.0f}ms" if seconds < 1 else f"{seconds:.1f}s"
    return f"{short(report.messages)} {report.trigger} {took}"
