"""The queue file's errors, and the mapping of sqlite3's to them.

kombu goes by class: what is a recoverable connection error makes a consumer connect again, a
channel error concerns one operation, and all else ends the thread that meets it.
"""

from __future__ import annotations

import sqlite3
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from amqp.exceptions import (
    ContentTooLarge,
    IrrecoverableChannelError,
    NotFound,
    PreconditionFailed,
    RecoverableConnectionError,
)

from aggregator.errors import UnrecoverableError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class QueueFileError(RecoverableConnectionError):  # type: ignore[misc]
    """The queue file cannot be used now; a new connection may succeed."""


class QueueFileBusyError(QueueFileError):
    """Another process held the write lock for longer than ``busy_timeout``."""


class QueueFileFullError(QueueFileError):
    """The disk is full: nothing of this transaction was stored."""


class LeaseLostError(QueueFileError):
    """Others took this channel's messages over, because it showed no sign of life for its lease.

    What it holds will be handed out again elsewhere; its delivery tags mean nothing any more.
    """


class UnroutableError(IrrecoverableChannelError):  # type: ignore[misc]
    """No queue takes this message, and it was published as mandatory; it was not stored."""

    code = 312


class NotAQueueFileError(UnrecoverableError):
    """The file is damaged, no SQLite database, or one of something else: it is left untouched."""


_TEMPORARY: Final = {
    sqlite3.SQLITE_BUSY: (QueueFileBusyError, "locked by another process for too long"),
    sqlite3.SQLITE_LOCKED: (QueueFileBusyError, "locked by another connection"),
    sqlite3.SQLITE_FULL: (QueueFileFullError, "the disk is full"),
}
_UNUSABLE: Final = frozenset({sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT})


def translate(error: sqlite3.Error, path: Path) -> Exception:
    """Return what an sqlite3 error means for a user of the queue file at ``path``."""
    # the low byte is the primary code, the rest tells the place in SQLite
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    if code in _UNUSABLE:
        return NotAQueueFileError(f"{path}: {error}; the file is left as it is")
    if code in _TEMPORARY:
        kind, problem = _TEMPORARY[code]
        return kind(f"{path}: {problem} ({error})")
    if code == sqlite3.SQLITE_TOOBIG or isinstance(error, sqlite3.DataError):
        return ContentTooLarge(f"{path}: a message cannot be that large ({error})")  # type: ignore[no-any-return]
    return QueueFileError(f"{path}: {error}")


@contextmanager
def mapped(path: Path) -> Iterator[None]:
    """Raise this module's errors in place of sqlite3's.

    ``ProgrammingError`` stays: a connection that is used by a thread that did not open it is a
    fault of the program, which no reconnecting heals.
    """
    try:
        yield
    except sqlite3.ProgrammingError:
        raise
    except sqlite3.Error as error:
        raise translate(error, path) from error


def not_found(what: str, name: str) -> NotFound:
    """Return AMQP's 404 for an absent queue or exchange."""
    return NotFound(f"NOT_FOUND - no {what} {name!r}", reply_code=NotFound.code)


def refused(problem: str) -> PreconditionFailed:
    """Return AMQP's 406: what is asked for contradicts what there is."""
    return PreconditionFailed(f"PRECONDITION_FAILED - {problem}", reply_code=PreconditionFailed.code)
