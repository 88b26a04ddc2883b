"""Failures of a sink, as a test asks for them, in front of whatever sink there is.

Items are named by their id, or by a function of their document that says whether it is meant:
``sink.refuse("a")``, ``sink.refuse(lambda document: document["n"] < 0, "negative")``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Any

from aggregator.errors import (
    RequestRefusedError,
    RequestTooLargeError,
    SinkUnavailableError,
)
from aggregator.sinks.base import DUPLICATE, WRITTEN, Fate, Knowing, Verdict
from aggregator.testing.message import read_document

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from aggregator.delivery import Item
    from aggregator.sinks.base import Sink
    from aggregator.testing.faults import Faults

Which = str | Callable[[Any], bool]
AWAY = SinkUnavailableError("away")


class KilledError(BaseException):
    """The process is killed at this moment: nothing may catch it but the harness."""


@dataclass(slots=True)
class _Rule:
    """What happens to the items of ``which``, so many ``times``: a verdict, or an error of the request."""

    which: Which
    word: Verdict | Exception
    times: float

    def means(self, item: Item) -> bool:
        if isinstance(self.which, str):
            return item.id == self.which
        return bool(self.which(read_document(item.document)))


class ScriptedSink:
    """Stands before ``sink``, and does what it is told to; everything else goes through.

    ``written``: id and document of all that the sink itself said is written, in order; ``claimed``: the
    ids that it said stand there. ``before(items)`` is called with each request and may do anything:
    lose a link, publish, let time pass. ``told(item, verdict)`` gets the last word on each item.
    """

    def __init__(self, sink: Sink, faults: Faults, told: Callable[[Item, Verdict], None]) -> None:
        self.limits = sink.limits
        self.written: list[tuple[str, bytes]] = []
        self.claimed: set[str] = set()
        self.requests: list[list[str]] = []
        self.before: Callable[[Sequence[Item]], None] = lambda _items: None
        self._sink = sink
        self._faults = faults
        self._told = told
        self.heal()

    # ── what a test says ──

    def heal(self) -> None:
        """Do nothing of all that was asked for any more."""
        self._rules: list[_Rule] = []
        self._failures: list[Exception] = []
        self._down: Exception | None = None
        self._most_bytes = self._most_items = inf
        self._lost_replies = 0
        self._kill: bool | None = None

    def refuse(
        self,
        which: Which,
        reason: str = "refused",
        detail: str = "",
        *,
        times: float = inf,
        status: int = 400,
    ) -> None:
        """Refuse these items for good: they are dead-lettered."""
        self._rules.append(_Rule(which, Verdict(Fate.DEAD_LETTER, reason, detail, status), times))

    def retry(self, which: Which, reason: str = "busy", *, times: float = 1, status: int = 429) -> None:
        """Put these items off, so many times; the others of the request are written."""
        self._rules.append(_Rule(which, Verdict(Fate.RETRY, reason, "", status), times))

    def duplicate(self, which: Which, *, times: float = inf) -> None:
        """Say of these items that they stand there already."""
        self._rules.append(_Rule(which, DUPLICATE, times))

    def refuse_request(self, which: Which, reason: str = "refused", *, times: float = inf) -> None:
        """Refuse each request that holds one of these items, as a whole: it is bisected."""
        self._rules.append(_Rule(which, RequestRefusedError(reason), times))

    def fail(self, error: Exception = AWAY, *, times: int | None = 1) -> None:
        """Have the next requests fail; with ``times=None`` all, and the probe too, until :meth:`heal`.

        A ``SinkBlockedError`` stands for a refusal that concerns everything: read-only, say.
        """
        if times is None:
            self._down = error
        else:
            self._failures += [error] * times

    def too_large(self, *, size: float = inf, items: float = inf) -> None:
        """Refuse requests of more bytes or items than that, as HTTP 413 does: they are halved."""
        self._most_bytes, self._most_items = size, items

    def lose_reply(self, times: int = 1) -> None:
        """Write the next requests, and lose the answer: whether they are written is unknown."""
        self._lost_replies += times

    def kill(self, *, written: bool) -> None:
        """Kill the process at the next request, before it is written or right after: then it starts anew."""
        self._kill = written

    # ── what a route asks ──

    def open(self) -> None:
        """Probe the sink, unless it is to be away."""
        if self._down is not None:
            raise self._down
        self._sink.open()

    def write(self, items: Sequence[Item]) -> Sequence[Verdict] | None:
        """Write what no failure was asked for; return the verdicts."""
        self.requests.append([item.id for item in items])
        self.before(items)
        self._die(written=False)
        self._fail(items)
        verdicts = self._judge(items)
        self._die(written=True)
        if self._lost_replies:
            self._lost_replies -= 1
            raise SinkUnavailableError("the reply is lost")
        if not _wrong(verdicts, items):
            for item, verdict in zip(items, verdicts or [WRITTEN] * len(items), strict=True):
                self._told(item, verdict)
        return verdicts

    def known(self, ids: Sequence[str]) -> Collection[str]:
        """Ask a sink that can be asked; of any other nothing is known."""
        if self._down is not None:
            raise self._down
        return self._sink.known(ids) if isinstance(self._sink, Knowing) else ()

    def close(self) -> None:
        """Close the sink."""
        self._sink.close()

    def where(self) -> str:
        """Say what the sink says."""
        return self._sink.where()

    def _die(self, *, written: bool) -> None:
        if self._kill is written:
            self._kill = None
            raise KilledError

    def _fail(self, items: Sequence[Item]) -> None:
        if self._down is not None:
            raise self._down
        if self._failures:
            raise self._failures.pop(0)
        size = sum(len(item.document) for item in items)
        if size > self._most_bytes or len(items) > self._most_items:
            raise RequestTooLargeError(f"{len(items)} items, {size} bytes")
        for item in items:
            rule = self._rule(item, Exception)
            if rule is not None and isinstance(rule.word, Exception):
                raise rule.word

    def _judge(self, items: Sequence[Item]) -> Sequence[Verdict] | None:
        words: dict[int, Verdict] = {}
        for position, item in enumerate(items):
            rule = self._rule(item, Verdict)
            if rule is not None and isinstance(rule.word, Verdict):
                words[position] = rule.word
        if not words:
            return self._write(items)
        others = [item for position, item in enumerate(items) if position not in words]
        given = self._write(others) if others else None
        if _wrong(given, others):
            return given
        rest = iter(given or [WRITTEN] * len(others))
        return [words[position] if position in words else next(rest) for position in range(len(items))]

    def _write(self, items: Sequence[Item]) -> Sequence[Verdict] | None:
        try:
            verdicts = self._sink.write(items)
        except Exception as exc:
            if isinstance(broken := exc.__cause__ or exc, AssertionError):
                # the route tries again, whatever is raised: an assertion in a test's sink must not vanish
                self._faults.append(f"the sink raised AssertionError: {broken}")
            raise
        wrong = _wrong(verdicts, items)
        if self._faults.unless(not wrong, f"the sink gave {wrong}"):
            for item, verdict in zip(items, verdicts or [WRITTEN] * len(items), strict=True):
                self._note(item, verdict)
        return verdicts

    def _note(self, item: Item, verdict: Verdict) -> None:
        if verdict.fate is Fate.WRITTEN:
            self.written.append((item.id, item.document))
        if verdict.fate in {Fate.WRITTEN, Fate.DUPLICATE}:
            self.claimed.add(item.id)

    def _rule(self, item: Item, kind: type) -> _Rule | None:
        """Return the first rule of this kind for the item, and count it."""
        for rule in self._rules:
            if isinstance(rule.word, kind) and rule.times > 0 and rule.means(item):
                rule.times -= 1
                return rule
        return None


def _wrong(verdicts: Sequence[Verdict] | None, items: Sequence[Item]) -> str:
    """Say what is wrong with an answer; nothing if it is right."""
    if verdicts is None:
        return ""
    if strangers := [word for word in verdicts if not isinstance(word, Verdict)]:
        return f"{strangers[0]!r} where a Verdict is needed"
    if len(verdicts) != len(items):
        return f"{len(verdicts)} verdicts for {len(items)} items"
    return ""
