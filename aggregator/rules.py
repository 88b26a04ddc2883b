"""What single values cannot tell: settings that contradict one another, and the sums that show it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import ceil, inf
from typing import TYPE_CHECKING

from aggregator import entities
from aggregator.aggregation import compile_aggregation
from aggregator.correlation import shown
from aggregator.errors import ConfigurationError
from aggregator.masking import masked
from aggregator.option_types import MAX_NAME_BYTES, MAX_PREFETCH
from aggregator.partitioning import HELP, hash_arguments
from aggregator.redis_rules import broken_options, results, seen, visible
from aggregator.redis_transport import is_redis
from aggregator.retrying import queue_name, read_steps
from aggregator.sinks import from_url
from aggregator.standing import PATIENCE
from aggregator.units import format_duration
from aggregator.urls import url_parts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from aggregator.settings import Route

WAIT_SHARE = 0.5
"""A group may wait for this share of the ack deadline; the rest is for writing."""


@dataclass(frozen=True, slots=True)
class Part:
    """One stretch of the time that a message is held; ``what`` tells it, ``field`` sets it."""

    seconds: float
    what: str
    field: str

    def __str__(self) -> str:
        return f"{duration(self.seconds)} {self.what}"


def duration(seconds: float) -> str:
    """Return ``seconds`` for people; without end is said so."""
    return "without end" if seconds == inf else format_duration(seconds)


def size_text(count: int) -> str:
    """Return a number of bytes for people: ``10MB``, ``512KiB``, ``1500 bytes``."""
    for unit, length in (
        ("GB", 10**9),
        ("GiB", 2**30),
        ("MB", 10**6),
        ("MiB", 2**20),
        ("kB", 1000),
        ("KiB", 1024),
    ):
        if count and count % length == 0:
            return f"{count // length}{unit}"
    return f"{count / 10**6:.1f}MB" if count > 10**6 else f"{count} bytes"


def waiting(route: Route) -> Part:
    """Return how long an incomplete group can wait at most."""
    if route.size == 1:
        return Part(0.0, "waiting (size 1)", "age")
    age = min(
        Part(route.age or inf, "age", "age"),
        Part(route.interval or inf, "interval", "interval"),
        Part(
            (route.deadline_share or inf) * route.ack_deadline,
            f"deadline_share {route.deadline_share} of the ack deadline",
            "deadline_share",
        ),
        key=lambda part: part.seconds,
    )
    if route.idle is None or route.size is None:
        return age
    # each message but the one that completes the group may come just before idle has passed
    idle = Part((route.size - 1) * route.idle, f"idle ({route.size - 1} x {duration(route.idle)})", "idle")
    return min(age, idle, key=lambda part: part.seconds)


def hold(route: Route) -> tuple[Part, ...]:
    """Return the parts of the longest time that a message can be held before it is acked or given back."""
    retries = Part(
        route.ack_deadline * PATIENCE, "writing and retrying, then all is given back", "ack_deadline"
    )
    parts = [waiting(route)]
    if route.sentinel is not None:
        parts.append(Part(route.sentinel_grace, "sentinel_grace", "sentinel_grace"))
    parts.append(Part(route.linger, "linger", "linger"))
    return (*(part for part in parts if part.seconds), retries)


def hold_seconds(route: Route) -> float:
    """Return the sum of :func:`hold`."""
    return sum(part.seconds for part in hold(route))


def fillable_groups(route: Route) -> int | None:
    """Return how many open groups can all be filled to ``size``; None where every number can.

    With K groups open, all one short of complete, the next message is the ``K x (size - 1) + 1``-th.
    """
    if route.correlate is None or route.size in {None, 1}:
        return None
    return (route.workers * route.prefetch - 1) // ((route.size or 1) - 1)


def broker_faults(
    broker: str, label: Callable[[str], str], broker_fault: Callable[[str], str | None] | None
) -> Iterator[ConfigurationError]:
    """Yield what is wrong with a broker's URL; ``label`` gives a setting's name as the user wrote it."""
    problem = None if is_tubes(broker) else broken_url(broker) or broken_options(broker)
    problem = problem or (broker_fault(broker) if broker_fault else None)
    if problem:
        yield ConfigurationError(label("broker"), problem)


def sink_faults(sink: str, label: Callable[[str], str]) -> Iterator[ConfigurationError]:
    """Yield what is wrong with a sink's URL; ``label`` as in :func:`broker_faults`."""
    try:
        from_url(sink)
    except ConfigurationError as exc:
        yield ConfigurationError(label("sink"), exc.problem.replace(sink, masked(sink)))


