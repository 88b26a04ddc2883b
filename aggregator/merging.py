"""Many become one: one object by a rule for each field, one id from the members' ids. Pure.

Rules. A rule holds for a field of the document, named as it is (``total``), or by a JSON pointer into
objects (``/user/visits``, RFC 6901; never into lists); ``*`` is the rule for every other field.

``first``, ``last``
    The value of the first or last member that has the field; ``null`` is a value.
``sum``
    Numbers alone. Whole numbers stay whole, from -2^63 to 2^64-1; with a fraction in it, a double.
``min``, ``max``
    Numbers, or texts by code point (ISO dates), never both. Of equal ones the first.
``count``
    How many members have the field.
``append``, ``set``
    A list of the values in order; a list adds its elements. In a set each stands once, where it came
    first; values are the same if their JSON is, whatever the order of its keys (1 and 1.0 are two).

A member without the field is skipped; so is its ``null`` in sum, min, max and count. A field that no
member has is not in the result. Fields stand in the order in which they first had something to say.
An object that a pointer leads into is itself merged field by field.

Ids. A group document's id is route, key and instance, the last made of the ids of the members that
are in the document and of nothing else: the same members give the same id whatever their order, and
other members another. So a group that comes again as it was is recognised, and one that comes again
in another cut is written again, never taken for the first and lost. That holds where each member
has an id of its publisher's; one that has none is given a new id at each receipt. A key that is too
long or odd for an id is told by its digest.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from difflib import get_close_matches
from enum import StrEnum
from hashlib import blake2b
from math import isfinite
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from aggregator.errors import ConfigurationError, MessageRefusedError
from aggregator.json_pointer import steps_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from aggregator.delivery import Delivery

LONGEST_ID = 512
"""Bytes of a group document's id: what Elasticsearch takes."""
LEAST_SUM, GREATEST_SUM = -(2**63), 2**64 - 1
"""What a whole sum may be: beyond it no store keeps it exact."""
DEEPEST = 250
"""Levels that a member may have: orjson writes 254, and a list may come around it."""

# a whole number of at least 19 digits may be beyond 64 bits; orjson would make a double of it
_SAME_DIGITS = bytes(ord("0") if chr(byte).isdigit() and byte < 128 else byte for byte in range(256))  # noqa: PLR2004
_LONG_NUMBER = b"0" * 19
_BAD_ESCAPE = re.compile("~(?![01])")
_KINDS = {str: "a text", bool: "true or false", list: "a list", dict: "an object"}


class Rule(StrEnum):
    """What becomes of one field's values; the module tells each."""

    FIRST = "first"
    LAST = "last"
    SUM = "sum"
    MIN = "min"
    MAX = "max"
    COUNT = "count"
    APPEND = "append"
    SET = "set"


def read_object(document: bytes) -> dict[str, Any]:
    """Return the object that a line of JSON holds; whole numbers keep all their digits.

    Raises ``MessageRefusedError``: ``bad-json``, ``not-an-object``, ``bad-value`` (too many levels).
    """
    try:
        found = orjson.loads(document)
        # most documents do not hold so many brackets, let alone levels
        if document.count(b"{") + document.count(b"[") > DEEPEST:
            orjson.dumps([[[[found]]]])
    except orjson.JSONDecodeError:
        refusal = "bad-json", "its text is no JSON"
    except TypeError:
        refusal = "bad-value", f"more than {DEEPEST} levels"
    else:
        if type(found) is not dict:
            refusal = "not-an-object", "the document is JSON, but not an object"
        elif _LONG_NUMBER in document.translate(_SAME_DIGITS):
            return json.loads(document)  # type: ignore[no-any-return]  # it was checked above
        else:
            return found
    raise MessageRefusedError(*refusal)


def write_json(value: Any, *, sort_keys: bool = False) -> bytes:
    """Return ``value`` as one line of JSON. Raises ``TypeError`` or ``ValueError`` where it is none."""
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS if sort_keys else None)
    except TypeError as exc:
        if "64-bit" not in str(exc):
            raise
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"), sort_keys=sort_keys)
    return text.encode()


class _Way(NamedTuple):
    """How one rule is applied: ``check`` says what is wrong with a value, ``take`` takes it."""

    take: Callable[[dict[str, Any], str, Any], None]
    check: Callable[[Any, Any], str] | None = None


class Plan(NamedTuple):
    """Rules, made ready: the way of each field, a plan for an object that is merged by field."""

    ways: Mapping[str, _Way | Plan]
    default: _Way
    checks: bool


