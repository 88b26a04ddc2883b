"""``python -m aggregator.consume``: the only place that puts the parts together."""

from __future__ import annotations

import gc
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING

import structlog

from aggregator import logs, sinks
from aggregator.assembly import make_pipeline
from aggregator.check import check
from aggregator.clock import SYSTEM_CLOCK
from aggregator.config import Route, Settings, load
from aggregator.correlation import shown
from aggregator.errors import AggregatorError, ConfigurationError, ConfigurationErrors
from aggregator.layers import load_application
from aggregator.metrics import Metrics
from aggregator.serving import MetricsServer
from consumers.brokers import broker_fault
from consumers.connecting import Broker
from consumers.dead_letters import DeadLetters
from consumers.route import RunningRoute
from consumers.supervisor import FAILED, Supervisor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aggregator.application import Aggregator
    from aggregator.pipeline import Pipeline
    from aggregator.ports import Refused

MISCONFIGURED = 2
#: Containers made and not freed before Python looks for circles. No message is in one; to look at all
#: that are held, again and again, would be a fifth of what a message costs.
OBJECTS_BEFORE_COLLECTION = 50_000

log = structlog.get_logger()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the service; return the exit code: 0 clean, 1 cannot go on, 2 misconfigured."""
    try:
        settings = load_settings(argv)
        if settings.check:
            check(settings).show()
            return 0
        logs.configure(settings.log_format, settings.log_level)
        gc.freeze()  # what was imported stays
        gc.set_threshold(OBJECTS_BEFORE_COLLECTION)
        if settings.app is not None:
            # the same object that the settings came from: its functions may call on it
            return load_application(settings.app, "app").serve(settings, report=settings.until_empty)
        return Service(settings).run(report=settings.until_empty)
    except (ConfigurationError, ConfigurationErrors) as exc:
        print(exc, file=sys.stderr)  # noqa: T201
        return MISCONFIGURED
    except AggregatorError as exc:
        print(exc, file=sys.stderr)  # noqa: T201
        return FAILED


def load_settings(argv: Sequence[str] | None, application: Aggregator | None = None) -> Settings:
    """Return the settings as :func:`aggregator.config.load` does, with the brokers' URLs looked at."""
    return load(argv, broker_fault=broker_fault, application=application)


class Service:
    """What the settings describe, from its start to its end. Nothing connects before :meth:`run`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._metrics = Metrics()
        self._routes = {
            name: build_route(route, settings, self._metrics) for name, route in settings.routes.items()
        }
        self._supervisor = Supervisor(
            list(self._routes.values()),
            grace=settings.grace,
            until_empty=settings.until_empty,
            clock=SYSTEM_CLOCK,
        )

    def run(self, *, report: bool = False) -> int:
        """Run until a signal, :meth:`stop`, or the queues are empty; return the exit code.

        ``report``: print what became of the messages of each route, and where to look at them.
        """
        settings = self._settings
        with ExitStack() as stack:
            if settings.metrics_port is not None:
                server = MetricsServer(
                    settings.metrics_host,
                    settings.metrics_port,
                    self._metrics.registry,
                    self._supervisor.lifeless,
                    self._supervisor.faults,
                )
                stack.callback(server.stop)
                server.start()
                log.info("metrics", url=f"http://{settings.metrics_host}:{server.port}/metrics")
            for note in check(settings).warnings:
                log.warning("configuration", note=str(note))
            for route in settings.routes.values():
                log.info("ids", route=route.name, note=_ids(route))
            code = self._supervisor.run()
        if report:
            self._report()
        return code

    def stop(self) -> None:
        """Have :meth:`run` end cleanly; any thread may call, before it too."""
        self._supervisor.stop()

    def force(self, route: str | None = None, *keys: str | None) -> int:
        """Complete groups now: of these keys, of a whole route, of all; return how many.

        Raises ``LookupError`` for a route that is not there.
        """
        if route is None:
            return sum(running.pipeline.force() for running in self._routes.values())
        if route not in self._routes:
            raise LookupError(f"no route {route!r}; there are {', '.join(self._routes)}")
        return self._routes[route].pipeline.force(*keys)

    def _report(self) -> None:
        totals = self._metrics.totals()
        for name in self._routes:
            settled = totals.get(name, {})
            counts = ", ".join(f"{number} {verdict}" for verdict, number in settled.items() if number)
            print(f"{name}: {counts or 'no messages'}")  # noqa: T201
        for running in self._routes.values():
            print(f"Look at them: {running.sink.where()}")  # noqa: T201


def build_route(route: Route, settings: Settings, metrics: Metrics) -> RunningRoute:
    """Put the parts of one route together; nothing connects yet."""
    broker = Broker(
        route.broker.get_secret_value(),
        heartbeat=settings.heartbeat,
        ca=str(route.broker_ca) if route.broker_ca else None,
        server_hostname=route.server_hostname,
        batched=route.amqp_input == "batched",
    )
    sink = sinks.make_sink(route.sink, route.concurrency)
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
        entity=route.entity,
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
    return f"{shown(route.id)}; where that is missing, {made}" if route.id else made


if __name__ == "__main__":
    sys.exit(main())
