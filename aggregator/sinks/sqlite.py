"""Documents in one SQLite file, to be looked into at once: ``sqlite:///data/documents.db``.

Options: ``table`` (``documents``), ``search`` (``true``: a full-text index over the values of each
document, in the same transaction), ``timeout`` (``10s``: how long to wait for another writer).
Three slashes name a relative path, four an absolute one. A verdict is given after the file was
synced (WAL, ``synchronous=FULL``). A document whose id stands there already is a duplicate and
changes nothing: the first wins. An empty id never meets another.
"""

from __future__ import annotations

import re
import shlex
import shutil
import sqlite3
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import stamina
import structlog
from pydantic import Field

from aggregator.clock import SYSTEM_CLOCK
from aggregator.errors import (
    AggregatorError,
    ConfigurationError,
    SinkBlockedError,
    SinkUnavailableError,
    UnrecoverableError,
)
from aggregator.private import make_private
from aggregator.sinks import sqlite_schema
from aggregator.sinks.base import DUPLICATE, WRITTEN, Fate, Limits, Verdict
from aggregator.sinks.local import Options, make_folder, read_options, read_path, system_fault
from aggregator.units import Duration  # noqa: TC001 - pydantic reads it

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path
    from urllib.parse import SplitResult

    from aggregator.clock import Clock
    from aggregator.delivery import Item

# fmt: off
_LATER = frozenset([
    sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_PROTOCOL, sqlite3.SQLITE_INTERRUPT, sqlite3.SQLITE_CANTOPEN,
])
# fmt: on
_REFUSED = frozenset([sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH])
#: The low byte of SQLite's extended codes: SQLITE_IOERR_FSYNC is an SQLITE_IOERR.
_PRIMARY = 0xFF

_NOT_TEXT = Verdict(Fate.DEAD_LETTER, "not-unicode", "its id or its document is not valid Unicode")
_TOO_BIG = Verdict(Fate.DEAD_LETTER, "too-large", "SQLite holds no value of this size")

log = structlog.get_logger()


class SqliteOptions(Options):
    """What may stand behind the ``?``."""

    table: str = Field("documents", max_length=60)
    search: bool = True
    timeout: Annotated[Duration, Field(gt=0, le=600)] = 10.0


def from_url(url: SplitResult) -> SqliteSink:
    """Return the sink that ``url`` names. Raises ``ConfigurationError``; touches no file."""
    options = read_options(url.query, SqliteOptions)
    path = read_path(url)
    if url.path.endswith("/") or path.name == ":memory:":
        raise ConfigurationError("sink", "it names no file; write sqlite:///data/documents.db")
    if not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", options.table) or options.table.lower().startswith(
        "sqlite_"
    ):
        raise ConfigurationError("sink", "table: letters, digits and _ are allowed, and not sqlite_ in front")
    return SqliteSink(path, table=options.table, search=options.search, timeout=options.timeout)


