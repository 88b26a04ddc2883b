"""What each batch tells of itself when it is done with, and the last ones of a route; the last refusals too.

One report is made for a batch, none for a message. Times are seconds.
"""

from __future__ import annotations

from collections import Counter, deque
from math import inf
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aggregator.group import Batch
    from aggregator.ports import Refused

#: How many reports a route keeps.
KEPT = 100
#: And how many of refusals; of those that came at once, one for each reason.
KEPT_REFUSALS = 20


class BatchReport(NamedTuple):
    """One batch from its first message to the last word on it.

    ``ended``: unix seconds. ``key``: may be a piece of a document; it stands in no log line but those
    for details, and in no metric. ``part`` counts the batches of a key; ``complete``: its key is closed.
    ``fill``: its share of the size, or of the bytes, that would have made it full, whichever is more;
    None where the route has neither. ``documents``: what an aggregation made of it, ``repeats``:
    members that said again what another one said. ``verdicts``: what became of the members.

    Its time by stage: ``collecting`` from the first message to completion, ``queueing`` until the
    first request with something of it left, ``writing`` until the last word, retries included.
    ``attempts``: how often what took longest of it was sent; 0 where nothing was.
    """

    ended: float
    key: str | None
    trigger: str
    part: int
    complete: bool
    messages: int
    sentinels: int
    bytes: int
    fill: float | None
    documents: int
    repeats: int
    collecting: float
    queueing: float
    writing: float
    verdicts: Mapping[str, int]
    attempts: int = 0

    def __repr__(self) -> str:
        """Return it without the key."""
        fields = {name: value for name, value in self._asdict().items() if name != "key"}
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in fields.items())})"

    def told(self) -> dict[str, object]:
        """Return it for a log line: without the key, times in milliseconds' precision, nothing that is 0."""
        words: dict[str, object] = {
            "trigger": self.trigger,
            "messages": self.messages,
            "bytes": self.bytes,
            "part": self.part,
            "complete": self.complete,
            "age": round(self.collecting, 3),
            "queued": round(self.queueing, 3),
            "writing": round(self.writing, 3),
        }
        if self.fill is not None:
            words["fill"] = round(self.fill, 3)
        words |= {name: getattr(self, name) for name in ("documents", "repeats") if getattr(self, name)}
        return {**words, **self.verdicts}


class RefusalReport(NamedTuple):
    """Messages that came into the dead-letter queue together, for one reason.

    ``at``: unix seconds. ``detail``, ``attempts``: of one of them; for people, never the body.
    """

    at: float
    reason: str
    error_type: str
    status: int | None
    messages: int
    detail: str
    attempts: int


class History:
    """The last reports of a route, the newest last. Any thread may ask; reports never change."""

    def __init__(self, *, full_messages: float = inf, full_bytes: float = inf, kept: int = KEPT) -> None:
        self.full_by(full_messages, full_bytes)
        self._last: deque[BatchReport] = deque(maxlen=kept)
        self._refused: deque[RefusalReport] = deque(maxlen=KEPT_REFUSALS)

    def full_by(self, messages: float, size: float) -> None:
        """Say what fills a group from now on; ``inf`` where nothing does."""
        self._full, self._bounded = (messages, size), min(messages, size) < inf

    def report(self, batch: Batch, now: float, ended: float) -> BatchReport:
        """Make the report of a batch that is done with at monotonic ``now``, and keep it."""
        messages, size = len(batch.deliveries), batch.bytes
        made = BatchReport(
            ended,
            batch.key,
            batch.trigger.value,
            batch.part,
            batch.complete,
            messages,
            len(batch.controls),
            size,
            max(messages / self._full[0], size / self._full[1]) if self._bounded else None,
            batch.documents,
            batch.repeats,
            batch.completed - batch.opened,
            max(0.0, min(batch.sent, now) - batch.completed),
            max(0.0, now - batch.sent),
            dict(batch.fates),
            batch.attempts,
        )
        self._last.append(made)
        return made

    def refused(self, refused: Sequence[Refused], at: float) -> None:
        """Keep what these were refused for, one report for each reason; ``at``: unix seconds."""
        examples = {(each.reason, each.error_type, each.status): each for each in refused}
        numbers = Counter((each.reason, each.error_type, each.status) for each in refused)
        for said, example in examples.items():
            self._refused.append(RefusalReport(at, *said, numbers[said], example.detail, example.attempts))

    def last(self) -> list[BatchReport]:
        """Return what is kept."""
        return list(self._last)

    def last_refused(self) -> list[RefusalReport]:
        """Return what is kept of refusals."""
        return list(self._refused)
