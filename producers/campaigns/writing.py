"""Users into shards: a thread and a connection for each, batch by batch, at whichever server takes them."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field
from itertools import islice
from queue import Queue
from typing import TYPE_CHECKING, Any, Final
from zlib import crc32

from aggregator.clock import SYSTEM_CLOCK, sleep
from aggregator.errors import TarantoolError, TarantoolUnavailableError, UnrecoverableError
from consumers.tarantool import Tarantool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from consumers.tarantool import Address
    from producers.campaigns.users import Read, Row

_WAITING: Final = 4
_RETRY_SECONDS: Final = 0.5


@dataclass(slots=True)
class Tally:
    """What became of the rows; ``refused``: reason -> number."""

    loaded: int = 0
    updated: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, answer: Mapping[str, Any]) -> None:
        """Count what a server has written."""
        with self._lock:
            self.loaded += int(answer["loaded"])
            self.updated += int(answer["updated"])


class Writer:
    """A thread that writes batches into one shard, at whichever of its servers takes them."""

    def __init__(self, addresses: Sequence[Address], tally: Tally, patience: float) -> None:
        self._addresses = list(addresses)
        self._tally = tally
        self._patience = patience
        self._batches: Queue[list[Row] | None] = Queue(_WAITING)
        self._link: Tarantool | None = None
        self.failed: Exception | None = None
        self._thread = threading.Thread(target=self._run, name=f"load {self._addresses[0]}", daemon=True)
        self._thread.start()

    def put(self, rows: list[Row]) -> None:
        """Hand over a batch; waits while several wait already. Raises what ended the thread."""
        if self.failed:
            raise self.failed
        self._batches.put(rows)

    def close(self) -> None:
        """Wait until all is written; raises what ended the thread."""
        self._batches.put(None)
        self._thread.join()
        if self.failed:
            raise self.failed

    def _run(self) -> None:
        while (rows := self._batches.get()) is not None:
            if self.failed:
                continue  # so that nobody waits for room
            try:
                self._tally.add(self._write(rows))
            except Exception as exc:  # noqa: BLE001 - raised by put and close
                self.failed = exc
        if self._link:
            self._link.close()

    def _write(self, rows: list[Row]) -> Mapping[str, Any]:
        give_up = SYSTEM_CLOCK.monotonic() + self._patience
        while True:
            problem: Exception | None = None
            for _ in self._addresses:
                try:
                    if self._link is None or self._link.closed:
                        self._link = Tarantool(self._addresses[0])
                    answer: Mapping[str, Any] = self._link.call("users.load", rows)[0]
                except TarantoolUnavailableError as exc:
                    problem = exc
                except TarantoolError as exc:
                    if exc.code not in {"read-only", "not-installed"}:
                        raise
                    problem = problem or exc
                else:
                    return answer
                self._next()
            if SYSTEM_CLOCK.monotonic() >= give_up:
                raise UnrecoverableError(f"no server takes users: {problem}")
            sleep(_RETRY_SECONDS)

    def _next(self) -> None:
        if self._link:
            self._link.close()
        self._link = None
        self._addresses.append(self._addresses.pop(0))


def shard_of(id_: Any, shards: int) -> int:
    """Return in which shard a device lives: the same for the same id and number of shards."""
    return crc32(str(id_).encode()) % shards if shards > 1 else 0


def write_all(
    rows: Iterator[Read], writers: Sequence[Writer], batch: int, refuse: Callable[[Read], None]
) -> None:
    """Write all rows that are users, ``batch`` at a time; ``refuse`` is called with the others."""
    waiting: list[list[Row]] = [[] for _ in writers]
    while some := list(islice(rows, batch)):
        for read in some:
            if read.user is None:
                refuse(read)
            else:
                waiting[shard_of(read.user[0], len(writers))].append(read.user)
        for at, writer in enumerate(writers):
            while len(waiting[at]) >= batch:
                writer.put(waiting[at][:batch])
                waiting[at] = waiting[at][batch:]
    for writer, rest in zip(writers, waiting, strict=True):
        if rest:
            writer.put(rest)
    for writer in writers:
        writer.close()
