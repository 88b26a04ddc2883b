"""Users as they come in files, checked field by field, and as the servers keep them.

A row is a list of the fields of ``FIELDS``, in this order. Checks are by hand, with kept answers where
values repeat: a million rows are checked in seconds.
"""

from __future__ import annotations

import csv
import re
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from aggregator.errors import AggregatorError, ConfigurationError
from producers.campaigns.zones import zone_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

FIELDS = (
    "id", "token", "platform", "app_version", "language", "resolution", "tz", "hour_from", "hour_to",
    "registered",
)  # fmt: skip
NEEDED = ("id", "token", "platform")
Row = list[Any]

_ID_LENGTH = 128
_LONGEST_MAJOR = 4
_LANGUAGE = re.compile(r"(?:[A-Za-z]{2,8}(?:[-_][A-Za-z0-9]{1,8})*)?")
_RESOLUTION = re.compile(r"[\x21-\x7e]{0,32}")
_VERSION = re.compile(r"(\d{1,4})(?:\.(\d{1,3}))?(?:\.(\d{1,3}))?")
_TOKENS = {
    "apns": (re.compile(r"(?:[0-9a-fA-F]{2}){32,100}"), "is no hex of 64 to 200 digits"),
    "fcm": (re.compile(r"[A-Za-z0-9_:-]{20,4096}"), "is no 20 to 4096 letters, digits, _, : and -"),
}
_MOST_ID = 2**63
#: Beyond this, unix seconds were milliseconds.
_MOST_SECONDS = 100_000_000_000


