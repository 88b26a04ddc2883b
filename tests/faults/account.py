"""The account of one trial: what was promised, and what became of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(slots=True)
class Account:
    """Numbers of messages, unless said otherwise.

    ``lost``: confirmed by the broker, and neither in the index nor among the dead letters.
    ``unexpected``: in the index, though nobody sent it there. ``duplicated``: documents too many.
    ``repeats``: writes that found their document there already. ``left``: in the queue at the end,
    ready or unacked. ``recovery``: seconds from the end of the fault to the first write.
    ``course``: memory (MB) in equal steps while nothing was taken.
    ``complaints``: what the service itself calls a fault, and ends that were not clean.
    """

    confirmed: int = 0
    written: int = 0
    dead_lettered: int = 0
    lost: int = 0
    duplicated: int = 0
    repeats: int = 0
    unexpected: int = 0
    left: int = 0
    kills: int = 0
    recovery: float | None = None
    seconds: float = 0.0
    memory: float = 0.0
    descriptors: int = 0
    threads: int = 0
    course: list[float] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    @property
    def held(self) -> bool:
        """Whether the promise was kept."""
        return not (self.lost or self.unexpected or self.duplicated or self.left or self.complaints)

    def told(self) -> dict[str, Any]:
        """Return it as JSON takes it."""
        return {**asdict(self), "held": self.held}
