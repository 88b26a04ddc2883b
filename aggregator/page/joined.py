"""One status of what all processes say: what ``/status.json`` answers. docs/live-page.md has its names."""

from __future__ import annotations

from operator import itemgetter
from threading import Lock
from typing import TYPE_CHECKING, Any, Protocol

from aggregator.page.counts import Counts, Rates, counted
from aggregator.page.view import MOST_BATCHES, MOST_GROUPS, MOST_REFUSALS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from prometheus_client.metrics_core import Metric

    from aggregator.clock import Clock

    Row = dict[str, Any]

#: The version of the names; one is added without a new number, none is taken away or changed.
VERSION = 1
#: A status serves everybody who asks so soon after it was made, in seconds.
FRESH = 0.5
#: Of several processes the state that comes first is told.
_WORST = ("stopped", "waiting", "paused", "pausing", "draining", "running")


class Watching(Protocol):
    """Where the page looks: one process, or the parent of several."""

    def views(self) -> Mapping[int, Row | None]:
        """Return each process's view by its number (0: the only one); None where it is silent."""
        ...

    def counters(self) -> Iterable[Metric]:
        """Return the counters of all processes."""
        ...

    def command(self, name: str, arguments: Mapping[str, Any]) -> Mapping[int, Row]:
        """Have each process carry a command out; return their answers, those that have one."""
        ...


class Status:
    """Makes the status; any thread may ask. Who asks often is given the same one again."""

    def __init__(self, watching: Watching, clock: Clock) -> None:
        self._watching = watching
        self._clock = clock
        self._rates = Rates()
        self._making = Lock()
        self._last: Row = {}
        self._made = -FRESH

    def forget(self) -> None:
        """Have the next who asks see what was done just now."""
        self._made = -FRESH

    def now(self) -> Row:
        """Return the status; nobody may change it."""
        with self._making:
            if not self._last or self._clock.monotonic() - self._made >= FRESH:
                self._last = self._make()
                self._made = self._clock.monotonic()
            return self._last

    def _make(self) -> Row:
        watching = self._watching
        views = watching.views()
        counts = counted(watching.counters())
        seconds, rates = self._rates.of(counts, self._clock.monotonic())
        return {
            "version": VERSION,
            "at": round(self._clock.time(), 3),
            "rate_seconds": seconds,
            "faults": _said(views, "faults"),
            "notes": _said(views, "notes"),
            "processes": [_process(number, view) for number, view in sorted(views.items())],
            "routes": [
                _route(said, counts.get(name, Counts()), rates.get(name))
                for name, said in _by_route(views).items()
            ],
        }


def _said(views: Mapping[int, Row | None], what: str) -> list[str]:
    """Return what processes say is wrong; of several each line says which it is of."""
    return [
        f"process {number}: {line}" if number else line
        for number, view in sorted(views.items())
        if view is not None
        for line in view[what]
    ]


def _process(number: int, view: Row | None) -> Row:
    if view is None:
        return {"process": number, "answers": False, "pid": None, "uptime": None}
    return {"process": number, "answers": True, "pid": view["pid"], "uptime": view["uptime"]}


def _by_route(views: Mapping[int, Row | None]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for number, view in sorted(views.items()):
        for said in view["routes"] if view else ():
            found.setdefault(said["route"], []).append({"process": number, **said})
    return found


def _route(said: Sequence[Row], counts: Counts, rates: Row | None) -> Row:
    worst = min(said, key=lambda each: _rank(each["state"]))
    several = len(said) > 1 and any(each["state"] != worst["state"] for each in said)
    first = said[0]
    return {
        "route": first["route"],
        "queue": first["queue"],
        "dead_letter_queue": first["dead_letter_queue"],
        "dead_letter_exchange": first["dead_letter_exchange"],
        "tubes": first["tubes"],
        "keyed": first["keyed"],
        "state": worst["state"],
        "reason": worst["reason"],
        "cause": worst["cause"],
        "why": f"Process {worst['process']}: {worst['why']}" if several else worst["why"],
        "workers": _sums(each["workers"] for each in said),
        "queue_messages": _most(each["queue_messages"] for each in said),
        "held": _sums(each["held"] for each in said),
        "outgoing": _sums(each["outgoing"] for each in said),
        "dead_letters_pending": sum(each["dead_letters_pending"] for each in said),
        "totals": counts.told(),
        "rates": rates,
        "groups": {
            "oldest": _chosen(said, lambda each: each["groups"]["oldest"], "age", MOST_GROUPS),
            "fullest": _chosen(said, lambda each: each["groups"]["fullest"], "messages", MOST_GROUPS),
        },
        "batches": _chosen(said, itemgetter("batches"), "ended", MOST_BATCHES),
        "refusals": _chosen(said, itemgetter("refusals"), "at", MOST_REFUSALS),
        "processes": [
            {name: each[name] for name in ("process", "state", "reason", "cause", "why")} for each in said
        ],
    }


def _rank(state: str) -> int:
    return _WORST.index(state) if state in _WORST else 1


def _chosen(said: Sequence[Row], rows_of: Any, by: str, most: int) -> list[Row]:
    """Return rows of all processes, those with the most of ``by`` first; each says which it is of."""
    rows = [{"process": each["process"], **row} for each in said for row in rows_of(each)]
    return sorted(rows, key=itemgetter(by), reverse=True)[:most]


def _sums(tables: Iterable[Mapping[str, int]]) -> dict[str, int]:
    found: dict[str, int] = {}
    for table in tables:
        for name, number in table.items():
            found[name] = found.get(name, 0) + number
    return found


def _most(tables: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Return the highest of each: processes look at the same queue at different moments."""
    found: dict[str, int] = {}
    for table in tables:
        for name, number in table.items():
            found[name] = max(found.get(name, 0), number)
    return found


def without_details(status: Row) -> Row:
    """Return the status for somebody who may not see keys of groups and details of refusals."""
    routes = [
        {
            **route,
            "groups": {kind: [_nameless(row) for row in rows] for kind, rows in route["groups"].items()},
            "refusals": [{**row, "detail": ""} for row in route["refusals"]],
        }
        for route in status["routes"]
    ]
    return {**status, "routes": routes}


def _nameless(row: Row) -> Row:
    return {**row, "key": None, "cut": row["key"] is not None}