def route_faults(route: Route, label: Callable[[str], str]) -> Iterator[ConfigurationError]:
    """Yield what in one route contradicts something else in it."""
    for field, problem in (
        *_entity(route),
        *_encryption(route),
        *_vhost(route),
        *_names(route),
        *_window(route),
        *_partitions(route),
        *_times(route),
        *visible(route),
        *_celery(route),
        *_isolation(route),
        *_sentinel(route),
        *_retry(route),
        *_aggregation(route),
        *_tubes(route),
        *seen(route),
        *results(route),
    ):
        yield ConfigurationError(label(field), problem)


def common_faults(
    routes: Mapping[str, Route], label: Callable[[str | None, str], str]
) -> Iterator[ConfigurationError]:
    """Yield what is wrong between routes: two that take each other's messages."""
    seen: dict[tuple[str, str], str] = {}
    for name, route in routes.items():
        other = seen.setdefault((route.broker.get_secret_value(), route.queue), name)
        if other != name:
            problem = (
                f"route {other!r} takes from {route.queue!r} too, each would get a part; name another queue"
            )
            yield ConfigurationError(label(name, "queue"), problem)


def process_faults(
    processes: int, routes: Mapping[str, Route], label: Callable[[str | None, str], str]
) -> Iterator[ConfigurationError]:
    """Yield what several processes would tear apart: each has groups of its own, and shares no memory."""
    if processes == 1:
        return
    for name, route in routes.items():
        if route.correlate is not None and route.partitions is None:
            problem = (
                f"with {processes} processes the messages of one key would gather in several of them;"
                " set processes to 1 or partitions, or remove correlate"
            )
            yield ConfigurationError(label(name, "correlate"), problem)
        elif route.sentinel is not None:
            problem = (
                f"of {processes} processes it would end the group of one alone;"
                " set processes to 1, or remove the sentinel"
            )
            yield ConfigurationError(label(name, "sentinel"), problem)
        if route.broker.get_secret_value().partition(":")[0] == "memory":
            problem = (
                f"messages in memory are seen by one process alone, not by {processes};"
                " set processes to 1, or name a broker"
            )
            yield ConfigurationError(label(name, "broker"), problem)


def _entity(route: Route) -> Iterator[tuple[str, str]]:
    if route.entity is not None:
        yield from entities.faults(
            entities.declaration(route.entity),
            delivery_limit=route.delivery_limit,
            ack_deadline=route.ack_deadline,
        )


def _encryption(route: Route) -> Iterator[tuple[str, str]]:
    url = route.broker.get_secret_value()
    for field in () if url.startswith("amqps") else ("broker_ca", "server_hostname"):
        if getattr(route, field) is not None:
            yield field, f"{masked(url)} is not encrypted, nothing would be verified; amqps:// is needed"


def _vhost(route: Route) -> Iterator[tuple[str, str]]:
    if route.vhost is not None and not route.amqp:
        yield (
            "vhost",
            f"{masked(route.broker.get_secret_value())} has none; remove it, or name a broker that has",
        )
    elif route.vhost is not None and len(route.vhost.encode()) > MAX_NAME_BYTES:
        yield "vhost", f"the name has {len(route.vhost.encode())} bytes; AMQP allows {MAX_NAME_BYTES}"


def is_tubes(url: str) -> bool:
    """Return whether a broker's URL names servers of Tarantool: several hosts may stand in it."""
    return url.startswith("tarantool://")


