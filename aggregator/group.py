"""An open group, and the batch that it becomes; what is asked of their members. Pure data."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise
from math import inf
from typing import TYPE_CHECKING, NamedTuple

from aggregator.errors import MessageRefusedError
from aggregator.ledger import with_followers

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from aggregator.completion import Trigger
    from aggregator.delivery import Delivery, Link


class Group:
    """The open group of one key. ``opened`` and ``last``: when its first and last delivery came."""

    __slots__ = (
        "announced", "bytes", "controls", "deliveries", "due", "expected", "gone", "key", "last", "open",
        "opened", "timer",
    )  # fmt: skip

    def __init__(self, key: str | None, now: float) -> None:
        self.key = key
        self.deliveries: list[Delivery] = []
        self.controls: list[Delivery] = []
        self.bytes = 0
        self.opened = self.last = now
        self.expected: int | None = None  # how many members there are, as they say themselves
        self.announced: int | None = None  # and as a sentinel says
        self.gone = 0  # members that went in earlier parts
        self.due = inf
        self.timer = inf
        self.open = True


@dataclass(slots=True, eq=False)
class Batch:
    """A completed group: its members no longer change.

    ``controls`` are sentinels: acked after the members, never written. ``part`` counts the batches
    of one key from 1; ``complete`` says that the key is closed. ``remaining`` and ``fates`` are
    kept by the flush: how many members have no final verdict yet, and the verdicts so far.
    ``sent``: when the first request with something of it left; ``inf`` before.
    ``expected``: how many members a count says that there are, where one came.
    ``documents``: what an aggregation made of it; ``repeats``: members that only said again what
    another one said. ``delivered``: of an isolated one, how often its member came before.
    ``attempts``: how often what was final last had been sent.
    """

    key: str | None
    deliveries: list[Delivery]
    controls: list[Delivery]
    bytes: int
    trigger: Trigger
    part: int
    complete: bool
    opened: float
    completed: float
    expected: int | None = None
    remaining: int = 0
    sent: float = inf
    documents: int = 0
    repeats: int = 0
    delivered: int = 0
    attempts: int = 0
    fates: Counter[str] = field(default_factory=Counter)

    @property
    def named_by(self) -> Delivery | None:
        """The sentinel that may name a document of the whole group: it counts, and has a given id.

        None that came before among members that did not: a crash has left it of an earlier group of
        its key, whose document has that name.
        """
        if self.expected is None or self.part > 1:
            return None
        sentinel = next((sentinel for sentinel in self.controls if sentinel.fingerprint), None)
        if sentinel is None or not sentinel.redelivered:
            return sentinel
        return sentinel if all(member.redelivered for member in self.deliveries) else None


class OpenGroup(NamedTuple):
    """What is in an open group; ``age``: seconds since its first delivery, ``idle``: since its last.

    ``key``: may be a piece of a document. ``expected``: how many members a count says that there are.
    """

    key: str | None
    messages: int
    sentinels: int
    bytes: int
    age: float
    idle: float
    expected: int | None


class Dropped(NamedTuple):
    """What a lost link takes away: its deliveries, and ``(old, heir)`` where another copy goes on."""

    deliveries: list[Delivery]
    heirs: list[tuple[Delivery, Delivery]]


def described(group: Group, now: float) -> OpenGroup:
    """Return what is in a group; it may be on its way meanwhile."""
    expected = group.announced if group.expected is None else group.expected
    messages, sentinels = len(group.deliveries), len(group.controls)
    return OpenGroup(
        group.key, messages, sentinels, group.bytes, now - group.opened, now - group.last, expected
    )


def agree(group: Group, expected: int | None) -> None:
    """Refuse a member that says another number of members than the others of its group: ``bad-sequence``."""
    if expected is not None and group.expected not in {None, expected}:
        said = f"of {expected} members, the group's others say of {group.expected}"
        raise MessageRefusedError("bad-sequence", said)


def waits_for_more(group: Group) -> bool:
    """Whether more may come: not where the sentinel and all that is there were handed out before."""
    counted = group.expected is not None or group.announced is not None
    return not group.controls or not counted or not all(d.redelivered for d in group.deliveries)


def different(members: list[Delivery]) -> int:
    """Count members; a publisher that repeats itself must not complete a group early."""
    return len({member.id or id(member) for member in members})


def size_of(deliveries: Iterable[Delivery]) -> int:
    """Return the bytes of their bodies."""
    return sum(len(delivery.body) for delivery in deliveries)


def everything(group: Group) -> Iterator[Delivery]:
    """Yield each delivery of a group, second copies included."""
    yield from with_followers(group.deliveries)
    yield from with_followers(group.controls)


def without(link: Link, members: list[Delivery], dropped: Dropped) -> list[Delivery]:
    """Return the members that did not come over ``link``; the next copy takes the place of one that did."""
    kept: list[Delivery] = []
    for member in members:
        copies = tuple(with_followers((member,)))
        staying = [copy for copy in copies if copy.link is not link]
        dropped.deliveries.extend(copy for copy in copies if copy.link is link)
        for copy, following in pairwise((*staying, None)):
            copy.follower = following  # type: ignore[union-attr]  # None is only ever the last
        if staying:
            kept.append(staying[0])
            if staying[0] is not member:
                dropped.heirs.append((member, staying[0]))
    return kept
