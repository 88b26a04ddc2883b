"""What a route asks of the dead-letter queue, and what it hands to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aggregator.delivery import Delivery


@dataclass(frozen=True, slots=True)
class Refused:
    """A delivery that cannot be written, and why.

    ``reason``: a constant word. ``detail``: for people, never the body. ``status`` and
    ``error_type``: the sink's own words. ``first`` and ``last``: unix seconds, 0 if unknown.
    """

    delivery: Delivery
    reason: str
    detail: str = ""
    status: int | None = None
    error_type: str = ""
    first: float = 0.0
    last: float = 0.0
    attempts: int = 0


class DeadLetterPort(Protocol):
    """Where refused deliveries go; reports back once each is safe there."""

    @property
    def pending(self) -> int:
        """How many were submitted and are not safe yet."""
        ...

    @property
    def bytes(self) -> int:
        """The size of their bodies."""
        ...

    @property
    def failing_since(self) -> float | None:
        """Monotonic seconds since when nothing gets through; None while all is well."""
        ...

    def submit(self, refused: Sequence[Refused]) -> None:
        """Take over refused deliveries. Any thread may call; never blocks."""
        ...

    def drop(self, dead: Callable[[Refused], bool]) -> list[Refused]:
        """Forget and return what is dead and not under way: the broker hands it out again.

        While nothing gets through, one is kept, so that it is seen when something does again.
        """
        ...
