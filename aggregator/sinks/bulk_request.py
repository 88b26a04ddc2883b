"""What the user's own sink is given: the items of one request, and a way to say what became of each.

An item that is not marked when the function returns was written. Public by way of
:mod:`aggregator.sinks.function`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from threading import Lock
from typing import TYPE_CHECKING, Any, NoReturn, overload

from aggregator.errors import SinkUnavailableError
from aggregator.merging import read_object
from aggregator.sinks.base import DUPLICATE, Fate, Verdict

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aggregator.delivery import Delivery, Item
    from aggregator.push import Address

#: A reason is a label of metrics: a word of the program, never a sentence and never data.
_WORD = re.compile(r"[A-Za-z][A-Za-z0-9]*(?:[._-][A-Za-z0-9]+)*")
LONGEST_WORD = 64


class BulkItem:
    """One document that is to be written; good for the one call that it was given to."""

    __slots__ = ("_item", "_json", "_position")

    def __init__(self, item: Item, position: int) -> None:
        self._item = item
        self._position = position
        self._json: dict[str, Any] | None = None

    def __repr__(self) -> str:
        return f"<BulkItem {self.id!r}>"

    @property
    def id(self) -> str:
        """The document's id: the same each time it comes, where its publisher gave it."""
        return self._item.id

    @property
    def document(self) -> bytes:
        """The document: an object of JSON in UTF-8, one line without a line break."""
        return self._item.document

    def json(self) -> dict[str, Any]:
        """Return the document parsed, on first use; it is the function's to change.

        Raises ``MessageRefusedError`` for what JSON in Python has no place for: more than 250 levels,
        or what only ``trust_json`` lets through. Left alone, that refuses this item and no other.
        """
        if self._json is None:
            self._json = read_object(self._item.document)
        return self._json

    @property
    def deliveries(self) -> Sequence[Delivery]:
        """The messages that the document was made of, at least one, in order of arrival.

        For reading: ``headers``, ``properties``, ``routing_key``, ``exchange``, ``redelivered``, ``body``.
        """
        return self._item.deliveries

    @property
    def address(self) -> Address | None:
        """To whom it goes, for ``aggregate = "push"``; None for documents."""
        return self._item.address  # type: ignore[no-any-return]

    @property
    def key(self) -> str | None:
        """The correlation key of its group; None without correlation."""
        return self._item.batch.key

    @property
    def part(self) -> int:
        """Which batch of its key it came in, counted from 1."""
        return self._item.batch.part

    @property
    def complete(self) -> bool:
        """Whether the key closed with its batch."""
        return self._item.batch.complete


class BulkRequest(Sequence[BulkItem]):
    """The items that are to be written together, in order, and the marks for those that were not.

    Any thread may mark while the function runs. An item is marked once; the same mark again changes
    nothing. A mark that makes no sense raises ``SinkUnavailableError``, and though that be caught,
    all items of the request come again.
    """

    __slots__ = ("_items", "_marks")

    def __init__(self, items: Sequence[Item], marks: Marks) -> None:
        self._items = [BulkItem(item, position) for position, item in enumerate(items)]
        self._marks = marks

    def __repr__(self) -> str:
        return f"<BulkRequest of {len(self)} items>"

    def __len__(self) -> int:
        return len(self._items)

    @overload
    def __getitem__(self, index: int) -> BulkItem: ...
    @overload
    def __getitem__(self, index: slice) -> list[BulkItem]: ...
    def __getitem__(self, index: int | slice) -> BulkItem | list[BulkItem]:
        return self._items[index]

    def refuse(self, item: BulkItem, reason: str, detail: str = "") -> None:
        """Never: its messages go to the dead-letter queue.

        ``reason``: a word such as ``no-such-account`` (letters and digits, joined by ``-``, ``_`` or
        ``.``, at most 64 characters), the same for each such case: it labels metrics. ``detail``: a
        sentence for people, without the document.
        """
        self._mark("refuse", item, Fate.DEAD_LETTER, reason, detail)

    def retry(self, item: BulkItem, reason: str = "retry") -> None:
        """Not now: this item comes again, after a pause that grows. ``reason``: a word for the log."""
        self._mark("retry", item, Fate.RETRY, reason)

    def block(self, item: BulkItem, reason: str = "blocked") -> None:
        """Not now, and no other item either: this one is kept, and the route pauses."""
        self._mark("block", item, Fate.BLOCKED, reason)

    def duplicate(self, item: BulkItem) -> None:
        """Done: it stood there before, which is counted apart from what was written."""
        self._put("duplicate", item, DUPLICATE)

    def _mark(self, mark: str, item: BulkItem, fate: Fate, reason: str, detail: str = "") -> None:
        if problem := word_fault(reason):
            self._marks.fail(f"{mark}: the reason {problem}")
        self._put(mark, item, Verdict(fate, reason, str(detail)))

    def _put(self, mark: str, item: BulkItem, verdict: Verdict) -> None:
        if not isinstance(item, BulkItem):
            self._marks.fail(f"{mark}: an item of the request is needed, not {type(item).__qualname__}")
        position = item._position  # noqa: SLF001 - the two belong together
        if position >= len(self._items) or self._items[position] is not item:
            self._marks.fail(f"{mark}: the item is of another request; each call has items of its own")
        self._marks.put(position, verdict)


class Marks:
    """The marks of one request. ``function``: the name of what marks; ``fault``: its first wrong mark."""

    __slots__ = ("_ended", "_found", "_function", "_lock", "fault")

    def __init__(self, function: str) -> None:
        self._function = function
        self._found: dict[int, Verdict] = {}
        self.fault = ""
        self._ended = False
        self._lock = Lock()

    def put(self, position: int, verdict: Verdict) -> None:
        """Note a mark. Raises ``SinkUnavailableError`` for a second one that says something else."""
        with self._lock:
            ended = self._ended
            known = verdict if ended else self._found.setdefault(position, verdict)
        if ended:
            self.fail("marked an item after it had returned, when all was settled")
        if (known.fate, known.reason) != (verdict.fate, verdict.reason):
            self.fail(f"marked an item twice: {_told(known)}, then {_told(verdict)}")

    def fail(self, problem: str) -> NoReturn:
        """Note the first fault, for those who catch whatever is raised, and raise it."""
        fault = f"{self._function}: {problem}"
        with self._lock:
            self.fault = self.fault or fault
        raise SinkUnavailableError(fault)

    def end(self) -> Mapping[int, Verdict]:
        """Return the marks by position; whatever is marked later is a fault."""
        with self._lock:
            self._ended = True
        return self._found


def word_fault(reason: object) -> str:
    """Say why ``reason`` is no word that may label metrics; empty if it is one. Never quotes it."""
    if not isinstance(reason, str):
        return f"is {type(reason).__qualname__}; a word such as no-such-account is needed"
    if len(reason) > LONGEST_WORD:
        return f"has {len(reason)} characters; a word of at most {LONGEST_WORD} is needed"
    if not _WORD.fullmatch(reason):
        return "is no word such as no-such-account: letters and digits, joined by - _ or . alone"
    return ""


def _told(verdict: Verdict) -> str:
    return f"{verdict.fate.value} {verdict.reason}".strip()
