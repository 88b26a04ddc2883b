"""The messages of a queue file: stored, leased, acked, given back."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import orjson
import structlog
from amqp.exceptions import NotFound

from aggregator.clock import SYSTEM_CLOCK
from consumers.transports.sqlite_routing import route

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Sequence

    from aggregator.clock import Clock
    from consumers.transports.sqlite_file import QueueFile
    from consumers.transports.sqlite_leases import Leases, Owner

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message to be stored.

    ``properties``: see :mod:`consumers.transports.sqlite_message`. ``expiration``: milliseconds
    after which it is discarded unread; ``None`` for never.
    """

    exchange: str
    routing_key: str
    properties: bytes
    body: bytes
    expiration: int | None = None


class Leased(NamedTuple):
    """A message that is leased to an owner; ``deliveries`` are those before this one."""

    id: int
    deliveries: int
    exchange: str
    routing_key: str
    properties: bytes
    body: bytes


class Store:
    """Stores and leases messages. Every method is one transaction.

    Where an owner's leases have been taken over, its calls raise ``LeaseLostError``, change
    nothing, and do not touch the messages that others have now.
    """

    def __init__(self, file: QueueFile, leases: Leases, clock: Clock = SYSTEM_CLOCK) -> None:
        self._file = file
        self._leases = leases
        self._clock = clock

    def publish(self, messages: Iterable[Outgoing]) -> list[Outgoing]:
        """Store all messages, on the disk when this returns; return those that no queue takes.

        Raises AMQP's 404 for an absent exchange, and then stores none of them.
        """
        unroutable = []
        with self._file.writing(durable=True) as database:
            for message in messages:
                queues = route(database, message.exchange, message.routing_key)
                for queue in queues:
                    self._insert(database, queue, message)
                if not queues:
                    unroutable.append(message)
        self._file.changes += 1
        return unroutable

    def _insert(self, database: sqlite3.Connection, queue: int, message: Outgoing) -> None:
        limits = [message.expiration, _arguments(database, queue).get("x-message-ttl")]
        limit = min((float(each) for each in limits if each is not None), default=None)
        expires = None if limit is None else self._clock.time() + limit / 1000
        statement = "INSERT INTO messages (queue, expires) VALUES (?, ?)"
        number = database.execute(statement, (queue, expires)).lastrowid
        database.execute(
            "INSERT INTO contents VALUES (?, ?, ?, ?, ?)",
            (number, message.exchange, message.routing_key, message.properties, message.body),
        )

    def look(self, queue: int) -> tuple[bool, bool]:
        """Tell whether the queue still exists, and whether a message may be ready in it."""
        query = (
            "SELECT EXISTS (SELECT 1 FROM queues WHERE id = ?),"
            " EXISTS (SELECT 1 FROM messages WHERE queue = ? AND owner IS NULL)"
        )
        exists, ready = self._file.rows(query, (queue, queue))[0]
        return bool(exists), bool(ready)

    def lease(self, owner: Owner, queue: int, limit: int, limit_bytes: int) -> list[Leased]:
        """Lease the oldest ready messages: at most ``limit``, and one of them may exceed ``limit_bytes``."""
        with self._file.writing() as database:
            self._leases.beat(database, owner)
            self._expire(database, queue)
            taken = _oldest(database, queue, limit, limit_bytes)
            if taken:
                statement = (
                    "UPDATE messages SET owner = ?, deliveries = deliveries + 1"
                    " WHERE queue = ? AND owner IS NULL AND id <= ?"
                )
                database.execute(statement, (owner.number, queue, taken[-1].id))
        return taken

    def _expire(self, database: sqlite3.Connection, queue: int) -> None:
        query = "SELECT id FROM messages WHERE queue = ? AND expires <= ? AND owner IS NULL"
        expired = [row[0] for row in database.execute(query, (queue, self._clock.time()))]
        self._bury(database, expired)

    def ack(self, owner: Owner, ids: Sequence[int]) -> None:
        """Delete messages that are leased to ``owner``."""
        with self._file.writing() as database:
            self._leases.beat(database, owner)
            _delete(database, ids)

    def reject(self, owner: Owner, ids: Sequence[int]) -> None:
        """Discard messages: to the queue's ``x-dead-letter-exchange``, or for good if it has none."""
        with self._file.writing(durable=True) as database:
            self._leases.beat(database, owner)
            self._bury(database, ids)
        self._file.changes += 1

    def _bury(self, database: sqlite3.Connection, ids: Sequence[int]) -> None:
        query = (
            "SELECT queue, routing_key, properties, body FROM messages JOIN contents USING (id) WHERE id = ?"
        )
        for number in ids:
            for queue, key, properties, body in database.execute(query, (number,)).fetchall():
                arguments = _arguments(database, queue)
                if "x-dead-letter-exchange" not in arguments:
                    continue
                exchange = str(arguments["x-dead-letter-exchange"])
                key_there = str(arguments.get("x-dead-letter-routing-key", key))
                message = Outgoing(exchange, key_there, properties, body)
                for target in _dead_letter_queues(database, message):
                    self._insert(database, target, message)
        _delete(database, ids)

    def give_back(self, owner: Owner, ids: Sequence[int], *, counted: bool = True) -> None:
        """Make leased messages ready again, each at its old place.

        ``counted``: the delivery took place; otherwise nobody saw the message.
        """
        statement = "UPDATE messages SET owner = NULL, deliveries = deliveries - ? WHERE id = ? AND owner = ?"
        with self._file.writing() as database:
            self._leases.beat(database, owner)
            database.executemany(statement, [(int(not counted), number, owner.number) for number in ids])
        self._file.changes += 1


def _oldest(database: sqlite3.Connection, queue: int, limit: int, limit_bytes: int) -> list[Leased]:
    query = (
        "SELECT id, deliveries, exchange, routing_key, properties, body"
        " FROM messages JOIN contents USING (id)"
        " WHERE queue = ? AND owner IS NULL ORDER BY id LIMIT ?"
    )
    taken: list[Leased] = []
    size = 0
    with closing(database.execute(query, (queue, limit))) as rows:
        for row in rows:
            message = Leased._make(row)
            taken.append(message)
            size += len(message.body)
            if size >= limit_bytes:
                break
    return taken


def _dead_letter_queues(database: sqlite3.Connection, message: Outgoing) -> list[int]:
    # as in RabbitMQ, what cannot be dead-lettered is gone; it must not block the queue for ever
    try:
        queues = route(database, message.exchange, message.routing_key)
    except NotFound:
        queues = []
    if not queues:
        _log.warning("dead letter unroutable", exchange=message.exchange, routing_key=message.routing_key)
    return queues


def _delete(database: sqlite3.Connection, ids: Sequence[int]) -> None:
    rows = [(number,) for number in ids]
    database.executemany("DELETE FROM messages WHERE id = ?", rows)
    database.executemany("DELETE FROM contents WHERE id = ?", rows)


def _arguments(database: sqlite3.Connection, queue: int) -> dict[str, str | int]:
    (text,) = database.execute("SELECT arguments FROM queues WHERE id = ?", (queue,)).fetchone()
    return orjson.loads(text) if text != "{}" else {}
