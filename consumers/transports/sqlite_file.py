"""One connection to a queue file, and its transactions."""

from __future__ import annotations

import os
import sqlite3
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from aggregator.private import make_private
from consumers.transports.sqlite_errors import NotAQueueFileError, QueueFileError, mapped
from consumers.transports.sqlite_schema import SCHEMA_VERSION, migrate, version

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from consumers.transports.sqlite_settings import Settings


class QueueFile:
    """An open queue file. Only the thread that opened it may use it, and no forked child.

    Raises the errors of :mod:`consumers.transports.sqlite_errors`.
    """

    def __init__(self, settings: Settings) -> None:
        self.path = settings.path
        self.locks: Path = settings.path.with_name(f"{settings.path.name}-owners")
        #: grows with each change of ours that may have made messages ready
        self.changes = 0
        self._process = os.getpid()
        self._durable = settings.synchronous
        self._synchronous = ""
        with mapped(self.path):
            self._database = _connect(settings)
        try:
            self._prepare()
        except BaseException:
            self._database.close()
            raise

    def _prepare(self) -> None:
        with mapped(self.path):
            # one transaction: what it reads must be of one moment, for others may just be making it
            self._database.execute("BEGIN")
            found = version(self._database, self.path)
            self._database.execute("COMMIT")
            if self._database.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
                self._database.execute("PRAGMA journal_mode = WAL")
            # after a burst the log shrinks again
            self._database.execute("PRAGMA journal_size_limit = 67108864")
        if found != SCHEMA_VERSION:
            with self.writing(durable=True) as database:
                # somebody may have been faster
                migrate(database, version(database, self.path))

    @contextmanager
    def writing(self, *, durable: bool = False) -> Iterator[sqlite3.Connection]:
        """Hold the only write transaction on the file; commit at the end, or roll back.

        ``durable``: the commit is on the disk before it returns (unless the settings waive that).
        The others, of leases and acks, need not be: a lost one means one more delivery.
        """
        self._check_process()
        with mapped(self.path):
            self._synchronise("full" if durable and self._durable == "full" else "normal")
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield self._database
                self._database.execute("COMMIT")
            except BaseException:
                # a full disk may have rolled it back already
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
                raise

    def _synchronise(self, level: str) -> None:
        if level != self._synchronous:
            self._database.execute(f"PRAGMA synchronous = {level}")
            self._synchronous = level

    def rows(self, query: str, parameters: Sequence[Any] = ()) -> list[Any]:
        """Return what a query finds, read without a lock."""
        self._check_process()
        with mapped(self.path):
            return self._database.execute(query, parameters).fetchall()

    def state(self) -> tuple[int, int]:
        """Return a value that differs as soon as anybody has changed the file; costs next to nothing."""
        return self.rows("PRAGMA data_version")[0][0], self.changes

    def close(self) -> None:
        """Close it; leases stay. May be called twice, but not from another thread."""
        self._database.close()

    def _check_process(self) -> None:
        if os.getpid() != self._process:
            raise QueueFileError(f"{self.path}: this connection belongs to the process that forked")


def _connect(settings: Settings) -> sqlite3.Connection:
    if settings.path.is_dir():
        raise NotAQueueFileError(f"{settings.path}: this is a folder")
    try:
        settings.path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise QueueFileError(f"{settings.path.parent}: {error.strerror}") from error
    make_private(settings.path)
    return sqlite3.connect(settings.path, timeout=settings.busy_timeout, isolation_level=None)
