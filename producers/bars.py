"""Bars of progress for long work: on a terminal alone, on stderr, wiped away at the end."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Drawings a second: calm, and cheap beside the work.
_REFRESHES = 4


class _Pace(ProgressColumn):
    """How many a second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f}/s", style="progress.data.speed")


class Bar:
    """One piece of work. Any thread may advance it; where nobody looks that costs a call."""

    def __init__(self, progress: Progress, label: str, total: float | None) -> None:
        self._progress = progress
        self._task = progress.add_task(label, total=total)
        self._shown = not progress.disable

    def advance(self, done: float = 1) -> None:
        """Move on by so many."""
        if self._shown:
            self._progress.advance(self._task, done)

    def reach(self, done: float) -> None:
        """Move to so many."""
        if self._shown:
            self._progress.update(self._task, completed=done)


@contextmanager
def bar(
    label: str, total: float | None = None, *, size: bool = False, console: Console | None = None
) -> Iterator[Bar]:
    """Show a bar while the block runs. ``total``: None if nobody knows; ``size``: it is counted in bytes."""
    console = console or Console(stderr=True)
    counts = (DownloadColumn(), TransferSpeedColumn()) if size else (MofNCompleteColumn(), _Pace())
    columns = (TextColumn("{task.description}"), BarColumn(), *counts, TimeRemainingColumn())
    shown = console.is_terminal and not console.is_dumb_terminal
    progress = Progress(
        *columns, console=console, transient=True, disable=not shown, refresh_per_second=_REFRESHES
    )
    with progress:
        yield Bar(progress, label, total)
