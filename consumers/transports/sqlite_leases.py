"""Owners of leases: their signs of life, and what becomes of their messages when they end.

A channel that consumes is an owner: a row with a number that is never used again, and a locked
file. Everything that is leased to it is released with its row, in one transaction, by itself or
by whoever finds it dead: at once when its process has ended (its lock is free), else when its
``beat`` has not changed for its ``lease``. That time is taken by the observer's monotonic clock from the
moment when it first saw that beat: no clock is compared with another, so that a step of the
wall clock does nothing, and a restart of the machine neither.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from aggregator.clock import SYSTEM_CLOCK
from consumers.transports.sqlite_errors import LeaseLostError
from consumers.transports.sqlite_locks import OwnerLock, is_dead, sweep
from consumers.transports.sqlite_topology import drop_queue

if TYPE_CHECKING:
    import sqlite3

    from aggregator.clock import Clock
    from consumers.transports.sqlite_file import QueueFile

_log = structlog.get_logger()


class Owner:
    """A living owner; ``number`` stands in the rows that are leased to it."""

    __slots__ = ("lock", "number", "renewed")

    def __init__(self, number: int, lock: OwnerLock, renewed: float) -> None:
        self.number = number
        self.lock = lock
        self.renewed = renewed


class Leases:
    """The owners of one queue file, as one connection enters, renews and observes them."""

    def __init__(self, file: QueueFile, lease: float, clock: Clock = SYSTEM_CLOCK) -> None:
        self._file = file
        self._lease = lease
        self._clock = clock
        self._mine: dict[int, Owner] = {}
        #: of each other owner: its beat, and when it was first seen
        self._seen: dict[int, tuple[int, float]] = {}
        self._looked = clock.monotonic()
        #: others have taken leases of ours over: this connection is of no use any more
        self.lost = False

    def enter(self) -> Owner:
        """Make a new owner, and remove what dead ones left behind."""
        lock = OwnerLock(self._file.locks)
        try:
            with self._file.writing() as database:
                statement = "INSERT INTO owners (lock, lease) VALUES (?, ?)"
                number = database.execute(statement, (lock.name, self._lease)).lastrowid
        except BaseException:
            lock.remove()
            raise
        assert number is not None  # noqa: S101 - an INSERT has a row
        owner = self._mine[number] = Owner(number, lock, self._clock.monotonic())
        self.recover()
        sweep(self._file.locks, {row[0] for row in self._file.rows("SELECT lock FROM owners")})
        return owner

    def beat(self, database: sqlite3.Connection, owner: Owner) -> None:
        """Give a sign of life within a write transaction; raise ``LeaseLostError`` if it comes too late."""
        statement = "UPDATE owners SET beat = beat + 1 WHERE id = ?"
        if not database.execute(statement, (owner.number,)).rowcount:
            self.lost = True
            raise LeaseLostError(f"{self._file.path}: the leases of this channel were taken over")
        owner.renewed = self._clock.monotonic()

    def renew(self) -> None:
        """Give a sign of life for those of our owners that have not given any for a quarter of the lease."""
        due = self._clock.monotonic() - self._lease / 4
        if any(owner.renewed <= due for owner in self._mine.values()):
            with self._file.writing() as database:
                for owner in self._mine.values():
                    self.beat(database, owner)

    def leave(self, owner: Owner) -> None:
        """End an owner of ours: what it holds is ready again, with its deliveries counted."""
        self._mine.pop(owner.number, None)
        try:
            with self._file.writing() as database:
                _end(database, owner.number)
            self._file.changes += 1
        except BaseException:
            # the file cannot be written now: the free lock tells the others
            owner.lock.release()
            raise
        owner.lock.remove()

    def abandon(self) -> None:
        """Let go of our owners without touching the file: others find them dead."""
        for owner in self._mine.values():
            owner.lock.release()
        self._mine.clear()

    def recover(self) -> int:
        """Release what dead owners hold; return the number of messages that are ready again."""
        now = self._clock.monotonic()
        released = 0
        owners = self._file.rows("SELECT id, lock, beat, lease FROM owners")
        for number, lock, beat, lease in owners:
            if number in self._mine:
                continue
            if is_dead(self._file.locks, lock):
                released += self._take_over(number, lock, None)
            elif self._is_stale(number, beat, lease, now):
                released += self._take_over(number, lock, beat)
        self._seen = {row[0]: self._seen[row[0]] for row in owners if row[0] in self._seen}
        self._looked = now
        return released

    def _is_stale(self, number: int, beat: int, lease: float, now: float) -> bool:
        known = self._seen.get(number)
        # an observer who slept himself has seen nothing: he starts anew
        if known is None or known[0] != beat or now - self._looked > lease / 2:
            self._seen[number] = (beat, now)
            return False
        return now - known[1] >= lease

    def _take_over(self, number: int, lock: str, beat: int | None) -> int:
        """Release an owner's messages, unless it gave a sign of life since ``beat`` was read."""
        with self._file.writing() as database:
            found = database.execute("SELECT beat FROM owners WHERE id = ?", (number,)).fetchone()
            if found is None or (beat is not None and found[0] != beat):
                return 0
            released = _end(database, number)
        self._file.changes += 1
        (self._file.locks / lock).unlink(missing_ok=True)
        _log.info("leases taken over", messages=released, expired=beat is not None)
        return released


def _end(database: sqlite3.Connection, number: int) -> int:
    statement = "UPDATE messages SET owner = NULL WHERE owner = ?"
    released = database.execute(statement, (number,)).rowcount
    remove_consumers(database, "owner = ?", number)
    for (queue,) in database.execute("SELECT id FROM queues WHERE holder = ?", (number,)).fetchall():
        drop_queue(database, queue)
    database.execute("DELETE FROM owners WHERE id = ?", (number,))
    return released


def remove_consumers(database: sqlite3.Connection, condition: str, *values: object) -> None:
    """Remove consumers, and the auto-delete queues that lost their last one by it."""
    chosen = database.execute(f"SELECT DISTINCT queue FROM consumers WHERE {condition}", values)  # noqa: S608
    queues = [row[0] for row in chosen]
    database.execute(f"DELETE FROM consumers WHERE {condition}", values)  # noqa: S608
    query = (
        "SELECT id FROM queues WHERE id = ? AND auto_delete"
        " AND NOT EXISTS (SELECT 1 FROM consumers WHERE queue = queues.id)"
    )
    for queue in queues:
        if database.execute(query, (queue,)).fetchone():
            drop_queue(database, queue)
