"""When a group is complete: conditions with one method each at most, composed by ``any_of``.

A condition is asked before a delivery is added, after it, or for the time at which it will hold.
It sees the group (:class:`aggregator.buffer.Group`: deliveries, bytes, opened, last) and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from math import inf
from typing import TYPE_CHECKING

from aggregator.errors import ConfigurationError, MessageRefusedError
from aggregator.importing import check_function, load_function, name_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aggregator.clock import Clock
    from aggregator.delivery import Delivery
    from aggregator.group import Group


class Trigger(Enum):
    """What completed a batch."""

    SIZE = "size"
    BYTES = "bytes"
    PREDICATE = "predicate"
    SEQUENCE = "sequence"
    """As many members are there as they say themselves that there will be."""
    SENTINEL = "sentinel"
    AGE = "age"
    IDLE = "idle"
    INTERVAL = "interval"
    CRONTAB = "crontab"
    DEADLINE = "deadline"
    """The broker's ack deadline is near."""
    PRESSURE = "pressure"
    """Everything that the broker will send is held, or a bound is reached."""
    FORCED = "forced"
    LATE = "late"
    """The key was closed before: the message goes alone."""
    ISOLATED = "isolated"
    """It was delivered so often without a verdict that it may be what kills the process: it goes alone."""
    SHUTDOWN = "shutdown"


#: These say that the key is done with; by any other the batch is a part, and its key stays open.
CLOSING = frozenset({Trigger.SIZE, Trigger.BYTES, Trigger.PREDICATE, Trigger.SEQUENCE, Trigger.SENTINEL})


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


@dataclass(frozen=True, slots=True)
class Predicate(Condition):
    """``function(members, delivery)`` says so: ``members`` are the group's deliveries, to be read only.

    With ``early`` it is asked before the delivery is added, which then opens the next group;
    otherwise after it, and the delivery is the last of ``members``. Where it raises, that delivery
    is refused (``predicate-failed``), and the group stays as it was.
    """

    function: Callable[[Sequence[Delivery], Delivery], bool]
    early: bool = False
    trigger = Trigger.PREDICATE

    def before(self, group: Group, delivery: Delivery) -> bool:
        """Ask, if it is to be asked before adding."""
        return self.early and self._ask(group, delivery)

    def after(self, group: Group, delivery: Delivery) -> bool:
        """Ask, if it is to be asked after adding."""
        return not self.early and self._ask(group, delivery)

    def _ask(self, group: Group, delivery: Delivery) -> bool:
        problem = ""
        try:
            return bool(self.function(group.deliveries, delivery))
        except (Exception, SystemExit) as exc:  # noqa: BLE001 - the user's own; its words may hold the body
            problem = type(exc).__name__
        raise MessageRefusedError("predicate-failed", problem)


@dataclass(frozen=True, slots=True)
class Deadline(Condition):
    """``seconds`` have passed since the first delivery: longer, and the broker takes it back."""

    seconds: float
    trigger = Trigger.DEADLINE

    def deadline(self, group: Group) -> float:
        """Seconds after the opening."""
        return group.opened + self.seconds


@dataclass(frozen=True, slots=True)
class Interval(Condition):
    """The wall clock passes a multiple of ``seconds`` since 1970: every full minute, every full hour."""

    seconds: float
    clock: Clock
    trigger = Trigger.INTERVAL

    def deadline(self, group: Group) -> float:
        """Return the first multiple after the opening."""
        offset = self.clock.time() - self.clock.monotonic()
        opened = group.opened + offset
        return (opened // self.seconds + 1) * self.seconds - offset


class Crontab(Condition):
    """A moment of a crontab expression has come (``*/15 6-22 * * mon-fri``), in a time zone.

    ``next_after(wall)`` returns the first moment after it, both in seconds since 1970. Groups that
    open between two moments share one answer.
    """

    trigger = Trigger.CRONTAB

    def __init__(self, next_after: Callable[[float], float], clock: Clock) -> None:
        self._next_after = next_after
        self._clock = clock
        self._known = (inf, -inf)

    def deadline(self, group: Group) -> float:
        """Return the first moment after the opening."""
        offset = self._clock.time() - self._clock.monotonic()
        opened = group.opened + offset
        since, moment = self._known
        if not since <= opened < moment:
            moment = self._next_after(opened)
            self._known = (opened, moment)
        return moment - offset


class AnyOf:
    """The first condition that holds completes the group; the order of the list is the precedence.

    ``closing``: the triggers after which a key is done with.
    """

    def __init__(self, *conditions: Condition, closing: frozenset[Trigger] = CLOSING) -> None:
        self.closing = closing
        #: what fills a group, ``inf`` where nothing does
        self.full_messages = min((c.count for c in conditions if isinstance(c, Size)), default=inf)
        self.full_bytes = min((c.limit for c in conditions if isinstance(c, Bytes)), default=inf)

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


def any_of(*conditions: Condition, closing: frozenset[Trigger] = CLOSING) -> AnyOf:
    """Compose conditions: the first that holds completes the group."""
    return AnyOf(*conditions, closing=closing)


def load_predicate(
    reference: str | Callable[[Sequence[Delivery], Delivery], bool], field: str = "predicate"
) -> Callable[[Sequence[Delivery], Delivery], bool]:
    """Return the function that ``package.module:name`` names, or that is given itself.

    Raises ``ConfigurationError`` for ``field``.
    """
    takes = "the group's deliveries and the new one"
    if not isinstance(reference, str):
        check_function(reference, name_of(reference), field=field, takes=takes, example=((), None))
        return reference
    module, colon, name = reference.partition(":")
    if not (module and colon and name):
        raise ConfigurationError(field, f"{reference!r} names no function; package.module:name is needed")
    return load_function(module, name, field=field, takes=takes, example=((), None))  # type: ignore[no-any-return]