class Fold:
    """The merged object as it grows. ``path`` is the JSON pointer to it."""

    __slots__ = ("_cells", "_path", "_plan")

    def __init__(self, plan: Plan, path: str = "") -> None:
        self._plan = plan
        self._path = path
        self._cells: dict[str, Any] = {}

    def add(self, document: Mapping[str, Any]) -> None:
        """Take a member: all of it, or nothing.

        Raises ``MessageRefusedError`` (``bad-value``); its detail names the field, never the value.
        """
        if self._plan.checks and (fault := self.fault(document)):
            raise MessageRefusedError("bad-value", fault)
        self.take(document)

    def result(self) -> dict[str, Any]:
        """Return what was merged."""
        return {name: _final(cell) for name, cell in self._cells.items()}

    def fault(self, document: Mapping[str, Any]) -> str:
        """Say what keeps a member out, empty for nothing; changes nothing."""
        cells, ways, default = self._cells, self._plan.ways, self._plan.default
        for name, value in document.items():
            way = ways.get(name, default)
            if value is None:
                continue
            if type(way) is Plan:
                if type(value) is not dict:
                    return f"{self._shown(name)} is {_kind(value)}; an object is needed"
                if fault := self._inner(way, name).fault(value):
                    return fault
            elif (check := way.check) and (problem := check(cells.get(name), value)):  # type: ignore[union-attr]
                return f"{self._shown(name)} {problem}"
        return ""

    def take(self, document: Mapping[str, Any]) -> None:
        """Take a member that has no :meth:`fault`."""
        cells, ways, default = self._cells, self._plan.ways, self._plan.default
        for name, value in document.items():
            way = ways.get(name, default)
            if type(way) is not Plan:
                way.take(cells, name, value)  # type: ignore[union-attr]
            elif value is not None:
                inner = cells[name] = self._inner(way, name)
                inner.take(value)

    def _inner(self, plan: Plan, name: str) -> Fold:
        found: Fold | None = self._cells.get(name)
        return Fold(plan, f"{self._path}/{_escaped(name)}") if found is None else found

    def _shown(self, name: str) -> str:
        where = f"{self._path}/{_escaped(name)}" if self._path else name
        return repr(where if len(where) < 80 else f"{where[:77]}…")  # noqa: PLR2004 - one line stays one line


class _Distinct(dict[Any, Any]):
    """The values of a set, each under what makes it the same as another."""


def make_plan(rules: Mapping[str, str], default: str, field: str = "merge") -> Plan:
    """Return rules by field's name or JSON pointer, made ready.

    Raises ``ConfigurationError`` for ``field`` where a name or a rule is none, or two rules contradict.
    """
    tree: dict[str, Any] = {}
    for name, rule in rules.items():
        *above, last = _steps(name, field)
        inner = tree
        for step in above:
            inner = inner.setdefault(step, {})
            if not isinstance(inner, dict):
                raise ConfigurationError(
                    f"{field}.{name}", "an object that it stands in has a rule of its own"
                )
        if last in inner:
            raise ConfigurationError(f"{field}.{name}", "there is a rule for it, or within it, already")
        inner[last] = _rule(rule, f"{field}.{name}")
    return _plan(tree, _rule(default, f"{field}.*"))


