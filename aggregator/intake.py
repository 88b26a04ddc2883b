"""The first look at a delivery: is it fit, to which group does it belong, which id does it get.

Runs on the worker's thread, outside every lock.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import count
from math import inf
from secrets import token_hex
from typing import TYPE_CHECKING

from aggregator.documents import make_document
from aggregator.errors import MessageRefusedError
from aggregator.ports import Refused

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aggregator.clock import Clock
    from aggregator.correlation import Expression
    from aggregator.delivery import Delivery
    from aggregator.documents import Making
    from aggregator.screening import Screen
    from aggregator.sinks.base import Verdict

#: Bytes that a document may have beyond its body without having been inflated.
WRAPPING = 64
DELIVERY_COUNT = "x-delivery-count"
#: Deliveries below the limit that are left to find out which member of a group kills the process.
SPLIT_MARGIN = 4
#: So many groups that may kill are written together, at their first delivery as such, and at the next:
#: most are innocent, and none gets away while they are written one by one.
COMPANY = (1_000, 20)


#: A delivery for the buffer, its key, whether it is a sentinel, and how many members it says that its
#: group has (None: it does not say). A plain tuple: one for each message.
Entry = tuple["Delivery", str | None, bool, int | None]


@dataclass(slots=True)
class Sorted:
    """What one hand-over holds; entries in the order of their arrival."""

    entries: list[Entry] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    #: not to be written, with the last word on each: :mod:`aggregator.screening`
    screened: list[tuple[Delivery, Verdict]] = field(default_factory=list)
    #: delivery, key, members of its group, and how often it was delivered before
    suspects: list[tuple[Delivery, str | None, int | None, int]] = field(default_factory=list)

    def suspect(self, delivered: int) -> None:
        """Take the latest entry for one that may kill the process. A sentinel is not written: it cannot."""
        if not self.entries[-1][2]:
            delivery, key, _, expected = self.entries.pop()
            self.suspects.append((delivery, key, expected, delivered))


@dataclass(frozen=True, slots=True)
class Intake:
    """How deliveries of a route are read. ``key`` and ``id`` of None: one group, ids made here.

    ``default_key``: the key of what has none; None refuses it. ``sequence``: reads from a member how
    many its group has. ``isolate_groups``: members of a key are suspects together, as their group.
    ``keeps_parsed``: what was parsed on the way in is kept for what is made of it. ``make``: makes documents.
    ``screens``: know of messages of its form which are not to be written.
    """

    clock: Clock
    key: Expression | None = None
    id: Expression | None = None
    is_sentinel: Callable[[Delivery], bool] | None = None
    sentinel_count: str | None = None
    default_key: str | None = None
    sequence: Expression | None = None
    delivery_limit: int = 15
    isolate_at: int | None = None
    isolate_groups: bool = False
    trust_json: bool = False
    max_message: int = 16 * 1024 * 1024
    keeps_parsed: bool = False
    make: Making = make_document
    screens: Sequence[Screen] = ()
    _process: str = field(default_factory=lambda: token_hex(4))
    _serial: count[int] = field(default_factory=count)

    def sort(self, deliveries: Sequence[Delivery]) -> Sorted:
        """Read each delivery; whatever is wrong with one concerns that one alone."""
        result = Sorted()
        read_id, alone_at = self.id, self.alone_at
        plain = self.plain
        # time-ordered, unique over restarts and processes: the milliseconds, the process, a number
        prefix = f"{int(self.clock.time() * 1000):012x}{self._process}"
        for delivery in deliveries:
            try:
                delivered = self._guard(delivery) if delivery.redelivered else 0
                given = None
                if read_id is not None:
                    try:
                        given = read_id(delivery)
                    except MessageRefusedError as exc:
                        given = self._read_document(read_id, delivery, exc)
                if given:
                    delivery.id = given
                    said = delivery.said()
                    delivery.fingerprint = hash((delivery.body, said) if said else delivery.body) or 1
                else:
                    delivery.id = f"{prefix}{next(self._serial):08x}"
                if plain:
                    if delivery.parsed:
                        self._keep_document(delivery)
                    result.entries.append((delivery, None, False, None))
                else:
                    self._place(delivery, result)
                if delivered and delivered >= alone_at:
                    result.suspect(delivered)
            except MessageRefusedError as exc:
                result.refused.append(self.refusal(delivery, exc))
            except (Exception, SystemExit) as exc:  # noqa: BLE001
                # a message that nobody foresaw must not take its neighbours, or the link, with it;
                # a stranger's words may hold the body
                result.refused.append(
                    self.refusal(delivery, MessageRefusedError("unreadable", type(exc).__name__))
                )
        return result

    @property
    def plain(self) -> bool:
        """Whether nothing tells one message from another on its way in: no key, and nobody counts members."""
        return self.key is None and self.is_sentinel is None and self.sequence is None

    def suspicion(self, members: Sequence[Delivery]) -> int:
        """Return how often a group that has to be written alone was delivered at most; 0 for any other."""
        if self.isolate_at is None or not self.isolate_groups:
            return 0
        delivered = max((delivered_before(each) for each in members if each.redelivered), default=0)
        return delivered if delivered >= self.isolate_at else 0

    def company(self, delivered: int) -> int:
        """Return how many that have to be written alone may be written together."""
        if self.isolate_at is None or not self.isolate_groups or delivered >= self.alone_at:
            return 1
        late = delivered - self.isolate_at
        return COMPANY[late] if late < len(COMPANY) else 1

    @property
    def alone_at(self) -> float:
        """What was delivered so often is written alone, be its group complete or not; ``inf``: nothing is."""
        if self.isolate_at is None:
            return inf
        # to take one from its group is to split it: only what would be lost otherwise is worth that
        return max(self.isolate_at, self.delivery_limit - SPLIT_MARGIN if self.isolate_groups else 0)

    def refusal(self, delivery: Delivery, error: MessageRefusedError) -> Refused:
        """Return the refusal of a message that never reached the sink."""
        now = self.clock.time()
        return Refused(delivery, error.reason, error.detail, error_type="message", first=now, last=now)

    def _read(self, expression: Expression, delivery: Delivery) -> str | None:
        try:
            return expression(delivery)
        except MessageRefusedError as exc:
            return self._read_document(expression, delivery, exc)

    def _read_document(
        self, expression: Expression, delivery: Delivery, error: MessageRefusedError
    ) -> str | None:
        """Read from the document what the body does not say: compressed, or in another charset."""
        if error.reason != "bad-json" or delivery.document:
            raise error
        delivery.document = self._document(delivery)
        return expression(delivery)

    def _document(self, delivery: Delivery) -> bytes:
        return self.make(delivery, trust_json=self.trust_json, max_bytes=self.max_message)

    def _guard(self, delivery: Delivery) -> int:
        # RabbitMQ drops a message silently beyond its delivery limit: it has to leave before
        delivered = delivered_before(delivery)
        if delivered >= self.delivery_limit:
            raise MessageRefusedError("delivery-limit", f"delivered {delivered} times without a verdict")
        return delivered

    def _place(self, delivery: Delivery, result: Sorted) -> None:
        key = None
        if self.key is not None:
            key = self._read(self.key, delivery)
            if key is None:
                key = self.default_key
            if key is None:
                raise MessageRefusedError("no-key", "the message has nothing to correlate it by")
        if self.is_sentinel is not None and self.is_sentinel(delivery):
            result.entries.append((delivery, key, True, self._count_of(delivery)))
            delivery.forget_json()
            return
        expected = self._sequence_of(delivery) if self.sequence is not None else None
        if delivery.parsed:
            self._keep_document(delivery)
        result.entries.append((delivery, key, False, expected))

    def _keep_document(self, delivery: Delivery) -> None:
        """Make the document now, as it is parsed for its key or id, and let the objects go."""
        if self.keeps_parsed:
            return
        document = delivery.document or self._document(delivery)
        delivery.forget_json()
        # inflated, it would be held beyond all bounds: it is made again
        delivery.document = document if len(document) <= len(delivery.body) + WRAPPING else b""

    def _sequence_of(self, delivery: Delivery) -> int:
        said = self._read(self.sequence, delivery) if self.sequence is not None else None
        if said is None:
            raise MessageRefusedError("bad-sequence", "the message does not say how many its group has")
        if not said.isascii() or not said.isdecimal() or not int(said[:9]) > 0 or len(said) > 9:  # noqa: PLR2004
            raise MessageRefusedError("bad-sequence", "the number of members is no number above zero")
        return int(said)

    def _count_of(self, delivery: Delivery) -> int | None:
        if self.sentinel_count is None:
            return None
        value = delivery.header(self.sentinel_count)
        if isinstance(value, bool) or not isinstance(value, int | str):
            return None
        try:
            expected = int(value)
        except ValueError:
            expected = -1
        if expected < 0:
            raise MessageRefusedError("bad-sentinel", f"header {self.sentinel_count} is no number of members")
        return expected


def delivered_before(delivery: Delivery) -> int:
    """Return how often a redelivered message came before, as the broker counts it; 0 if it does not."""
    delivered = delivery.header(DELIVERY_COUNT)
    return delivered if isinstance(delivered, int) else 0
