"""``python -m aggregator.consume``: the only place that puts the parts together."""

from __future__ import annotations

import gc
import os
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from aggregator import logs, sinks
from aggregator.assembly import make_pipeline, make_rest
from aggregator.check import check
from aggregator.clock import SYSTEM_CLOCK
from aggregator.commands import Commands, Controlled
from aggregator.config import load
from aggregator.ending import FAILED, MISCONFIGURED
from aggregator.errors import AggregatorError, ConfigurationError, ConfigurationErrors
from aggregator.layers import load_application
from aggregator.metrics import Metrics, describe_process
from aggregator.page.view import Viewer
from aggregator.reporting import announce, print_totals, wanted
from aggregator.serving import serve
from aggregator.sinks.base import Counting
from aggregator.sinks.results import with_results
from aggregator.sinks.seen import with_seen_ids
from aggregator.summary_figures import Detail
from aggregator.timekeeping import Timekeeper
from consumers.brokers import broker_fault
from consumers.control import ControlNode
from consumers.mailbox import control_place
from consumers.periodic import make_periodic
from consumers.route import RunningRoute
from consumers.source import STATES
from consumers.sources import make_source
from consumers.supervisor import Supervisor
from consumers.topology import unsupported
from consumers.topology_compare import compare

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from prometheus_client.metrics_core import Metric

    from aggregator.application import Aggregator
    from aggregator.pipeline import Pipeline
    from aggregator.ports import Refused
    from aggregator.processes.child import Child
    from aggregator.settings import Route, Settings
    from aggregator.timekeeping import Look

#: Containers made and not freed before Python looks for circles. No message is in one; to look at all
#: that are held, again and again, would be a fifth of what a message costs.
OBJECTS_BEFORE_COLLECTION = 50_000


#: How long a thread may keep Python's lock while others want it, where there are several routes. A message
#: of a quiet route needs it some ten times on its way; beside a flood each may wait so long for every busy
#: thread. On cores that others want too that is p99 150 ms instead of 340-540 ms with Python's own 5 ms; on
#: free ones neither gain nor cost (benchmarks/starvation.py).
TURN_SECONDS = 0.0005


def main(argv: Sequence[str] | None = None, child: Child | None = None) -> int:
    """Run the service; return the exit code: 0 clean, 1 cannot go on, 2 misconfigured.

    ``child``: this process as one of several, of which the settings tell how many.
    """
    try:
        settings = load_settings(argv)
        if settings.check:
            check(settings).show(as_json=settings.check_format == "json")
            return look(settings) if settings.connect else 0
        logs.configure(settings.log_format, settings.log_level, process=child.number if child else None)
        if child is not None:
            logs.leave_out(*child.left_out)
        if child is None and settings.processes > 1:
            from aggregator.processes import service  # noqa: PLC0415 - one process needs nothing of it

            return service.run(settings, argv)
        gc.freeze()  # what was imported stays
        gc.set_threshold(OBJECTS_BEFORE_COLLECTION)
        if len(settings.routes) > 1:
            sys.setswitchinterval(TURN_SECONDS)
        console = child is None
        if settings.app is not None:
            # the same object that the settings came from: its functions may call on it
            return load_application(settings.app, "app").serve(settings, console=console, child=child)
        return Service(settings, child).run(console=console)
    except (ConfigurationError, ConfigurationErrors) as exc:
        from aggregator.diagnostics import report_faults  # noqa: PLC0415 - long to import, and seldom wanted

        report_faults(exc)
        return MISCONFIGURED
    except AggregatorError as exc:
        print(exc, file=sys.stderr)  # noqa: T201
        return FAILED


def look(settings: Settings) -> int:
    """Print what stands at the brokers; return the exit code: 0 if the service could start with it."""
    found = list(compare(settings))
    for broker in dict.fromkeys(each.broker for each in found):
        print("\n".join([f"At {broker}", *(f"  {each}" for each in found if each.broker == broker)]))  # noqa: T201
    return 0 if all(each.right for each in found) else MISCONFIGURED


def load_settings(argv: Sequence[str] | None, application: Aggregator | None = None) -> Settings:
    """Return the settings as :func:`aggregator.config.load` does, with the brokers' URLs looked at."""
    settings = load(argv, broker_fault=broker_fault, topology_fault=unsupported, application=application)
    if settings.control:
        control_place(settings)
    return settings


