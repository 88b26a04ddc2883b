"""A trial without any server: the queue in one file, the documents in another, or in lines.

producers ── queue/queue.db ── services ── sink/documents.db, or sink/documents/*.jsonl
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing, contextmanager, suppress
from functools import partial
from threading import Thread
from typing import TYPE_CHECKING, Any

from kombu import Connection

from consumers.transports import register
from tests.faults.played import Played
from tests.faults.publishing import publish_all
from tests.servers import Unavailable
from tests.servers.base import program, wait_for
from tests.servers.local import new_folder
from tests.service import ROOT, outgoing, publish, taken

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from tests.faults.account import Account

DRAIN_SECONDS = 60.0
#: What a service may have written and not acked when it is killed: the prefetch of two workers, and the
#: request's worth that they may have got singly before.
IN_HAND = 2 * 40 + 20
#: Of the disk that becomes full.
DISK = "4m"
BLOCK = 4096


class LocalTrial(Played):
    """``kind``: of the sink, ``sqlite`` or ``jsonl``. ``small``: the side that has a small disk.

    ``options`` of the queue file's URL; ``timeout``: that of the sink's, where it has one.
    """

    def __init__(
        self, kind: str, seed: int, *, small: str = "", options: str = "", timeout: str = ""
    ) -> None:
        super().__init__(seed)
        register()
        self.kind = kind
        self.queue = self.name
        self.confirmed: set[str] = set()
        self.published = 0
        self.folder = new_folder("faults")
        self._stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
        self.small = self.folder / small if small else None
        for side in ("queue", "sink"):
            (self.folder / side).mkdir()
        if self.small:
            self._stack.enter_context(disk(self.small))
        self.queue_file = self.folder / "queue" / "queue.db"
        self.store = self.folder / "sink" / ("documents.db" if kind == "sqlite" else "documents")
        self.url = f"sqlite-queue:///{self.queue_file}{options}"
        self.sink = f"{kind}:///{self.store}{timeout if kind == 'sqlite' else ''}"
        publish(self.url, self.queue, [])

    def _ends(self) -> Sequence[str]:
        return ("--broker", self.url, "--queue", self.queue, "--sink", self.sink)

    def close(self) -> None:
        """End what still runs, remove everything."""
        self.end()
        self._stack.close()

    # ── messages ──

    def publish(self, count: int) -> None:
        """Publish messages that nobody published before, however long it takes."""
        messages = [outgoing(self.queue, number) for number in range(self.published, self.published + count)]
        self.published += count
        publish_all(lambda: self.url, messages, self.confirmed)

    @contextmanager
    def publishing(self, count: int) -> Iterator[None]:
        """Publish on a thread of its own; all are confirmed when the block has ended."""
        failed: list[BaseException] = []

        def run() -> None:
            try:
                self.publish(count)
            except Exception as exc:  # noqa: BLE001 - raised below
                failed.append(exc)

        thread = Thread(target=run)
        thread.start()
        try:
            yield
        finally:
            thread.join()
        if failed:
            raise failed[0]

    def produce_until_killed(self, told: int) -> None:
        """Have a producer publish, and kill it once it has told of so many."""
        first, self.published = self.published, self.published + told + 1000
        words = ("-m", "tests.faults.local_producer", self.url, self.queue, str(first))
        with subprocess.Popen(
            [sys.executable, *words], cwd=ROOT, stdout=subprocess.PIPE, text=True
        ) as producer:
            assert producer.stdout
            lines = [producer.stdout.readline() for _ in range(told)]
            assert lines[-1], "the producer has ended by itself"
            time.sleep(self.chance.uniform(0, 0.02))
            producer.kill()
            lines += producer.stdout.readlines()
        # the last may have been cut off by the kill
        self.confirmed.update(line.strip() for line in lines if line.endswith("\n"))
        self.account.kills += 1

    # ── the disk and the locks ──

    def fill(self) -> None:
        """Leave no block of the small disk."""
        assert self.small
        with (self.small / "ballast").open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(BLOCK))

    def empty(self) -> None:
        """Have room again."""
        assert self.small
        (self.small / "ballast").unlink()

    @contextmanager
    def locked(self, path: Path) -> Iterator[None]:
        """Hold a file's write lock, as another program may."""
        with closing(sqlite3.connect(path, isolation_level=None, timeout=60)) as base:
            base.execute("BEGIN EXCLUSIVE")
            yield
            base.execute("ROLLBACK")

    def is_free(self) -> bool:
        """Say whether nobody is writing to a file now."""
        files = [self.queue_file, *([self.store] if self.kind == "sqlite" else [])]
        try:
            for path in files:
                with closing(sqlite3.connect(path, isolation_level=None, timeout=0)) as base:
                    base.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return False
        return True

    # ── the end ──

    def left(self) -> int:
        """Return how many messages the queue holds, ready or leased."""
        with Connection(self.url) as connection:
            counts = connection.default_channel.queue_counts(self.queue)
        return int(counts[0] + counts[1])

    def finish(self) -> Account:
        """Drain, stop the services, and add up."""
        with suppress(TimeoutError):
            wait_for(lambda: not self.left(), "an empty queue", timeout=DRAIN_SECONDS, interval=0.2)
        for service in self.services:
            self.stop(service)
        account = self.account
        account.left = self.left()
        account.confirmed = len(self.confirmed)
        found = self._documents()
        dead = {letter.properties["message_id"] for letter in taken(self.url, f"{self.queue}.dead")}
        account.written, account.dead_lettered = len(found), len(dead)
        account.lost = len(self.confirmed - found.keys() - dead)
        account.unexpected = len(
            found.keys() - {f"{self.queue}-{number}" for number in range(self.published)}
        )
        twice = found.total() - len(found)
        if self.kind == "sqlite":
            account.duplicated, account.repeats = twice, self._duplicates()
        else:  # lines are only added: the document is there once more
            account.repeats = twice
        self._check_files()
        self.add_up()
        ends = [len(each.events("link_lost")) + len(each.events("grace_over")) for each in self.services]
        if account.repeats > (account.kills + sum(ends)) * IN_HAND:
            account.complaints.append(f"{account.repeats} were written twice")
        return account

    def _documents(self) -> Counter[str]:
        if self.kind == "sqlite":
            with closing(sqlite3.connect(self.store)) as base:
                return Counter(name for (name,) in base.execute("SELECT id FROM documents"))
        lines = (line for path in self.store.glob("*.jsonl") for line in path.read_bytes().splitlines())
        return Counter(json.loads(line)["_id"] for line in lines)

    def _check_files(self) -> None:
        for path in (self.queue_file, *([self.store] if self.kind == "sqlite" else [])):
            with closing(sqlite3.connect(path)) as base:
                told = base.execute("PRAGMA integrity_check").fetchall()
            if told != [("ok",)]:
                self.account.complaints.append(f"{path.name}: {told[:3]}")


@contextmanager
def disk(folder: Path) -> Iterator[None]:
    """Mount a small disk there. ``Unavailable`` where that is not allowed."""
    if os.geteuid():
        raise Unavailable("only root can mount a small disk")
    words = [program("mount"), "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(folder)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Unavailable(f"no small disk: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run([program("umount"), "--lazy", str(folder)], check=True)


@contextmanager
def _local_trial(
    fleet: Any, kind: str, *, seed: int = 0, recorded: bool = True, **more: str
) -> Iterator[LocalTrial]:
    """Yield a trial in a folder of its own; nothing of it is left afterwards."""
    del fleet, recorded
    made = LocalTrial(kind, seed, **more)
    try:
        yield made
    finally:
        made.close()


def on(**more: str) -> Any:
    """Return what makes the trial: with a ``small`` disk, with ``options`` of the queue file."""
    return partial(_local_trial, **more)
