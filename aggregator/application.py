"""The application object: what a configuration file says, said in Python.

Both end in the same frozen :class:`~aggregator.settings.Settings`, checked by the same rules, with the
same names in the errors. The application stands where the file would: flags beat the environment, it
beats the application, that beats the defaults.
"""

from __future__ import annotations

import signal
from contextlib import contextmanager
from datetime import timedelta
from threading import Lock, current_thread, main_thread
from typing import TYPE_CHECKING, Any, TypeVar, Unpack

import orjson
import structlog

from aggregator import logs
from aggregator.config import load
from aggregator.errors import ConfigurationError, ConfigurationErrors
from aggregator.keys import Key
from aggregator.options import ProcessOptions, RouteOptions
from aggregator.periodic import Periodic
from aggregator.sinks.function import WriteFunction

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from types import FrameType

    from kombu.entity import Queue

    from aggregator.conditions import Completion
    from aggregator.consume import Service
    from aggregator.correlation import Source
    from aggregator.keywords import OwnRouteKeywords, PeriodicKeywords, ProcessKeywords
    from aggregator.processes.child import Child
    from aggregator.settings import Route, Settings
    from aggregator.sinks.base import Sink

BatchFunction = TypeVar("BatchFunction", bound=WriteFunction)

_FIELDS = {**Periodic.model_fields, **ProcessOptions.model_fields, **RouteOptions.model_fields}
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class Aggregator:
    """Routes from queues to sinks, and the process that runs them.

    ``broker`` is any URL of kombu; without one it comes from ``AGGREGATOR_BROKER``, or it is the
    embedded queue. ``environment=False``: no variable is read, the code alone decides. ``options``
    are the process's settings, and settings that hold for all routes (docs/configuration.md).
    """

    def __init__(
        self, broker: str | None = None, *, environment: bool = True, **options: Unpack[ProcessKeywords]
    ) -> None:
        given = {"broker": broker} if broker is not None else {}
        self.environment = environment
        self.process: Mapping[str, Any] = _written({**given, **options})
        self.tables: dict[str, Mapping[str, Any]] = {}
        self.entities: dict[str, Queue] = {}
        self.periodic_tables: dict[str, Mapping[str, Any]] = {}
        self._lock = Lock()
        self._running = False
        self._stopped = False
        self._service: Service | None = None

    # ── what it does ──

    def route(
        self,
        queue: Queue | str,
        *,
        name: str | None = None,
        correlate: Key | Source | None = None,
        complete: Completion | None = None,
        sink: str | Sink | WriteFunction | None = None,
        **options: Unpack[OwnRouteKeywords],
    ) -> None:
        """Add a route from ``queue`` to ``sink``: a URL, a sink, or a function of one request.

        A ``kombu.Queue`` is declared as it is, with its exchange and bindings, before it is
        consumed; a name is taken as it stands. ``name`` (default: the queue's) stands in logs,
        metrics and errors. Raises ``ConfigurationError`` if it is taken, or if an option is said
        twice; all else is checked by :meth:`settings`.
        """
        entity = None if isinstance(queue, str) else queue
        table: dict[str, Any] = {"queue": queue if entity is None else entity.name}
        name = str(table["queue"]) if name is None else name
        where = f"routes.{name}"
        if name in self.tables:
            raise ConfigurationError(where, "there is one of this name; give one of them another: name=…")
        if complete is not None:
            table |= complete.options()
        table |= {"correlate": correlate} if correlate is not None else {}
        table |= {"sink": sink} if sink is not None else {}
        for option, value in options.items():
            if option in table:
                raise ConfigurationError(f"{where}.{option}", "it is said twice; one of them is needed")
            table[option] = value
        if callable(sink):
            # nobody has said that it may run in several threads at once
            table = {"concurrency": 1} | table
        self.tables[name] = _written(table)
        if entity is not None:
            self.entities[name] = entity

    def batch(
        self,
        queue: Queue | str,
        *,
        name: str | None = None,
        correlate: Key | Source | None = None,
        complete: Completion | None = None,
        **options: Unpack[OwnRouteKeywords],
    ) -> Callable[[BatchFunction], BatchFunction]:
        """Make the decorated function the sink of a route; it stays as it is.

        It is called with one :class:`~aggregator.BulkRequest` after another, in one thread unless
        ``concurrency`` says more: docs/own-sink.md. The other arguments are those of :meth:`route`.
        """

        def decorate(function: BatchFunction) -> BatchFunction:
            self.route(queue, name=name, correlate=correlate, complete=complete, sink=function, **options)
            return function

        return decorate

    def periodic(self, name: str, **options: Unpack[PeriodicKeywords]) -> None:
        """Publish a message by the clock, as ``[periodic.NAME]`` of a file does: docs/time.md.

        Raises ``ConfigurationError`` if the name is taken; all else is checked by :meth:`settings`.
        """
        if name in self.periodic_tables:
            problem = "there is one of this name; give one of them another"
            raise ConfigurationError(f"periodic.{name}", problem)
        self.periodic_tables[name] = _written(dict(options))

    # ── what that means ──

    def settings(self) -> Settings:
        """Return what was said, checked and frozen, with all that was left open filled in.

        Connects to nothing and declares nothing. Raises ``ConfigurationErrors`` with all faults.
        """
        return load((), application=self)

    @property
    def routes(self) -> Mapping[str, Route]:
        """The routes of :meth:`settings`, by name."""
        return self.settings().routes

    # ── running ──

    def run(self, *, until_empty: bool = False) -> int:
        """Consume until :meth:`stop`, SIGTERM or SIGINT; return the exit code: 0 clean, 1 cannot go on.

        ``until_empty``: until the queues are empty and everything is settled. Signals are handled on
        the main thread alone, and given back at the end. Logs are set up unless structlog is
        already. Raises ``ConfigurationErrors`` before anything is consumed.
        """
        from aggregator import consume  # noqa: PLC0415 - it knows the broker; whoever only describes does not

        settings = consume.load_settings((), application=self)
        if settings.processes > 1:
            command = "python -m aggregator.consume --app MODULE:NAME"
            problem = f"only {command} starts {settings.processes}; run it so, or set 1"
            raise ConfigurationErrors([ConfigurationError("processes", problem)])
        settings = settings.model_copy(update={"until_empty": settings.until_empty or until_empty})
        if not structlog.is_configured():
            logs.configure(settings.log_format, settings.log_level)
        with _signals_given_back():
            return self.serve(settings)

    def serve(self, settings: Settings, *, console: bool = False, child: Child | None = None) -> int:
        """Run what the command line has made of this application.

        ``console``: the terminal is this process's own; see :meth:`aggregator.consume.Service.run`.

        ``child``: this process as one of several; :meth:`stop` ends them all, :meth:`force` is for this one.
        """
        from aggregator import consume  # noqa: PLC0415 - as above

        with self._lock:
            if self._running:
                raise RuntimeError("this application is running already")
            self._running = True
        try:
            service = consume.Service(settings, child)
            with self._lock:
                self._service = service
                if self._stopped:
                    service.stop()
            return service.run(console=console)
        finally:
            with self._lock:
                self._running = self._stopped = False
                self._service = None

    def stop(self) -> None:
        """Have :meth:`run` write and ack what is held, within ``grace``, and return. Any thread may call.

        Where nothing runs yet, the next :meth:`run` ends at once.
        """
        with self._lock:
            self._stopped = True
            if self._service is not None:
                self._service.stop()

    def force(self, route: str | None = None, *keys: str | tuple[str, ...] | None) -> int:
        """Complete groups now: of these keys, of a whole route, of all routes; return how many.

        A key of several expressions is a tuple. Any thread may call; where nothing runs, there are
        none. Raises ``LookupError`` for a route that does not run.
        """
        with self._lock:
            service = self._service
        if service is None:
            return 0
        texts = [orjson.dumps(key).decode() if isinstance(key, tuple) else key for key in keys]
        return service.force(route, *texts)


def _written(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return options as a file has them: seconds with their unit, keys as texts where texts can say it."""
    return {name: _one(name, value) for name, value in values.items()}


def _one(name: str, value: Any) -> Any:
    if isinstance(value, Key):
        return value.setting() if name == "correlate" else value.expression(name)
    extra = _FIELDS[name].json_schema_extra if name in _FIELDS else None
    if isinstance(extra, dict) and extra.get("metavar") == "DURATION":
        value = value.total_seconds() if isinstance(value, timedelta) else value
        if isinstance(value, int | float) and not isinstance(value, bool):
            return f"{value:.9f}".rstrip("0").rstrip(".") + "s"
    return value


@contextmanager
def _signals_given_back() -> Iterator[None]:
    if current_thread() is not main_thread():
        yield
        return
    before: list[tuple[int, Callable[[int, FrameType | None], Any] | int | None]]
    before = [(number, signal.getsignal(number)) for number in _SIGNALS]
    try:
        yield
    finally:
        for number, handler in before:
            if handler is not None:  # None: set by something other than Python
                signal.signal(number, handler)