class SqliteSink:
    """One table in one file. Each request is one transaction; one thread at a time, whichever."""

    limits = Limits(concurrency=1)

    def __init__(
        self,
        path: Path,
        *,
        table: str = "documents",
        search: bool = True,
        timeout: float = 10.0,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._path = path.absolute()
        self._shown = path
        self._table = table
        self._search = search
        self._timeout = timeout
        self._clock = clock
        self._insert = sqlite_schema.insertion(table)
        self._db: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None

    def open(self) -> None:
        """Make file and table where they are missing, and prove that a row could be written now."""
        with self._mapped(opening=True):
            self._open()

    def write(self, items: Sequence[Item]) -> Sequence[Verdict] | None:
        """Write all items in one transaction. After an error the file is opened anew."""
        with self._mapped(opening=False):
            return self._transaction(self._standing(), items)

    def known(self, ids: Sequence[str]) -> set[str]:
        """Return which of the ids stand in the table."""
        query = f'SELECT id FROM "{self._table}" WHERE id = ?'  # noqa: S608 - checked
        with self._mapped(opening=False):
            db = self._standing()
            return {name for name in ids if db.execute(query, (name,)).fetchone()}

    def close(self) -> None:
        """Close the file; SQLite then folds its ``-wal`` file into it."""
        db, self._db = self._db, None
        if db is not None:
            with suppress(sqlite3.Error):
                db.close()

    def where(self) -> str:
        """Return a shell command that shows the latest documents."""
        file = str(self._shown)
        query = f'SELECT id, body FROM "{self._table}" ORDER BY seq DESC LIMIT 5'  # noqa: S608 - checked
        if shutil.which("sqlite3"):
            return f"sqlite3 {shlex.quote(file)} {shlex.quote(query)}"
        code = f"import sqlite3; [print(*row) for row in sqlite3.connect({file!r}).execute({query!r})]"
        return f"python3 -c {shlex.quote(code)}"

    def _open(self) -> sqlite3.Connection:
        self.close()
        if self._path.is_dir():
            raise UnrecoverableError(f"{self._shown}: it is a folder, a file is needed")
        make_folder(self._path.parent)
        make_private(self._path)
        # Opened by one thread, written by another, never by both at once.
        self._db = db = sqlite3.connect(
            self._path, timeout=self._timeout, isolation_level=None, check_same_thread=False
        )
        # Of several that open a new file at once, SQLite sends some away without a wait.
        for attempt in stamina.retry_context(on=_is_busy, timeout=self._timeout, wait_jitter=0.1):
            with attempt:
                db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        self._file = self._identity()
        sqlite_schema.prepare(db, self._table)
        if self._search and not sqlite_schema.prepare_search(db, self._table):
            log.warning("sqlite.no_full_text_search", file=str(self._shown), why="this SQLite has no FTS5")
        self._probe(db)
        return db

    def _standing(self) -> sqlite3.Connection:
        """Return the connection to the file that the path names now."""
        if self._db is None:
            return self._open()
        if self._identity() != self._file:
            # Deleted or replaced under our hands: what is written there is nowhere.
            log.warning("sqlite.file_replaced", file=str(self._shown))
            return self._open()
        return self._db

    def _identity(self) -> tuple[int, int] | None:
        """Return what tells the file of this path from any other; ``None`` if there is none."""
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return None
        return found.st_dev, found.st_ino

    def _probe(self, db: sqlite3.Connection) -> None:
        db.execute("BEGIN IMMEDIATE")
        try:
            db.execute(self._insert, (None, "{}", ""))
        finally:
            _roll_back(db)

    def _transaction(self, db: sqlite3.Connection, items: Sequence[Item]) -> list[Verdict]:
        now = datetime.fromtimestamp(self._clock.time(), UTC).isoformat(timespec="milliseconds")
        cursor = db.cursor()
        db.execute("BEGIN IMMEDIATE")
        try:
            verdicts = [self._one(cursor, item, now) for item in items]
            db.execute("COMMIT")
        except BaseException:
            _roll_back(db)
            raise
        return verdicts

    def _one(self, cursor: sqlite3.Cursor, item: Item, now: str) -> Verdict:
        try:
            cursor.execute(self._insert, (item.id or None, str(item.document, "utf-8"), now))
        except UnicodeError:
            return _NOT_TEXT
        except (sqlite3.DataError, OverflowError):
            return _TOO_BIG
        return WRITTEN if cursor.rowcount else DUPLICATE

    @contextmanager
    def _mapped(self, *, opening: bool) -> Iterator[None]:
        """Turn foreign errors into ours; after any of them the file is opened anew."""
        try:
            yield
        except (AggregatorError, sqlite3.Error, OSError) as exc:
            self.close()
            raise self._fault(exc, opening) from exc

    def _fault(self, exc: Exception, opening: bool) -> AggregatorError:
        """Return this project's error. SQLite's own texts never hold a value."""
        if isinstance(exc, OSError):
            return system_fault(exc, self._shown, opening=opening)
        text = str(exc) if isinstance(exc, AggregatorError) else f"{self._shown}: {exc}"
        code = getattr(exc, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & _PRIMARY
        if code in _LATER:
            return SinkUnavailableError(text)
        if code in _REFUSED or not opening:
            return SinkBlockedError(text)
        return UnrecoverableError(text)


def _is_busy(exc: Exception) -> bool:
    code: int = getattr(exc, "sqlite_errorcode", 0)
    return code & _PRIMARY in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


def _roll_back(db: sqlite3.Connection) -> None:
    """Undo the open transaction; SQLite may have done so itself, after an error."""
    with suppress(sqlite3.Error):
        if db.in_transaction:
            db.execute("ROLLBACK")
