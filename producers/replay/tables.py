"""Dead letters for people: a table of what there is, and one letter after the other.

What a publisher wrote is shown without its control characters: a body must not drive the terminal.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import orjson
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from datetime import datetime
    from typing import TextIO

    from producers.replay.letter import DeadLetter

_PIPE_COLUMNS = 200


@dataclass(slots=True)
class _Line:
    letters: int = 0
    size: int = 0
    first: datetime | None = None
    last: datetime | None = None


@dataclass(slots=True)
class Summary:
    """How many letters there are of each reason, type of error and queue."""

    lines: defaultdict[tuple[str, str, str], _Line] = field(default_factory=lambda: defaultdict(_Line))

    def add(self, letter: DeadLetter) -> bool:
        """Count a letter; true always, as what takes letters has to say."""
        line = self.lines[letter.reason, letter.error_type, letter.queue]
        line.letters += 1
        line.size += len(letter.body)
        if letter.last is not None:
            line.first = min(line.first or letter.last, letter.last)
            line.last = max(line.last or letter.last, letter.last)
        return True


def console(stream: TextIO) -> Console:
    """Return a console; in a pipe its lines are long enough for a table."""
    width = None if stream.isatty() else _PIPE_COLUMNS
    return Console(file=stream, width=width, highlight=False, soft_wrap=False)


def print_summary(summary: Summary, *, as_json: bool) -> None:
    """Print a line for each reason, the most frequent first."""
    rows = sorted(summary.lines.items(), key=lambda entry: -entry[1].letters)
    if as_json:
        for (reason, error_type, queue), line in rows:
            values: dict[str, Any] = {
                "reason": reason, "error_type": error_type, "queue": queue, "letters": line.letters,
                "bytes": line.size, "first": line.first, "last": line.last,
            }  # fmt: skip
            sys.stdout.write(orjson.dumps(values).decode() + "\n")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("reason", "error type", "queue"):
        table.add_column(title, no_wrap=True)
    for title in ("letters", "bytes"):
        table.add_column(title, justify="right")
    table.add_column("earliest")
    table.add_column("latest")
    for (reason, error_type, queue), line in rows:
        table.add_row(
            *map(plain, (reason, error_type or "-", queue or "-")),
            f"{line.letters:,}", f"{line.size:,}", _time(line.first), _time(line.last),
        )  # fmt: skip
    console(sys.stdout).print(table if rows else "no dead letters")


def print_letter(letter: DeadLetter, chars: int) -> None:
    """Print one letter: why it is there, and the first ``chars`` characters of its body."""
    out = console(sys.stdout)
    why = f"{letter.reason}{f' ({letter.error_type})' if letter.error_type else ''}"
    out.rule(plain(f"{letter.id or 'no id'}: {why}"), align="left")
    told = f"queue {letter.queue or '-'}, {letter.attempts} attempts, last {_time(letter.last)}"
    out.print(plain(f"{told}{f', sent back {letter.replays} times' if letter.replays else ''}"))
    if letter.detail:
        out.print(plain(letter.detail))
    for name, value in letter.headers.items():
        out.print(plain(f"{name}: {value}"), style="dim")
    body = letter.body.decode("utf-8", "backslashreplace")
    cut = f" … {len(body) - chars:,} more" if len(body) > chars else ""
    out.print(plain(body[:chars]) + Text(cut, style="dim"))


def plain(text: str) -> Text:
    """Return text that stands as it is: no markup, and no control characters but the end of a line."""
    return Text("".join(char if char.isprintable() or char == "\n" else repr(char)[1:-1] for char in text))


def _time(moment: datetime | None) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S}Z" if moment else "-"
