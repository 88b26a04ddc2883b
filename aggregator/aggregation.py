"""What a complete group becomes: one document of all its members, or a few. Pure.

Members that were sent twice are told apart in :mod:`aggregator.reading`; for the ids of the documents
see :mod:`aggregator.merging`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from aggregator.clock import SYSTEM_CLOCK
from aggregator.documents import make_document
from aggregator.errors import ConfigurationError, MessageRefusedError
from aggregator.importing import check_function, load_function, name_of
from aggregator.merging import Fold, Plan, Rule, make_plan, read_object, write_json
from aggregator.reading import Reading

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aggregator.clock import Clock
    from aggregator.delivery import Delivery
    from aggregator.documents import Making
    from aggregator.made import Aggregation, Made, Refusal
    from aggregator.reading import Member, Work

Function = Callable[[str | None, list[dict[str, Any]]], dict[str, Any] | list[dict[str, Any]]]

_TAKES = "a key and a list of documents"
_EXAMPLE = ("key", [dict[str, Any]()])
FORMS = "documents, list, list:100, merge, push, push:templates.toml or function:package.module:name"


@dataclass(frozen=True, slots=True)
class Listing(Reading):
    """``{"key": …, "messages": [document, …]}``, from the members' bytes as they are.

    ``limit``: members of one document; more go into further ones. ``key_field`` and
    ``messages_field`` name its fields. Without correlation the key is ``null``.
    """

    limit: int | None = None
    key_field: str = "key"
    messages_field: str = "messages"

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise ConfigurationError(
                "aggregate", f"a list of {self.limit} holds nothing; at least 1 is needed"
            )
        if not self.key_field or not self.messages_field or self.key_field == self.messages_field:
            raise ConfigurationError("aggregate", "the fields of key and messages need two names")

    def make(self, key: str | None, deliveries: Sequence[Delivery], max_bytes: int) -> Made:
        """Join the members' documents, as many as fit."""
        work = self.read(key, deliveries)
        names = orjson.dumps(self.key_field), orjson.dumps(self.messages_field)
        head = b"{%b:%b,%b:[" % (names[0], _key(key), names[1])
        frame = len(head) + len(b"]}")
        limit = self.limit or len(work.members)
        part: list[Member] = []
        size = frame
        for member in work.members:
            length = len(member[1])
            if frame + length > max_bytes:
                work.refuse([member[0]], _too_large(frame + length, max_bytes))
                continue
            if part and (len(part) == limit or size + 1 + length > max_bytes):
                work.add(part, [_listed(head, part)])
                part, size = [], frame
            size += length + (1 if part else 0)
            part.append(member)
        if part:
            work.add(part, [_listed(head, part)])
        return work.made()


@dataclass(frozen=True, slots=True)
class Merge(Reading):
    """One object of all members, by a rule for each field: see :mod:`aggregator.merging`.

    ``rules`` by field's name or JSON pointer; ``default`` (or the rule of ``*``) for all other
    fields. A member that a rule cannot take is refused (``bad-value``). What would be too large is
    merged in several pieces.
    """

    rules: Mapping[str, str] = field(default_factory=dict)
    default: str = Rule.LAST
    _plan: Plan = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        rules = dict(self.rules)
        default = rules.pop("*", self.default)
        object.__setattr__(self, "_plan", make_plan(rules, default))  # frozen for everybody else

    def make(self, key: str | None, deliveries: Sequence[Delivery], max_bytes: int) -> Made:
        """Merge the members, in order of arrival."""
        work = self.read(key, deliveries)
        _in_pieces(work, self._merge, max_bytes)
        return work.made()

    def _merge(self, members: Sequence[Member]) -> _Built:
        fold = Fold(self._plan)
        kept, refused = _sift(members, fold.add)
        return _Built(kept, [write_json(fold.result())] if kept else [], refused)


@dataclass(frozen=True, slots=True)
class Own(Reading):
    """The user's function: ``combine(key, documents)`` returns a dict, or a list of dicts.

    ``documents`` are the members' parsed documents in order of arrival, the function's to change;
    ``key`` is None without correlation. Each dict becomes a document; what JSON has no word for
    (a ``datetime``, a ``UUID``) is written as text, NaN as null.

    It runs on flush threads, several at once, and bounds its own time. It may be called again for
    the same members, so the same ones should give the same result. Where one of its documents would
    be too large it is called for pieces of the group. Whatever it raises, or returns that is none of
    this (an empty list is), all of these members are refused: ``aggregation-failed``.
    """

    function: Function = field(kw_only=False)
    name: str = ""

    def make(self, key: str | None, deliveries: Sequence[Delivery], max_bytes: int) -> Made:
        """Call the function."""
        work = self.read(key, deliveries)
        _in_pieces(work, lambda members: self._combine(key, members), max_bytes)
        return work.made()

    def _combine(self, key: str | None, members: Sequence[Member]) -> _Built:
        documents: list[dict[str, Any]] = []
        kept, refused = _sift(members, documents.append)
        if not kept:
            return _Built([], [], refused)
        lines, fault = self._call(key, documents)
        if fault:
            name = self.name or getattr(self.function, "__qualname__", type(self.function).__qualname__)
            error = MessageRefusedError("aggregation-failed", f"{name} {fault}")
            return _Built([], [], [*refused, *((delivery, error) for delivery, _ in kept)])
        return _Built(kept, lines, refused)

    def _call(self, key: str | None, documents: list[dict[str, Any]]) -> tuple[list[bytes], str]:
        """Return the lines of what the function returns, or what is wrong with it."""
        try:
            answer: Any = self.function(key, documents)
        except (Exception, SystemExit) as exc:  # noqa: BLE001 - its text may hold a document, its type does not
            return [], f"raised {type(exc).__qualname__}"
        found = [answer] if isinstance(answer, dict) else answer
        if not isinstance(found, list | tuple) or not all(isinstance(one, dict) for one in found):
            return [], f"returned {type(answer).__qualname__}; a dict or a list of dicts is needed"
        if not found:
            return [], "returned an empty list; at least one dict is needed"
        try:
            return [write_json(one) for one in found], ""
        except Exception as exc:  # noqa: BLE001 - the objects in it are the user's
            return [], f"returned a dict that is no JSON ({type(exc).__qualname__})"


