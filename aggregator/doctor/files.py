"""Files and folders on this machine: there or makeable, writable, on a disk with room."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from aggregator.doctor.finding import amount, error, note, ok, warning

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aggregator.doctor.finding import Finding

#: Below this free share, or this number of bytes, a disk is worth a warning.
LOW_SHARE, LOW_BYTES = 0.05, 1024**3
#: File systems over a network: SQLite's locks and WAL do not hold there.
NETWORKED = ("nfs", "cifs", "smb", "fuse.sshfs", "9p", "glusterfs", "ceph")


def file_findings(about: str, path: Path, *, shared: bool) -> Iterator[Finding]:
    """Look at a file of SQLite. ``shared``: several processes use it at once."""
    if path.exists() and not path.is_file():
        yield error(about, f"{path} is no file", "it cannot be opened", "name another path in the URL")
        return
    if path.exists() and not os.access(path, os.R_OK | os.W_OK):
        yield _unwritable(about, path)
        return
    there = f"is there, {amount(path.stat().st_size)}" if path.exists() else "is made at the start"
    yield ok(about, f"{path} {there}")
    yield from folder_findings(about, path.parent)
    kind = filesystem(path.parent)
    if shared and kind.startswith(NETWORKED):
        then = "SQLite's locks do not hold there: two machines may write over each other"
        yield error(about, f"it lies on {kind}", then, "name a path on a local disk")


def folder_findings(about: str, folder: Path) -> Iterator[Finding]:
    """Look whether files can be made in a folder, or the folder itself, and at the disk's room."""
    nearest = next(each for each in (folder, *folder.parents) if each.exists())
    if not nearest.is_dir():
        yield error(about, f"{nearest} is no folder", "nothing can be written", "name another path")
        return
    if not os.access(nearest, os.W_OK | os.X_OK):
        yield _unwritable(about, nearest)
        return
    if nearest != folder:
        yield note(about, f"the folder {folder} is made at the start")
    disk = shutil.disk_usage(nearest)
    says = f"{amount(disk.free)} of {amount(disk.total)} free at {nearest}"
    if disk.free < max(LOW_BYTES, disk.total * LOW_SHARE):
        then = "on a full disk nothing is written, and the route waits"
        yield warning(about, says, then, "make room, or name a path on another disk")
    else:
        yield ok(about, says)


def filesystem(folder: Path, mounts: Path = Path("/proc/mounts")) -> str:
    """Return the type of the file system that holds ``folder``; empty where that is not known."""
    try:
        rows = [line.split(" ") for line in mounts.read_text(encoding="utf-8").splitlines()]
    except OSError:
        return ""
    within = os.path.realpath(folder)
    found = [(len(row[1]), row[2]) for row in rows if _holds(row[1].replace("\\040", " "), within)]
    return max(found, default=(0, ""))[1]


def _holds(mount: str, path: str) -> bool:
    return path == mount or path.startswith(mount.rstrip("/") + "/")


def _unwritable(about: str, path: Path) -> Finding:
    user = os.geteuid()
    says = f"{path} may not be written to by user {user}"
    return error(about, says, "nothing can be written", f"chown {user} {path}, or run as its owner")
