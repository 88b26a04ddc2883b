"""What the sinks on this machine have stored, each document as its id and its content."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from pathlib import Path


def rows(file: Path) -> list[tuple[Any, Any]]:
    db = sqlite3.connect(file)
    try:
        found = db.execute("SELECT id, body FROM documents ORDER BY seq").fetchall()
    finally:
        db.close()
    return [(name, orjson.loads(body)) for name, body in found]


def lines(folder: Path) -> list[tuple[Any, Any]]:
    found = []
    for file in sorted(folder.glob("*.jsonl")):
        content = file.read_bytes()
        assert not content or content.endswith(b"\n"), "the last line is whole"
        found += [orjson.loads(line) for line in content.split(b"\n")[:-1]]
    return [(line["_id"], line["_source"]) for line in found]