def broken_url(url: str) -> str | None:
    """Return what keeps ``url`` from being one at all, without repeating it."""
    scheme, separator, rest = url.partition("://")
    if not separator or not scheme:
        shown = repr(url) if url.replace(".", "").replace("-", "").isalnum() else "this"  # user:password else
        return f"{shown} is no URL; one like amqp://user:password@host:5672/vhost is needed"
    schemes = sorted({part.partition("://")[0] for part in url.split(";") if "://" in part})
    if len(schemes) > 1:
        return f"brokers of one cluster are reached alike, not by {' and '.join(schemes)}; write one scheme"
    try:
        # the scheme may be one that urlsplit does not know
        _ = url_parts(f"http://{rest.partition(';')[0]}").port
    except ValueError:  # its words would hold a part of the password
        return f"{masked(url)!r}: the port is no number, or the password holds a / or @, written %2F and %40"
    return None


def _names(route: Route) -> Iterator[tuple[str, str]]:
    named, field = route.dead_letter, "dead_letter"
    target = route.dead_letter_queue
    if target == route.queue:
        yield field, f"{target!r} is the queue itself, refused messages would come again; name another"
    elif named is None and target and len(target.encode()) > MAX_NAME_BYTES:
        yield "queue", f"{len(target.encode())} bytes with .dead; shorten it, or name another --dead-letter"
    elif named and target and target.startswith("amq."):
        yield field, f"{target!r} starts with amq., which brokers keep for themselves; choose another name"
    elif named and not (target or route.dead_letter_exchange):
        yield field, "the exchange has no name; exchange:NAME is needed"
    elif named and len(named.encode()) > MAX_NAME_BYTES:
        yield field, f"the name has {len(named.encode())} bytes; AMQP allows {MAX_NAME_BYTES}"


def _window(route: Route) -> Iterator[tuple[str, str]]:
    total = route.workers * route.prefetch
    if route.size is None or route.size <= total:
        if route.partitions and (route.size or 0) > route.prefetch:
            problem = f"{route.prefetch} messages never fill a group of {route.size}"
            yield "prefetch", f"{problem}, all of one partition; at least {route.size} is needed"
        return
    sums = (
        f"{route.workers} x prefetch {route.prefetch} = {total} messages never fill a group of {route.size}"
    )
    needed = ceil(route.size / route.workers)
    if needed <= MAX_PREFETCH:
        yield "prefetch", f"{sums}; at least {needed} is needed, or a size of {total} at most"
    else:
        workers = ceil(route.size / MAX_PREFETCH)
        yield "size", f"{sums}; at least {workers} workers are needed, or a size of {total} at most"


def _partitions(route: Route) -> Iterator[tuple[str, str]]:
    if route.partitions is None:
        return
    if not route.amqp:
        yield "partitions", "keys are spread by RabbitMQ's consistent-hash exchange; amqp:// is needed"
    if route.entity is not None:
        yield "queue", "with partitions the queues are declared here; a name is needed"
    if route.correlate is None:
        yield "partitions", "without keys instances share one queue as it is; set correlate, or remove it"
    elif hash_arguments(route.correlate) is None:
        problem = f"{shown(route.correlate)} is nothing that the broker can spread keys by; {HELP} is needed"
        yield "correlate", f"{problem} with partitions"
    if route.workers != route.partitions:
        problem = f"each of {route.partitions} partitions has a worker of its own"
        yield "workers", f"{route.workers}, but {problem}; remove it"


def _celery(route: Route) -> Iterator[tuple[str, str]]:
    if route.messages == "plain":
        for field, plain in (("celery_document", "task"), ("celery_eta", "dead-letter")):
            if getattr(route, field) != plain:
                yield field, "messages are plain; set messages = celery as well, or remove it"
        return
    if route.from_tubes:
        yield "messages", "Celery puts no tasks into tubes; plain is needed"
    if route.aggregate == "push":
        yield "aggregate", "a task of Celery is no push message; documents, say, is needed"


def _isolation(route: Route) -> Iterator[tuple[str, str]]:
    if route.isolate_at is not None and route.isolate_at >= route.delivery_limit:
        problem = f"{route.isolate_at} is not below delivery_limit {route.delivery_limit}"
        yield "isolate_at", f"{problem}; {route.delivery_limit - 1} at most is needed, or off"


