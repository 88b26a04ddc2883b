"""Properties and headers as bytes of JSON, and back, exactly.

JSON has no bytes, moments, decimals or NaN: these become an object with one key that begins
with ``!``; an object of the user's that has such a key is wrapped likewise. What AMQP could not
carry either raises ``EncodeError``.
"""

from __future__ import annotations

import base64
import math
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import orjson
from kombu.exceptions import EncodeError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_MARK = "!"
_INTEGER_BITS = 63


def pack(properties: Mapping[str, Any]) -> bytes:
    """Return properties or headers as one line of JSON; raises ``EncodeError`` naming the value."""
    try:
        return orjson.dumps({name: _pack(name, value) for name, value in properties.items()})
    except (orjson.JSONEncodeError, RecursionError) as error:
        raise EncodeError(f"properties or headers: {error}") from error


def unpack(data: bytes) -> dict[str, Any]:
    """Return what :func:`pack` was given; tuples have become lists."""
    plain = orjson.loads(data)
    if b'"!' in data:
        plain = {name: _unpack(value) for name, value in plain.items()}
    return plain  # type: ignore[no-any-return]


def _pack(name: str, value: Any) -> Any:  # noqa: PLR0911 - a table of types
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, int) and value.bit_length() <= _INTEGER_BITS:
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"!float": str(value)}
    if isinstance(value, dict):
        return _pack_dict(name, value)
    if isinstance(value, list | tuple):
        return [_pack(name, each) for each in value]
    if isinstance(value, bytes | bytearray | memoryview):
        return {"!bytes": base64.b64encode(value).decode()}
    if isinstance(value, datetime):
        # AMQP's timestamps have no zone: a moment without one is in UTC
        moment = value if value.tzinfo else value.replace(tzinfo=UTC)
        return {"!datetime": moment.isoformat()}
    if isinstance(value, Decimal):
        return {"!decimal": str(value)}
    raise EncodeError(f"header {name!r}: a {type(value).__name__} ({value!r:.40}) cannot be stored")


def _pack_dict(name: str, value: dict[Any, Any]) -> Any:
    if not all(isinstance(key, str) for key in value):
        raise EncodeError(f"header {name!r}: a table's keys must be text")
    packed = {key: _pack(key, each) for key, each in value.items()}
    return {"!dict": packed} if any(key.startswith(_MARK) for key in packed) else packed


_READERS: dict[str, Callable[[str], Any]] = {
    "!float": float,
    "!bytes": base64.b64decode,
    "!datetime": datetime.fromisoformat,
    "!decimal": Decimal,
}


def _unpack(value: Any) -> Any:
    if isinstance(value, list):
        return [_unpack(each) for each in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        (key, inner) = next(iter(value.items()))
        if key == "!dict":
            return {name: _unpack(each) for name, each in inner.items()}
        if key in _READERS:
            return _READERS[key](inner)
    return {name: _unpack(each) for name, each in value.items()}