def _rule(rule: Any, field: str) -> Rule:
    try:
        return Rule(rule)
    except ValueError:
        near = get_close_matches(str(rule), list(Rule), n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        problem = f"{str(rule)[:40]!r} is no rule; {', '.join(Rule)} are{hint}"
    raise ConfigurationError(field, problem)


def _steps(name: str, field: str) -> list[str]:
    if not name:
        raise ConfigurationError(field, "a rule names no field; its name, or a JSON pointer, is needed")
    if not name.startswith("/"):
        return [name]
    if _BAD_ESCAPE.search(name):
        raise ConfigurationError(f"{field}.{name}", "in a JSON pointer ~ is written ~0, and / in a name ~1")
    return steps_of(name)


def _plan(tree: Mapping[str, Any], default: Rule) -> Plan:
    ways = {
        name: _plan(entry, default) if isinstance(entry, dict) else _WAYS[entry]
        for name, entry in tree.items()
    }
    checks = any(isinstance(way, Plan) or way.check is not None for way in (*ways.values(), _WAYS[default]))
    return Plan(ways, _WAYS[default], checks)


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


def _kind(value: Any) -> str:
    return _KINDS.get(type(value), "a number")


def _final(cell: Any) -> Any:
    if type(cell) is Fold:
        return cell.result()
    return list(cell.values()) if type(cell) is _Distinct else cell


# ── one function for each rule ──


def _first(cells: dict[str, Any], name: str, value: Any) -> None:
    cells.setdefault(name, value)


def _last(cells: dict[str, Any], name: str, value: Any) -> None:
    cells[name] = value


def _sum(cells: dict[str, Any], name: str, value: Any) -> None:
    if value is not None:
        old = cells.get(name)
        cells[name] = value if old is None else old + value


def _min(cells: dict[str, Any], name: str, value: Any) -> None:
    if value is not None and ((old := cells.get(name)) is None or value < old):
        cells[name] = value


def _max(cells: dict[str, Any], name: str, value: Any) -> None:
    if value is not None and ((old := cells.get(name)) is None or value > old):
        cells[name] = value


def _count(cells: dict[str, Any], name: str, value: Any) -> None:
    if value is not None:
        cells[name] = cells.get(name, 0) + 1


def _append(cells: dict[str, Any], name: str, value: Any) -> None:
    cells.setdefault(name, []).extend(value if type(value) is list else (value,))


def _set(cells: dict[str, Any], name: str, value: Any) -> None:
    found = cells.setdefault(name, _Distinct())
    for one in value if type(value) is list else (value,):
        # true is 1 to a dictionary, and 1.0 as well
        plain = type(one) is str or type(one) is int
        found.setdefault(one if plain else write_json(one, sort_keys=True), one)


def _check_sum(old: Any, value: Any) -> str:
    if type(value) is not int and type(value) is not float:
        return f"is {_kind(value)}; a sum is of numbers"
    for number in (value, value if old is None else old + value):
        if type(number) is int and not LEAST_SUM <= number <= GREATEST_SUM:
            return "takes the sum beyond 64 bits"
        if not isfinite(number):
            return "takes the sum beyond what a double holds"
    return ""


def _check_order(old: Any, value: Any) -> str:
    kind = type(value)
    if kind is not int and kind is not float and kind is not str:
        return f"is {_kind(value)}; the least and the greatest are of numbers, or of texts"
    if old is not None and (kind is str) is not (type(old) is str):
        return f"is {_kind(value)}, where others are not; numbers and texts have no order"
    return ""


_WAYS: Mapping[Rule, _Way] = {
    Rule.FIRST: _Way(_first),
    Rule.LAST: _Way(_last),
    Rule.SUM: _Way(_sum, _check_sum),
    Rule.MIN: _Way(_min, _check_order),
    Rule.MAX: _Way(_max, _check_order),
    Rule.COUNT: _Way(_count),
    Rule.APPEND: _Way(_append),
    Rule.SET: _Way(_set),
}


# ── ids ──


def group_ids(
    route: str, key: str | None, members: Sequence[Delivery], documents: Sequence[bytes]
) -> list[str]:
    """Return the ids of the ``documents`` that were all made of the same ``members``."""
    digest = _digest(route, key, *sorted([member.id for member in members]))
    made_up = next((member.id for member in members if not member.fingerprint), None)
    # ordered by time, and new at each receipt; the digest tells it from another cut
    instance = digest if made_up is None else f"{made_up}.{digest[:16]}"
    if len(documents) == 1:
        return [_group_id(route, key, instance)]
    return [_group_id(route, key, f"{instance}.{suffix}") for suffix in _suffixes(documents)]


def counted_id(route: str, key: str | None, sentinel: Delivery) -> str:
    """Return the id of the one document of a group that a counted sentinel of this given id completed.

    It is known without the members: so what a crash has left of the group can be recognised.
    """
    return _group_id(route, key, f"={_digest(route, key, sentinel.id)}")


def _group_id(route: str, key: str | None, instance: str) -> str:
    """Return route, key and instance, which depends on both of them: a key may hold colons."""
    name = f"{route}:{instance}" if key is None else f"{route}:{key}:{instance}"
    if _fits(name):
        return name
    name = f"{route}:~{_digest(key)}:{instance}"
    return name if _fits(name) else _digest(route, key, instance)


def _fits(name: str) -> bool:
    return name.isprintable() and len(name.encode()) <= LONGEST_ID  # no surrogate is printable


def _suffixes(documents: Sequence[bytes]) -> Iterator[str]:
    """Yield what tells documents of the same members apart: their content, not their order."""
    seen: Counter[bytes] = Counter()
    for document in documents:
        yield blake2b(document, digest_size=8, salt=b"%d" % seen[document]).hexdigest()
        seen[document] += 1


def _digest(*texts: str | None) -> str:
    """Return 128 bits in hexadecimal; no two lists of texts are joined to the same bytes."""
    try:
        joined = orjson.dumps(texts)
    except TypeError:  # a lone surrogate
        joined = repr(texts).encode()
    return blake2b(joined, digest_size=16).hexdigest()
