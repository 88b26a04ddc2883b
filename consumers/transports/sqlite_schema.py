"""The tables of a queue file, and the way from older versions to this one.

The version stands in ``user_version``. A file of an older version is taken forward, step by step,
in the transaction that opens it; one of a newer version is refused. ``application_id`` marks a
file as ours: no other database is ever touched. A change of the tables is a new step at the end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from consumers.transports.sqlite_errors import NotAQueueFileError

if TYPE_CHECKING:
    import sqlite3
    from pathlib import Path

APPLICATION_ID: Final = 0x6B51_7565

# Rows of `messages` are small and change with every lease; `contents` are written once. No number
# of a message, queue or owner is ever used again: a late ack can only meet its own message.
_FIRST: Final = """
CREATE TABLE exchanges (
    name TEXT PRIMARY KEY, type TEXT NOT NULL,
    durable INTEGER NOT NULL, auto_delete INTEGER NOT NULL, arguments TEXT NOT NULL
) WITHOUT ROWID;
INSERT INTO exchanges VALUES
    ('amq.direct', 'direct', 1, 0, '{}'),
    ('amq.topic', 'topic', 1, 0, '{}'),
    ('amq.fanout', 'fanout', 1, 0, '{}');
CREATE TABLE queues (
    id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE,
    durable INTEGER NOT NULL, auto_delete INTEGER NOT NULL, arguments TEXT NOT NULL,
    holder INTEGER -- the owner whose end deletes an exclusive queue
);
CREATE TABLE bindings (
    exchange TEXT NOT NULL, routing_key TEXT NOT NULL, queue INTEGER NOT NULL,
    PRIMARY KEY (exchange, routing_key, queue)
) WITHOUT ROWID;
CREATE INDEX bindings_of_queue ON bindings (queue);
CREATE TABLE messages (
    id INTEGER PRIMARY KEY AUTOINCREMENT, queue INTEGER NOT NULL,
    owner INTEGER, -- to whom it is leased
    deliveries INTEGER NOT NULL DEFAULT 0, -- how often it was leased
    expires REAL -- seconds since 1970
);
CREATE INDEX messages_ready ON messages (queue, id) WHERE owner IS NULL;
CREATE INDEX messages_leased ON messages (owner, queue) WHERE owner IS NOT NULL;
CREATE INDEX messages_expiring ON messages (queue, expires) WHERE expires IS NOT NULL;
CREATE TABLE contents (
    id INTEGER PRIMARY KEY, exchange TEXT NOT NULL, routing_key TEXT NOT NULL,
    properties BLOB NOT NULL, body BLOB NOT NULL
);
CREATE TABLE owners (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    lock TEXT NOT NULL UNIQUE, -- the name of its locked file
    beat INTEGER NOT NULL DEFAULT 0, -- grows as long as it lives
    lease REAL NOT NULL -- after how many seconds without a beat it counts as dead
);
CREATE TABLE consumers (
    owner INTEGER NOT NULL, tag TEXT NOT NULL, queue INTEGER NOT NULL,
    PRIMARY KEY (owner, tag)
) WITHOUT ROWID;
CREATE INDEX consumers_of_queue ON consumers (queue)
"""

_STEPS: Final = (_FIRST,)
SCHEMA_VERSION: Final = len(_STEPS)


def version(database: sqlite3.Connection, path: Path) -> int:
    """Return the schema's version, 0 for a new file; raise ``NotAQueueFileError`` for a foreign one."""
    application = database.execute("PRAGMA application_id").fetchone()[0]
    found = database.execute("PRAGMA user_version").fetchone()[0]
    tables = database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if not (application or found or tables):
        return 0
    if application != APPLICATION_ID:
        raise NotAQueueFileError(f"{path}: this is a database of something else; the file is left as it is")
    if found > SCHEMA_VERSION:
        raise NotAQueueFileError(f"{path}: made by a newer version of this program (schema {found})")
    return int(found)


def migrate(database: sqlite3.Connection, found: int) -> None:
    """Take the file from version ``found`` to this one, within a write transaction."""
    for step in _STEPS[found:]:
        for statement in step.split(";\n"):
            database.execute(statement)
    database.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    database.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
