"""A route with everything around it in memory, for tests: no broker, no thread, no sleeping.

Whatever is done, all that is due at that moment is done before the call returns, in the caller's
thread and in the same order each time. Time passes by :meth:`Harness.advance` and :meth:`Harness.settle`
alone, from one due moment to the next.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Any, Self

from aggregator import sinks
from aggregator.correlation import PROPERTIES
from aggregator.sinks.function import FunctionSink
from aggregator.testing.clock import wall_seconds
from aggregator.testing.message import encode
from aggregator.testing.running import Running
from aggregator.testing.script import KilledError
from aggregator.testing.settings import from_arguments, from_source
from aggregator.testing.settings import from_file as route_from_file
from aggregator.testing.sink import MemorySink
from aggregator.units import parse_duration

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from datetime import datetime
    from pathlib import Path
    from types import TracebackType

    from aggregator.settings import Route
    from aggregator.sinks.base import Sink
    from aggregator.sinks.function import WriteFunction
    from aggregator.testing.message import Message
    from aggregator.testing.settings import Application

#: 2023-11-14 22:13:20 UTC: where time begins unless ``at`` says otherwise.
START = 1_700_000_000.0


class Harness(Running):
    """Runs one route; leaving the ``with`` block verifies that no message was lost, or ended twice.

    ``Harness(correlate="header:order", size=3)`` takes the settings of the service, by their names in
    its file; ``Harness(route)`` and ``Harness(app, "orders")`` take theirs. What is wrong with them
    raises the service's own ``ConfigurationErrors``.

    ``sink``: a URL, a function of one ``BulkRequest``, or a :class:`~aggregator.sinks.base.Sink` to
    write to; a :class:`MemorySink` if there is none. ``stored``: a function that returns the ids that
    stand in it; what the sink claims is then held against it. ``links``: connections to the broker,
    with the route's prefetch each; as many as it has workers if not given. ``at``: the wall clock's
    time at the start, as ISO 8601 (UTC unless it says otherwise), a ``datetime``, or unix seconds.
    ``linger``: how long a request waits for further groups; not the route's own, for which a test
    would only have to wait.
    """

    def __init__(
        self,
        source: Route | Application | None = None,
        name: str | None = None,
        *,
        sink: Sink | WriteFunction | str | None = None,
        stored: Callable[[], Iterable[str]] | None = None,
        links: int | None = None,
        at: str | float | datetime = START,
        linger: float | str = 0.0,
        **settings: Any,
    ) -> None:
        if source is not None and settings:
            raise TypeError(f"{', '.join(settings)}: the route has its settings already")
        if source is None:
            settings |= {"sink": sink} if isinstance(sink, str) else {}
            settings |= {} if links is None else {"workers": links}
            route = from_arguments(settings)
        else:
            route = from_source(source, name)
        super().__init__(
            route.model_copy(update={"linger": seconds_of(linger)}),
            _make_sink(sink),
            stored=stored,
            links=links or route.workers,
            wall=wall_seconds(at),
        )

    @classmethod
    def from_file(
        cls,
        path: str | Path,
        name: str | None = None,
        *,
        sink: Sink | WriteFunction | str | None = None,
        stored: Callable[[], Iterable[str]] | None = None,
        links: int | None = None,
        at: str | float | datetime = START,
        linger: float | str = 0.0,
        **settings: Any,
    ) -> Self:
        """Run a route of a file (the only one, or that of this name); ``settings`` beat it.

        The environment is read as the service does. Whatever sink the file names, nothing is written
        there: give ``sink`` for another than the one in memory.
        """
        settings |= {} if links is None else {"workers": links}
        route = route_from_file(path, name, settings)
        return cls(route, sink=sink, stored=stored, links=links, at=at, linger=linger)

    def __enter__(self) -> Self:
        """Return itself: the route runs since it was made."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the sink, and :meth:`verify`, unless the block has failed by itself."""
        self._process.pipeline.close()
        self.sink.close()
        if kind is None:
            self.verify()

    # ── what the world does ──

    def publish(
        self,
        body: Any,
        *,
        id: str | None = None,  # noqa: A002 - what it is called everywhere else
        headers: Mapping[str, Any] | None = None,
        exchange: str = "",
        routing_key: str | None = None,
        link: int | None = None,
        **properties: Any,
    ) -> Message:
        """Publish a message: bytes as they are, a text as text, anything else as JSON; return it.

        ``id`` is its ``message_id``; ``properties`` are AMQP's. ``link``: the number (from 0) of the
        link that gets it, where the order between several matters; otherwise they take turns.
        """
        if unknown := sorted(properties.keys() - PROPERTIES):
            raise TypeError(f"{unknown[0]!r} is no property of AMQP; headers are given as headers={{...}}")
        if link is not None and not 0 <= link < self._links:
            raise ValueError(f"no link {link}; there are {self._links}, from 0")
        if id is not None:
            properties["message_id"] = id
        body, declared = encode(body)
        message = self._broker.publish(
            body,
            headers=headers,
            properties={**declared, **properties},
            exchange=exchange,
            routing_key=self.route.queue if routing_key is None else routing_key,
            link=link,
        )
        self._work()
        return message

    def advance(self, time: float | str) -> None:
        """Let time pass (seconds, or ``"1h30m"``); what is due is done at its moment, in order."""
        seconds = seconds_of(time)
        if self._working or seconds < 0:  # a sink that takes its time; or the clock refuses it
            self.clock.advance(seconds)
            return
        until = self.clock.monotonic() + seconds
        self._pass_until(until, idle=True)
        self.clock.advance_to(until)
        self._work()

    def settle(self, within: float | str = "1h") -> None:
        """Let time pass until nothing is due any more. Raises ``AssertionError`` if that takes longer."""
        seconds = seconds_of(within)
        self._pass_until(self.clock.monotonic() + seconds)
        if self._process.due < inf:
            why = f"{self.state}: {self.reason}" if self.reason else self.state
            raise AssertionError(
                f"not settled within {within}: {len(self.queue)} in the queue, the route is {why}"
            )

    def lose_link(self, number: int | None = None) -> None:
        """Break a connection (from 0), or all of them: what was unacked over it is handed out again."""
        for worker in self._process.workers if number is None else [self._process.workers[number]]:
            worker.lose()
        self._work()

    def lose_dead_letter_queue(self, *, lost: bool = True) -> None:
        """Have nothing get through to the dead-letter queue, until ``lost=False``."""
        self._process.reaches_dead_letters = not lost
        self._work()

    def force(self, *keys: str | None) -> int:
        """Complete the groups of these keys, or all; return how many there were."""
        forced = self._process.pipeline.force(*keys)
        self._work()
        return forced

    def pause(self) -> None:
        """Have the route take nothing more, and rest once what it holds is written."""
        self._process.pipeline.pause("told to by the test")
        self._work()

    def resume(self) -> None:
        """Have the route take up again what was paused."""
        self._process.pipeline.resume()
        self._work()

    def revoke(self, *ids: str, keys: Sequence[str] = (), ttl: float | str = "3h") -> None:
        """Have messages of these ids, and all of these keys, not be written for so long."""
        seconds = seconds_of(ttl)
        revocations = self._process.pipeline.revocations
        revocations.revoke(dict.fromkeys(ids, seconds), dict.fromkeys(keys, seconds))
        self._work()

    def crash(self) -> None:
        """Kill the process: a new one starts over the same queue and the same store."""
        if self._working:
            raise KilledError
        self._restart()
        self._work()

    def stop(self, grace: float | str = "30s") -> bool:
        """Stop as by SIGTERM: what is held is written or given back; return whether it all was in time."""
        process = self._process
        process.cancel()
        process.pipeline.drain()
        until = self.clock.monotonic() + seconds_of(grace)
        self._pass_until(until, lambda: process.pipeline.idle)
        if process.ended:
            return False  # killed meanwhile
        idle = process.pipeline.idle
        if not idle:
            self.clock.advance_to(until)
        process.end()
        self.sink.close()
        return idle

    def start(self) -> None:
        """Start a new process after :meth:`stop`. Raises ``RuntimeError`` while one runs."""
        if not self._process.ended:
            raise RuntimeError("a process runs; stop() ends it, crash() kills it and starts another")
        self.crash()


def seconds_of(time: float | str) -> float:
    """Return seconds, which ``"1h30m"`` may stand for as well."""
    return parse_duration(time) if isinstance(time, str) else time


def _make_sink(sink: Sink | WriteFunction | str | None) -> Sink:
    if sink is None:
        return MemorySink()
    if isinstance(sink, str):
        return sinks.from_url(sink)
    return FunctionSink(sink) if callable(sink) else sink
