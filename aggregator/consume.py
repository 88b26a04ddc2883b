"""``python -m aggregator.consume``: the only place that puts the parts together."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from math import inf
from typing import TYPE_CHECKING

import structlog

from aggregator import logs, sinks
from aggregator.backoff import Backoff
from aggregator.check import check
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
from aggregator.config import Route, Settings, load
from aggregator.correlation import compile_expression, compile_key, compile_match
from aggregator.errors import AggregatorError, ConfigurationError, ConfigurationErrors
from aggregator.intake import Intake
from aggregator.metrics import Metrics
from aggregator.pipeline import Limits, Pipeline
from aggregator.schedule import crontab
from aggregator.serving import MetricsServer
from consumers.brokers import broker_fault
from consumers.connecting import Broker
from consumers.dead_letters import DeadLetters
from consumers.route import RunningRoute
from consumers.supervisor import FAILED, Supervisor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aggregator.completion import AnyOf
    from aggregator.ports import Refused
    from aggregator.sinks.base import Sink

MISCONFIGURED = 2

log = structlog.get_logger()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the service; return the exit code: 0 clean, 1 cannot go on, 2 misconfigured."""
    try:
        settings = load(argv, broker_fault=broker_fault)
        if settings.check:
            check(settings).show()
            return 0
        logs.configure(settings.log_format, settings.log_level)
        return run(settings)
    except (ConfigurationError, ConfigurationErrors) as exc:
        print(exc, file=sys.stderr)  # noqa: T201
        return MISCONFIGURED
    except AggregatorError as exc:
        print(exc, file=sys.stderr)  # noqa: T201
        return FAILED


def run(settings: Settings) -> int:
    """Build what the settings describe, and run it to its end."""
    metrics = Metrics()
    routes = [build_route(route, settings, metrics) for route in settings.routes.values()]
    supervisor = Supervisor(
        routes, grace=settings.grace, until_empty=settings.until_empty, clock=SYSTEM_CLOCK
    )
    with ExitStack() as stack:
        if settings.metrics_port is not None:
            server = MetricsServer(
                settings.metrics_host,
                settings.metrics_port,
                metrics.registry,
                supervisor.lifeless,
                supervisor.faults,
            )
            stack.callback(server.stop)
            server.start()
            log.info("metrics", url=f"http://{settings.metrics_host}:{server.port}/metrics")
        for note in check(settings).warnings:
            log.warning("configuration", note=str(note))
        for route in settings.routes.values():
            log.info("ids", route=route.name, note=_ids(route))
        code = supervisor.run()
    if settings.until_empty:
        totals = metrics.totals()
        for running in routes:
            settled = totals.get(running.pipeline.name, {})
            counts = ", ".join(f"{number} {verdict}" for verdict, number in settled.items() if number)
            print(f"{running.pipeline.name}: {counts or 'no messages'}")  # noqa: T201
        for running in routes:
            print(f"Look at them: {running.sink.where()}")  # noqa: T201
    return code


def build_route(route: Route, settings: Settings, metrics: Metrics) -> RunningRoute:
    """Put the parts of one route together; nothing connects yet."""
    broker = Broker(
        route.broker.get_secret_value(),
        heartbeat=settings.heartbeat,
        ca=str(route.broker_ca) if route.broker_ca else None,
        server_hostname=route.server_hostname,
    )
    sink = sinks.from_url(route.sink.get_secret_value())
    route_metrics = metrics.route(route.name)
    pipeline: Pipeline

    def on_published(refused: Sequence[Refused]) -> None:
        pipeline.dead_lettered(refused)

    dead_letters = DeadLetters(
        broker.url,
        route.queue,
        on_published=on_published,
        tls=broker.tls,
        exchange=route.dead_letter_exchange or None,
        routing_key=route.dead_letter_queue,
    )
    pipeline = Pipeline(
        route.name,
        intake=_intake(route),
        completion=_completion(route),
        sink=sink,
        dead_letters=dead_letters,
        metrics=route_metrics,
        limits=_limits(route),
        grace=route.sentinel_grace,
        closed=ClosedKeys(route.closed_keys, route.closed_for or inf),
        late=route.late,
        most_groups=route.max_groups or inf,
    )
    return RunningRoute(
        pipeline,
        broker=broker,
        queue=route.queue,
        sink=sink,
        dead_letters=dead_letters,
        workers=route.workers,
        prefetch=route.prefetch,
        flushers=_flushers(route, sink),
        metrics=route_metrics,
        clock=SYSTEM_CLOCK,
    )


def _ids(route: Route) -> str:
    made = "made at receipt: a crash or a lost connection between write and ack duplicates"
    return f"{route.id}; where that is missing, {made}" if route.id else made


def _flushers(route: Route, sink: Sink) -> int:
    return min(route.concurrency, sink.limits.concurrency)


def _intake(route: Route) -> Intake:
    return Intake(
        SYSTEM_CLOCK,
        key=compile_key(route.correlate) if route.correlate else None,
        default_key=route.on_missing_key.removeprefix("key:") if ":" in route.on_missing_key else None,
        sequence=compile_expression(route.sequence, "sequence") if route.sequence else None,
        id=compile_expression(route.id, "id") if route.id else None,
        is_sentinel=compile_match(route.sentinel) if route.sentinel else None,
        sentinel_count=route.sentinel_count,
        delivery_limit=route.delivery_limit,
        trust_json=route.trust_json,
        max_message=route.max_message,
    )


def _completion(route: Route) -> AnyOf:
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
        conditions.append(Interval(route.interval, SYSTEM_CLOCK))
    if route.crontab is not None:
        conditions.append(Crontab(crontab(route.crontab, route.time_zone), SYSTEM_CLOCK))
    if route.deadline_share is not None:
        conditions.append(Deadline(route.deadline_share * route.ack_deadline))
    closing = CLOSING | {Trigger(name) for name in (route.close_on or "").split(",") if name}
    # of a key, what no longer fits is a part: its other members are still to come
    return any_of(*conditions, closing=closing - {Trigger.BYTES} if route.correlate else closing)


def _limits(route: Route) -> Limits:
    return Limits(
        request_items=route.request_items,
        request_bytes=route.request_bytes,
        linger=route.linger,
        held_bytes=route.max_held,
        ack_deadline=route.ack_deadline,
        breaker_share=route.breaker_share,
        breaker_window=route.breaker_window,
        backoff=Backoff(route.retry_first, route.retry_max),
        give_back_keyed=route.keyed_at_shutdown == "give-back",
        stop_on_refusal=route.on_refused == "stop",
    )


if __name__ == "__main__":
    sys.exit(main())
