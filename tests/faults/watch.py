"""What a tree of processes uses, looked at now and then while it lives."""

from __future__ import annotations

import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

SECONDS = 0.25


@dataclass(frozen=True, slots=True)
class Use:
    """Resident memory in MB, open file descriptors and threads of a whole tree."""

    memory: float
    descriptors: int
    threads: int


class Watch:
    """Looks at the tree under ``pid`` until :meth:`stop`. ``children``: without its root."""

    def __init__(self, pid: int, *, children: bool = False) -> None:
        self._pid = pid
        self._children = children
        self._over = threading.Event()
        self.seen: list[Use] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End it."""
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(SECONDS):
            if (use := use_of(self._pid, children=self._children)) is not None:
                self.seen.append(use)


def tree(pid: int) -> list[psutil.Process]:
    """Return a process and all that descend from it; nothing if it has ended."""
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def use_of(pid: int, *, children: bool = False) -> Use | None:
    """Return what a tree uses now; None if it is ending."""
    found = []
    for process in tree(pid)[children:]:
        with suppress(psutil.Error, OSError):
            memory = process.memory_info().rss / 2**20
            found.append(
                Use(memory, len(list(Path(f"/proc/{process.pid}/fd").iterdir())), process.num_threads())
            )
    if not found:
        return None
    return Use(
        round(sum(use.memory for use in found), 1),
        sum(use.descriptors for use in found),
        sum(use.threads for use in found),
    )
