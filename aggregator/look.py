"""A look at a route for whoever watches it: short, and bounded however many groups are open.

The route's lock is held for two short moments: to note where things stand, and to ask when the few groups
that are shown will be complete. All of them are looked through in between, without it.
"""

from __future__ import annotations

from heapq import nlargest
from itertools import islice
from math import inf
from typing import TYPE_CHECKING, NamedTuple

from aggregator.group import OpenGroup, described

if TYPE_CHECKING:
    from collections.abc import Iterable
    from threading import Condition

    from aggregator.buffer import Buffer
    from aggregator.entrance import Entrance
    from aggregator.group import Group
    from aggregator.outbox import Outbox
    from aggregator.ports import DeadLetterPort
    from aggregator.standing import RouteState, Standing


class WaitingGroup(NamedTuple):
    """An open group, and what it waits for.

    ``fill``: its share of the messages, or of the bytes, that make it full, or of the members that it is
    said to have, whichever is more; None where there is no such number. ``due``: seconds until it is
    complete though nothing more comes, ``trigger``: by what; None for never. ``opening``: tells it from
    all others of its key.
    """

    group: OpenGroup
    fill: float | None
    due: float | None
    trigger: str | None
    opening: float


class Look(NamedTuple):
    """Where a route stands. Times are seconds from now, None for never, or where nothing is awaited.

    ``probe``: until the sink is asked again. ``room``: whether more may be read. ``failing``: since when
    the sink takes nothing; ``trial``: until it is tried again. ``letters_failing``: since when nothing gets
    into the dead-letter queue. ``received``: since the last message came. ``due``: until a group is complete.
    """

    state: RouteState
    reason: str
    probe: float | None
    room: bool
    failing: float | None
    trial: float | None
    letters_failing: float | None
    received: float | None
    held_messages: int
    held_bytes: int
    outgoing: int
    requests: int
    letters_pending: int
    groups: int
    due: float | None
    oldest: list[WaitingGroup]
    fullest: list[WaitingGroup]


def look(
    lock: Condition,
    now: float,
    most: int,
    *,
    standing: Standing,
    buffer: Buffer,
    entrance: Entrance,
    outbox: Outbox,
    dead_letters: DeadLetterPort,
    last_received: float,
) -> Look:
    """Return where a route stands, with ``most`` of the oldest groups, and as many of the fullest."""
    with lock:
        groups = buffer.open_groups()
        gate, failing_since = outbox.gate, dead_letters.failing_since
        found = Look(
            state=standing.state,
            reason=standing.reason,
            probe=_until(standing.probe_at, now),
            room=entrance.has_room,
            failing=max(0.0, now - gate.since) if gate.shut else None,
            trial=_until(gate.wake_at, now) if gate.shut else None,
            letters_failing=None if failing_since is None else max(0.0, now - failing_since),
            received=None if last_received == -inf else max(0.0, now - last_received),
            held_messages=buffer.held,
            held_bytes=entrance.held_bytes,
            outgoing=outbox.pending,
            requests=outbox.concurrency.under_way,
            letters_pending=dead_letters.pending,
            groups=len(groups),
            due=_until(buffer.next_deadline, now),
            oldest=[],
            fullest=[],
        )
    oldest = list(islice(groups, most))
    # whoever is as full and older comes first
    fullest = nlargest(most, groups, key=lambda group: len(group.deliveries))
    with lock:
        return found._replace(
            oldest=list(_waiting(oldest, buffer, now)), fullest=list(_waiting(fullest, buffer, now))
        )


def _waiting(groups: Iterable[Group], buffer: Buffer, now: float) -> Iterable[WaitingGroup]:
    messages, size = buffer.full
    for group in groups:
        if not group.open:
            continue  # complete meanwhile
        when, trigger = buffer.due(group)
        seen = described(group, now)
        there = seen.messages + group.gone
        shares = [there / seen.expected] if seen.expected else []
        shares += [seen.messages / messages] if messages < inf else []
        shares += [seen.bytes / size] if size < inf else []
        fill = max(shares) if shares else None
        due = _until(when, now)
        yield WaitingGroup(seen, fill, due, None if due is None else trigger.value, group.opened)


def _until(when: float, now: float) -> float | None:
    return max(0.0, when - now) if -inf < when < inf else None
