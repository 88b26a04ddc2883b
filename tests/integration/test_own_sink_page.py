"""What docs/own-sink.md shows, run as it stands there."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs/own-sink.md").read_text()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the page's files, each under the name in its first line."""
    for code in re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL):
        name = code.partition("\n")[0].removeprefix("# ")
        (tmp_path / name).write_text(code)
    return tmp_path


@pytest.fixture
def environment() -> Mapping[str, str]:
    own = str(Path(sys.executable).parent)
    return {"PATH": f"{own}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}


def test_its_test_passes(folder: Path, environment: Mapping[str, str]) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_numbered.py"]
    run = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert "1 passed" in run.stdout, run.stdout


@pytest.mark.integration
@pytest.mark.skipif(not shutil.which("bash"), reason="the page shows commands of a shell")
def test_its_commands_end_as_told(folder: Path, environment: Mapping[str, str]) -> None:
    (commands,) = re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL)
    (told,) = re.findall(r"ends with `(.*?)`", TEXT)
    run = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands],
        cwd=folder, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert told in run.stdout.splitlines(), run.stdout
    with closing(sqlite3.connect(folder / "numbers.db")) as db:
        assert [row[0] for row in db.execute("SELECT number FROM numbers ORDER BY number")] == [*range(1, 41)]