def _times(route: Route) -> Iterator[tuple[str, str]]:
    wait, deadline = waiting(route), route.ack_deadline
    if route.retry_first > route.retry_max:
        longest = duration(route.retry_max)
        yield (
            "retry_first",
            f"{duration(route.retry_first)} is longer than retry_max {longest}; at most that is needed",
        )
    if route.size == 1:
        return
    timed = route.age or route.idle or route.interval or route.crontab or route.deadline_share
    if not (route.size or route.bytes or timed):
        yield "age", "size, bytes, age, idle and interval are all off, a group would never go; set one"
    elif wait.seconds == inf:
        if route.amqp or is_redis(route.broker.get_secret_value()):
            limit = duration(deadline * WAIT_SHARE)
            problem = (
                f"off: a group that is not filled is held past the ack deadline; up to {limit} is possible"
            )
            yield "age", problem
    elif route.age and route.age > deadline * WAIT_SHARE and wait.field in {"age", "deadline_share"}:
        share = f"half the ack deadline of {duration(deadline)}"
        yield (
            "age",
            f"{duration(route.age)} is more than {share}; {duration(deadline * WAIT_SHARE)} at most",
        )
    elif hold_seconds(route) >= deadline:
        sums = " + ".join(map(str, hold(route)))
        total = f"{sums} = {duration(hold_seconds(route))}"
        longest = max(hold(route)[:-1], key=lambda part: part.seconds).field
        yield longest, f"{total} reaches the ack deadline of {duration(deadline)}; less is needed"


def _aggregation(route: Route) -> Iterator[tuple[str, str]]:
    try:
        made = compile_aggregation(route.aggregate, route.merge)
    except ConfigurationError as exc:
        yield exc.field, exc.problem
        return
    if made is not None and route.id is not None and route.id == route.correlate:
        problem = (
            f"{shown(route.id)} is the group's key, all members would have one id;"
            " name what tells one message from another, or set none"
        )
        yield "id", problem


def _sentinel(route: Route) -> Iterator[tuple[str, str]]:
    if route.late != "new" and not route.closed_keys:
        yield (
            "closed_keys",
            f"0 keys are remembered, late = {route.late} would never hold; 10000, say, is needed",
        )
    for field in ("sequence", "close_on", "closed_keys", "max_groups"):
        if getattr(route, field) and route.correlate is None:
            yield field, "there are no keys; set correlate as well, or remove it"
    if route.predicate_early and route.predicate is None:
        yield "predicate_early", "there is no predicate; set predicate as well, or remove it"
    if route.sentinel_count is not None and route.sentinel is None:
        yield "sentinel_count", "there is no sentinel; set sentinel as well, or remove it"


def _retry(route: Route) -> Iterator[tuple[str, str]]:
    if route.retry is None:
        return
    if not route.amqp:
        yield "retry", "messages wait in queues of RabbitMQ; amqp:// is needed, or remove it"
    if route.partitions:
        yield "retry", "what comes back goes to one queue, and there are partitions; remove one of the two"
    if route.on_refused == "stop":
        yield "retry", "with on_refused = stop nothing leaves the queue; remove one of the two"
    size = max(len(queue_name(route.queue, seconds).encode()) for seconds in read_steps(route.retry))
    if size > MAX_NAME_BYTES:
        yield "queue", f"{size} bytes with .retry. and its step; AMQP allows {MAX_NAME_BYTES}, shorten it"
    for field in ("correlate", "id", "sequence", "sentinel", "expires"):
        said = shown(getattr(route, field) or "")
        if {"routing_key", "exchange"} & set(re.split(r"[ +=]", said)):
            problem = f"{said!r}: what comes back by a retry queue has the queue's name as its routing key"
            yield field, f"{problem}, and no exchange; name a header or a property, or remove retry"


def _tubes(route: Route) -> Iterator[tuple[str, str]]:
    if not route.from_tubes:
        return
    if not all(route.tubes):
        yield "queue", f"{route.queue!r} names a tube without a name; names separated by commas are needed"
    elif len(set(route.tubes)) < len(route.tubes):
        yield "queue", f"{route.queue!r} names a tube twice; once is enough"
    if route.aggregate not in {"documents", "push"}:
        yield "aggregate", "what comes from tubes becomes documents or push; one of these is needed"
    if route.dead_letter is not None:
        yield "dead_letter", "what is refused stays in its tube, buried; remove it"
    if route.entity is not None:
        yield "queue", "tubes are made by tubes.create at the server; a name is needed"
