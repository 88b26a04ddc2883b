"""What settings mean before anything runs: the way of each route, its worst case, its warnings.

Pure: :class:`Settings` go in, a :class:`Report` comes out; nothing is connected, bound or written.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING, TextIO
from urllib.parse import parse_qs

import orjson

from aggregator.correlation import shown
from aggregator.entities import declaration, described, notes
from aggregator.importing import name_of
from aggregator.masking import SecretUrl
from aggregator.partitioning import EXCHANGE_TYPE, partition_name
from aggregator.retrying import queue_name, read_steps, words
from aggregator.rules import duration, fillable_groups, hold, hold_seconds, size_text
from aggregator.sinks.base import Sink
from aggregator.topology_check import ends, topology_lines
from aggregator.topology_rules import map_notes
from aggregator.topology_rules import notes as notes_of
from aggregator.urls import url_parts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from aggregator.correlation import Source
    from aggregator.settings import Route, Settings


@dataclass(frozen=True, slots=True)
class RouteReport:
    """One route: ``way`` from queue to sink and ``worst`` case as (topic, sentence); ``warnings``."""

    name: str
    way: tuple[tuple[str, str], ...]
    worst: tuple[tuple[str, str], ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """All routes, what the process is told, and what was noticed while reading."""

    routes: tuple[RouteReport, ...]
    process: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    topology: tuple[tuple[str, str], ...] = ()

    @property
    def warnings(self) -> tuple[str, ...]:
        """All warnings, each with its setting's name first."""
        return (*(warning for route in self.routes for warning in route.warnings), *self.notes)

    def lines(self) -> Iterator[tuple[str, str]]:
        """Yield (style, line): ``bold`` for titles, ``yellow`` for warnings, empty for the rest."""
        for route in self.routes:
            yield "bold", f"Route {route.name}"
            yield from (("", f"  {topic:<12} {text}") for topic, text in route.way)
            yield "bold", "  At worst"
            yield from (("", f"  {topic:<12} {text}") for topic, text in route.worst)
        if self.topology:
            width = max(len(what) for what, _ in self.topology)
            yield "bold", "Topology"
            yield from (("", f"  {what:<{width}} {text}") for what, text in self.topology)
        yield "bold", "Process"
        yield from (("", f"  {topic:<12} {text}") for topic, text in self.process)
        yield from (("yellow", f"Warning: {warning}") for warning in self.warnings)
        yield "", "The settings are right."

    def __str__(self) -> str:
        """Return it as plain text."""
        return "\n".join(line for _, line in self.lines())

    def as_json(self) -> str:
        """Return it for programs: ``ok``, ``faults`` (none), ``warnings``, and the lines by topic."""
        told = {
            "ok": True,
            "faults": [],
            "warnings": [
                dict(zip(("field", "problem"), text.split(": ", 1), strict=False)) for text in self.warnings
            ],
            "routes": {
                route.name: {"way": dict(route.way), "worst": dict(route.worst)} for route in self.routes
            },
            "topology": dict(self.topology),
            "process": dict(self.process),
        }
        return orjson.dumps(told).decode()

    def show(self, stream: TextIO | None = None, *, as_json: bool = False) -> None:
        """Print it: coloured on a terminal, plain in a pipe, or as JSON."""
        stream = stream or sys.stdout
        if as_json:
            stream.write(f"{self.as_json()}\n")
            return
        if not stream.isatty():
            stream.write(f"{self}\n")
            return
        from rich.console import Console  # noqa: PLC0415 - long to import, and each start wants a report
        from rich.text import Text  # noqa: PLC0415

        console = Console(file=stream, highlight=False, soft_wrap=True)
        for style, line in self.lines():
            console.print(Text(line, style=style))


def check(settings: Settings) -> Report:
    """Return what ``settings`` mean. Faults were raised by ``load``; here are sums and warnings."""
    single = len(settings.routes) == 1 and "default" in settings.routes
    routes = tuple(
        RouteReport(
            name,
            tuple(_way(route)),
            tuple(_worst(route, settings.processes)),
            tuple(
                f"{'' if single else f'routes.{name}.'}{warning}"
                for warning in _warnings(route, settings.processes)
            ),
        )
        for name, route in settings.routes.items()
    )
    found = (*settings.notes, *map_notes(settings.topology), *_topology_notes(settings))
    return Report(routes, tuple(_process(settings)), found, tuple(topology_lines(settings)))


