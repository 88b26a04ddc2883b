"""The SQLite sink: its URL, its errors, its index, and what it says where to look."""

from __future__ import annotations

import errno
import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import structlog

from aggregator.errors import (
    ConfigurationError,
    SinkBlockedError,
    SinkUnavailableError,
    UnrecoverableError,
)
from aggregator.sinks import from_url, sqlite_schema
from aggregator.sinks.base import Fate
from aggregator.sinks.sqlite import SqliteSink
from aggregator.testing.memory import MemoryDelivery

if TYPE_CHECKING:
    from collections.abc import Iterator


class FixedClock:
    def monotonic(self) -> float:
        return 0.0

    def time(self) -> float:
        return 1795305599.25


def item(name: str, document: bytes = b"{}") -> MemoryDelivery:
    made = MemoryDelivery(b"")
    made.id = name
    made.document = document
    return made


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "documents.db"


@pytest.fixture
def sink(file: Path) -> Iterator[SqliteSink]:
    sink = SqliteSink(file, timeout=0.05, clock=FixedClock())
    sink.open()
    yield sink
    sink.close()


def query(file: Path, text: str) -> list[Any]:
    with closing(sqlite3.connect(file)) as db, db:
        return db.execute(text).fetchall()


def found(file: Path, words: str) -> list[str]:
    """Return the ids of the documents that the index finds."""
    text = (
        "SELECT id FROM documents WHERE seq IN"
        f" (SELECT rowid FROM documents_search WHERE documents_search MATCH '{words}') ORDER BY seq"
    )
    return [name for (name,) in query(file, text)]


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:///file.db", "file.db"),
        ("sqlite:///data/a%20b%23%3F.db", "data/a b#?.db"),
        ("sqlite:////var/lib/file.db?search=no&table=Logs_2&timeout=500ms", "/var/lib/file.db"),
    ],
)
def test_slashes_tell_relative_from_absolute(url: str, path: str) -> None:
    sink = from_url(url)
    assert isinstance(sink, SqliteSink)
    assert sink._path == Path(path).absolute()


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("sqlite://file.db", "names a host; write sqlite:///relative"),
        ("sqlite:file.db", "write sqlite:///relative"),
        ("sqlite:///", "names no path"),
        ("sqlite://", "names a host"),
        ("sqlite:///data/", "names no file"),
        ("sqlite:///:memory:", "names no file"),
        ("sqlite:///a%00b", "names no path"),
        ("sqlite:///a#b.db", "#"),
        ("sqlite:///a.db?tabel=x", "'tabel' is not among its options: table, search, timeout"),
        ("sqlite:///a.db?table=a&table=b", "once"),
        ("sqlite:///a.db?table=", "table: letters"),
        ("sqlite:///a.db?table=a%22b", "table: letters"),
        ("sqlite:///a.db?table=sqlite_master", "table: "),
        ("sqlite:///a.db?search=perhaps", "search: it should be a valid boolean"),
        ("sqlite:///a.db?timeout=5", "timeout: 5 has no unit"),
    ],
)
def test_a_wrong_url_is_told_in_one_line(url: str, problem: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        from_url(url)
    assert caught.value.field == "sink"
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_row_holds_id_document_and_time(sink: SqliteSink, file: Path) -> None:
    sink.write([item("one", b'{ "a" : 1 }'), item("")])
    assert query(file, "SELECT id, body, written_at FROM documents ORDER BY seq") == [
        ("one", '{ "a" : 1 }', "2026-11-21T23:59:59.250+00:00"),
        (None, "{}", "2026-11-21T23:59:59.250+00:00"),
    ]


def test_items_without_an_id_are_never_the_same(sink: SqliteSink, file: Path) -> None:
    verdicts = sink.write([item(""), item("")])
    assert verdicts is not None
    assert [verdict.fate for verdict in verdicts] == [Fate.WRITTEN] * 2
    assert query(file, "SELECT count(*) FROM documents") == [(2,)]


def test_a_verdict_waits_for_the_disk(sink: SqliteSink) -> None:
    assert sink._db is not None
    assert sink._db.execute("PRAGMA synchronous").fetchone() == (2,)
    assert sink._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_document_that_is_no_text_does_not_harm_its_neighbours(sink: SqliteSink) -> None:
    verdicts = sink.write([item("a"), item("b", b'{"a":"\xff"}'), item("c\udc00"), item("d")])
    assert verdicts is not None
    assert [verdict.fate.value for verdict in verdicts] == [
        "written",
        "dead_letter",
        "dead_letter",
        "written",
    ]
    assert verdicts[1].reason == "not-unicode"


def test_a_document_beyond_what_sqlite_holds_does_not_harm_its_neighbours(
    sink: SqliteSink, file: Path
) -> None:
    assert sink._db is not None
    sink._db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 10_000)
    verdicts = sink.write([item("a"), item("b", b'{"a":"%b"}' % (b"x" * 20_000)), item("c")])
    assert verdicts is not None
    assert [verdict.reason for verdict in verdicts] == ["", "too-large", ""]
    assert query(file, "SELECT id FROM documents") == [("a",), ("c",)]


def test_finds_words_and_numbers_behind_their_escapes(sink: SqliteSink, file: Path) -> None:
    sink.write(
        [
            item("one", rb'{"name":"M\u00fcller","tags":["blue",{"deep":"whale"}]}'),
            item("two", b'{"amount":4711,"whale":"no"}'),
            item("three", b'{"a":' * 3000 + b'"blue"' + b"}" * 3000),
        ]
    )
    assert found(file, "müller") == ["one"]
    assert found(file, "whale") == ["one"], "keys are not searched"
    assert found(file, "4711") == ["two"]
    assert found(file, "blue") == ["one", "three"]


