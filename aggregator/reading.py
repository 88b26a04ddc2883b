"""The members of a group as documents, each read once. Pure.

A member whose given id and body are in the group already is the same message sent again. It is not
counted twice: the first stands in the document, and the others settle with it. Another body under an
id of the group is refused (``bad-id``): one of the two would be lost.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from aggregator.documents import make_document
from aggregator.errors import MessageRefusedError
from aggregator.made import Made, Part
from aggregator.merging import group_ids

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aggregator.delivery import Delivery
    from aggregator.documents import Making
    from aggregator.made import Refusal

    Member = tuple[Delivery, bytes]

_CONFLICT = "another message of its group has the same id and another body"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How members are read: ``trust_json`` and ``max_message`` (bytes) as for ``make_one``."""

    route: str = "default"
    trust_json: bool = False
    max_message: int = 16 * 1024 * 1024
    make_one: Making = make_document

    def read(self, key: str | None, deliveries: Sequence[Delivery]) -> Work:
        """Make the documents of all members; whatever is wrong with one concerns that one alone."""
        work = Work(self.route, key, deliveries)
        seen: dict[str, Delivery] = {}
        for delivery in deliveries:
            if delivery.fingerprint and (first := seen.get(delivery.id)) is not None:
                if first.body == delivery.body:
                    work.copies.setdefault(delivery.id, []).append(delivery)
                else:
                    work.refused.append((delivery, MessageRefusedError("bad-id", _CONFLICT)))
                continue
            try:
                document = delivery.document or self.make_one(
                    delivery, trust_json=self.trust_json, max_bytes=self.max_message
                )
            except MessageRefusedError as exc:
                work.refused.append((delivery, exc.with_traceback(None)))
            except Exception as exc:  # noqa: BLE001 - a message that nobody foresaw; words may hold its body
                work.refused.append((delivery, MessageRefusedError("unreadable", type(exc).__name__)))
            else:
                work.members.append((delivery, document))
                if delivery.fingerprint:
                    seen[delivery.id] = delivery
        return work


class Work:
    """One group on its way. ``members``: with documents; ``copies``: by given id, a member's further ones."""

    __slots__ = ("copies", "deliveries", "key", "members", "parts", "places", "refused", "repeats", "route")

    def __init__(self, route: str, key: str | None, deliveries: Sequence[Delivery]) -> None:
        self.route = route
        self.key = key
        self.deliveries = deliveries
        self.members: list[Member] = []
        self.copies: dict[str, list[Delivery]] = {}
        self.parts: list[Part] = []
        self.refused: list[Refusal] = []
        self.repeats = 0
        self.places: dict[int, int] = {}

    def add(self, members: Sequence[Member], documents: Sequence[bytes]) -> None:
        """Add the documents that were made of these members."""
        deliveries = self.with_copies([delivery for delivery, _ in members])
        self.repeats += len(deliveries) - len(members)
        given = all(delivery.fingerprint for delivery in deliveries)
        names = group_ids(self.route, self.key, [delivery for delivery, _ in members], documents)
        for name, document in zip(names, documents, strict=True):
            fingerprint = (hash(name) or 1) if given else 0
            self.parts.append(Part(name, document, deliveries, fingerprint, len(documents)))

    def refuse(self, deliveries: list[Delivery], error: MessageRefusedError) -> None:
        """Refuse members, each with its copies."""
        self.refused += [(delivery, error) for delivery in self.with_copies(deliveries)]

    def made(self) -> Made:
        """Return what was made."""
        return Made(self.parts, self.refused, self.repeats)

    def with_copies(self, deliveries: list[Delivery]) -> list[Delivery]:
        """Return deliveries of members and all copies of them, in order of arrival."""
        copies = self.copies
        if not copies:
            return deliveries
        further = [copy for one in deliveries if one.fingerprint for copy in copies.get(one.id, ())]
        if not further:
            return deliveries
        if not self.places:
            self.places = {id(delivery): place for place, delivery in enumerate(self.deliveries)}
        return sorted([*deliveries, *further], key=lambda delivery: self.places[id(delivery)])
