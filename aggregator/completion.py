"""When a group is complete: conditions with one method each at most, composed by ``any_of``.

A condition is asked before a delivery is added, after it, or for the time at which it will hold.
It sees the group (:class:`aggregator.buffer.Group`: deliveries, bytes, opened, last) and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from math import inf
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aggregator.buffer import Group
    from aggregator.delivery import Delivery


class Trigger(Enum):
    """What completed a batch."""

    SIZE = "size"
    BYTES = "bytes"
    SENTINEL = "sentinel"
    AGE = "age"
    IDLE = "idle"
    PRESSURE = "pressure"
    """Everything that the broker will send is held, or the bound in bytes is reached."""
    SHUTDOWN = "shutdown"

    @property
    def closes(self) -> bool:
        """Whether the key is done with; otherwise the batch is a part and the key stays open."""
        return self in _CLOSING


_CLOSING = frozenset({Trigger.SIZE, Trigger.BYTES, Trigger.SENTINEL})


class Condition:
    """One reason for a group to be complete; each method says "no" unless it is overridden."""

    trigger: Trigger

    def before(self, group: Group, delivery: Delivery) -> bool:
        """Whether the group is complete without this delivery, which opens the next one."""
        raise NotImplementedError

    def after(self, group: Group, delivery: Delivery) -> bool:
        """Whether the group is complete now that this delivery is its last."""
        raise NotImplementedError

    def deadline(self, group: Group) -> float:
        """Monotonic seconds at which the group is complete; ``inf`` for never."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Size(Condition):
    """``count`` deliveries are in the group."""

    count: int
    trigger = Trigger.SIZE

    def after(self, group: Group, delivery: Delivery) -> bool:  # noqa: ARG002
        """Whether the count is reached."""
        return len(group.deliveries) >= self.count


@dataclass(frozen=True, slots=True)
class Bytes(Condition):
    """The bodies would pass ``limit`` bytes: a group never grows past it, but for a single larger body."""

    limit: int
    trigger = Trigger.BYTES

    def before(self, group: Group, delivery: Delivery) -> bool:
        """Whether the delivery no longer fits."""
        return group.bytes + len(delivery.body) > self.limit

    def after(self, group: Group, delivery: Delivery) -> bool:  # noqa: ARG002
        """Whether nothing more fits."""
        return group.bytes >= self.limit


@dataclass(frozen=True, slots=True)
class Age(Condition):
    """``seconds`` have passed since the group's first delivery."""

    seconds: float
    trigger = Trigger.AGE

    def deadline(self, group: Group) -> float:
        """Seconds after the opening."""
        return group.opened + self.seconds


@dataclass(frozen=True, slots=True)
class Idle(Condition):
    """``seconds`` have passed since the group's last delivery."""

    seconds: float
    trigger = Trigger.IDLE

    def deadline(self, group: Group) -> float:
        """Seconds after the last delivery."""
        return group.last + self.seconds


class AnyOf:
    """The first condition that holds completes the group; the order of the list is the precedence."""

    def __init__(self, *conditions: Condition) -> None:
        def overriding(method: str) -> list[Condition]:
            return [c for c in conditions if getattr(type(c), method) is not getattr(Condition, method)]

        # a delivery asks only the conditions that have something to say at that moment
        self._before = [(c.before, c.trigger) for c in overriding("before")]
        self._after = [(c.after, c.trigger) for c in overriding("after")]
        self._deadline = [(c.deadline, c.trigger) for c in overriding("deadline")]

    def before(self, group: Group, delivery: Delivery) -> Trigger | None:
        """Return what completes the group before the delivery is added."""
        for holds, trigger in self._before:
            if holds(group, delivery):
                return trigger
        return None

    def after(self, group: Group, delivery: Delivery) -> Trigger | None:
        """Return what completes the group once the delivery is added."""
        for holds, trigger in self._after:
            if holds(group, delivery):
                return trigger
        return None

    def deadline(self, group: Group) -> tuple[float, Trigger]:
        """Return when the group will be complete, and by what; ``inf`` for never."""
        when, what = inf, Trigger.AGE
        for at, trigger in self._deadline:
            moment = at(group)
            if moment < when:
                when, what = moment, trigger
        return when, what


def any_of(*conditions: Condition) -> AnyOf:
    """Compose conditions: the first that holds completes the group."""
    return AnyOf(*conditions)
