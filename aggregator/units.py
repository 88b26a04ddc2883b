"""Durations and sizes as people write them: ``2s``, ``1h30m``, ``10MB``, ``512KiB``.

Both are pydantic types. A duration needs its unit, since a bare ``2`` has meant seconds in one
place and milliseconds in another; a size without a unit is a number of bytes.
"""

from __future__ import annotations

import re
from typing import Annotated, Any

import durationpy
from pydantic import BeforeValidator, ByteSize, TypeAdapter, ValidationError

DURATION_HELP = "a number with its unit is needed, like 500ms, 2s, 5m or 1h30m"
SIZE_HELP = "a number of bytes is needed, like 512KiB, 10MB or 1048576"

# months and years, which the library knows as well, have no fixed length
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ns|us|µs|μs|ms|s|m|h|d|w))+")
_LONGEST = 10 * 366 * 86_400.0
_SIZE = re.compile(r"\d+(?:\.\d+)?\s*(?:[kmgt]?i?b)?", re.IGNORECASE)
_BYTE_SIZE = TypeAdapter(ByteSize)


def parse_duration(value: Any) -> float:
    """Return ``value`` (``"500ms"``, ``"1h30m"``, ``0``) in seconds.

    Raises ``ValueError``, whose text says what would be right, for anything else; a number
    without a unit is refused unless it is 0.
    """
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(DURATION_HELP)  # noqa: TRY004 - pydantic turns only a ValueError into a fault
    text = str(value).strip()
    try:
        number = float(text)
    except ValueError:
        number = None
    if number == 0:
        return 0.0
    if number is not None:
        raise ValueError(f"{text} has no unit; {DURATION_HELP}")
    if not _DURATION.fullmatch(text):
        raise ValueError(f"{text!r} is no duration; {DURATION_HELP}")
    try:
        seconds = durationpy.from_str(text).total_seconds()
    except durationpy.DurationError:
        raise ValueError(f"{text!r} is no duration; {DURATION_HELP}") from None
    if seconds > _LONGEST:
        raise ValueError(f"{text} is longer than ten years")
    return float(seconds)


def parse_size(value: Any) -> int:
    """Return ``value`` (``"10MB"``, ``"512KiB"``, ``4096``) in bytes; never negative.

    Raises ``ValueError``, whose text says what would be right, for anything else.
    """
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError(SIZE_HELP)  # noqa: TRY004 - pydantic turns only a ValueError into a fault
    text = str(value).strip()
    # the library itself reads over what follows a number, and takes bits for bytes
    if not _SIZE.fullmatch(text):
        raise ValueError(f"{text!r} is no size; {SIZE_HELP}")
    try:
        return int(_BYTE_SIZE.validate_python(text))
    except (ValidationError, OverflowError):
        raise ValueError(f"{text!r} is no size; {SIZE_HELP}") from None


def format_duration(seconds: float) -> str:
    """Return ``seconds`` as people write it: ``0``, ``500ms``, ``1h30m``."""
    whole = round(seconds * 1000)
    parts = []
    for unit, length in (("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)):
        count, whole = divmod(whole, length)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0"


Duration = Annotated[float, BeforeValidator(parse_duration)]
"""Seconds, written as ``2s``."""

Size = Annotated[int, BeforeValidator(parse_size)]
"""Bytes, written as ``10MB``."""
