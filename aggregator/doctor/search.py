"""Elasticsearch and OpenSearch as sinks: the server, the rights, the index, and what one request may be.

All questions are GETs, or POSTs that only ask; what the credentials may not see is passed over.
"""

from __future__ import annotations

from dataclasses import replace
from fnmatch import fnmatchcase
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import quote, urlsplit

from aggregator.clock import SYSTEM_CLOCK
from aggregator.doctor.finding import WAIT_SECONDS, Level, amount, clock_finding, error, note, ok, warning
from aggregator.doctor.network import Server, reach
from aggregator.errors import SinkBlockedError, SinkError
from aggregator.sinks import elasticsearch_probe as probe

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from aggregator.doctor.finding import Finding
    from aggregator.settings import Route
    from aggregator.sinks.elasticsearch_client import BulkConnection, Reply
    from aggregator.sinks.elasticsearch_options import Settings

#: Bytes of metadata that each item of a request has beside its document, about.
ACTION_BYTES = 80
#: The share of mapped fields beyond which new ones will soon be refused.
FULL_SHARE = 0.9
_UNSEEN_RIGHTS = "a right to write that is missing shows with the first documents"
#: A flat name is one name: a path of filters takes its dots for none of its own.
_FLAT = {"include_defaults": "true", "flat_settings": "true"}


def examine(url: str, route: Route) -> Iterator[Finding]:
    """Look at the sink of a route."""
    settings, connection = _connection(url)
    try:
        reached, several = False, len(settings.hosts) > 1
        for host, port in settings.hosts:
            server = Server(host, port, settings.scheme == "https", settings.options.ca)
            for finding in reach("connection", server):
                reached = reached or finding.level is Level.OK
                if several and finding.level is Level.ERROR:
                    then = "requests go to the other nodes, if one answers"
                    yield replace(finding, level=Level.WARNING, then=then)
                else:
                    yield finding
        if not reached:
            if several:
                says = f"none of the {len(settings.hosts)} nodes answers"
                yield error(
                    "connection", says, "the route waits, and takes nothing", "see what each of them says"
                )
            return
        try:
            yield from _server(connection)
        except SinkError as exc:
            yield _fault("server", exc, "correct the URL, the user or the key")
            return
        for check in (_health, _blocks, _indices, _rights, _pipeline, _sizes, _disks, _clock):
            try:
                yield from check(connection, settings, route)
            except SinkError as exc:
                yield _fault(check.__name__.strip("_"), exc, "look what the server's log says")
                if not isinstance(exc, SinkBlockedError):
                    return  # silent by now: each further question would wait as long
    finally:
        connection.close()


def _connection(url: str) -> tuple[Settings, BulkConnection]:
    """Return the sink's own client, with less patience."""
    from aggregator.sinks.elasticsearch_options import read_url  # noqa: PLC0415

    parts = urlsplit(url)
    settings = read_url(parts)
    options = settings.options.model_copy(update={"timeout": WAIT_SECONDS})
    settings = replace(settings, options=options)
    if parts.scheme.startswith("opensearch"):
        from aggregator.sinks.opensearch_client import OpenSearchConnection  # noqa: PLC0415

        return settings, OpenSearchConnection(settings)
    from aggregator.sinks.elasticsearch_client import Connection  # noqa: PLC0415

    return settings, Connection(settings)


def _fault(about: str, exc: SinkError, do: str) -> Finding:
    lasting = isinstance(exc, SinkBlockedError)
    then = "the route waits, and takes nothing" + ", until somebody acts" * lasting
    return error(about, str(exc), then, do)


def _ask(connection: BulkConnection, path: str, params: Mapping[str, Any] | None = None) -> Any:
    """Return what is answered, or an empty object where that is not allowed or not known there."""
    reply = connection.get(path, params)
    return reply.body if reply.status == HTTPStatus.OK else {}


def _within(found: Any, *path: str) -> Any:
    for name in path:
        found = found.get(name) if isinstance(found, dict) else None
    return found


