"""What holds messages is nobody else's to read, however permissive the umask is."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest
from kombu import Connection

from aggregator.sinks import from_url
from aggregator.testing.memory import MemoryDelivery
from consumers.transports import register

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(params=[0o000, 0o022, 0o077], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    """What a service manager has set."""
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def modes(folder: Path) -> dict[str, int]:
    return {
        path.name: stat.S_IMODE(path.stat().st_mode) for path in sorted(folder.rglob("*")) if path.is_file()
    }


def document() -> MemoryDelivery:
    made = MemoryDelivery(b'{"n":1}')
    made.id, made.document = "1", made.body
    return made


@pytest.mark.parametrize(("url", "files"), [("sqlite:///{}/d.db", 3), ("jsonl:///{}", 1)])
def test_documents(tmp_path: Path, umask: int, url: str, files: int) -> None:
    sink = from_url(url.format(tmp_path))
    sink.open()
    sink.write([document()])
    found = modes(tmp_path)  # SQLite's -wal and -shm while it is open
    sink.close()
    assert len(found) == files
    assert set(found.values()) == {0o660 & ~umask}


def test_a_queue(tmp_path: Path, umask: int) -> None:
    register()
    with Connection(f"sqlite-queue:///{tmp_path}/q.db") as connection:
        queue = connection.SimpleQueue("q")
        queue.put({"n": 1})
        queue.get().ack()
        found = modes(tmp_path)
        queue.close()
    assert len(found) > 3, "its locks too"
    assert set(found.values()) == {0o660 & ~umask}


@pytest.mark.parametrize("url", ["sqlite:///{}/d.db", "jsonl:///{}"])
def test_a_file_that_is_there_keeps_its_mode(tmp_path: Path, url: str) -> None:
    for _ in range(2):
        sink = from_url(url.format(tmp_path))
        sink.open()
        sink.write([document()])
        sink.close()
        (file,) = [path for path in tmp_path.iterdir() if path.suffix in {".db", ".jsonl"}]
        before = stat.S_IMODE(file.stat().st_mode)
        file.chmod(0o644)
    assert before == 0o644
