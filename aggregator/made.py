"""What becomes of a batch before it is sent: its documents, or its pushes."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aggregator.delivery import Delivery, Item
    from aggregator.errors import MessageRefusedError
    from aggregator.push import Address
    from aggregator.request import Final

    Refusal = tuple[Delivery, MessageRefusedError]


class Part(NamedTuple):
    """One document made of several deliveries.

    ``document``: one line of JSON in UTF-8. ``deliveries``: those whose messages are in it, in order
    of arrival; never empty. ``fingerprint``: 0 where the id is new at each receipt, as in ``Item``.
    ``sharing``: how many parts, this one among them, have these same deliveries (the very same
    sequence); they follow one another, and the deliveries settle once all of these parts are final.
    ``address``: to whom it goes; None for documents.
    """

    id: str
    document: bytes
    deliveries: Sequence[Delivery]
    fingerprint: int = 0
    sharing: int = 1
    address: Address | None = None


class Made(NamedTuple):
    """What became of a batch: each delivery is in one part (or all that share it), or refused once.

    ``repeats``: how many deliveries of the parts only say again what another one says. ``items``: made
    in the place of parts. ``final``: what has its last word before anything is sent.
    """

    parts: list[Part]
    refused: list[Refusal]
    repeats: int = 0
    items: Sequence[Item] = ()
    final: Sequence[Final] = ()


class Aggregation(Protocol):
    """Makes documents of batches."""

    def make(self, key: str | None, deliveries: Sequence[Delivery], max_bytes: int) -> Made:
        """Return the documents of a group, or of a part of one, of at most ``max_bytes`` each.

        Called on flush threads, by several at once, outside every lock. The same deliveries give the
        same answer. Raises nothing: what is wrong with members is in ``refused``.
        """
        ...
