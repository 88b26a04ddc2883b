"""What the settings describe, run by several processes: children, their metrics, their parent."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from functools import partial
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from aggregator import sinks
from aggregator.clock import SYSTEM_CLOCK
from aggregator.errors import ConfigurationError
from aggregator.processes.parent import Parent
from aggregator.processes.process import Order, Process
from aggregator.processes.shared import SharedMetrics
from aggregator.reporting import announce, print_totals, wanted
from aggregator.serving import serve
from aggregator.summary_figures import Detail

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aggregator.settings import Settings
    from aggregator.summary import Summary


def run(settings: Settings, argv: Sequence[str] | None = None) -> int:
    """Run until a signal, or until the queues are empty; return the exit code.

    ``argv``: the flags that the settings came from (default: the process's own); each child reads
    them, the environment and the file again. Raises ``ConfigurationError`` for a port that is taken,
    ``UnrecoverableError`` where no child gets to work.
    """
    with ExitStack() as stack:
        folder = _folder(stack)
        metrics = SharedMetrics(folder)
        shown = _summary(settings)
        own = (shown.terminal(stack), shown.left_out) if shown else (None, ())
        order = Order(sys.argv[1:] if argv is None else argv, folder, *own)
        processes = [Process(number, order, SYSTEM_CLOCK) for number in range(1, settings.processes + 1)]
        parent = Parent(
            processes,
            metrics=metrics,
            grace=settings.grace,
            until_empty=settings.until_empty,
            clock=SYSTEM_CLOCK,
        )
        metrics.before_scrape = parent.refresh
        if shown:
            shown.begin(stack, metrics.registry.collect, partial(_details, parent, settings))
        serve(settings, stack, metrics.registry, parent)
        announce(settings)
        code = parent.run()
        totals = metrics.totals()  # while their files are there
    if settings.until_empty or shown:
        places = [
            sinks.make_sink(route.sink, route.concurrency).where() for route in settings.routes.values()
        ]
        print_totals(totals, settings.routes, places)
    return code


def _summary(settings: Settings) -> Summary | None:
    if not wanted(settings):
        return None
    from aggregator.summary import summary_of  # noqa: PLC0415 - in a pipe nothing of it is needed

    return summary_of(settings, SYSTEM_CLOCK)


def _details(parent: Parent, settings: Settings) -> dict[str, Detail]:
    """Return why routes do not run, as their processes say it."""
    found = {}
    for fault in parent.faults():
        process, _, rest = fault.partition(": ")
        route, _, reason = rest.partition(": ")
        if route in settings.routes:
            found[route] = Detail(f"{reason} ({process})")
    return found


def _folder(stack: ExitStack) -> str:
    try:
        return stack.enter_context(TemporaryDirectory(prefix="aggregator-", ignore_cleanup_errors=True))
    except OSError as exc:
        problem = f"there is no place for their metrics ({exc.strerror}); TMPDIR may name a folder"
        raise ConfigurationError("processes", problem) from None
