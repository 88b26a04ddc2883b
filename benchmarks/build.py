"""Builds the peers and the sink from their pinned sources, with their own tools, once.

What is built stands in ``benchmarks/build`` (or in Maven's ``target``), which git ignores. Go checks
``go.sum``, pip the hashes of ``requirements.txt``; Maven's versions are exact.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.catalogue import PEERS

if TYPE_CHECKING:
    from collections.abc import Iterator

BUILD = Path(__file__).parent / "build"
HERE = Path(__file__).parent
GO = {"sink": HERE / "sink", "gateway": HERE / "gateway", "go": PEERS / "go", "telegraf": PEERS / "telegraf"}
MAVEN = {"spring": PEERS / "spring", "camel": PEERS / "camel"}
PYTHON = PEERS / "requirements.txt"


class MissingError(Exception):
    """It cannot be built here; the text says why."""


def build(name: str) -> None:
    """Build it unless nothing has changed since. Raises ``MissingError``."""
    BUILD.mkdir(exist_ok=True)
    stamp = BUILD / f"{name}.stamp"
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(_sources(name)))).hexdigest()
    if stamp.exists() and stamp.read_text() == digest:
        return
    print(f"building {name}", file=sys.stderr)
    if name in GO:
        _go(name, GO[name])
    elif name in MAVEN:
        _run("mvn", "-B", "-q", "-f", str(MAVEN[name]), "package")
    else:
        _python()
    stamp.write_text(digest)


def _sources(name: str) -> Iterator[Path]:
    folder = GO.get(name) or MAVEN.get(name)
    if folder is None:
        yield PYTHON
        return
    for path in folder.rglob("*"):
        if path.is_file() and "target" not in path.relative_to(folder).parts:
            yield path


def _go(name: str, folder: Path) -> None:
    _run("go", "-C", str(folder), "build", "-mod=readonly", "-trimpath", "-o", str(BUILD / name), ".")


def _python() -> None:
    folder = BUILD / "python"
    _run(sys.executable, "-m", "venv", "--clear", str(folder))
    _run(str(folder / "bin" / "pip"), "install", "--quiet", "--require-hashes", "--requirement", str(PYTHON))


def _run(*command: str) -> None:
    if not shutil.which(command[0]):
        raise MissingError(f"{command[0]} is not installed")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise MissingError(
            f"{' '.join(command)}: exit {done.returncode}\n{(done.stdout + done.stderr)[-2000:]}"
        )
