"""Where a queue file lies and how it is used: what the URL and the transport options say.

``sqlite-queue:///data/queue.db`` is relative to the working directory, and
``sqlite-queue:////var/lib/queue.db`` absolute, as in SQLAlchemy. A ``?``, ``#``, ``%`` or ``;`` in the path
is written as %3F, %23, %25, %3B. Options stand in the query or in ``transport_options``; the URL wins.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote, urlsplit

from aggregator.errors import ConfigurationError
from aggregator.units import parse_duration, parse_size

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_FIELD = "broker"
_SHAPE = "write sqlite-queue:///relative/path.db or sqlite-queue:////absolute/path.db"


@dataclass(frozen=True, slots=True)
class Settings:
    """How one connection uses its queue file. Times are in seconds.

    ``synchronous``: ``full`` (a publish that returned survives loss of power) or ``normal`` (it
    survives the end of any process, but not loss of power; an order of magnitude faster).
    ``lease``: after how long without a sign of life a consumer's messages are taken over; a process that
    ended is noticed at once, whatever this says. ``poll``: pause between two looks for new
    messages. ``busy_timeout``: how long to wait for another process's write. ``batch`` and
    ``batch_bytes``: what one look takes at most, within the prefetch.
    """

    path: Path
    synchronous: str = "full"
    lease: float = 60.0
    poll: float = 0.02
    busy_timeout: float = 30.0
    batch: int = 1000
    batch_bytes: int = 16 * 1024 * 1024


def _synchronous(value: Any) -> str:
    if value not in {"full", "normal"}:
        raise ValueError("full or normal is needed")
    return str(value)


def _duration(value: Any) -> float:
    # a number in transport_options is in seconds, as all of kombu's are; a URL's value is text
    seconds = float(value) if isinstance(value, int | float) else parse_duration(value)
    if seconds <= 0:
        raise ValueError("it must be longer than nothing")
    return seconds


def _positive(value: Any) -> int:
    number = parse_size(value)
    if number <= 0:
        raise ValueError("at least 1 is needed")
    return number


_OPTIONS: Mapping[str, Callable[[Any], Any]] = {
    "synchronous": _synchronous,
    "lease": _duration,
    "poll": _duration,
    "busy_timeout": _duration,
    "batch": _positive,
    "batch_bytes": _positive,
}


def parse_url(url: str, options: Mapping[str, Any] | None = None) -> Settings:
    """Return the settings that ``url`` and kombu's ``transport_options`` ask for.

    Options of ``transport_options`` that are not ours are left to kombu; one in the URL that is
    not ours raises ``ConfigurationError``, as all else does that is wrong.
    """
    parts = urlsplit(url)
    if parts.netloc:
        raise ConfigurationError(_FIELD, f"it names a host; {_SHAPE}")
    if parts.fragment:
        raise ConfigurationError(_FIELD, "the URL holds a #; write %23 if it is part of the path")
    settings = Settings(path=_path(unquote(parts.path.removeprefix("/"))))
    for name, value in (options or {}).items():
        if name in _OPTIONS:
            settings = _with(settings, name, value)
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        settings = _with(settings, name, value)
    return settings


def _path(text: str) -> Path:
    if not text or text.endswith("/"):
        raise ConfigurationError(_FIELD, f"the queue's file is missing; {_SHAPE}")
    if text == ":memory:":
        raise ConfigurationError(_FIELD, "a queue in memory cannot be shared; kombu's memory:// can")
    if "\0" in text:
        raise ConfigurationError(_FIELD, "a path holds no NUL")
    # a link and its target are one queue, with one folder of locks
    return Path(text).resolve()


def _with(settings: Settings, name: str, value: Any) -> Settings:
    try:
        parse = _OPTIONS[name]
    except KeyError:
        known = ", ".join(field.name for field in fields(Settings) if field.name in _OPTIONS)
        raise ConfigurationError(
            _FIELD, f"{name!r} is no option of a queue file; there are {known}"
        ) from None
    try:
        return replace(settings, **{name: parse(value)})
    except (ValueError, TypeError) as error:
        raise ConfigurationError(_FIELD, f"{name}={value}: {error}") from None
