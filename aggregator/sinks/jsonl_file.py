"""One file of lines, locked for as long as it is open, sound from its first byte to its last."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from itertools import count
from typing import TYPE_CHECKING

import structlog

from aggregator.private import PRIVATE
from aggregator.sinks.local import sync_folder

if TYPE_CHECKING:
    from pathlib import Path

_BLOCK = 64 * 1024

log = structlog.get_logger()


class LineFile:
    """A file that is open for appending, and whose lock is ours. All methods raise ``OSError``."""

    def __init__(self, path: Path, handle: int) -> None:
        self.path = path
        self._handle = handle

    @classmethod
    def create(cls, folder: Path, stem: str) -> LineFile:
        """Return the first of ``stem.jsonl``, ``stem.1.jsonl``, … that no other process holds."""
        names = (f"{stem}.{number}.jsonl" if number else f"{stem}.jsonl" for number in count())
        taken = (cls.take(folder / name, os.O_CREAT) for name in names)
        file = next(file for file in taken if file is not None)
        try:
            sync_folder(folder)
        except BaseException:
            file.close()
            raise
        return file

    @classmethod
    def take(cls, path: Path, flags: int = 0) -> LineFile | None:
        """Open and lock ``path``, and cut off its torn end; ``None`` if somebody else holds it."""
        handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | flags, PRIVATE)
        file = cls(path, handle)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            file._repair()
        except BlockingIOError:
            file.close()
            return None
        except BaseException:
            file.close()
            raise
        return file

    def append(self, payload: bytes, *, sync: bool) -> None:
        """Add whole lines and see them on the disk, or leave the file as it was."""
        start = os.lseek(self._handle, 0, os.SEEK_END)
        try:
            rest = memoryview(payload)
            while rest:
                rest = rest[os.write(self._handle, rest) :]
            if sync:
                os.fsync(self._handle)
        except BaseException:
            with suppress(OSError):
                os.ftruncate(self._handle, start)
            raise

    def stands(self) -> bool:
        """Say whether the path still names this file: it may have been moved away or deleted."""
        try:
            return os.path.samestat(os.fstat(self._handle), self.path.stat())
        except FileNotFoundError:
            return False

    def close(self) -> None:
        """Close it, which gives up the lock; once."""
        with suppress(OSError):
            os.close(self._handle)

    def _repair(self) -> None:
        size = os.fstat(self._handle).st_size
        end = self._end_of_lines(size)
        if end < size:
            log.warning("jsonl.torn_line_cut_off", file=str(self.path), bytes=size - end)
            os.ftruncate(self._handle, end)
            os.fsync(self._handle)

    def _end_of_lines(self, size: int) -> int:
        """Return the offset behind the last line break; 0 if there is none."""
        end = size
        while end > 0:
            start = max(0, end - _BLOCK)
            at = os.pread(self._handle, end - start, start).rfind(b"\n")
            if at >= 0:
                return start + at + 1
            end = start
        return 0
