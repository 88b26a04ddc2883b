"""``python -m aggregator.consume``: the only place that puts the parts together."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING

import structlog

from aggregator import logs, sinks
from aggregator.assembly import make_pipeline
from aggregator.check import check
from aggregator.clock import SYSTEM_CLOCK
from aggregator.config import Route, Settings, load
from aggregator.errors import AggregatorError, ConfigurationError, ConfigurationErrors
from aggregator.metrics import Metrics
from aggregator.serving import MetricsServer
from consumers.brokers import broker_fault
from consumers.connecting import Broker
from consumers.dead_letters import DeadLetters
from consumers.route import RunningRoute
from consumers.supervisor import FAILED, Supervisor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aggregator.pipeline import Pipeline
    from aggregator.ports import Refused

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
    pipeline = make_pipeline(route, sink=sink, dead_letters=dead_letters, metrics=route_metrics)
    return RunningRoute(
        pipeline,
        broker=broker,
        queue=route.queue,
        sink=sink,
        dead_letters=dead_letters,
        workers=route.workers,
        prefetch=route.prefetch,
        flushers=min(route.concurrency, sink.limits.concurrency),
        metrics=route_metrics,
        clock=SYSTEM_CLOCK,
    )


def _ids(route: Route) -> str:
    made = "made at receipt: a crash or a lost connection between write and ack duplicates"
    return f"{route.id}; where that is missing, {made}" if route.id else made


if __name__ == "__main__":
    sys.exit(main())