def _topology_notes(settings: Settings) -> Iterator[str]:
    found = (
        notes_of(settings.topology, route.topology, route.workers * settings.processes)
        for route in settings.routes.values()
    )
    yield from dict.fromkeys(note for each in found for note in each)  # what two routes need is told once


def _way(route: Route) -> Iterator[tuple[str, str]]:
    workers = f"{route.workers} worker{'s' * (route.workers > 1)} x prefetch {route.prefetch}"
    kind = "exchange" if route.partitions else "queue"
    named = f"tubes {', '.join(route.tubes)}" if route.from_tubes else f"{kind} {route.queue!r}"
    yield "from", f"{route.broker} {named}, {workers}"
    if route.entity is not None:
        yield "declared as", described(route.entity)
    elif (own := ends(route.topology)) is not None:
        yield "declared as", own
    if route.partitions:
        first, last = (partition_name(route.queue, number) for number in (0, route.partitions - 1))
        queues = f"{route.partitions} quorum queues {first!r} to {last!r}"
        yield "declared as", f"exchange {route.queue!r} ({EXCHANGE_TYPE}) over {queues}"
    yield "grouped by", shown(route.correlate) if route.correlate else "nothing: all messages are one group"
    yield "complete at", _completion(route)
    if route.aggregate != "documents":
        yield "becomes", _aggregation(route)
    limits = f"{route.request_items} documents or {size_text(route.request_bytes)}"
    found = " as far as it brings something" * route.adaptive_concurrency
    yield (
        "requests of",
        f"up to {limits}, {route.concurrency} at once{found}, linger {duration(route.linger)}",
    )
    yield "to", f"{_target(route)}, id from {shown(route.id) if route.id else 'the moment of receipt'}"
    if route.seen is not None:
        yield "written once", f"by the ids in {route.seen}"
    yield from _times(route)
    if route.results is not None:
        yield "told to", str(route.results)
    target = route.dead_letter_queue
    if route.from_tubes:
        yield "refused to", "its tube, buried"
        return
    yield "refused to", f"queue {target!r}" if target else f"exchange {route.dead_letter_exchange!r}"
    if route.retry is not None:
        steps = ", ".join(repr(queue_name(route.queue, seconds)) for seconds in read_steps(route.retry))
        yield "retried by", f"{steps}, if {' or '.join(words(route.retry_reasons))}"


def _times(route: Route) -> Iterator[tuple[str, str]]:
    if route.quiet is not None:
        yield "quiet", f"{route.quiet} ({route.time_zone}): nothing is taken, nothing written"
    if route.expires is not None:
        yield "expires", f"at {shown(route.expires)}"


def _completion(route: Route) -> str:
    conditions = [
        f"{route.size} messages" if route.size else "",
        size_text(route.bytes) if route.bytes else "",
        f"age {duration(route.age)}" if route.age else "",
        f"idle {duration(route.idle)}" if route.idle else "",
        f"every {duration(route.interval)} by the clock" if route.interval else "",
        f"crontab {route.crontab} ({route.time_zone})" if route.crontab else "",
        f"predicate {_named(route.predicate)}" if route.predicate else "",
        f"the number in {shown(route.sequence)}" if route.sequence else "",
        f"sentinel {_match(route.sentinel)}" if route.sentinel else "",
    ]
    return ", ".join(filter(None, conditions)) + ", whichever is first"


def _aggregation(route: Route) -> str:
    if route.aggregate == "push":
        return "a push to each of its recipients"
    rules = ", ".join(f"{name} {rule}" for name, rule in (route.merge or {}).items())
    return f"one document: {_named(route.aggregate)}{f' ({rules})' if rules else ''}"


def _named(function: str | Callable[..., object]) -> str:
    return function if isinstance(function, str) else name_of(function)


