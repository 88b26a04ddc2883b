"""Locks that end with their process: how a consumer's death is noticed at once.

Each owner of leases holds an ``flock`` on a file of its own. The kernel lets go of it when the
process ends, however it ends, so that whoever gets the lock knows that the owner is dead. A
process id would not do: it is used again, and means nothing in another container. Neither would
one file with POSIX locks, which do not see other threads of the same process.
"""

from __future__ import annotations

import fcntl
import os
import weakref
from typing import TYPE_CHECKING
from uuid import uuid4

from aggregator.private import PRIVATE

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

# Descriptors of held locks by name. A forked child shares the lock: it would keep it alive after
# its parent's death, so it closes its copies.
_held: dict[str, int] = {}


def _let_go(name: str) -> None:
    descriptor = _held.pop(name, None)
    if descriptor is not None:
        os.close(descriptor)


def _let_go_in_child() -> None:
    while _held:
        os.close(_held.popitem()[1])


os.register_at_fork(after_in_child=_let_go_in_child)


class OwnerLock:
    """A locked file of its own in ``folder``, named ``name``, as long as this process lives."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self._folder = folder
        self.name = _lock_new_file(folder)
        self._finalizer = weakref.finalize(self, _let_go, self.name)

    def release(self) -> None:
        """Let go, as the process's end would; the file stays until somebody sweeps it."""
        self._finalizer()

    def remove(self) -> None:
        """Let go, and remove the file: nobody has to ask about this owner any more."""
        (self._folder / self.name).unlink(missing_ok=True)
        self.release()


def _lock_new_file(folder: Path) -> str:
    while True:
        name = uuid4().hex
        descriptor = os.open(folder / name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # a sweeper may have been between our two steps; then this name is burnt
            if os.fstat(descriptor).st_nlink:
                _held[name] = descriptor
                return name
        except BlockingIOError:
            pass
        os.close(descriptor)


def is_dead(folder: Path, name: str) -> bool:
    """Tell whether the owner of the lock ``name`` has certainly ended.

    A file that is missing or may not be opened proves nothing: the lease's own end decides then.
    """
    try:
        descriptor = os.open(folder / name, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        # shared: several askers at once do not take each other for the owner
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def sweep(folder: Path, known: Collection[str]) -> None:
    """Remove the files of dead owners that the queue file does not know (any more)."""
    for file in folder.iterdir():
        if file.name not in known and is_dead(folder, file.name):
            file.unlink(missing_ok=True)
