"""Exchanges, queues and bindings: they stand in the file, the same for every process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from consumers.transports.sqlite_errors import not_found, refused
from consumers.transports.sqlite_routing import EXCHANGE_TYPES

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping

    from consumers.transports.sqlite_file import QueueFile


class QueueCounts(NamedTuple):
    """``ready`` messages wait, ``unacked`` ones are leased to consumers; ``consumers`` of all processes."""

    ready: int
    unacked: int
    consumers: int


class Topology:
    """Declares, binds, counts, purges and deletes in one queue file. Errors are AMQP's 404 and 406."""

    def __init__(self, file: QueueFile) -> None:
        self._file = file

    def declare_exchange(
        self, name: str, kind: str, *, durable: bool, auto_delete: bool, arguments: Mapping[str, Any]
    ) -> None:
        """Create an exchange; the same again changes nothing, a different one is refused (406)."""
        if kind not in EXCHANGE_TYPES:
            raise refused(f"exchange {name!r}: a queue file has no type {kind!r}")
        wanted = (kind, int(durable), int(auto_delete), _canonical(arguments))
        with self._file.writing(durable=True) as database:
            query = "SELECT type, durable, auto_delete, arguments FROM exchanges WHERE name = ?"
            found = database.execute(query, (name,)).fetchone()
            if found is None:
                database.execute("INSERT INTO exchanges VALUES (?, ?, ?, ?, ?)", (name, *wanted))
            elif found != wanted:
                raise refused(f"exchange {name!r} exists as {found}, not as {wanted}")

    def require_exchange(self, name: str) -> None:
        """Raise AMQP's 404 where there is no such exchange."""
        if not self._file.rows("SELECT 1 FROM exchanges WHERE name = ?", (name,)):
            raise not_found("exchange", name)

    def delete_exchange(self, name: str, *, if_unused: bool) -> None:
        """Delete an exchange with its bindings; an absent one is deleted already."""
        with self._file.writing(durable=True) as database:
            bound = database.execute("SELECT 1 FROM bindings WHERE exchange = ? LIMIT 1", (name,))
            if if_unused and bound.fetchone():
                raise refused(f"exchange {name!r} in use")
            database.execute("DELETE FROM bindings WHERE exchange = ?", (name,))
            database.execute("DELETE FROM exchanges WHERE name = ?", (name,))

    def declare_queue(
        self, name: str, *, durable: bool, auto_delete: bool, arguments: Mapping[str, Any], holder: int | None
    ) -> None:
        """Create a queue; the same again changes nothing, a different one is refused (406).

        ``holder``: the owner whose end deletes it (AMQP's exclusive queues); ``None`` for none.
        """
        wanted = (int(durable), int(auto_delete), _canonical(arguments))
        known = self._file.rows("SELECT durable, auto_delete, arguments FROM queues WHERE name = ?", (name,))
        if not known:
            with self._file.writing(durable=True) as database:
                # somebody may have been faster
                statement = (
                    "INSERT INTO queues (name, durable, auto_delete, arguments, holder)"
                    " VALUES (?, ?, ?, ?, ?) ON CONFLICT (name) DO NOTHING"
                )
                database.execute(statement, (name, *wanted, holder))
            known = self._file.rows(
                "SELECT durable, auto_delete, arguments FROM queues WHERE name = ?", (name,)
            )
        if known and known[0] != wanted:
            raise refused(
                f"queue {name!r} exists as (durable, auto_delete, arguments) {known[0]}, not {wanted}"
            )

    def queue_id(self, name: str) -> int:
        """Return the queue's number, which no later queue of that name will have; or raise 404."""
        found = self._file.rows("SELECT id FROM queues WHERE name = ?", (name,))
        if not found:
            raise not_found("queue", name)
        return int(found[0][0])

    def counts(self, name: str) -> QueueCounts:
        """Count the queue's messages and consumers, of all processes; or raise 404."""
        queue = self.queue_id(name)
        query = (
            "SELECT (SELECT count(*) FROM messages WHERE queue = ? AND owner IS NULL),"
            " (SELECT count(*) FROM messages WHERE owner IS NOT NULL AND queue = ?),"
            " (SELECT count(*) FROM consumers WHERE queue = ?)"
        )
        return QueueCounts(*self._file.rows(query, (queue, queue, queue))[0])

    def bind(self, queue: str, exchange: str, key: str) -> None:
        """Bind a queue to an exchange; once more changes nothing; 404 where one is absent."""
        self.require_exchange(exchange)
        number = self.queue_id(queue)
        with self._file.writing(durable=True) as database:
            database.execute("INSERT OR IGNORE INTO bindings VALUES (?, ?, ?)", (exchange, key, number))

    def unbind(self, queue: str, exchange: str, key: str) -> None:
        """Remove a binding; an absent one is removed already."""
        with self._file.writing(durable=True) as database:
            condition = "exchange = ? AND routing_key = ? AND queue = (SELECT id FROM queues WHERE name = ?)"
            database.execute(f"DELETE FROM bindings WHERE {condition}", (exchange, key, queue))  # noqa: S608

    def purge(self, name: str) -> int:
        """Delete the queue's ready messages, not the unacked ones; return how many there were."""
        queue = self.queue_id(name)
        with self._file.writing(durable=True) as database:
            return _delete_messages(database, "queue = ? AND owner IS NULL", queue)

    def delete_queue(self, name: str, *, if_unused: bool, if_empty: bool) -> int:
        """Delete a queue with all its messages; return how many were ready.

        An absent queue is deleted already. Raises 406 where a condition does not hold.
        """
        if not self._file.rows("SELECT 1 FROM queues WHERE name = ?", (name,)):
            return 0
        counts = self.counts(name)
        if (if_unused and counts.consumers) or (if_empty and counts.ready):
            raise refused(f"queue {name!r} in use or not empty")
        with self._file.writing(durable=True) as database:
            for (queue,) in database.execute("SELECT id FROM queues WHERE name = ?", (name,)).fetchall():
                drop_queue(database, queue)
        return counts.ready


def drop_queue(database: sqlite3.Connection, queue: int) -> None:
    """Delete a queue, its bindings, consumers and messages, within a write transaction."""
    _delete_messages(database, "queue = ?", queue)
    for table, column in (("bindings", "queue"), ("consumers", "queue"), ("queues", "id")):
        database.execute(f"DELETE FROM {table} WHERE {column} = ?", (queue,))  # noqa: S608 - constants


def _delete_messages(database: sqlite3.Connection, condition: str, queue: int) -> int:
    # every condition is a constant of this module
    chosen = f"SELECT id FROM messages WHERE {condition}"  # noqa: S608
    database.execute(f"DELETE FROM contents WHERE id IN ({chosen})", (queue,))  # noqa: S608
    return database.execute(f"DELETE FROM messages WHERE {condition}", (queue,)).rowcount  # noqa: S608


def _canonical(arguments: Mapping[str, Any]) -> str:
    return orjson.dumps(dict(arguments), option=orjson.OPT_SORT_KEYS).decode()
