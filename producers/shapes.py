"""What the load producer publishes: reproducible from a seed, message by message.

Message number ``n`` is the same whatever thread makes it and however the numbers are cut into
blocks: its randomness comes from the seed and the number of its block alone.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from consumers.publisher import Outgoing

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Messages that share one source of randomness.
BLOCK: Final = 1_000
#: The kinds of bad messages, as they stand in the header ``x-bad``.
BAD_KINDS: Final = ("bad-json", "charset", "nan", "binary", "empty")

_PERSISTENT: Final = 2
_JSON: Final = "application/json"
_FILLER: Final = b"abcdefghijklmnopqrstuvwxyz0123456789 " * 64


@dataclass(frozen=True, slots=True)
class Shape:
    """How the messages look.

    ``size``: bytes of a good body, at least what the id needs. ``keys``: number of correlation
    keys, 0 for none; ``open_keys`` of them take turns. ``bad``, ``duplicates``: shares from 0 to 1.
    """

    queue: str
    count: int
    prefix: str
    seed: int = 0
    size: int = 200
    keys: int = 0
    open_keys: int = 100
    sentinels: bool = False
    bad: float = 0.0
    duplicates: float = 0.0

    @property
    def span(self) -> int:
        """Messages of one set of keys that take turns; then come the next keys."""
        return -(-self.count // self.keys) * self.open_keys

    def key(self, number: int) -> str:
        """Return the key of a message."""
        turn, within = divmod(number, self.span)
        first = turn * self.open_keys
        return f"key-{first + within % min(self.open_keys, self.keys - first)}"

    def members(self, number: int) -> dict[str, int]:
        """Return the keys that take turns with that of a message, and how many members each has."""
        start = number - number % self.span
        size = min(self.span, self.count - start)
        first = start // self.span * self.open_keys
        keys = min(self.open_keys, self.keys - first)
        return {
            f"key-{first + place}": size // keys + (place < size % keys) for place in range(min(keys, size))
        }


@dataclass(frozen=True, slots=True)
class Made:
    """A message with its number in the accounts: ``id`` is empty for sentinels and second copies."""

    id: str
    message: Outgoing


def messages(shape: Shape, start: int, stop: int) -> Iterator[Made]:
    """Make the messages with the numbers from ``start`` (a multiple of ``BLOCK``) up to ``stop``."""
    for first in range(start, stop, BLOCK):
        # text as a seed is hashed by SHA-512: the same on each machine
        chance = random.Random(f"{shape.seed}/{first}")  # noqa: S311  guards nothing
        for number in range(first, min(first + BLOCK, stop)):
            made = _message(shape, number, chance)
            yield made
            if shape.duplicates and chance.random() < shape.duplicates:
                yield Made("", made.message)
            if shape.sentinels and ((number + 1) % shape.span == 0 or number + 1 == shape.count):
                yield from _sentinels(shape, number)


def _sentinels(shape: Shape, number: int) -> Iterator[Made]:
    """Make one for each key that ended: its type is ``sentinel``, its header ``count`` the members."""
    for key, count in shape.members(number).items():
        properties = {
            "delivery_mode": _PERSISTENT,
            "message_id": f"{shape.prefix}-end-{key}",
            "correlation_id": key,
            "type": "sentinel",
            "headers": {"count": count},
        }
        yield Made("", Outgoing("", shape.queue, b"", properties))


def _message(shape: Shape, number: int, chance: random.Random) -> Made:
    name = f"{shape.prefix}-{number:09d}"
    properties: dict[str, Any] = {
        "content_type": _JSON,
        "delivery_mode": _PERSISTENT,
        "message_id": name,
    }
    if shape.keys:
        properties["correlation_id"] = shape.key(number)
    if shape.bad and chance.random() < shape.bad:
        kind = BAD_KINDS[chance.randrange(len(BAD_KINDS))]
        body = _bad_body(kind, name, chance)
        properties["headers"] = {"x-bad": kind}
        if kind == "binary":
            properties["content_type"] = "application/octet-stream"
        elif kind == "charset":
            properties["content_encoding"] = "utf-8"
    else:
        body = _good_body(name, number, shape.size)
    return Made(name, Outgoing("", shape.queue, body, properties))


def _good_body(name: str, number: int, size: int) -> bytes:
    start = b'{"id":"%s","number":%d,"text":"' % (name.encode(), number)
    missing = max(0, size - len(start) - 2)
    if missing <= len(_FILLER):
        return start + _FILLER[:missing] + b'"}'
    return start + (_FILLER * (missing // len(_FILLER) + 1))[:missing] + b'"}'


def _bad_body(kind: str, name: str, chance: random.Random) -> bytes:
    text = name.encode()
    match kind:
        case "bad-json":
            return b'{"id":"%s","cut":' % text
        case "charset":
            return b'{"id":"%s","text":"caf\xe9"}' % text
        case "nan":
            return b'{"id":"%s","value":NaN}' % text
        case "binary":
            return b"\x89\x00\xff" + chance.randbytes(61)
        case _:
            return b""
