"""What the settings describe, run by several processes: children, their metrics, their parent."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from aggregator import sinks
from aggregator.clock import SYSTEM_CLOCK
from aggregator.errors import ConfigurationError
from aggregator.processes.parent import Parent
from aggregator.processes.process import Order, Process
from aggregator.processes.shared import SharedMetrics
from aggregator.reporting import announce, print_totals
from aggregator.serving import serve

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aggregator.settings import Settings


def run(settings: Settings, argv: Sequence[str] | None = None) -> int:
    """Run until a signal, or until the queues are empty; return the exit code.

    ``argv``: the flags that the settings came from (default: the process's own); each child reads
    them, the environment and the file again. Raises ``ConfigurationError`` for a port that is taken,
    ``UnrecoverableError`` where no child gets to work.
    """
    with ExitStack() as stack:
        folder = _folder(stack)
        order = Order(sys.argv[1:] if argv is None else argv, folder)
        processes = [Process(number, order, SYSTEM_CLOCK) for number in range(1, settings.processes + 1)]
        metrics = SharedMetrics(folder)
        parent = Parent(
            processes,
            metrics=metrics,
            grace=settings.grace,
            until_empty=settings.until_empty,
            clock=SYSTEM_CLOCK,
        )
        metrics.before_scrape = parent.refresh
        serve(settings, stack, metrics.registry, parent)
        announce(settings)
        code = parent.run()
        if settings.until_empty:
            places = [
                sinks.make_sink(route.sink, route.concurrency).where() for route in settings.routes.values()
            ]
            print_totals(metrics.totals(), settings.routes, places)
    return code


def _folder(stack: ExitStack) -> str:
    try:
        return stack.enter_context(TemporaryDirectory(prefix="aggregator-", ignore_cleanup_errors=True))
    except OSError as exc:
        problem = f"there is no place for their metrics ({exc.strerror}); TMPDIR may name a folder"
        raise ConfigurationError("processes", problem) from None
