"""Which index a document goes to: a fixed one, one from an allow-list, or one named by a date.

Whatever chooses is in the message, never the wall clock: a retry after midnight has to meet the
document it wrote before.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from aggregator.correlation import compile_expression
from aggregator.errors import ConfigurationError, MessageRefusedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from aggregator.correlation import Expression
    from aggregator.delivery import Item

    IndexOf = Callable[[Item], str]

_FORBIDDEN = re.compile(r'[\\/*?"<>| ,#:\x00-\x1f\x7f]')
_LONGEST_NAME = 255
_PATTERN = re.compile(r"(?P<before>[^{}]*)\{(?P<expression>[^{}]+?):(?P<format>%[^{}]*)\}(?P<after>[^{}]*)")
_CODES = frozenset("YmdHGVj")
_EPOCH_SECONDS = re.compile(r"[0-9]{9,10}(?:\.[0-9]+)?")
_EPOCH_MILLIS = re.compile(r"[0-9]{12,13}(?:\.[0-9]+)?")
# outside of it, a date is a wrong unit rather than a date, and each one would open an index
_YEARS = range(1970, 2200)
PATTERN_HELP = "write it like logs-{/timestamp:%Y.%m.%d}, with the codes %Y %m %d %H %j %G %V"


def name_fault(name: str, *, alias: bool = False) -> str | None:
    """Say what Elasticsearch would refuse about this name of an index; None if nothing.

    An alias may hold capital letters.
    """
    if not name:
        return "the name of the index is missing; write it like http://localhost:9200/tasks"
    if found := _FORBIDDEN.search(name):
        return f"an index name holds no {found[0]!r}; letters, digits, - _ and . are right"
    if not alias and name != name.lower():
        return f"an index name is in lower case: {name.lower()!r}"
    if name[0] in "-_+":
        return f"an index name starts with none of - _ +: {name.lstrip('-_+')!r} would be right"
    if name in {".", ".."} or len(name.encode(errors="replace")) > _LONGEST_NAME:
        return f"an index name is neither . nor .. and has at most {_LONGEST_NAME} bytes"
    return None


def parse_date(text: str) -> datetime:
    """Return the moment that ``text`` names, in UTC: ISO 8601, or seconds or milliseconds since 1970.

    Without an offset it is UTC. Raises ``ValueError`` where it is none, or lies outside 1970-2199.
    """
    if _EPOCH_SECONDS.fullmatch(text):
        moment = datetime.fromtimestamp(float(text), UTC)
    elif _EPOCH_MILLIS.fullmatch(text):
        moment = datetime.fromtimestamp(float(text) / 1000, UTC)
    else:
        moment = datetime.fromisoformat(text)
        moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    if moment.year not in _YEARS:
        raise ValueError("the year is out of range")
    return moment


@dataclass(frozen=True, slots=True)
class AllowedIndex:
    """Takes the index's name from the message, if it is one of ``allow``."""

    expression: Expression
    source: str
    allow: frozenset[str]

    def __call__(self, item: Item) -> str:
        """Return the index of this message. Raises ``MessageRefusedError`` (``bad-index``)."""
        name = self.expression(item)
        if name is None:
            raise MessageRefusedError("bad-index", f"{self.source} is missing")
        if name not in self.allow:
            raise MessageRefusedError(
                "bad-index", f"{self.source} names an index that is not in the allow-list"
            )
        return name


@dataclass(frozen=True, slots=True)
class DatedIndex:
    """Names the index by a date in the message, in UTC."""

    expression: Expression
    source: str
    format: str

    def __call__(self, item: Item) -> str:
        """Return the index of this message. Raises ``MessageRefusedError`` (``bad-date``)."""
        text = self.expression(item)
        if text is None:
            raise MessageRefusedError("bad-date", f"{self.source} is missing")
        try:
            return parse_date(text).strftime(self.format)
        except (ValueError, OverflowError):
            raise MessageRefusedError(
                "bad-date", f"{self.source} is no ISO 8601 date, nor seconds or milliseconds since 1970"
            ) from None


def compile_pattern(text: str) -> tuple[DatedIndex, str]:
    """Read ``logs-{/timestamp:%Y.%m.%d}``; return the function, and what matches its indices (``logs-*``).

    Raises ``ConfigurationError`` for the field ``sink``.
    """
    match = _PATTERN.fullmatch(text)
    if not match:
        raise ConfigurationError("sink", f"index {text!r} is no pattern; {PATTERN_HELP}")
    codes = re.findall("%(.?)", match["format"])
    if not _CODES.issuperset(codes):
        raise ConfigurationError("sink", f"index {text!r} has an unknown code of a date; {PATTERN_HELP}")
    before, after = match["before"].replace("%", "%%"), match["after"].replace("%", "%%")
    form = f"{before}{match['format']}{after}"
    if fault := name_fault(datetime(2000, 1, 1, tzinfo=UTC).strftime(form)):
        raise ConfigurationError("sink", f"index {text!r}: {fault}")
    expression = compile_expression(match["expression"], "sink")
    return DatedIndex(expression, match["expression"], form), f"{match['before']}*{match['after']}"
