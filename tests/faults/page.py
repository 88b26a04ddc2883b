"""``docs/reliability.md``, made of the results of ``python -m tests.faults``."""

from __future__ import annotations

from collections import defaultdict
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

COUNTED = ("kills", "lost", "duplicated", "unexpected", "left", "repeats")
HEAD = """# Nothing lost: what was broken, and what came of it

Every line is a fault, tried so often; each trial has a queue, an index and ids of its own. Messages are
published with confirms and `mandatory`, the service runs as a process of its own, the fault begins in the
midst of its work and ends, and when the queue is empty everything is added up:

- **lost**: confirmed by the broker, and neither in the index nor among the dead letters
- **documents twice**: more documents than messages (publishers give ids here)
- **unexpected**: documents that nobody sent; **left**: in the queue at the end, ready or unacked
- **written twice**: writes that found their document there already, and changed nothing
- **recovery**: seconds from the end of the fault to the first write, the median and the longest
- **memory**: the most that the service's processes had, in MB

`make faults` makes this page (`make faults-full` tries more); `make soak MINUTES=30` draws faults at random,
and the seed that it prints draws the same again. `python -m tests.faults.points` ends or freezes the service
at a named point; nothing in the program itself can.

| fault | trials | kills | lost | documents twice | unexpected | left | written twice | recovery | memory |
|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|
"""
BROKEN_HEAD = """
## The account is able to show a loss

Builds that break the promise on purpose, and what it said of them:

| build | trials | lost |
|---|--:|--:|
"""


def write(results: dict[str, Any], page: Path) -> None:
    """Write the page."""
    by_row: dict[str, list[dict[str, Any]]] = defaultdict(list)
    broken = [result for result in results["results"] if result.get("broken")]
    for result in results["results"]:
        if not result.get("broken"):
            by_row[result["row"]].append(result)
    lines = [line(name, trials) for name, trials in by_row.items()]
    told = [f"| `{each['row']}` | {each['trials']} | {each.get('lost', '?')} |\n" for each in broken]
    page.write_text(HEAD + "".join(lines) + (BROKEN_HEAD + "".join(told) if told else ""))


def line(name: str, trials: list[dict[str, Any]]) -> str:
    """Return one row of the table; trials that came to no account are told."""
    counted = [each for each in trials if "error" not in each]
    failed = len(trials) - len(counted)
    cells = [
        f"{name}{f' ({failed} without an account)' if failed else ''}",
        len(trials),
        *(
            total(counted, field)
            for field in ("kills", "lost", "duplicated", "unexpected", "left", "repeats")
        ),
        times(each["recovery"] for each in counted),
        round(max((each["memory"] for each in counted), default=0)),
    ]
    return "| " + " | ".join(map(str, cells)) + " |\n"


def total(trials: list[dict[str, Any]], field: str) -> int:
    """Return the sum of a field."""
    return sum(each[field] for each in trials)


def times(found: Iterable[float | None]) -> str:
    """Return the median and the longest."""
    seconds = [time for time in found if time is not None]
    return f"{median(seconds):.1f}, {max(seconds):.1f}" if seconds else ""
