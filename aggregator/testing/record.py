"""What became of all that was published, and whether that may be: the harness's own books."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aggregator.ledger import with_followers
from aggregator.sinks.base import Fate
from aggregator.testing.message import QueuedDelivery

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from aggregator.delivery import Delivery, Item, Shared
    from aggregator.group import Batch
    from aggregator.pipeline import Pipeline
    from aggregator.ports import Refused
    from aggregator.request import Outcome, Request
    from aggregator.sinks.base import Verdict
    from aggregator.testing.faults import Faults
    from aggregator.testing.message import Message

_TOLD = {
    Fate.WRITTEN: "written",
    Fate.DUPLICATE: "duplicate",
    Fate.REFUSED: "refused",
    Fate.EXPIRED: "expired",
    Fate.REVOKED: "revoked",
}


class CompletedBatch:
    """A completed group: what completed it (``size``, ``age``, …), its key, its messages.

    ``part`` counts the batches of one key from 1; ``complete``: the key closed with it. ``age``:
    seconds from its first message to its end. ``fates``: the last words so far, by how many items.
    """

    def __init__(self, batch: Batch) -> None:
        self.trigger: str = batch.trigger.value
        self.key = batch.key
        self.part = batch.part
        self.complete = batch.complete
        self.age = batch.completed - batch.opened
        self.messages: list[Message] = list(_messages(batch.deliveries))
        self.sentinels: list[Message] = list(_messages(batch.controls))
        self._batch = batch

    @property
    def documents(self) -> list[Any]:
        """The bodies of its messages, in order of arrival."""
        return [message.document for message in self.messages]

    @property
    def fates(self) -> dict[str, int]:
        """How many items ended as what; empty before the first has."""
        return dict(self._batch.fates)

    def __repr__(self) -> str:
        """Return what a failing assertion ought to show."""
        key = "" if self.key is None else f" of {self.key!r}"
        return f"<{self.trigger}{key}, part {self.part}: {self.documents}>"


class Record:
    """Notes batches and the last word on each message; judges each ack by them."""

    def __init__(self, faults: Faults) -> None:
        self.batches: list[CompletedBatch] = []
        self._faults = faults
        self._ids: set[str] = set()

    def watch(self, pipeline: Pipeline) -> None:
        """Note each batch that a route completes, and what has its last word unsent."""
        # they tell nobody else
        buffer, settler = pipeline._buffer, pipeline._settler  # noqa: SLF001
        take, conclude, discard = buffer.take, settler.conclude, settler.discard

        def watched() -> list[Batch]:
            done = take()
            for batch in done:
                self._note_batch(batch)
            return done

        def concluded(outcome: Outcome, request: Request, source: str) -> None:
            if source == "message":
                for item, word in outcome.others:
                    told = {Fate.REFUSED, Fate.REVOKED} | ({Fate.EXPIRED} if item.address is None else set())
                    if word.fate in told:
                        self._note(item.deliveries, word.fate.value)
            conclude(outcome, request, source)

        def discarded(judged: Sequence[tuple[Delivery, Verdict]]) -> None:
            for delivery, word in judged:
                self._note((delivery,), word.fate.value)
            discard(judged)

        buffer.take = watched  # type: ignore[method-assign]
        settler.conclude = concluded  # type: ignore[method-assign]
        settler.discard = discarded  # type: ignore[method-assign]

    def told(self, item: Item, verdict: Verdict) -> None:
        """Note the sink's word on an item. A push that has expired tells its message itself."""
        if item.address is not None and verdict.fate is Fate.EXPIRED:
            return
        if (fate := _TOLD.get(verdict.fate)) is not None:
            self._note(item.deliveries, fate, item.shared)

    def dead_lettered(self, refused: Sequence[Refused]) -> None:
        """Note what is safe in the dead-letter queue."""
        self._note((entry.delivery for entry in refused), "dead_lettered")

    def on_ack(self, message: Message, delivery: Delivery) -> None:
        """Judge an ack: only what came to its end may leave the queue."""
        # a copy that nobody can tell from another message ends with that one
        known = bool(delivery.fingerprint) and delivery.id in self._ids
        self._faults.unless(message.fates or known, f"{message}: acked, and nothing has become of it")
        whole = message.shared is None or not message.shared.left
        self._faults.unless(whole, f"{message}: acked before all documents with it had their verdict")

    def _note_batch(self, batch: Batch) -> None:
        self.batches.append(CompletedBatch(batch))
        self._note(batch.controls, "control")

    def _note(self, deliveries: Iterable[Delivery], fate: str, shared: Shared | None = None) -> None:
        for delivery in with_followers(deliveries):
            if delivery.fingerprint:
                self._ids.add(delivery.id)
            if isinstance(delivery, QueuedDelivery):
                delivery.message.fates[fate] += 1
                delivery.message.shared = shared or delivery.message.shared


def faults_of(published: Iterable[Message], queued: Iterable[Message]) -> Iterator[str]:
    """Yield what is wrong with the messages: each has to be in the queue, or to have had one end."""
    waiting = {id(message) for message in queued}
    for message in published:
        fates = {fate: times for fate, times in message.fates.items() if times}
        if message.acked == 0 and id(message) not in waiting:
            yield f"{message}: lost, neither in the queue nor acked"
        # what was handed out again may have come to its end twice: a crash forgets what was written
        if message.deliveries <= 1 and message.shared is None and sum(fates.values()) > 1:
            ends = ", ".join(f"{fate} {times}x" for fate, times in fates.items())
            yield f"{message}: handed out once, and it ended more than once ({ends})"


def _messages(deliveries: Iterable[Delivery]) -> Iterator[Message]:
    for delivery in deliveries:
        if isinstance(delivery, QueuedDelivery):
            yield delivery.message
