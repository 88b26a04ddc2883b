"""Documents in daily files of JSON lines: ``jsonl:///data/documents``.

Options: ``prefix`` (``documents``), ``fsync`` (``true``: a verdict waits for the disk), ``envelope``
(``true``: a line is ``{"_id": …, "_source": {…}}``; ``false``: the bare document). Three slashes
name a relative folder, four an absolute one.

The file of a day is ``documents-2026-11-21.jsonl``, by UTC at the time of the write. It is held
under an exclusive lock for as long as it is open; another process with the same folder writes to
``documents-2026-11-21.1.jsonl`` beside it, and neither ever waits for the other (the lock is
``flock``: on network drives that do not carry it, give each process its folder).

At least once, not more: lines are only added, so nothing knows what stands there already. A request
that failed halfway is cut off again, but a crash between the write and the ack, or a retry after
midnight, leaves a document twice, with the same ``_id``. A last line without its end is a write
that nobody was told of and that will come again: it is cut off when the folder is opened.
"""

from __future__ import annotations

import re
import shlex
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import orjson
from pydantic import Field

from aggregator.clock import SYSTEM_CLOCK
from aggregator.sinks.base import WRITTEN, Fate, Limits, Verdict
from aggregator.sinks.jsonl_file import LineFile
from aggregator.sinks.local import Options, make_folder, read_options, read_path, system_fault

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path
    from urllib.parse import SplitResult

    from aggregator.clock import Clock
    from aggregator.delivery import Item

_NOT_TEXT = Verdict(Fate.DEAD_LETTER, "not-unicode", "its id is not valid Unicode")


class JsonlOptions(Options):
    """What may stand behind the ``?``."""

    prefix: str = Field("documents", pattern="^[A-Za-z0-9_][A-Za-z0-9._-]*$", max_length=100)
    fsync: bool = True
    envelope: bool = True


def from_url(url: SplitResult) -> JsonlSink:
    """Return the sink that ``url`` names. Raises ``ConfigurationError``; touches no file."""
    options = read_options(url.query, JsonlOptions)
    return JsonlSink(read_path(url), prefix=options.prefix, fsync=options.fsync, envelope=options.envelope)


class JsonlSink:
    """A folder of daily files. Each request is one write, synced; one thread at a time, whichever."""

    limits = Limits(concurrency=1)

    def __init__(
        self,
        folder: Path,
        *,
        prefix: str = "documents",
        fsync: bool = True,
        envelope: bool = True,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._folder = folder.absolute()
        self._shown = folder
        self._prefix = prefix
        self._fsync = fsync
        self._envelope = envelope
        self._clock = clock
        self._file: LineFile | None = None
        self._stem = ""

    def open(self) -> None:
        """Make the folder, cut off torn lines, and open the file of today."""
        self.close()
        try:
            make_folder(self._folder)
            for path in self._files():
                _repair(path)
            self._today()
        except OSError as exc:
            raise system_fault(exc, self._shown, opening=True) from exc

    def write(self, items: Sequence[Item]) -> Sequence[Verdict] | None:
        """Append a line for each item; whatever fails, none of them stays."""
        lines = [self._line(item) for item in items]
        payload = b"".join(filter(None, lines))
        if payload:
            try:
                self._today().append(payload, sync=self._fsync)
            except OSError as exc:
                self.close()  # the next write opens it again, and repairs what could not be cut off
                raise system_fault(exc, self._shown, opening=False) from exc
        if None in lines:
            return [_NOT_TEXT if line is None else WRITTEN for line in lines]
        return None

    def close(self) -> None:
        """Close the file of the day and let go of its lock."""
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def where(self) -> str:
        """Return a shell command that shows the latest documents."""
        return f"cat {shlex.quote(f'{self._shown}/{self._prefix}')}-*.jsonl | tail -n 5"

    def _line(self, item: Item) -> bytes | None:
        """Return an item's line, ``None`` if its id cannot be written."""
        if not self._envelope:
            return item.document + b"\n"
        try:
            name = orjson.dumps(item.id or None)
        except orjson.JSONEncodeError:  # a lone surrogate
            return None
        return b'{"_id": %b, "_source": %b}\n' % (name, item.document)

    def _today(self) -> LineFile:
        """Return the open file of this day. Raises ``OSError``."""
        day = datetime.fromtimestamp(self._clock.time(), UTC).date().isoformat()
        stem = f"{self._prefix}-{day}"
        if self._file is not None and (self._stem != stem or not self._file.stands()):
            self.close()
        if self._file is None:
            make_folder(self._folder)
            self._file = LineFile.create(self._folder, stem)
            self._stem = stem
        return self._file

    def _files(self) -> Iterator[Path]:
        name = re.compile(re.escape(self._prefix) + r"-\d{4}-\d\d-\d\d(\.\d+)?\.jsonl")
        return (path for path in self._folder.iterdir() if name.fullmatch(path.name))


def _repair(path: Path) -> None:
    """Cut off the torn end of a file that nobody writes to."""
    try:
        file = LineFile.take(path)
    except PermissionError:
        return  # an old file that was put away for reading
    if file is not None:
        file.close()
