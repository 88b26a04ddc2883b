"""A terminal of a test's own: a program runs in it, and the screen is what a person would see."""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
import subprocess
import sys
import termios
import threading
from io import StringIO
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import pyte
from rich.console import Console
from rich.style import Style
from rich.terminal_theme import DIMMED_MONOKAI
from rich.text import Text

from tests.servers.base import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

ROOT = Path(__file__).parent.parent
PATIENCE = 60.0
#: A picture without a font from elsewhere: whoever looks has one of his own.
_FRAME = """\
<svg class="rich-terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{ font-family: ui-monospace, Menlo, Consolas, monospace; font-size: {char_height}px;
  line-height: {line_height}px; font-variant-east-asian: full-width; }}
.{unique_id}-title {{ font-size: 18px; font-weight: bold; font-family: sans-serif; }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}" />
</clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""


class Terminal:
    """A program in a terminal of so many columns and lines, from its start to :meth:`close`."""

    def __init__(
        self,
        *command: str,
        columns: int = 80,
        rows: int = 24,
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
        stderr: int | None = None,
    ) -> None:
        ours, theirs = os.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.screen = pyte.Screen(columns, rows)
        self.output = b""
        self._stream = pyte.ByteStream(self.screen)
        self._lock = threading.Lock()
        leash = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
        given = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "TERM": "xterm-256color"}
        self.process = subprocess.Popen(
            # a session with this as its terminal: it is in the foreground there
            ["setsid", "--ctty", "--wait", *leash, *command],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs if stderr is None else stderr,
            env={**given, **(environment or {})},
            cwd=folder or ROOT,
        )
        os.close(theirs)
        self._thread = threading.Thread(target=self._read, args=(ours,))
        self._thread.start()

    @property
    def lines(self) -> list[str]:
        """What the screen shows, without the blanks at the ends."""
        with self._lock:
            return [line.rstrip() for line in self.screen.display]

    @property
    def text(self) -> str:
        """The same as one text."""
        return "\n".join(self.lines).rstrip()

    def wait(self, holds: Callable[[list[str]], bool], what: str) -> list[str]:
        """Wait until the screen is as wanted; return it."""
        seen: list[list[str]] = []

        def look() -> bool:
            seen.append(self.lines)
            return holds(seen[-1])

        wait_for(look, what, timeout=PATIENCE, detail=lambda: self.text)
        return seen[-1]

    def type(self, keys: bytes) -> None:
        """Press keys: ``\\x03`` is Ctrl-C."""
        os.write(self._handle, keys)

    def end(self, keys: bytes = b"\x03") -> int:
        """Press Ctrl-C, and wait for the end; return the exit code."""
        if keys:
            self.type(keys)
        code = self.process.wait(PATIENCE)
        self._thread.join()
        return code

    def close(self) -> None:
        """End it, whatever it does."""
        self.process.kill()
        self.process.wait()
        self._thread.join()

    def svg(self, title: str, same: Mapping[str, str] | None = None) -> str:
        """Return a picture of the screen; ``same``: texts of this run, and what stands there instead."""
        return picture(self._rows(same or {}), self.screen.columns, title)

    def _rows(self, same: Mapping[str, str]) -> list[Text]:
        rows = []
        with self._lock:
            for number in range(self.screen.lines):
                row = Text(no_wrap=True)
                cells = [self.screen.buffer[number][column] for column in range(self.screen.columns)]
                for (colour, bold), alike in groupby(cells, lambda cell: (cell.fg, cell.bold)):
                    text = "".join(cell.data for cell in alike)
                    for found, shown in same.items():
                        text = text.replace(found, shown)
                    row.append(text, Style(color=_colour(colour), bold=bold))
                row.rstrip()
                rows.append(row)
        while rows and not rows[-1].plain.strip():
            rows.pop()
        return rows

    def _read(self, handle: int) -> None:
        self._handle = handle
        try:
            while data := os.read(handle, 65_536):
                with self._lock:
                    self.output += data
                    self._stream.feed(data)
        except OSError:  # Linux says so at the end of the last program
            pass
        finally:
            os.close(handle)


def picture(rows: Sequence[Text], columns: int, title: str) -> str:
    """Return lines as a picture of a terminal, which needs nothing from elsewhere."""
    console = Console(record=True, width=columns, file=StringIO(), force_terminal=True)
    for row in rows:
        console.print(row, soft_wrap=True)
    return console.export_svg(title=title, theme=DIMMED_MONOKAI, code_format=_FRAME, unique_id="terminal")


def _colour(name: str) -> str | None:
    if name == "default":
        return None
    known = {"brown": "yellow", "brightbrown": "bright_yellow"}  # pyte's words
    plain = known.get(name, name)
    if len(plain) == 6 and all(letter in "0123456789abcdef" for letter in plain):
        return f"#{plain}"
    return plain.replace("bright", "bright_") if plain.startswith("bright") and "_" not in plain else plain


def program(module: str, *flags: str) -> list[str]:
    """Return the command that runs a module of the project."""
    return [sys.executable, "-m", module, *flags]
