"""The sinks on this machine under kill -9, and shared by processes."""

from __future__ import annotations

import random
import signal
import sqlite3
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from aggregator.sinks import from_url
from tests.contract.read_back import lines, rows
from tests.contract.sink_contract import fates, items

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.integration

WRITER = """
import sys
from aggregator.sinks import from_url
from aggregator.testing.memory import MemoryDelivery

def item(number):
    made = MemoryDelivery(b"")
    made.id = f"{sys.argv[2]}-{number}"
    made.document = b'{"number":%d,"pad":"%b"}' % (number, b"x" * int(sys.argv[3]))
    return made

sink = from_url(sys.argv[1])
sink.open()
for request in range(100_000):
    verdicts = sink.write([item(request * 20 + n) for n in range(20)])
    assert verdicts is None or {v.fate.value for v in verdicts} == {"written"}
    print("told", flush=True)
"""


def write_until_killed(url: str, name: str, requests: int) -> int:
    """Run a writer, kill it a moment after it told of so many requests; return how many it told of."""
    command = [sys.executable, "-c", WRITER, url, name, "30000"]
    told = 0
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:  # its log comes the same way
            told += line == "told\n"
            if told == requests:
                process.send_signal(signal.SIGKILL)
        process.wait()
    assert process.returncode == -signal.SIGKILL
    return told


# A killed process leaves its writes to the system: without fsync it is caught in a write more often.
@pytest.mark.parametrize("scheme", ["sqlite", "jsonl"])
def test_kill_9_loses_nothing_that_has_a_verdict(scheme: str, tmp_path: Path) -> None:
    url = f"{scheme}:///{tmp_path}/store{'?fsync=false' if scheme == 'jsonl' else ''}"
    chance = random.Random(scheme)
    expected: set[str] = set()
    for turn in range(8):
        told = write_until_killed(url, f"{turn}", chance.randint(1, 12))
        expected |= {f"{turn}-{number}" for number in range(told * 20)}
    sink = from_url(url)
    sink.open()
    assert fates(sink, items("afterwards"))
    sink.close()
    found = rows(tmp_path / "store") if scheme == "sqlite" else lines(tmp_path / "store")
    names = [name for name, _ in found]
    assert expected <= set(names)
    assert len(names) == len(set(names)), "nothing was written twice"
    assert all(source["number"] == int(name.partition("-")[2]) for name, source in found[:-1])
    if scheme == "sqlite":
        db = sqlite3.connect(tmp_path / "store")
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        db.execute("INSERT INTO documents_search(documents_search, rank) VALUES ('integrity-check', 0)")
        db.close()


def test_processes_share_a_jsonl_folder_without_sharing_a_file(tmp_path: Path) -> None:
    url = f"jsonl:///{tmp_path}"
    command = [sys.executable, "-c", WRITER, url]
    processes = [
        subprocess.Popen([*command, name, "1000"], stdout=subprocess.PIPE, text=True)
        for name in ("a", "b", "c")
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline()
    assert len(list(tmp_path.glob("*.jsonl"))) == 3
    for process in processes:
        process.kill()
        process.communicate()
    sink = from_url(url)
    sink.open()  # takes the first file again, repairs the others
    sink.close()
    assert {name.partition("-")[0] for name, _ in lines(tmp_path)} == {"a", "b", "c"}


def test_processes_share_a_sqlite_file(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/shared.db"
    command = [sys.executable, "-c", WRITER, url]
    processes = [
        subprocess.Popen([*command, name, "1000"], stdout=subprocess.PIPE, text=True)
        for name in ("a", "b", "c")
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline(), "each of them opened the new file and wrote"
    for process in processes:
        process.kill()
        process.communicate()
    assert {name.partition("-")[0] for name, _ in rows(tmp_path / "shared.db")} == {"a", "b", "c"}
