"""From what a request holds to what is sent: documents of single messages, or of whole groups.

Runs on flush threads, outside of the route's lock but for noting what came out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aggregator.delivery import Aggregate, Shared
from aggregator.errors import MessageRefusedError, SinkError, SinkUnavailableError
from aggregator.merging import counted_id
from aggregator.pushing import Pushes
from aggregator.request import Final, Outcome
from aggregator.sinks.base import DUPLICATE, Fate, Knowing, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from threading import Condition

    from aggregator.clock import Clock
    from aggregator.delivery import Item
    from aggregator.group import Batch
    from aggregator.intake import Intake
    from aggregator.made import Aggregation, Part
    from aggregator.outbox import Outbox
    from aggregator.request import Request
    from aggregator.screening import Screening
    from aggregator.settlement import Settler
    from aggregator.sinks.base import Sink


class Maker:
    """Makes the documents of requests. ``on_change(now)`` is called under the lock as in ``Flush``."""

    def __init__(
        self,
        route: str,
        *,
        lock: Condition,
        sink: Sink,
        outbox: Outbox,
        intake: Intake,
        aggregation: Aggregation | None,
        settler: Settler,
        screening: Screening,
        clock: Clock,
        on_change: Callable[[float], None],
    ) -> None:
        self._route = route
        self._screening = screening
        self._changed = lock
        self._sink = sink
        self._outbox = outbox
        self._intake = intake
        self._aggregation = aggregation
        self._settler = settler
        self._clock = clock
        self._on_change = on_change

    def make(self, request: Request) -> None:
        """Make what is not made yet; what is refused leaves the request, and what is too much waits.

        Raises a ``SinkError`` where the sink has to be asked first and does not answer.
        """
        if self._aggregation is None:
            self._take_out(request, self._screening.judge(request.items))
            self._make_each(request)
        else:
            self._make_groups(request, self._aggregation)
            if isinstance(self._aggregation, Pushes):
                self._leave_out(request, self._aggregation)
            self._keep(request, self._fitting(request))

    def _make_each(self, request: Request) -> None:
        """Make a document of each message; what inflates beyond a request's bytes goes in another."""
        intake, refused, total = self._intake, [], 0
        make = intake.make
        for position, item in enumerate(request.items):
            if not item.document:
                try:
                    item.document = make(
                        item.deliveries[0], trust_json=intake.trust_json, max_bytes=intake.max_message
                    )
                except MessageRefusedError as exc:
                    refused.append(Final(item, _refusal(exc)))
                    continue
            total += len(item.document)
            if total > self._outbox.max_bytes and total > len(item.document):
                self._keep(request, position)
                break
        self._take_out(request, refused)

    def _make_groups(self, request: Request, aggregation: Aggregation) -> None:
        """Put the documents of each group in its place; none for what is left of one that is written."""
        unmade = [item for item in request.items if not item.document]
        if not unmade:
            return
        written = self._written(unmade)
        made: dict[Item, list[Item]] = {}
        final = self._screening.judge(unmade)
        screened = {id(delivery) for delivery, _ in final}
        for item in unmade:
            batch, members = item.batch, item.deliveries
            if screened:
                members = [delivery for delivery in members if id(delivery) not in screened]
            if not members:
                made[item] = []
                continue
            group = aggregation.make(batch.key, members, self._outbox.max_bytes)
            parts, wrong = group.parts, group.refused
            final += (Final(delivery, _refusal(exc)) for delivery, exc in wrong)
            final += group.final
            if item in written:
                made[item] = []
                # what was refused is in no document: it may not have reached the dead-letter queue
                gone = {id(delivery) for delivery, _ in wrong}
                final += (Final(d, DUPLICATE) for d in members if id(d) not in gone)
                continue
            if len(parts) == 1 and batch.complete and (name := self._counted_id(batch)):
                parts = [parts[0]._replace(id=name, fingerprint=hash(name) or 1)]
            made[item] = [*_items(parts, item), *group.items]
            batch.documents += len(made[item])
            batch.repeats = max(batch.repeats, group.repeats)  # made again, it has no more of them
        with self._changed:
            now = self._clock.monotonic()
            self._outbox.exchange(request, made, now)
            self._on_change(now)
        if final:
            self._settler.conclude(Outcome([], final), request, "message")

    def _leave_out(self, request: Request, pushes: Pushes) -> None:
        """Take out of a request what may not be sent at this hour, or never more."""
        self._take_out(request, pushes.unsendable(request.items))

    def _take_out(self, request: Request, final: list[Final]) -> None:
        """Conclude items of a request that do not reach the sink."""
        if final:
            with self._changed:
                outcome = self._outbox.refuse(request, final, self._clock.monotonic())
            self._settler.conclude(outcome, request, "message")

    def _counted_id(self, batch: Batch) -> str | None:
        """Return the id of a group's one document, where a counted sentinel with a given id names it."""
        sentinel = batch.named_by
        return counted_id(self._route, batch.key, sentinel) if sentinel else None

    def _written(self, unmade: Sequence[Item]) -> set[Item]:
        """Return those that are but what a crash has left of a group: its document is in the store.

        Between the write and the last of the acks some of them may have got through. What comes again
        is not complete, and never will be. Raises a ``SinkError`` where the sink cannot be asked now.
        """
        names: dict[str, Item] = {}
        for item in unmade:
            batch = item.batch
            if batch.complete or not batch.controls or not all(d.redelivered for d in item.deliveries):
                continue
            # one that comes for the first time completed nothing before
            if (sentinel := batch.named_by) and sentinel.redelivered:
                names[counted_id(self._route, batch.key, sentinel)] = item
        if not names or not isinstance(self._sink, Knowing):
            return set()
        try:
            return {names[name] for name in self._sink.known(list(names))}
        except SinkError:
            raise
        except Exception as exc:  # as of a write; its words may hold anything
            raise SinkUnavailableError(f"known() raised {type(exc).__qualname__}") from exc

    def _fitting(self, request: Request) -> int:
        """Return how many items of a request fit into it, now that their documents are known."""
        total = 0
        for position, item in enumerate(request.items):
            total += len(item.document)
            if position and (position == self._outbox.max_items or total > self._outbox.max_bytes):
                return position
        return len(request.items)

    def _keep(self, request: Request, count: int) -> None:
        if count < len(request.items):
            with self._changed:
                now = self._clock.monotonic()
                self._outbox.put_back(request, count, now)
                self._on_change(now)


def _refusal(error: MessageRefusedError) -> Verdict:
    return Verdict(Fate.DEAD_LETTER, error.reason, error.detail)


def _items(parts: Sequence[Part], group: Item) -> list[Item]:
    """Return the items of a group's parts; those of the same deliveries follow one another."""
    items: list[Item] = []
    shared: Shared | None = None
    left = 0
    for part in parts:
        bodies = 0
        if not left:
            left = part.sharing
            shared = Shared(left) if left > 1 else None
            bodies = sum(len(delivery.body) for delivery in part.deliveries)
        left -= 1
        items.append(
            Aggregate(
                part.deliveries,
                group.batch,
                id=part.id,
                document=part.document,
                fingerprint=part.fingerprint,
                shared=shared,
                address=part.address,
                bodies=bodies,
            )
        )
    return items
