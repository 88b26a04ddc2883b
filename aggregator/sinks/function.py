"""The user's own function as a sink: ``function:package.module:name``.

It is called with the list of items of one request (each has ``id``, ``document`` as one line of
JSON in bytes, and ``deliveries``) and returns ``None`` when all of them are done, or one
:class:`~aggregator.sinks.base.Verdict` for each, in order. Whatever it raises, all of them come
again after a pause; a :class:`~aggregator.errors.SinkError` keeps its own meaning. So it may see an
item more than once, and bounds its own time.

Option: ``concurrency`` (1): in how many threads it may run at once.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from aggregator.errors import ConfigurationError, SinkError, SinkUnavailableError
from aggregator.importing import load_function
from aggregator.sinks.base import Limits, Verdict
from aggregator.sinks.local import Options, read_options

if TYPE_CHECKING:
    from urllib.parse import SplitResult

    from aggregator.delivery import Item

Function = Callable[[Sequence["Item"]], "Sequence[Verdict] | None"]


class FunctionOptions(Options):
    """What may stand behind the ``?``."""

    concurrency: int = Field(1, ge=1, le=64)


def from_url(url: SplitResult) -> FunctionSink:
    """Return the sink that ``url`` names; imports its module. Raises ``ConfigurationError``."""
    options = read_options(url.query, FunctionOptions)
    module, colon, name = url.path.partition(":")
    if url.netloc or url.fragment or not (module and colon and name):
        raise ConfigurationError("sink", "write function:package.module:name")
    function = load_function(module, name, field="sink", takes="one list of items", example=([],))
    return FunctionSink(function, name=f"{module}:{name}", concurrency=options.concurrency)


class FunctionSink:
    """Calls ``function`` once for each request; knows nothing of what it does."""

    def __init__(self, function: Function, *, name: str = "", concurrency: int = 1) -> None:
        self.limits = Limits(concurrency=concurrency)
        self._function = function
        self._name = name or getattr(function, "__qualname__", type(function).__qualname__)

    def open(self) -> None:
        """Do nothing: only the call itself can tell whether it works."""

    def write(self, items: Sequence[Item]) -> Sequence[Verdict] | None:
        """Call the function; what it raises says nothing of what it did."""
        try:
            answer: Any = self._function(items)
        except SinkError:
            raise
        except (Exception, SystemExit) as exc:
            # the text of a foreign exception may hold a document: its type and place do not
            raise SinkUnavailableError(f"{self._name} raised {_named(exc)}") from exc
        return self._verdicts(answer, len(items))

    def close(self) -> None:
        """Do nothing."""

    def where(self) -> str:
        """Name the function and the file that it stands in."""
        code = getattr(inspect.unwrap(self._function), "__code__", None)
        return f"{self._name} in {code.co_filename}:{code.co_firstlineno}" if code else self._name

    def _verdicts(self, answer: Any, count: int) -> Sequence[Verdict] | None:
        if answer is None:
            return None
        if not isinstance(answer, Sequence) or not all(isinstance(one, Verdict) for one in answer):
            kind = type(answer).__qualname__
            raise SinkUnavailableError(f"{self._name} returned {kind}; None or a list of Verdict is needed")
        if len(answer) != count:
            raise SinkUnavailableError(f"{self._name} returned {len(answer)} verdicts for {count} items")
        return answer


def _named(exc: BaseException) -> str:
    """Return an exception's type and the line that raised it."""
    trace = exc.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = f" at {Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}" if trace else ""
    return f"{type(exc).__qualname__}{place}"
