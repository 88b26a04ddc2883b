"""The user's own function as a sink: ``function:package.module:name``.

It is called with a :class:`BulkRequest` for each request, on a flush thread, and bounds its own
time. It returns nothing: what it has not marked was written. It marks what was not: ``refuse``,
``retry``, ``block``, ``duplicate``.

Whatever it raises, nothing is known of any item: all of them come again after a pause, and the marks
made before do not count, as the next call marks anew. From the second time they come in halves, so
that one document that it cannot stand is alone in the end; that is given up after a quarter of the
ack deadline, while others are taken. A :class:`~aggregator.errors.SinkError` keeps
its own meaning; a :class:`~aggregator.errors.MessageRefusedError` says that one item is at fault,
which is found by halves. A wrong mark, or anything returned, counts as an exception.

Option: ``concurrency`` (1): in how many threads it may run at once. See ``docs/own-sink.md``.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog
from pydantic import Field

from aggregator.errors import (
    ConfigurationError,
    MessageRefusedError,
    RequestRefusedError,
    SinkError,
    SinkRaisedError,
    SinkUnavailableError,
)
from aggregator.importing import check_function, load_function
from aggregator.sinks.base import WRITTEN, Fate, Limits, Verdict
from aggregator.sinks.bulk_request import BulkItem, BulkRequest, Marks, word_fault
from aggregator.sinks.local import Options, read_options

if TYPE_CHECKING:
    from collections.abc import Sequence
    from urllib.parse import SplitResult

    from aggregator.delivery import Item

__all__ = ["BulkItem", "BulkRequest", "FunctionSink", "WriteFunction", "from_url"]

WriteFunction = Callable[[BulkRequest], None]

MOST_THREADS = 64
#: So many different reasons label metrics; further ones are told in the detail.
MOST_REASONS = 100
OTHER = "other"
TAKES = "one request"

log = structlog.get_logger()


class FunctionOptions(Options):
    """What may stand behind the ``?``."""

    concurrency: int = Field(1, ge=1, le=MOST_THREADS)


def from_url(url: SplitResult) -> FunctionSink:
    """Return the sink that ``url`` names; imports its module. Raises ``ConfigurationError``."""
    options = read_options(url.query, FunctionOptions)
    module, colon, name = url.path.partition(":")
    if url.netloc or url.fragment or not (module and colon and name):
        raise ConfigurationError("sink", "write function:package.module:name")
    function = load_function(module, name, field="sink", takes=TAKES, example=(_example(),))
    return FunctionSink(function, name=f"{module}:{name}", concurrency=options.concurrency)


class FunctionSink:
    """Calls ``function`` once for each request; knows nothing of what it does.

    ``name`` stands in logs and errors. Raises ``ConfigurationError`` for ``field`` where the
    function could not be called, and for ``concurrency``.
    """

    def __init__(
        self, function: WriteFunction, *, name: str = "", concurrency: int = 1, field: str = "sink"
    ) -> None:
        if type(concurrency) is not int or not 1 <= concurrency <= MOST_THREADS:
            raise ConfigurationError("concurrency", f"it is {concurrency!r}; 1 to {MOST_THREADS} is needed")
        self._name = name or getattr(function, "__qualname__", type(function).__qualname__)
        check_function(function, self._name, field=field, takes=TAKES, example=(_example(),))
        self.limits = Limits(concurrency=concurrency)
        self._function = function
        self._reasons: set[str] = set()

    def open(self) -> None:
        """Do nothing: only the call itself can tell whether it works."""

    def write(self, items: Sequence[Item]) -> Sequence[Verdict] | None:
        """Call the function; what it raises says nothing of what it did."""
        marks = Marks(self._name)
        try:
            answer: Any = self._function(BulkRequest(items, marks))
        except KeyboardInterrupt:
            raise
        except BaseException as exc:  # noqa: BLE001 - mapped; cancellations and exits would end the thread
            error: SinkError | None = self._error(exc)
        else:
            error = self._answer_fault(answer)
        found = marks.end()
        if marks.fault:
            error = SinkUnavailableError(marks.fault)  # though it was caught, and whatever came of it
        if error is None:
            return [self._bounded(found.get(at, WRITTEN)) for at in range(len(items))] if found else None
        if found:
            void = Counter(verdict.fate.value for verdict in found.values())
            log.warning("marks_void", function=self._name, error=type(error).__name__, **void)
        raise error

    def close(self) -> None:
        """Do nothing."""

    def where(self) -> str:
        """Name the function and the file that it stands in."""
        code = _code(self._function)
        return f"{self._name} in {code.co_filename}:{code.co_firstlineno}" if code else self._name

    def _error(self, exc: BaseException) -> SinkError:
        """Return what an exception means for the request, caused by it."""
        error: SinkError
        if isinstance(exc, MessageRefusedError | RequestRefusedError):
            if problem := word_fault(exc.reason):
                error = SinkUnavailableError(f"{self._name} raised {_named(exc)}: the reason {problem}")
            else:
                reason, detail = self._bounded_reason(exc.reason, str(exc.detail))
                error = RequestRefusedError(reason, detail, getattr(exc, "status", None))
        elif isinstance(exc, SinkError):
            return exc
        else:
            # the text of a foreign exception may hold a document: its type and place do not
            own = _code(self._function)
            error = SinkRaisedError(f"{self._name} raised {_named(exc, own and own.co_filename)}")
        error.__cause__ = exc
        return error

    def _answer_fault(self, answer: Any) -> SinkUnavailableError | None:
        if answer is None:
            return None
        if inspect.iscoroutine(answer):
            answer.close()  # it never ran, and never will
        kind = type(answer).__qualname__
        return SinkUnavailableError(
            f"{self._name} returned {kind}; it must return nothing, and mark what was not written"
        )

    def _bounded(self, verdict: Verdict) -> Verdict:
        if verdict.fate is not Fate.DEAD_LETTER:
            return verdict
        return Verdict(verdict.fate, *self._bounded_reason(verdict.reason, verdict.detail))

    def _bounded_reason(self, reason: str, detail: str) -> tuple[str, str]:
        """Return a reason and a detail; the number of different reasons has a bound."""
        known = self._reasons
        if reason in known:
            return reason, detail
        if len(known) < MOST_REASONS:
            known.add(reason)
            if len(known) == MOST_REASONS:
                log.warning("too_many_reasons", function=self._name, most=MOST_REASONS, further=OTHER)
            return reason, detail
        return OTHER, f"{reason}: {detail}" if detail else reason


def _example() -> BulkRequest:
    return BulkRequest((), Marks(""))


def _code(function: Any) -> Any:
    return getattr(inspect.unwrap(function), "__code__", None)


def _named(exc: BaseException, own: str | None = None) -> str:
    """Return an exception's type, the line that raised it, and the last one in the file ``own``."""
    places, trace = [], exc.__traceback__
    while trace is not None:
        places.append((trace.tb_frame.f_code.co_filename, trace.tb_lineno))
        trace = trace.tb_next
    kind = type(exc).__qualname__
    if not places:
        return kind
    mine = [place for place in places if place[0] == own]
    through = f", from {_place(mine[-1])}" if mine and mine[-1] != places[-1] else ""
    return f"{kind} at {_place(places[-1])}{through}"


def _place(place: tuple[str, int]) -> str:
    return f"{Path(place[0]).name}:{place[1]}"