class BadRowError(AggregatorError):
    """A row that is no user. ``field`` is at fault; the text says why and never holds a token."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field} {problem}")
        self.field = field


class Read(NamedTuple):
    """A row of a file; either ``user`` or ``fault`` is None.

    ``number``: the line it ends on, from 1. ``record``: what stood in the file, for a file of rejects.
    """

    number: int
    user: Row | None
    fault: BadRowError | None
    record: Any


def user_of(record: Mapping[str, Any]) -> Row:
    """Return the row of a user; ``BadRowError``."""
    get = record.get
    return check([get(name) for name in FIELDS])


def check(values: Sequence[Any]) -> Row:
    """Return the row of a user from its raw fields in the order of ``FIELDS``; ``BadRowError``.

    Texts are accepted everywhere, as CSV has nothing else; empty or None is missing.
    """
    id_, token, platform, version, language, resolution, tz, hour_from, hour_to, registered = values
    if platform not in _TOKENS:
        raise BadRowError("platform", "is neither apns nor fcm")
    pattern, problem = _TOKENS[platform]
    if type(token) is not str or not pattern.fullmatch(token):
        raise BadRowError("token", problem)
    return [
        _id(id_),
        token,
        platform,
        0 if version in {None, ""} else _version(version),
        _matching("language", _LANGUAGE, language, "is no language such as de or pt-BR"),
        _matching("resolution", _RESOLUTION, resolution, "is no text of up to 32 visible characters"),
        _zone(tz or "UTC"),
        *_hours(hour_from, hour_to),
        0 if registered in {None, ""} else _moment(registered),
    ]


def _id(value: Any) -> str | int:
    if type(value) is int and 0 <= value < _MOST_ID:
        return value
    if type(value) is not str or not 0 < len(value) <= _ID_LENGTH or not value.isprintable():
        raise BadRowError("id", f"is neither 1 to {_ID_LENGTH} printable characters nor a whole number")
    return value


@lru_cache(maxsize=65_536, typed=True)
def _version(value: Any) -> int:
    if type(value) is int and value >= 0:
        return value
    if type(value) is str and len(value) > _LONGEST_MAJOR and value.isdecimal():
        return int(value)  # as it is stored
    found = _VERSION.fullmatch(value.strip()) if type(value) is str else None
    if not found:
        raise BadRowError("app_version", "is no version such as 3.2.1")
    major, minor, patch = (int(part or 0) for part in found.groups())
    return major * 1_000_000 + minor * 1_000 + patch


def _matching(field: str, pattern: re.Pattern[str], value: Any, problem: str) -> str:
    if value is None:
        return ""
    if type(value) is not str or not pattern.fullmatch(value):
        raise BadRowError(field, problem)
    return value


@lru_cache(maxsize=4096, typed=True)
def _zone(name: Any) -> str:
    try:
        zone_of(name)
    except (ValueError, TypeError):
        raise BadRowError("tz", "is no time zone such as Europe/Berlin or +05:30") from None
    return str(name)


@lru_cache(maxsize=4096, typed=True)
def _hours(first: Any, last: Any) -> tuple[int | None, int | None]:
    if first in {None, ""} and last in {None, ""}:
        return None, None
    try:
        hours = int(first), int(last)
    except (TypeError, ValueError):
        hours = -1, -1
    if not (0 <= hours[0] <= 23 and 0 <= hours[1] <= 24):  # noqa: PLR2004 - hours of a day
        raise BadRowError("hour_from", "and hour_to are not both hours of the day, 0 to 23")
    return hours


@lru_cache(maxsize=65_536, typed=True)
def _moment(value: Any) -> float:
    try:
        moment = (
            datetime.fromisoformat(value).timestamp() if type(value) is str and "-" in value else float(value)
        )
    except (TypeError, ValueError):
        moment = -1.0
    if not 0 <= moment < _MOST_SECONDS:
        raise BadRowError("registered", "is neither unix seconds nor a time such as 2026-01-31T12:00:00Z")
    return int(moment) if moment.is_integer() else moment


def read_csv(file: Iterable[str], ignore: Collection[str] = ()) -> Iterator[Read]:
    """Read users with a header line; ``ConfigurationError`` if the header is no such.

    Columns stand in any order; only id, token and platform are needed. ``ignore``: columns to leave out.
    """
    reader = csv.reader(file, strict=True)
    header = [name.strip().lower() for name in next(_lines(reader), (None, []))[1] or []]
    pick = _picker(header, ignore)
    width = len(header)
    for number, fields in _lines(reader):
        if isinstance(fields, BadRowError):
            yield Read(number, None, fields, None)
        elif fields and len(fields) != width:
            fault = BadRowError("row", f"has {len(fields)} fields, the header {width}")
            yield Read(number, None, fault, fields)
        elif fields:
            yield _read(number, pick, fields)


def _lines(reader: Any) -> Iterator[tuple[int, Any]]:
    while True:
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as exc:
            yield reader.line_num, BadRowError("row", f"is no CSV: {exc}")
        else:
            yield reader.line_num, fields


def _picker(header: Sequence[str], ignore: Collection[str]) -> Callable[[Sequence[str]], Row]:
    """Return what puts a row's fields into the order of ``FIELDS`` and checks them."""
    if missing := [name for name in NEEDED if name not in header]:
        raise ConfigurationError(
            "FILE", f"its first line names no column {missing[0]}; known are {', '.join(FIELDS)}"
        )
    if unknown := [name for name in header if name not in FIELDS and name not in ignore]:
        raise ConfigurationError(
            "FILE", f"column {unknown[0]!r} is not known; --ignore {unknown[0]} leaves it out"
        )
    if len(set(header)) < len(header):
        raise ConfigurationError("FILE", "its first line names a column twice")
    places = [header.index(name) if name in header else len(header) for name in FIELDS]
    return lambda fields: check([(*fields, None)[place] for place in places])


def _read(number: int, make: Callable[[Any], Row], record: Any) -> Read:
    try:
        row = make(record)
    except BadRowError as fault:
        return Read(number, None, fault, record)
    return Read(number, row, None, None)


def read_jsonl(file: Iterable[bytes]) -> Iterator[Read]:
    """Read users, a JSON object a line; fields that are not known are left out."""
    for number, line in enumerate(file, 1):
        if line.isspace():
            continue
        try:
            record = orjson.loads(line)
        except orjson.JSONDecodeError as exc:
            fault = BadRowError("row", f"is no JSON: {exc}")
            yield Read(number, None, fault, line.decode(errors="replace"))
            continue
        if type(record) is dict:
            yield _read(number, user_of, record)
        else:
            yield Read(number, None, BadRowError("row", "is no JSON object"), record)
