"""The parts of a route from its settings: what is read, when a group is complete, which bounds hold.

Of broker and sink it knows the contracts alone: the service, the Python API and the tests all build
their routes here.
"""

from __future__ import annotations

from functools import partial
from math import inf
from typing import TYPE_CHECKING

from aggregator.aggregation import compile_aggregation
from aggregator.backoff import Backoff
from aggregator.celery_intake import TaskIntake, Tasks, task_id
from aggregator.clock import SYSTEM_CLOCK
from aggregator.closed import ClosedKeys
from aggregator.completion import (
    CLOSING,
    Age,
    Bytes,
    Condition,
    Crontab,
    Deadline,
    Idle,
    Interval,
    Predicate,
    Size,
    Trigger,
    any_of,
    load_predicate,
)
from aggregator.correlation import compile_expression, compile_key, compile_match
from aggregator.expiry import Expiry
from aggregator.intake import Intake
from aggregator.pipeline import Limits, Pipeline
from aggregator.pushing import Pushes
from aggregator.quiet_hours import QuietHours, Rest
from aggregator.schedule import crontab

if TYPE_CHECKING:
    from collections.abc import Callable

    from aggregator.clock import Clock
    from aggregator.completion import AnyOf
    from aggregator.correlation import Expression
    from aggregator.documents import Making
    from aggregator.made import Aggregation
    from aggregator.metrics import RouteMetrics
    from aggregator.ports import DeadLetterPort
    from aggregator.screening import Screen
    from aggregator.settings import Route
    from aggregator.sinks.base import Sink


def make_pipeline(
    route: Route,
    *,
    sink: Sink,
    dead_letters: DeadLetterPort,
    metrics: RouteMetrics,
    clock: Clock = SYSTEM_CLOCK,
    backoff: Backoff | None = None,
) -> Pipeline:
    """Return the pipeline that the settings describe; nothing runs yet.

    ``backoff`` takes the place of the settings' own: one whose jitter is the same each time, say.
    """
    intake = make_intake(route, clock)
    return Pipeline(
        route.name,
        intake=intake,
        completion=make_completion(route, clock),
        sink=sink,
        dead_letters=dead_letters,
        metrics=metrics,
        aggregation=make_aggregation(route, clock, intake.make),
        limits=make_limits(route, backoff),
        grace=route.sentinel_grace,
        closed=ClosedKeys(route.closed_keys, route.closed_for or inf),
        late=route.late,
        most_groups=route.max_groups or inf,
        partitioned=route.partitions is not None,
        screens=make_screens(route, clock),
        clock=clock,
    )


def _task_intake(route: Route, clock: Clock) -> Callable[..., Intake]:
    tasks = Tasks(
        clock, part=route.celery_document, early=route.celery_eta == "write", max_message=route.max_message
    )
    return partial(TaskIntake, tasks=tasks, make=tasks.make, screens=(tasks,))


def make_intake(route: Route, clock: Clock = SYSTEM_CLOCK) -> Intake:
    """Return how messages of the route are read."""
    given: Expression | None = compile_expression(route.id, "id") if route.id else None
    kind: Callable[..., Intake] = Intake
    if route.messages == "celery":
        kind = _task_intake(route, clock)
        # a task's id is its message's
        given = task_id if route.id == "message_id" else given
    return kind(
        clock,
        key=compile_key(route.correlate) if route.correlate else None,
        default_key=route.on_missing_key.removeprefix("key:") if ":" in route.on_missing_key else None,
        sequence=compile_expression(route.sequence, "sequence") if route.sequence else None,
        id=given,
        is_sentinel=compile_match(route.sentinel) if route.sentinel else None,
        sentinel_count=route.sentinel_count,
        delivery_limit=route.delivery_limit,
        isolate_at=route.isolate_at,
        isolate_groups=bool(route.correlate) and route.aggregate != "documents",
        trust_json=route.trust_json,
        max_message=route.max_message,
        keeps_parsed=route.aggregate == "push",
    )


def make_screens(route: Route, clock: Clock = SYSTEM_CLOCK) -> list[Screen]:
    """Return what keeps messages of the route from being written though nothing is wrong with them."""
    if route.expires is None:
        return []
    return [Expiry(compile_expression(route.expires, "expires"), clock)]


def make_rest(route: Route, pipeline: Pipeline) -> Rest | None:
    """Return what pauses the route in its quiet hours; None where it has none."""
    return Rest(pipeline, QuietHours(route.quiet, route.time_zone)) if route.quiet is not None else None


def make_aggregation(route: Route, clock: Clock, make_one: Making) -> Aggregation | None:
    """Return what a complete group becomes; None where each message is a document of its own."""
    if route.aggregate == "push":
        return Pushes(clock, route.max_message)
    return compile_aggregation(
        route.aggregate,
        route.merge,
        route=route.name,
        trust_json=route.trust_json,
        max_message=route.max_message,
        clock=clock,
        make_one=make_one,
    )


def make_completion(route: Route, clock: Clock = SYSTEM_CLOCK) -> AnyOf:
    """Return the conditions in order of precedence: what closes a key before what makes a part."""
    conditions: list[Condition] = []
    if route.bytes is not None:
        conditions.append(Bytes(route.bytes))
    if route.size is not None:
        conditions.append(Size(route.size))
    if route.predicate is not None:
        conditions.append(Predicate(load_predicate(route.predicate), route.predicate_early))
    if route.age is not None:
        conditions.append(Age(route.age))
    if route.idle is not None:
        conditions.append(Idle(route.idle))
    if route.interval is not None:
        conditions.append(Interval(route.interval, clock))
    if route.crontab is not None:
        conditions.append(Crontab(crontab(route.crontab, route.time_zone), clock))
    if route.deadline_share is not None:
        conditions.append(Deadline(route.deadline_share * route.ack_deadline))
    closing = CLOSING | {Trigger(name) for name in (route.close_on or "").split(",") if name}
    # of a key, what no longer fits is a part: its other members are still to come
    return any_of(*conditions, closing=closing - {Trigger.BYTES} if route.correlate else closing)


def make_limits(route: Route, backoff: Backoff | None = None) -> Limits:
    """Return the bounds of the route."""
    return Limits(
        request_items=route.request_items,
        request_bytes=route.request_bytes,
        linger=route.linger,
        concurrency=route.concurrency,
        adaptive_concurrency=route.adaptive_concurrency,
        held_bytes=route.max_held,
        ack_deadline=route.ack_deadline,
        breaker_share=route.breaker_share,
        breaker_window=route.breaker_window,
        backoff=backoff or Backoff(route.retry_first, route.retry_max),
        give_back_keyed=route.keyed_at_shutdown == "give-back",
        stop_on_refusal=route.on_refused == "stop",
    )
