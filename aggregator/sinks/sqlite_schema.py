"""The tables of the SQLite sink.

``documents(seq, id, body, written_at)``: ``seq`` numbers the rows in the order of writing (and
names them to the index: a bare rowid changes with VACUUM), ``id`` is unique, or NULL where there is
none, ``body`` is the document's JSON, ``written_at`` the time of the request in UTC.

``documents_search(text)``: full-text search (FTS5) over the texts and numbers in the documents,
without their keys and with JSON's escapes resolved, kept by triggers in the writer's transaction;
its rowid is ``seq``: ``SELECT body FROM documents WHERE seq IN (SELECT rowid FROM documents_search
WHERE documents_search MATCH 'word')``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aggregator.errors import UnrecoverableError

if TYPE_CHECKING:
    import sqlite3

_COLUMNS = {"seq", "id", "body", "written_at"}

_TABLE = """
CREATE TABLE IF NOT EXISTS "{t}" (
    seq INTEGER PRIMARY KEY, id TEXT UNIQUE, body TEXT NOT NULL, written_at TEXT NOT NULL)
"""

_FTS5 = "SELECT 1 FROM pragma_module_list WHERE name = 'fts5'"

# The index holds no copy of the text (content=''), so the triggers tell it what to forget. It could
# not read the view by itself: FTS5's own statements may use no virtual table, and json_tree is one.
# A body that SQLite's JSON does not read (deeper than 1,000 levels) is indexed as it is.
_SEARCH = (
    """
CREATE VIEW "{t}_text" AS SELECT seq, CASE WHEN json_valid(body) THEN
    (SELECT group_concat(atom, ' ') FROM json_tree(body) WHERE type IN ('text', 'integer', 'real'))
    ELSE body END AS text FROM "{t}"
""",
    """
CREATE VIRTUAL TABLE "{t}_search" USING fts5(text, content='')
""",
    """
CREATE TRIGGER "{t}_added" AFTER INSERT ON "{t}" BEGIN
    INSERT INTO "{t}_search"(rowid, text) SELECT seq, text FROM "{t}_text" WHERE seq = new.seq; END
""",
    """
CREATE TRIGGER "{t}_deleted" BEFORE DELETE ON "{t}" BEGIN
    INSERT INTO "{t}_search"("{t}_search", rowid, text)
    SELECT 'delete', seq, text FROM "{t}_text" WHERE seq = old.seq; END
""",
    """
CREATE TRIGGER "{t}_changing" BEFORE UPDATE ON "{t}" BEGIN
    INSERT INTO "{t}_search"("{t}_search", rowid, text)
    SELECT 'delete', seq, text FROM "{t}_text" WHERE seq = old.seq; END
""",
    """
CREATE TRIGGER "{t}_changed" AFTER UPDATE ON "{t}" BEGIN
    INSERT INTO "{t}_search"(rowid, text) SELECT seq, text FROM "{t}_text" WHERE seq = new.seq; END
""",
    """
INSERT INTO "{t}_search"(rowid, text) SELECT seq, text FROM "{t}_text"
""",
)


def insertion(table: str) -> str:
    """Return the statement that adds ``(id, body, written_at)`` unless the id stands there."""
    return f'INSERT INTO "{table}"(id, body, written_at) VALUES (?, ?, ?) ON CONFLICT(id) DO NOTHING'  # noqa: S608


def prepare(db: sqlite3.Connection, table: str) -> None:
    """Make the table if it is missing.

    Raises ``sqlite3.Error``, and ``UnrecoverableError`` if a table of that name holds something else.
    """
    found = {row[1] for row in db.execute(f'PRAGMA table_info("{table}")')}
    if found and not found >= _COLUMNS:
        raise UnrecoverableError(f"the table {table} exists with other columns; choose another by ?table=…")
    if not found:
        db.execute(_TABLE.format(t=table))


def prepare_search(db: sqlite3.Connection, table: str) -> bool:
    """Make the index if it is missing, over all documents; return whether there is one.

    ``False``: this SQLite was built without FTS5. Raises ``sqlite3.Error``.
    """
    if not db.execute(_FTS5).fetchone():
        return False
    if _has_search(db, table):
        return True
    db.execute("BEGIN IMMEDIATE")
    try:
        if not _has_search(db, table):  # another process may have been quicker
            for statement in _SEARCH:
                db.execute(statement.format(t=table))
        db.execute("COMMIT")
    finally:
        if db.in_transaction:
            db.execute("ROLLBACK")
    return True


def _has_search(db: sqlite3.Connection, table: str) -> bool:
    found = db.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (f"{table}_search",))
    return found.fetchone() is not None
