"""Which queues take a message: direct, topic and fanout exchanges, and the default one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from aggregator.topic import matches
from consumers.transports.sqlite_errors import not_found

if TYPE_CHECKING:
    import sqlite3

EXCHANGE_TYPES: Final = frozenset({"direct", "topic", "fanout"})


def route(database: sqlite3.Connection, exchange: str, key: str) -> list[int]:
    """Return the ids of the queues that take a message; none if it is unroutable.

    Raises AMQP's 404 for an absent exchange.
    """
    if not exchange:
        return [row[0] for row in database.execute("SELECT id FROM queues WHERE name = ?", (key,))]
    found = database.execute("SELECT type FROM exchanges WHERE name = ?", (exchange,)).fetchone()
    if found is None:
        raise not_found("exchange", exchange)
    if found[0] == "direct":
        return _queues(database, "exchange = ? AND routing_key = ?", exchange, key)
    if found[0] == "fanout":
        return _queues(database, "exchange = ?", exchange)
    bindings = database.execute("SELECT routing_key, queue FROM bindings WHERE exchange = ?", (exchange,))
    return sorted({queue for pattern, queue in bindings if matches(pattern, key)})


def _queues(database: sqlite3.Connection, condition: str, *values: str) -> list[int]:
    # the condition is one of the two constants above
    query = f"SELECT DISTINCT queue FROM bindings WHERE {condition} ORDER BY queue"  # noqa: S608
    return [row[0] for row in database.execute(query, values)]
