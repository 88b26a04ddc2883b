"""``aggregate = "push"``: one item for each recipient of a push message, whatever group it is in.

A message settles when all its recipients have their last word. What is wrong with one recipient
concerns that one alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Any

import orjson

from aggregator.clock import SYSTEM_CLOCK
from aggregator.delivery import Item, Shared
from aggregator.documents import make_document
from aggregator.errors import MessageRefusedError
from aggregator.ledger import with_followers
from aggregator.made import Made
from aggregator.push import Address
from aggregator.push_message import fault_of, read_push
from aggregator.request import Final
from aggregator.sinks.base import Fate, Verdict

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aggregator.clock import Clock
    from aggregator.delivery import Delivery
    from aggregator.group import Batch
    from aggregator.made import Refusal
    from aggregator.push_message import PushMessage

EXPIRED = Verdict(Fate.EXPIRED, "expired")
#: Its message goes back to the source, which holds it until the window opens.
POSTPONED = Verdict(Fate.BLOCKED, "outside-window")
_NOT_NOW = Verdict(
    Fate.DEAD_LETTER,
    "outside-window",
    "its source cannot hold it until then; publish it within its window, or put it into a tube",
)
# of what is made for each recipient, the constructor of a named tuple would be a third
_new = tuple.__new__


class Push(Item):
    """One recipient: ``address`` says who, ``document`` is the payload, the same object for all.

    ``size``: its share of the message's bytes. Expressions read the message's headers and properties.
    """

    __slots__ = ("address", "delivery", "shared", "size")

    address: Address
    size: int
    messages = 1
    #: nobody else holds its id: its message is known by an id of its own
    fingerprint = 0
    parsed = False

    def __init__(self, address: Address, delivery: Delivery, shared: Shared | None, size: int) -> None:
        self.address = address
        self.delivery = delivery
        self.document = address.notification.payload
        self.shared = shared
        self.size = size

    @property
    def id(self) -> str:  # type: ignore[override]
        """Campaign and device."""
        address = self.address
        return f"{address.notification.campaign}/{address.device or address.token}"

    @property
    def batch(self) -> Batch:  # type: ignore[override]
        """The message's."""
        return self.delivery.batch

    @property
    def deliveries(self) -> Sequence[Delivery]:
        """Its message."""
        return (self.delivery,)

    def json(self) -> Any:
        """Return the payload, parsed; not kept, for that would be done for each recipient."""
        return orjson.loads(self.document)

    def forget_json(self) -> None:
        """Nothing is kept."""

    @property
    def headers(self) -> Mapping[str, Any]:
        """The message's."""
        return self.delivery.headers

    @property
    def properties(self) -> Mapping[str, Any]:
        """The message's."""
        return self.delivery.properties

    @property
    def exchange(self) -> str:
        """The message's."""
        return self.delivery.exchange

    @property
    def routing_key(self) -> str:
        """The message's."""
        return self.delivery.routing_key


@dataclass(frozen=True, slots=True)
class Pushes:
    """Reads push messages. ``max_message``: bytes of one at most, inflated; ``clock`` for windows."""

    clock: Clock = SYSTEM_CLOCK
    max_message: int = 16 * 1024 * 1024

    def make(self, key: str | None, deliveries: Sequence[Delivery], max_bytes: int) -> Made:  # noqa: ARG002
        """Return an item for each recipient that has no last word yet."""
        items: list[Push] = []
        refused: list[Refusal] = []
        final: list[Final] = []
        now = self.clock.time()
        for delivery in deliveries:
            try:
                message = read_push(self._parsed(delivery), now)
            except MessageRefusedError as exc:
                refused.append((delivery, exc.with_traceback(None)))
                continue
            except Exception as exc:  # noqa: BLE001 - a message that nobody foresaw; words may hold its body
                refused.append((delivery, MessageRefusedError("unreadable", type(exc).__name__)))
                continue
            finally:
                delivery.forget_json()
            _divide(delivery, message, items, final)
        return Made([], refused, 0, items, final)

    def unsendable(self, items: Sequence[Item]) -> list[Final]:
        """Return the items that are outside of their window now, with the word on each."""
        now = self.clock.time()
        final: list[Final] = []
        last, word = None, None
        for item in items:
            if (address := item.address) is None:
                continue
            message = address.notification
            if message is not last:  # those of one message follow one another
                when = message.due(now)
                last, word = message, None if when == now else _word(item, when)
            if word is not None:
                final.append(Final(item, word))
        return final

    def _parsed(self, delivery: Delivery) -> Any:
        if delivery.parsed:
            return delivery.json()
        document = make_document(delivery, trust_json=True, max_bytes=self.max_message)
        problem = ""
        try:
            return orjson.loads(document)
        except orjson.JSONDecodeError as exc:
            problem = str(exc)  # the exception itself carries the body
        raise MessageRefusedError("bad-json", problem)


def _word(item: Item, when: float) -> Verdict:
    """Return the word on the items of a message that may be sent at ``when``; ``inf`` for never."""
    if when == inf:
        return EXPIRED
    held = [delivery.postpone(when) for delivery in with_followers(item.deliveries)]
    return POSTPONED if all(held) else _NOT_NOW


def _divide(delivery: Delivery, message: PushMessage, items: list[Push], final: list[Final]) -> None:
    """Add an item for each recipient; those that are none have their last word at once."""
    platform, app, notification, recipients = message
    done = delivery.parts
    left = len(recipients) - len(done)
    shared = Shared(left) if left > 1 else None
    size = max(1, len(delivery.body) // len(recipients))
    for index, recipient in enumerate(recipients):
        if done and index in done:
            continue
        try:
            device, token, registered = recipient if len(recipient) == 3 else (*recipient, 0)  # noqa: PLR2004
            right = type(token) is str and token and type(device) is str and type(registered) in {int, float}
        except (TypeError, ValueError):
            right = False
        fault = "" if right and registered >= 0 else fault_of(recipient)
        if fault:
            address = Address("", "", platform, app, 0, index, notification)
            word = Verdict(Fate.DEAD_LETTER, "bad-push", f"recipient {index} {fault}")
            final.append(Final(Push(address, delivery, shared, size), word))
            continue
        address = _new(Address, (token, str(device), platform, app, registered or 0, index, notification))
        items.append(Push(address, delivery, shared, size))