# ── the server ──


def _server(connection: BulkConnection) -> Iterator[Finding]:
    probe.check_server(connection)
    told = _ask(connection, "/")
    number = _within(told, "version", "number")
    yield ok("server", f"{connection.product} {number or 'of a version that it does not tell'}")


def _health(connection: BulkConnection, _settings: Settings, _route: Route) -> Iterator[Finding]:
    told = _ask(connection, "/_cluster/health")
    status = _within(told, "status")
    if status == "red":
        then = "shards are missing: what belongs there is not written, and the route retries"
        yield error("health", "red", then, "GET _cluster/allocation/explain says why")
    elif status == "yellow":
        yield note("health", "yellow: copies of shards are missing", "a lost node loses what has no copy")
    elif status:
        yield ok("health", str(status))


def _blocks(connection: BulkConnection, _settings: Settings, _route: Route) -> Iterator[Finding]:
    try:
        probe.check_cluster(connection)
    except SinkBlockedError as exc:
        do = 'PUT _cluster/settings {"persistent": {"cluster.blocks.read_only": null}}, and make room'
        yield _fault("cluster", exc, do)


def _rights(connection: BulkConnection, settings: Settings, _route: Route) -> Iterator[Finding]:
    if not (settings.user or settings.api_key):
        return
    if not settings.names:
        yield note("rights", "not asked: the indices are not known beforehand", _UNSEEN_RIGHTS)
        return
    asked = _Answered(connection)
    try:
        probe.check_privileges(cast("BulkConnection", asked), settings)
    except SinkBlockedError as exc:
        wanted = "create_doc" if settings.op == "create" else "index"
        do = f'give the role {{"indices": [{{"names": […], "privileges": ["{wanted}", "auto_configure"]}}]}}'
        yield _fault("rights", exc, do)
    else:
        if asked.answered:
            yield ok("rights", "the credentials may write")
        else:
            says = f"not asked: {connection.product} does not answer this question, or not to this user"
            yield note("rights", says, _UNSEEN_RIGHTS)


class _Answered:
    """A connection that notes whether it was answered: the probe passes over what it could not ask."""

    def __init__(self, connection: BulkConnection) -> None:
        self._connection = connection
        self.answered = False

    def post(self, path: str, body: bytes) -> Reply:
        reply = self._connection.post(path, body)
        self.answered = reply.status == HTTPStatus.OK
        return reply


def _pipeline(connection: BulkConnection, settings: Settings, _route: Route) -> Iterator[Finding]:
    if name := settings.options.pipeline:
        about = f"pipeline {name!r}"
        try:
            probe.check_pipeline(connection, name)
            yield ok(about, "is there")
        except SinkBlockedError as exc:
            yield _fault(about, exc, f"PUT _ingest/pipeline/{name}, or leave pipeline away")


# ── the index ──


def _indices(connection: BulkConnection, settings: Settings, route: Route) -> Iterator[Finding]:
    for name in settings.names:
        yield from _index(connection, settings, name)
    if not settings.names:
        yield note("index", f"{settings.target}: each document names its own; none of them was looked at")
    if route.id is None and settings.op == "create":
        yield note(
            "ids", "made at receipt", "a crash between write and ack writes a document twice", "id = …"
        )


def _index(connection: BulkConnection, settings: Settings, name: str) -> Iterator[Finding]:
    about = f"index {name!r}"
    try:
        probe.check_index(connection, name, must_be_alias=settings.options.require_alias)
    except SinkBlockedError as exc:
        do = f'make room, then PUT {name}/_settings {{"index.blocks.read_only_allow_delete": null}}'
        yield _fault(about, exc, do if "block" in str(exc) else f"make {name} what it has to be")
        return
    reply = connection.get(f"/{quote(name, safe='')}", {"flat_settings": "true"})
    if reply.status == HTTPStatus.NOT_FOUND:
        yield from _absent(connection, settings, name)
    elif reply.status == HTTPStatus.OK and isinstance(reply.body, dict):
        yield ok(about, f"is there: {', '.join(reply.body)}")
        for real, told in reply.body.items():
            yield from _judged(settings, about if real == name else f"index {real!r}", told)
        yield from _stream(connection, settings, name)


