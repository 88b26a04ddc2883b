"""What arrived at a gateway: the last entries in memory, all of them in a file if asked for."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, fields
from threading import Condition
from typing import TYPE_CHECKING, Any, overload

import orjson

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

#: The fate of a request that its client was told of; all others are named by what went wrong.
ANSWERED = "answered"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One request and what became of it.

    ``status`` and ``reason`` are what the gateway decided, 0 and empty if it never came to that;
    status 200 means that a device gets the push, told or not. ``outcome`` is ``answered``, or why no
    answer reached the client: ``rst``, ``cut``, ``silence``, ``drop``, ``goaway`` (above its
    ``last_stream_id``), ``refused`` (a stream too many), ``lost`` (the connection ended first),
    ``cancelled`` (by the client). ``time`` is unix seconds, ``connection`` counts from 1.
    """

    number: int
    time: float
    connection: int
    stream: int
    token: str
    apns_id: str
    headers: Mapping[str, str]
    payload: bytes
    status: int
    reason: str
    outcome: str

    @property
    def document(self) -> Any:
        """The payload as JSON. Raises ``ValueError`` if it is none."""
        return orjson.loads(self.payload)

    @property
    def delivered(self) -> bool:
        """Whether the device gets it, told or not."""
        return self.status == 200  # noqa: PLR2004 - HTTP's OK

    def to_json(self) -> bytes:
        """Return the entry as one line, its payload as text, without the sender's token."""
        shown: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        shown["payload"] = self.payload.decode(errors="replace")
        shown["headers"] = {name: value for name, value in self.headers.items() if name != "authorization"}
        return orjson.dumps(shown) + b"\n"


class Journal(Sequence[Entry]):
    """The last ``limit`` entries, oldest first; safe to read from any thread.

    ``total``, ``statuses``, ``reasons`` and ``outcomes`` count all entries since the start or ``clear``.
    """

    def __init__(self, limit: int, path: Path | None) -> None:
        self._entries: deque[Entry] = deque(maxlen=limit)
        self._changed = Condition()
        self._file = path.open("ab") if path else None
        self._forget()

    def _forget(self) -> None:
        self._entries.clear()
        self.total = 0
        self.statuses: Counter[int] = Counter()
        self.reasons: Counter[str] = Counter()
        self.outcomes: Counter[str] = Counter()

    def add(self, entry: Entry) -> None:
        """Keep ``entry``; the gateway calls it."""
        with self._changed:
            self._entries.append(entry)
            self.total += 1
            self.statuses[entry.status] += 1
            self.outcomes[entry.outcome] += 1
            if entry.reason:
                self.reasons[entry.reason] += 1
            if self._file:
                self._file.write(entry.to_json())
            self._changed.notify_all()

    def flush(self) -> None:
        """Write to the file what it still buffers."""
        with self._changed:
            if self._file:
                self._file.flush()

    def close(self) -> None:
        """Close the file; what is in memory stays."""
        with self._changed:
            if self._file:
                self._file.close()
                self._file = None

    def clear(self) -> None:
        """Forget all entries and counts; the file keeps them."""
        with self._changed:
            self._forget()

    def wait(self, count: int, timeout: float = 10) -> list[Entry]:
        """Return the entries once there were ``count`` in all. Raises ``TimeoutError``."""
        with self._changed:
            if not self._changed.wait_for(lambda: self.total >= count, timeout):
                raise TimeoutError(f"{self.total} of {count} requests arrived within {timeout:g} s")
            return list(self._entries)

    @property
    def delivered(self) -> Counter[str]:
        """How often each token was delivered to, of the entries in memory."""
        return Counter(entry.token for entry in self._copy() if entry.delivered)

    def of(self, token: str) -> list[Entry]:
        """Return the entries of one token."""
        return [entry for entry in self._copy() if entry.token == token]

    def account(self) -> dict[str, Any]:
        """Return the counts as JSON shows them."""
        with self._changed:
            return {
                "total": self.total,
                "statuses": {str(status): count for status, count in sorted(self.statuses.items())},
                "reasons": dict(self.reasons),
                "outcomes": dict(self.outcomes),
            }

    def _copy(self) -> list[Entry]:
        with self._changed:
            return list(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    @overload
    def __getitem__(self, index: int) -> Entry: ...

    @overload
    def __getitem__(self, index: slice) -> list[Entry]: ...

    def __getitem__(self, index: int | slice) -> Entry | list[Entry]:
        return self._copy()[index]

    def __repr__(self) -> str:
        """Return what a failing assertion ought to show."""
        return f"<Journal: {self.total} requests, {dict(self.statuses)}, {dict(self.reasons)}>"
