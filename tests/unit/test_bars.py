"""Bars of progress: on a terminal, gone at the end, and nothing at all elsewhere."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from producers.bars import bar


def console(**options):
    return Console(file=io.StringIO(), width=80, **options)


def test_in_a_pipe_there_is_nothing():
    pipe = console()
    with bar("published", 10, console=pipe) as shown:
        shown.advance(5)
        shown.reach(10)
    assert pipe.file.getvalue() == ""


@pytest.mark.parametrize("total", [10, None])
def test_on_a_terminal_it_moves_and_is_wiped_away(total, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    terminal = console(force_terminal=True)
    with bar("published", total, console=terminal) as shown:
        shown.advance(4)
        shown._progress.refresh()
        assert "published" in terminal.file.getvalue()
        assert f"4/{total or '?'}" in terminal.file.getvalue().replace(" ", "")
    assert terminal.file.getvalue().endswith("\x1b[1A\x1b[2K")


def test_bytes_are_told_as_bytes(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    terminal = console(force_terminal=True)
    with bar("users.csv", 2_000_000, size=True, console=terminal) as shown:
        shown.reach(1_000_000)
        shown._progress.refresh()
        assert "1.0/2.0 MB" in terminal.file.getvalue()


def test_a_terminal_without_a_cursor_is_spared(monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    terminal = console(force_terminal=True)
    with bar("published", 10, console=terminal) as shown:
        shown.advance()
    assert terminal.file.getvalue() == ""