class _Built(NamedTuple):
    """Documents made of all ``members``, and those of the same round that are refused."""

    members: list[Member]
    documents: list[bytes]
    refused: list[Refusal]


def _sift(
    members: Sequence[Member], take: Callable[[dict[str, Any]], None]
) -> tuple[list[Member], list[Refusal]]:
    """Have the parsed document of each member taken; return those that were, and those refused."""
    kept: list[Member] = []
    refused: list[Refusal] = []
    for member in members:
        try:
            take(read_object(member[1]))
        except MessageRefusedError as exc:
            refused.append((member[0], exc.with_traceback(None)))
        else:
            kept.append(member)
    return kept, refused


def _in_pieces(work: Work, build: Callable[[Sequence[Member]], _Built], max_bytes: int) -> None:
    """Build documents of all members, or of pieces of them, and pieces of those, until each fits."""
    todo = [work.members] if work.members else []
    while todo:
        members = todo.pop()
        built = build(members)
        largest = max(map(len, built.documents), default=0)
        if largest > max_bytes and len(members) > 1:
            todo += reversed(_pieces(members, largest, max_bytes))
            continue
        for delivery, error in built.refused:
            work.refuse([delivery], error)
        if largest > max_bytes:
            work.refuse([delivery for delivery, _ in built.members], _too_large(largest, max_bytes))
        elif built.members:
            work.add(built.members, built.documents)


def _pieces(members: list[Member], largest: int, max_bytes: int) -> list[list[Member]]:
    """Cut members, at least two, into at least two pieces; one that is too large itself goes alone."""
    fitting = [member for member in members if len(member[1]) <= max_bytes]
    if 0 < len(fitting) < len(members):
        return [fitting, *([member] for member in members if len(member[1]) > max_bytes)]
    length = ceil(len(members) / min(len(members), ceil(largest / max_bytes)))
    return [members[start : start + length] for start in range(0, len(members), length)]


def _key(key: str | None) -> bytes:
    try:
        return orjson.dumps(key)
    except TypeError:  # a lone surrogate: no store takes it
        return orjson.dumps(str(key).encode(errors="replace").decode())


def _listed(head: bytes, part: Sequence[Member]) -> bytes:
    return b"%b%b]}" % (head, b",".join([document for _, document in part]))


def _too_large(size: int, max_bytes: int) -> MessageRefusedError:
    return MessageRefusedError("too-large", f"its document alone has {size} bytes, {max_bytes} are allowed")


# ── settings ──


def compile_aggregation(
    text: str | Function = "documents",
    merge: Mapping[str, str] | None = None,
    *,
    route: str = "default",
    trust_json: bool = False,
    max_message: int = 16 * 1024 * 1024,
    clock: Clock = SYSTEM_CLOCK,
    make_one: Making = make_document,
    field: str = "aggregate",
) -> Aggregation | None:
    """Return what ``text`` names: one of :data:`FORMS`; None for documents, each message one.

    None for ``push`` too: that is made of each message by itself (:mod:`aggregator.pushing`).

    Code may give the function itself. ``merge``: rules by field for ``merge``, and for it alone.
    ``make_one`` makes a member's document.
    Raises ``ConfigurationError`` for ``field`` or ``merge``.
    """
    named = text if isinstance(text, str) else f"function:{name_of(text)}"
    kind, colon, rest = named.partition(":")
    reading: dict[str, Any] = {
        "route": route,
        "trust_json": trust_json,
        "max_message": max_message,
        "make_one": make_one,
    }
    if merge is not None and text != "merge":
        problem = f"rules are for {field} = merge, and it is {named[:60]}; remove one of them"
        raise ConfigurationError("merge", problem)
    if not isinstance(text, str):
        check_function(text, rest, field=field, takes=_TAKES, example=_EXAMPLE)
        return Own(text, name=rest, **reading)
    if text in {"documents", "push"}:
        return None
    if text == "merge":
        if not merge:
            problem = 'rules are needed, like {total = "sum", tags = "set", "*" = "last"}'
            raise ConfigurationError("merge", problem)
        return Merge(rules=merge, **reading)
    if kind == "list":
        return Listing(limit=_limit(rest, field) if colon else None, **reading)
    if kind == "push" and rest:
        # its texts for people take long to import
        from aggregator.push_events import PushEvents  # noqa: PLC0415

        return PushEvents(Path(rest), clock=clock, **reading)
    if kind == "function":
        return _own(rest, field, reading)
    near = get_close_matches(kind, ["documents", "list", "merge", "push", "function"], n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise ConfigurationError(field, f"{text[:60]!r} is unknown; {FORMS} is needed{hint}")


def _limit(text: str, field: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and int(text)):  # noqa: PLR2004 - a billion
        problem = f"list:{text[:40]} has no limit of messages; a whole number from 1 is needed, like list:100"
        raise ConfigurationError(field, problem)
    return int(text)


def _own(text: str, field: str, reading: dict[str, Any]) -> Own:
    module, colon, name = text.partition(":")
    if not (module and colon and name):
        raise ConfigurationError(field, "write function:package.module:name")
    function = load_function(module, name, field=field, takes=_TAKES, example=_EXAMPLE)
    return Own(function, name=text, **reading)