def _absent(connection: BulkConnection, settings: Settings, name: str) -> Iterator[Finding]:
    about = f"index {name!r}"
    told = _ask(connection, "/_cluster/settings", {**_FLAT, "filter_path": "*.action*"})
    found = [
        layer["action.auto_create_index"]
        for part in ("transient", "persistent", "defaults")
        if isinstance(layer := _within(told, part), dict) and "action.auto_create_index" in layer
    ]
    if found and not may_be_made(str(found[0]), name):
        then = "each document is refused with index_not_found_exception"
        do = f"PUT {name}, or action.auto_create_index in the cluster's settings"
        says = f"is not there, and action.auto_create_index is {str(found[0])!r}"
        yield error(about, says, then, do)
        return
    answer = connection.post(f"/_index_template/_simulate_index/{quote(name, safe='')}", b"{}")
    template = _within(answer.body, "template") if answer.status == HTTPStatus.OK else None
    if _within(template, "mappings") or _within(template, "settings"):
        yield ok(about, "is not there; the first write makes it, by its template")
        yield from _judged(settings, about, template)
        return
    then = "its mapping is guessed from the first documents; later ones that differ are refused"
    yield note(about, "is not there; the first write makes it, without a template", then, f"PUT {name} first")


def may_be_made(setting: str, name: str) -> bool:
    """Judge ``action.auto_create_index``: true, false, or patterns with + and -, the first that fits."""
    if setting.lower() in {"true", "false"}:
        return setting.lower() == "true"
    for part in setting.split(","):
        sign, pattern = (part[0], part[1:]) if part[:1] in {"+", "-"} else ("+", part)
        if fnmatchcase(name, pattern.strip()):
            return sign == "+"
    return False


def _judged(settings: Settings, about: str, told: Any) -> Iterator[Finding]:
    """Yield what mapping and settings mean for documents that come with an id of their own."""
    mapping, kept = _within(told, "mappings") or {}, _within(told, "settings") or {}
    if _within(mapping, "_routing", "required") and settings.routing is None:
        then = "each document is refused with routing_missing_exception"
        yield error(about, "its mapping requires a routing value", then, "add routing=EXPRESSION to the sink")
    if kept.get("index.mode") == "time_series":
        then = "its server makes the ids: documents with an id of their own are refused"
        yield error(about, "is a time series", then, "write to a plain data stream or index")
    if mapping.get("dynamic") in {"strict", False, "false"}:
        fields = len(mapping.get("properties", {}))
        fate = "refused, and dead-lettered" if mapping["dynamic"] == "strict" else "kept, and not searchable"
        yield note(about, f"dynamic {mapping['dynamic']}, {fields} fields", f"any other field is {fate}")
    limit = int(kept.get("index.mapping.total_fields.limit", 1000))
    fields = count_fields(mapping)
    if fields > limit * FULL_SHARE:
        then = "documents with further new fields are refused"
        do = f"raise index.mapping.total_fields.limit, or set dynamic of {about}"
        yield warning(about, f"{fields} of {limit} fields are mapped", then, do)
    interval = str(kept.get("index.refresh_interval", ""))
    if interval.endswith("ms") or interval in {"1s", "0"}:
        then = "each refresh costs what bulk writes could use"
        yield note(about, f"refresh_interval {interval}", then, "30s, say, if nobody needs them sooner")


def count_fields(mapping: Mapping[str, Any]) -> int:
    """Count the fields of a mapping as the server does: objects and multi-fields too."""
    total = 0
    for field in mapping.get("properties", {}).values():
        total += 1 + count_fields(field) + len(field.get("fields", {}))
    return total


