"""Findings for people and for programs: a tree in colours on a terminal, plain lines in a pipe, JSON."""

from __future__ import annotations

import textwrap
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

import orjson
from rich.console import Console
from rich.text import Text

from aggregator.doctor.finding import Level

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from aggregator.doctor.finding import Finding
    from aggregator.doctor.running import Examined

_STYLES = {Level.OK: "green", Level.NOTE: "cyan", Level.WARNING: "yellow", Level.ERROR: "bold red"}
#: What a line of a pipe holds at most; a terminal's own width else.
PIPE_WIDTH = 110
_INDENT, _WORD = 2, 9


def worst(runs: Sequence[Examined]) -> Level:
    """Return the level of the worst finding."""
    return max((finding.level for run in runs for finding in run.findings), default=Level.OK)


def summary(runs: Sequence[Examined]) -> str:
    """Return how many findings there are of each level: ``1 error, 2 warnings, 14 ok``."""
    counts = Counter(finding.level for run in runs for finding in run.findings)
    words = [
        f"{counts[level]} {level.word}{'s' * (counts[level] != 1 and level is not Level.OK)}"
        for level in sorted(Level, reverse=True)
        if counts[level]
    ]
    return ", ".join(words) or "nothing to look at"


def lines(runs: Sequence[Examined], width: int = PIPE_WIDTH) -> Iterator[Text]:
    """Yield the lines of all findings, wrapped at ``width``; a style is a span of the text."""
    for run in runs:
        title = Text(run.place.title, style="bold")
        if run.place.routes:
            several = "s" * (len(run.place.routes) > 1)
            title.append(f"  (route{several} {', '.join(run.place.routes)})", style="not bold dim")
        yield title
        for finding in run.findings:
            yield from _finding(finding, width)
        yield Text()
    level = worst(runs)
    yield Text(f"{summary(runs)}.", style=_STYLES[level])


def _finding(finding: Finding, width: int) -> Iterator[Text]:
    style = _STYLES[finding.level]
    wrapped = _wrapped(f"{finding.about}: {finding.says}", width)
    body = "dim" if finding.level is Level.OK else ""
    for number, line in enumerate(wrapped):
        word = finding.level.word if not number else ""
        yield Text(" " * _INDENT).append(f"{word:<{_WORD}}", style).append(line, body)
    for word, text in (("then", finding.then), ("do", finding.do)):
        for number, line in enumerate(_wrapped(text, width - 6)):
            lead = f"{'' if number else word:<6}"
            yield Text(" " * (_INDENT + _WORD)).append(lead, "dim").append(line)


def _wrapped(text: str, width: int) -> list[str]:
    """Break at spaces alone: a command or a URL stays what it is."""
    room = max(20, width - _INDENT - _WORD)
    return textwrap.wrap(text, room, break_long_words=False, break_on_hyphens=False)


@contextmanager
def waiting(words: str, stream: TextIO) -> Iterator[None]:
    """Say on a terminal, while the block runs, what is waited for."""
    if not stream.isatty():
        yield
        return
    with Console(file=stream).status(words, spinner="line"):
        yield


def show(runs: Sequence[Examined], stream: TextIO) -> None:
    """Print for people: coloured and as wide as the terminal, or plain."""
    if not stream.isatty():
        stream.writelines(f"{line.plain}\n" for line in lines(runs))
        return
    console = Console(file=stream, highlight=False, soft_wrap=True)
    for line in lines(runs, max(40, console.width)):
        console.print(line)


def as_json(runs: Sequence[Examined]) -> str:
    """Return one object: ``worst``, and ``places`` with their ``findings``."""
    places = [
        {
            "place": run.place.title,
            "routes": list(run.place.routes),
            "findings": [
                {
                    "level": finding.level.word,
                    "about": finding.about,
                    "says": finding.says,
                    "then": finding.then,
                    "do": finding.do,
                }
                for finding in run.findings
            ],
        }
        for run in runs
    ]
    return orjson.dumps({"worst": worst(runs).word, "places": places}, option=orjson.OPT_INDENT_2).decode()
