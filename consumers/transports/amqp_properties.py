"""Basic properties as they stand in a header frame, read as far as someone asks.

``raw`` is always the flags and the values behind them. The values are decoded by py-amqp. All
functions raise ``DecodeError`` for what cannot be read, whatever is wrong with it.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from amqp.serialization import decode_properties_basic, loads
from kombu.exceptions import DecodeError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

HEADERS: Final = 0x2000
#: Basic properties in the order of the wire: flag, and py-amqp's letter for the type.
PROPERTIES: Final[dict[str, tuple[int, str]]] = {
    "content_type": (0x8000, "s"),
    "content_encoding": (0x4000, "s"),
    "headers": (HEADERS, "F"),
    "delivery_mode": (0x1000, "o"),
    "priority": (0x0800, "o"),
    "correlation_id": (0x0400, "s"),
    "reply_to": (0x0200, "s"),
    "expiration": (0x0100, "s"),
    "message_id": (0x0080, "s"),
    "timestamp": (0x0040, "L"),
    "type": (0x0020, "s"),
    "user_id": (0x0010, "s"),
    "app_id": (0x0008, "s"),
    "cluster_id": (0x0004, "s"),
}
#: By letter, the octets of a value; below zero, those of the length that it begins with.
_SHORT, _TABLE = -1, -4
_STEPS: Final = {"s": _SHORT, "F": _TABLE, "o": 1, "L": 8}
#: Octets of a table's value behind its kind, where these are always as many.
_LENGTHS: Final = dict(zip(b"tbBUusIiLlfdDTV", (1, 1, 1, 2, 2, 2, 4, 4, 8, 8, 4, 8, 5, 8, 0), strict=True))
_LONG: Final = ord("L")
#: Kinds of values that begin with their length: texts, tables, arrays, bytes.
_COUNTED: Final = frozenset(b"SFAx")


def read_all(raw: bytes) -> dict[str, Any]:
    """Return every property that is set, the headers as ``application_headers``, as py-amqp would."""
    found: dict[str, Any] = _guarded("properties", lambda: decode_properties_basic(raw, 0)[0])
    return found


def read_properties(raw: bytes) -> dict[str, Any]:
    """Return every property that is set but the headers, which are not looked at."""
    if raw[0] << 8 & HEADERS:

        def without() -> bytes:
            start = _find(raw, HEADERS)
            flags = int.from_bytes(raw[:2], "big") & ~HEADERS
            return flags.to_bytes(2, "big") + raw[2:start] + raw[_skip(raw, start, (_TABLE,)) :]

        raw = _guarded("properties", without)
    return read_all(raw)


def read_property(raw: bytes, name: str) -> Any:
    """Return one property, None where it is not set or no such is known; the headers are skipped."""
    flag, letter = PROPERTIES.get(name, (0, ""))
    flags = raw[0] << 8 | raw[1]
    if not flags & flag or letter == "F":
        return None
    try:
        at = _skip(raw, 2, _before(flags, flag))
        if letter == "s":
            return raw[at + 1 : at + 1 + raw[at]].decode("utf-8", "surrogatepass")
        return int.from_bytes(raw[at : at + _STEPS[letter]], "big")
    except (UnicodeDecodeError, IndexError) as exc:
        raise DecodeError(f"{name}: {type(exc).__name__}") from None


def read_declared(raw: bytes) -> tuple[str | None, str | None]:
    """Return content type and content encoding: the first properties on the wire."""
    flags, end = raw[0], 2
    try:
        if flags & 0x80:
            end += 1 + raw[end]
        if flags & 0x40:
            end += 1 + raw[end]
    except IndexError:
        raise DecodeError("content_type: IndexError") from None
    return _declared(raw[:end])


@lru_cache(maxsize=512)
def _declared(raw: bytes) -> tuple[str | None, str | None]:
    """Return them from the beginning of the properties; a publisher says the same each time."""
    return read_property(raw, "content_type"), read_property(raw, "content_encoding")


def read_said(raw: bytes) -> bytes | None:
    """Return the headers as they stand on the wire, but for those named ``x-…``: the same for each copy.

    None where a table has a value whose end is not known without decoding it. A broker that adds a
    header of its own sorts them all.
    """
    if not raw[0] << 8 & HEADERS:
        return b""
    entries = []
    try:
        at = _find(raw, HEADERS)
        end = _skip(raw, at, (_TABLE,))
        at += 4
        while at < end:
            value = at + 1 + raw[at]
            after = value + 1 + _LENGTHS.get(raw[value], 0)
            if raw[value] in _COUNTED:
                after += 4 + int.from_bytes(raw[after : after + 4], "big")
            elif raw[value] not in _LENGTHS:
                return None
            if not raw.startswith(b"x-", at + 1, value):
                # RabbitMQ writes the one number of 64 bits as the other
                entries.append(
                    raw[at:after] if raw[value] != _LONG else raw[at:value] + b"l" + raw[value + 1 : after]
                )
            at = after
    except IndexError:
        return None
    if at != end or end > len(raw):
        return None
    entries.sort()
    return b"".join(entries)


def read_headers(raw: bytes) -> dict[str, Any]:
    """Return the application's headers; empty where there are none."""
    if not raw[0] << 8 & HEADERS:
        return {}
    found: dict[str, Any] = _guarded("headers", lambda: loads("F", raw, _find(raw, HEADERS))[0][0])
    return found


def may_have_header(raw: bytes, name: bytes) -> bool:
    """Return False where no header has this name; for true the table would have to be decoded."""
    return bool(raw[0] << 8 & HEADERS) and name in raw


def read_route(raw: bytes, errors: str = "surrogatepass") -> tuple[str, str]:
    """Return exchange and routing key of a delivery; ``raw`` is two short strings, ``errors`` a codec's."""

    def read() -> tuple[str, str]:
        middle = 1 + raw[0]
        routing_key = raw[middle + 1 : middle + 1 + raw[middle]]
        return raw[1:middle].decode("utf-8", errors), routing_key.decode("utf-8", errors)

    route: tuple[str, str] = _guarded("routing key", read)
    return route


def _guarded(what: str, read: Callable[[], Any]) -> Any:
    try:
        return read()
    except Exception as exc:  # noqa: BLE001 - py-amqp's decoder raises what it comes upon, RecursionError too
        problem = f"the {what} cannot be decoded: {type(exc).__name__}"
    raise DecodeError(problem)


def _find(raw: bytes, flag: int) -> int:
    """Return where the property of ``flag`` begins. ``IndexError`` beyond the end."""
    return _skip(raw, 2, _before(raw[0] << 8 | raw[1], flag))


def _skip(raw: bytes, at: int, steps: Iterable[int]) -> int:
    """Return where what follows values of these steps begins."""
    for step in steps:
        if step == _SHORT:
            at += 1 + raw[at]
        elif step == _TABLE:
            at += 4 + int.from_bytes(raw[at : at + 4], "big")
        else:
            at += step
    return at


@lru_cache(maxsize=1024)
def _before(flags: int, flag: int) -> tuple[int, ...]:
    """Return the steps over the properties that are set and stand before the one of ``flag``."""
    return tuple(_STEPS[letter] for each, letter in PROPERTIES.values() if each & flags and each > flag)