def _match(sentinel: str | tuple[Source, str]) -> str:
    return sentinel if isinstance(sentinel, str) else f"{shown(sentinel[0])}={sentinel[1]}"


def _target(route: Route) -> str:
    if isinstance(route.sink, SecretUrl):
        return str(route.sink)
    return route.sink.where() if isinstance(route.sink, Sink) else f"function:{name_of(route.sink)}"


def _worst(route: Route, processes: int) -> Iterator[tuple[str, str]]:
    total = route.workers * route.prefetch
    yield "messages", f"{total} held unacked ({route.workers} x {route.prefetch})"
    possible = total * route.max_message
    bound = f"{size_text(route.max_held)} held (max_held)"
    if possible < route.max_held:
        bound = f"{size_text(possible)} held ({total} x max_message {size_text(route.max_message)})"
    yield "bytes", bound
    yield "groups", f"{total} open, one message each" if route.correlate else "1 open"
    if processes > 1:
        yield "processes", f"{processes} x all of this: {processes * total} messages"
    sums = " + ".join(map(str, hold(route)))
    yield (
        "held for",
        f"{sums} = {duration(hold_seconds(route))} of the ack deadline of {duration(route.ack_deadline)}",
    )
    left = route.ack_deadline - hold_seconds(route)
    if 0 < left < float("inf"):
        rate = max(1, ceil(processes * total / left))
        yield (
            "a slow sink",
            f"has to take {rate} message{'s' * (rate > 1)}/s at least, or what waits passes the deadline",
        )


def _process(settings: Settings) -> Iterator[tuple[str, str]]:
    if settings.processes > 1:
        yield "processes", f"{settings.processes}, each with its own workers, groups and sink"
    port = settings.metrics_port
    address = f"{settings.metrics_host}:{port or 'any free port'}"
    yield "metrics", "off" if port is None else f"http://{address}/metrics"
    if port is not None:
        yield "live page", f"http://{address}/, {'may do something' if settings.page_token else 'only shows'}"
    if settings.control:
        yield "control", f"commands of namespace {settings.control_namespace!r}"
    for name, periodic in settings.periodic.items():
        yield "by the clock", f"{name}: {periodic.shown()}"
    yield "shutdown", f"within {duration(settings.grace)}"
    yield "ends", "when its queues are empty" if settings.until_empty else "when told to"


def _warnings(route: Route, processes: int) -> Iterator[str]:
    workers = route.workers * processes
    if route.entity is not None:
        yield from (f"queue: {note}" for note in notes(declaration(route.entity), workers))
    if processes > 1 and route.aggregate != "documents":
        yield f"aggregate: each of {processes} processes makes documents of the messages that it gets itself"
    if route.id is None:
        yield "id: made at receipt: a crash between write and ack writes those documents twice"
    url = route.sink.get_secret_value() if isinstance(route.sink, SecretUrl) else ""
    query = parse_qs(url_parts(url).query)
    versioned = any(key.startswith("version") for key in query)
    if "index" in query.get("op", ()) and not versioned and workers > 1:
        yield (
            f"sink: op=index without a version and {workers} workers:"
            " an older write may win; create, a version or one worker would be right"
        )
    groups = fillable_groups(route)
    if groups is not None and route.size:
        yield (
            f"prefetch: {groups} open groups of {route.size} fit, K x (size - 1) + 1 <= {route.workers}"
            f" x {route.prefetch}; with more, the oldest go in parts"
        )
    for field in ("bytes", "max_message"):
        limit = getattr(route, field)
        if limit and limit > route.max_held:
            held = size_text(route.max_held)
            yield f"max_held: {held} is less than {field} {size_text(limit)}; max_held decides"
    if route.idle and route.age and route.idle >= route.age:
        yield f"idle: {duration(route.idle)} never comes before age {duration(route.age)}"
    if route.size is not None and route.size > 1 and waiting_without_end(route):
        yield "age: off: a group that is not filled waits until it is, or until shutdown"


def waiting_without_end(route: Route) -> bool:
    """Return whether an incomplete group may wait for ever."""
    return hold_seconds(route) == float("inf")
