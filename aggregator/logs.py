"""Logs: for people on a terminal, one JSON object or logfmt line each in a pipe; times in UTC.

The lines of kombu and the clients, which use the standard library, take the same way.
"""

from __future__ import annotations

import logging
import sys
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, TextIO, cast

from aggregator.importing import absent

# A tenth of the service's start would be rich, for tracebacks with local variables: messages, passwords.
# They are not wanted, so structlog does not find it.
with absent("rich"):
    import structlog

if TYPE_CHECKING:
    from collections.abc import Iterator

    from structlog.typing import EventDict, Processor

get_logger = structlog.get_logger  # for modules that a process imports first

#: they tell of each connection and each request, and some of what is in it
_CHATTY = ("amqp", "elastic_transport", "elasticsearch", "kombu", "opensearch", "stamina", "urllib3")


class Outlet:
    """Where lines go: a stream, which may be another one for a while. Any thread may write.

    Loggers keep their stream from the moment that they are bound on; this one they may keep.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.left_out: frozenset[str] = frozenset()
        """Events that are not told."""

    def write(self, text: str) -> int:
        """Write; where nobody reads any more, that is no reason to stop working."""
        with suppress(OSError):
            self.stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush the stream."""
        with suppress(OSError):
            self.stream.flush()

    def sift(self, _logger: object, _method: str, event: EventDict) -> EventDict:
        """Leave out what somebody else shows; a processor."""
        if self.left_out and event.get("event") in self.left_out:
            raise structlog.DropEvent
        return event


_outlet = Outlet(sys.stderr)


def leave_out(*events: str) -> None:
    """Tell nothing of these events from now on."""
    _outlet.left_out = frozenset(events)


@contextmanager
def diverted(stream: TextIO, *left_out: str) -> Iterator[None]:
    """Have all lines go to ``stream`` while the block runs, without these events."""
    outlet = _outlet
    before = outlet.stream, outlet.left_out
    outlet.stream, outlet.left_out = stream, frozenset(left_out)
    try:
        yield
    finally:
        outlet.stream, outlet.left_out = before


def configure(
    format: str = "auto",  # noqa: A002 - the setting's name
    level: str = "info",
    stream: TextIO | None = None,
    process: int | None = None,
) -> None:
    """Set up all logging of the process; may be called again.

    ``format``: auto (console on a terminal, else json), console, json, logfmt. ``level``: the least
    important lines shown; libraries are shown from ``warning`` on. ``stream`` defaults to stderr.
    ``process``: which of several this is; each line says so.
    """
    global _outlet  # noqa: PLW0603 - logs are the process's
    stream = stream or sys.stderr
    _outlet = outlet = Outlet(stream)
    threshold = logging.getLevelNamesMapping()[level.upper()]
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if process is not None:
        shared.append(_naming(process))
    rendering = _rendering(format, stream)
    structlog.configure(
        processors=[outlet.sift, *shared, *rendering],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        # a line is one write: several processes may share the stream
        logger_factory=structlog.WriteLoggerFactory(cast("TextIO", outlet)),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(cast("TextIO", outlet))
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendering],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(threshold)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(max(threshold, logging.WARNING))


def _naming(process: int) -> Processor:
    # context variables would not do: each thread has its own
    def name(_logger: object, _method: str, event: EventDict) -> EventDict:
        event["process"] = process
        return event

    return name


def _rendering(format: str, stream: TextIO) -> list[Processor]:  # noqa: A002 - the setting's name
    if format == "auto":
        format = "console" if stream.isatty() else "json"  # noqa: A001
    if format == "console":
        # the prettier traceback shows local variables: messages, passwords
        plain = structlog.dev.plain_traceback
        return [structlog.dev.ConsoleRenderer(colors=stream.isatty(), exception_formatter=plain)]
    if format == "logfmt":
        order = ["timestamp", "level", "event"]
        return [structlog.processors.format_exc_info, structlog.processors.LogfmtRenderer(key_order=order)]
    # the standard encoder: slower than orjson, but it takes whatever an event holds
    return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