def test_the_index_follows_what_people_do_to_the_table(sink: SqliteSink, file: Path) -> None:
    sink.write([item("one", b'{"a":"blue"}'), item("two", b'{"a":"blue whale"}')])
    sink.write([item("one", b'{"a":"green"}')])
    assert found(file, "green") == [], "a duplicate is not indexed"
    query(file, "DELETE FROM documents WHERE id = 'one'")
    query(file, """UPDATE documents SET body = '{"a":"red"}' WHERE id = 'two'""")
    with closing(sqlite3.connect(file)) as db:
        db.execute("VACUUM")
    assert (found(file, "blue"), found(file, "red")) == ([], ["two"])


def test_the_index_takes_in_what_was_written_without_it(file: Path) -> None:
    for search in (False, True, True):
        sink = SqliteSink(file, search=search)
        sink.open()
        sink.write([item(f"{search}", b'{"a":"blue"}')])
        sink.close()
    assert found(file, "blue") == ["False", "True"]


def test_without_fts5_it_warns_and_writes(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_schema, "_FTS5", "SELECT 1 WHERE 0")
    sink = SqliteSink(file)
    with structlog.testing.capture_logs() as logs:
        sink.open()
    assert [entry["event"] for entry in logs] == ["sqlite.no_full_text_search"]
    sink.write([item("one")])
    sink.close()
    assert query(file, "SELECT id FROM documents") == [("one",)]


def test_another_writer_makes_it_unavailable(sink: SqliteSink, file: Path) -> None:
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(SinkUnavailableError, match="locked"):
            sink.write([item("one")])
        with pytest.raises(SinkUnavailableError, match="locked"):
            sink.open()
    assert sink.write([item("one")]) is not None


def test_a_full_disk_makes_it_unavailable_and_leaves_nothing_behind(sink: SqliteSink, file: Path) -> None:
    sink.write([item("before")])
    assert sink._db is not None
    pages = sink._db.execute("PRAGMA page_count").fetchone()[0]
    sink._db.execute(f"PRAGMA max_page_count = {pages}")
    big = [item(f"{number}", b'{"text":"%b"}' % (b"word " * 1000)) for number in range(20)]
    with pytest.raises(SinkUnavailableError, match="full"):
        sink.write(big)
    assert query(file, "SELECT id FROM documents") == [("before",)]
    verdicts = sink.write(big)
    assert verdicts is not None
    assert {verdict.fate for verdict in verdicts} == {Fate.WRITTEN}


def test_a_read_only_file_blocks(sink: SqliteSink, file: Path) -> None:
    assert sink._db is not None
    sink._db.execute("PRAGMA query_only = on")
    with pytest.raises(SinkBlockedError, match="readonly"):
        sink.write([item("one")])


def test_a_folder_that_is_not_ours_blocks(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(folder: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("aggregator.sinks.sqlite.make_folder", refuse)  # root may write everywhere
    with pytest.raises(SinkBlockedError, match="Permission denied"):
        SqliteSink(file).open()


def test_what_is_no_database_cannot_be_recovered(file: Path) -> None:
    file.write_bytes(b"hello, this is a text of some length\n" * 100)
    with pytest.raises(UnrecoverableError, match="not a database"):
        SqliteSink(file).open()
    assert file.read_bytes().startswith(b"hello"), "it is left alone"


def test_a_folder_cannot_be_recovered(tmp_path: Path) -> None:
    with pytest.raises(UnrecoverableError, match="folder"):
        SqliteSink(tmp_path).open()
    (tmp_path / "file").touch()
    with pytest.raises(UnrecoverableError):
        SqliteSink(tmp_path / "file" / "a.db").open()


def test_somebody_elses_table_cannot_be_recovered(file: Path) -> None:
    query(file, "CREATE TABLE documents (id, title)")
    with pytest.raises(UnrecoverableError, match=r"choose another by \?table="):
        SqliteSink(file).open()
    other = SqliteSink(file, table="order")
    other.open()
    other.write([item("one")])
    other.close()
    assert query(file, 'SELECT id FROM "order"') == [("one",)]


def test_a_table_that_vanishes_blocks_until_it_is_opened_again(sink: SqliteSink, file: Path) -> None:
    query(file, "DROP TABLE documents")
    with pytest.raises(SinkBlockedError, match="no such table"):
        sink.write([item("one")])
    sink.open()
    assert sink.write([item("one")])


def test_a_file_that_was_deleted_is_made_anew(sink: SqliteSink, file: Path) -> None:
    sink.write([item("one")])
    for path in file.parent.iterdir():
        path.unlink()
    sink.write([item("two")])
    assert query(file, "SELECT id FROM documents") == [("two",)]


@pytest.mark.parametrize("program", [None, "sqlite3"])
@pytest.mark.parametrize("name", ["documents.db", 'it\'s a "file" $HOME.db'])
def test_where_is_a_command_that_works(
    tmp_path: Path, name: str, program: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    if program and not shutil.which(program):
        pytest.skip("there is no sqlite3 here")
    monkeypatch.chdir(tmp_path)
    sink = SqliteSink(Path(name), table="order")
    sink.open()
    sink.write([item("one", b'{"a":1}')])
    if not program:
        monkeypatch.setattr("aggregator.sinks.sqlite.shutil.which", lambda _: None)
    (tmp_path / "python3").symlink_to(sys.executable)
    path = f"{tmp_path}:{os.environ['PATH']}"
    shown = subprocess.run(
        sink.where(), shell=True, capture_output=True, text=True, check=True, env={**os.environ, "PATH": path}
    )
    sink.close()
    assert shown.stdout.replace("|", " ").split(maxsplit=1) == ["one", '{"a":1}\n']
    assert json.loads(shown.stdout[4:]) == {"a": 1}