def _stream(connection: BulkConnection, settings: Settings, name: str) -> Iterator[Finding]:
    told = _ask(connection, f"/_data_stream/{quote(name, safe='')}")
    if not _within(told, "data_streams"):
        return
    about = f"data stream {name!r}"
    if settings.op == "index":
        then = "it takes nothing but op=create: each document is refused"
        yield error(about, "is written to with op=index", then, "leave op and version away")
    else:
        then = "a document without it is refused; the same id may stand in an older index once more"
        yield note(about, "needs @timestamp in each document", then)


# ── requests ──


def _sizes(connection: BulkConnection, settings: Settings, route: Route) -> Iterator[Finding]:
    told = _ask(connection, "/_nodes/http", {"filter_path": "nodes.*.http.max_content_length_in_bytes"})
    limits = [
        limit
        for node in (_within(told, "nodes") or {}).values()
        if isinstance(limit := _within(node, "http", "max_content_length_in_bytes"), int)
    ]
    mine = min(route.request_bytes, settings.options.max_bytes) + ACTION_BYTES * route.request_items
    if limits and mine > min(limits):
        says = f"up to {amount(mine)}, and http.max_content_length is {amount(min(limits))}"
        then = "each full request is refused with 413, and halved until it fits"
        yield warning("requests", says, then, f'request_bytes = "{min(limits) // 2}"')
    elif limits:
        yield ok("requests", f"up to {amount(mine)} of {amount(min(limits))}")
    yield from _pressure(connection, route, mine)


def _pressure(connection: BulkConnection, route: Route, request: int) -> Iterator[Finding]:
    path = "nodes.*.indexing_pressure.memory.limit_in_bytes"
    told = _ask(connection, "/_nodes/stats/indexing_pressure", {"filter_path": path})
    limits = [
        limit
        for node in (_within(told, "nodes") or {}).values()
        if isinstance(limit := _within(node, "indexing_pressure", "memory", "limit_in_bytes"), int)
    ]
    wanted = request * route.concurrency
    if limits and wanted > min(limits):
        says = f"{route.concurrency} at once are {amount(wanted)}, a node takes {amount(min(limits))}"
        then = "documents are refused with 429, and sent again later"
        yield warning("requests", says, then, "lower concurrency or request_bytes")


def _disks(connection: BulkConnection, _settings: Settings, _route: Route) -> Iterator[Finding]:
    told = _ask(connection, "/_cat/allocation", {"format": "json", "h": "node,disk.percent"})
    marks = _ask(connection, "/_cluster/settings", {**_FLAT, "filter_path": "*.cluster.routing*"})
    high = _percent(marks, "cluster.routing.allocation.disk.watermark.high", 90.0)
    flood = _percent(marks, "cluster.routing.allocation.disk.watermark.flood_stage", 95.0)
    for row in told if isinstance(told, list) else ():
        used = row.get("disk.percent")
        if used is None:
            continue
        about = f"disk of {row.get('node')}"
        if float(used) >= high:
            then = f"at {flood:g} % its indices become read-only, and the route waits"
            yield warning(about, f"{used} % full, the high watermark is {high:g} %", then, "make room there")
        else:
            yield ok(about, f"{used} % full, read-only from {flood:g} % on")


def _percent(told: Any, name: str, default: float) -> float:
    for part in ("transient", "persistent", "defaults"):
        text = str((_within(told, part) or {}).get(name, ""))
        if text.endswith("%"):
            return float(text[:-1])
    return default


def _clock(connection: BulkConnection, _settings: Settings, _route: Route) -> Iterator[Finding]:
    began = SYSTEM_CLOCK.time()
    told = _ask(connection, "/_nodes/stats/process", {"filter_path": "nodes.*.timestamp"})
    ended = SYSTEM_CLOCK.time()
    for name, node in (_within(told, "nodes") or {}).items():
        if isinstance(stamp := _within(node, "timestamp"), int):
            skew = stamp / 1000 - (began + ended) / 2
            yield clock_finding(f"node {name}", skew, ended - began + 1.0)
            return
