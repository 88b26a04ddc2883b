"""``python -m docs.pictures``: draw all anew."""

from __future__ import annotations

from pathlib import Path

from docs.pictures import concepts, timelines

HERE = Path(__file__).parent


def drawn() -> dict[str, str]:
    """Return every drawing by the name of its file."""
    return {**concepts.drawn(), **timelines.drawn()}


if __name__ == "__main__":
    for old in HERE.glob("*.svg"):
        old.unlink()
    for name, text in drawn().items():
        (HERE / name).write_text(text)