class Service:
    """What the settings describe, from its start to its end. Nothing connects before :meth:`run`.

    ``child``: it is run by one of several processes; what concerns all is done by their parent.
    """

    def __init__(self, settings: Settings, child: Child | None = None) -> None:
        self._settings = settings
        self._child = child
        self._metrics = Metrics(shared=child is not None)
        if child is None:  # several are described by their parent
            describe_process(self._metrics.registry)
        self._routes = {
            name: build_route(route, settings, self._metrics) for name, route in settings.routes.items()
        }
        self._supervisor = Supervisor(
            list(self._routes.values()),
            grace=settings.grace,
            until_empty=settings.until_empty,
            clock=SYSTEM_CLOCK,
            signals=child.signals if child else None,
        )
        self._commands = self._make_commands()
        self._viewer = Viewer(
            {name: (route, self._routes[name]) for name, route in settings.routes.items()},
            STATES,
            SYSTEM_CLOCK,
        )
        self._control = self._make_control() if settings.control else None
        self._periodic = make_periodic(settings, SYSTEM_CLOCK) if settings.periodic else None

    def run(self, *, console: bool = False) -> int:
        """Run until a signal, :meth:`stop`, or the queues are empty; return the exit code.

        ``console``: on a terminal show meanwhile how the routes fare. At the end of that, and once the queues
        are empty, print what became of the messages, and where to look at them.
        """
        settings = self._settings
        with ExitStack() as stack:
            shown = console and wanted(settings) and self._show(stack)
            if self._child is None:
                serve(settings, stack, self._metrics.registry, self)
                announce(settings)
            else:
                self._child.attend(self, grace=settings.grace)
            if self._control is not None:
                stack.enter_context(self._control)
            if self._periodic is not None:
                stack.enter_context(self._periodic)
            if looks := list(self._looks()):
                stack.enter_context(Timekeeper(looks, SYSTEM_CLOCK))
            code = self._supervisor.run()
        if shown or (console and settings.until_empty):
            places = [running.sink.where() for running in self._routes.values()]
            print_totals(self._metrics.totals(), self._routes, places)
        return code

    def lifeless(self) -> list[str]:
        """Return what is wrong with the process."""
        return self._supervisor.lifeless()

    def faults(self) -> list[str]:
        """Return why the process is not ready."""
        return self._supervisor.faults()

    def notes(self) -> list[str]:
        """Return what is wrong and keeps no route from its work."""
        return [note for each in (self._control, self._periodic) if each is not None for note in each.notes()]

    def refresh(self) -> None:
        """Write down what is held, for the process that reads it."""
        self._metrics.refresh()

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

    def _looks(self) -> Iterator[Look]:
        for name, route in self._settings.routes.items():
            if (rest := make_rest(route, self._routes[name].pipeline)) is not None:
                yield rest.look

    def _show(self, stack: ExitStack) -> bool:
        """Show a summary until the end, where there is a place for it; return whether there is."""
        from aggregator.summary import summary_of  # noqa: PLC0415 - in a pipe nothing of it is needed

        summary = summary_of(self._settings, SYSTEM_CLOCK)
        if summary is not None:
            summary.begin(stack, self._metrics.overview, self._details)
        return summary is not None

    def _details(self) -> dict[str, Detail]:
        found = {}
        for name, running in self._routes.items():
            last = running.pipeline.history.last()
            found[name] = Detail(running.failure or running.pipeline.reason, last[-1] if last else None)
        return found

    # ── what the live page asks ──

    def view(self) -> dict[str, Any]:
        """Return what there is to see of this process."""
        return {**self._viewer.view(), "faults": self.faults(), "notes": self.notes()}

    def views(self) -> dict[int, dict[str, Any] | None]:
        """Return the view of the only process."""
        return {0: self.view()}

    def counters(self) -> Iterable[Metric]:
        """Return what is counted by route."""
        return self._metrics.counters()

    def answer(self, name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Carry a command out; return what became of it."""
        return self._commands.answer(name, arguments)

    def command(self, name: str, arguments: Mapping[str, Any]) -> dict[int, dict[str, Any]]:
        """Carry a command out in the only process."""
        return {0: self.answer(name, arguments)}

    def _make_commands(self) -> Commands:
        routes = {
            name: Controlled(route, self._routes[name].pipeline)
            for name, route in self._settings.routes.items()
        }
        return Commands(routes, totals=self._metrics.totals, clock=SYSTEM_CLOCK, process=os.getpid())

    def _make_control(self) -> ControlNode:
        node = ControlNode(control_place(self._settings), self._settings.control_namespace, self._commands)
        self._metrics.watch_control(lambda: not node.problem)
        return node


def build_route(route: Route, settings: Settings, metrics: Metrics) -> RunningRoute:
    """Put the parts of one route together; nothing connects yet."""
    sink = sinks.make_sink(route.sink, route.concurrency)
    if route.seen is not None:
        sink = with_seen_ids(sink, route.seen.get_secret_value(), route.name)
    told = with_results(sink, route.results.get_secret_value()) if route.results is not None else None
    sink = told or sink
    if isinstance(sink, Counting):
        sink.count_in(metrics)
    route_metrics = metrics.route(route.name)
    pipeline: Pipeline

    def on_dead_lettered(refused: Sequence[Refused]) -> None:
        pipeline.dead_lettered(refused)
        if told is not None:
            told.dead_lettered(refused)

    def on_retried(refused: Sequence[Refused]) -> None:
        pipeline.retried(refused)

    source = make_source(
        route, heartbeat=settings.heartbeat, on_dead_lettered=on_dead_lettered, on_retried=on_retried
    )
    pipeline = make_pipeline(route, sink=sink, dead_letters=source.dead_letters, metrics=route_metrics)
    return RunningRoute(
        pipeline,
        source=source,
        sink=sink,
        workers=route.workers,
        prefetch=route.prefetch,
        flushers=min(route.concurrency, sink.limits.concurrency),
        metrics=route_metrics,
        clock=SYSTEM_CLOCK,
    )


if __name__ == "__main__":
    sys.exit(main())
