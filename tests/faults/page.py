"""``docs/reliability.md``, made of the results of ``python -m tests.faults``."""

from __future__ import annotations

import re
from collections import defaultdict
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
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
- **cluster**: three nodes with copies of the queue on each, all of them in the service's URL. Recovery is the
  longest time from the fault until everything was written that was published after it, the node still hurt
- **embedded**: no server; the queue in one SQLite file, the documents in another or in files of JSON lines.
  Lines are only added: what is written twice stands there twice, no more than a killed service had in hand
- **tubes**: pushes to a simulated gateway, counted in recipients; written twice: who got one twice

`make faults` makes this page (`make faults-full` tries more, `make faults ARGS='--keep --only REGEX'` some
rows anew); `make soak MINUTES=30` draws faults at random, and the seed that it prints draws the same again.
`python -m tests.faults.points` ends or freezes the service
at a named point; nothing in the program itself can.

| fault | trials | kills | lost | documents twice | unexpected | left | written twice | recovery | memory |
|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|
"""
COURSE_HEAD = """
## Memory while nothing is taken

Messages of a kilobyte, always more of them in the queue than the service may hold, and an Elasticsearch that
takes none: MB after each tenth of that time. A quarter of the ack deadline (7.5 minutes) into it, everything
is given back, once.

| fault | 10 % | 20 % | 30 % | 40 % | 50 % | 60 % | 70 % | 80 % | 90 % | 100 % |
|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|
"""
BROKEN_HEAD = """
## The account is able to show a loss

Builds that break the promise on purpose, and what it said of them:

| build | trials | lost |
|---|--:|--:|
"""


def write(results: dict[str, Any], page: Path, *, order: Sequence[str] = (), keep: bool = False) -> None:
    """Write the page, its rows in ``order``. ``keep``: those that were not tried now, as they stand there."""
    by_row: dict[str, list[dict[str, Any]]] = defaultdict(list)
    broken = [result for result in results["results"] if result.get("broken")]
    for result in results["results"]:
        if not result.get("broken"):
            by_row[result["row"]].append(result)
    known = page.read_text().splitlines(keepends=True) if keep and page.exists() else []
    rows, courses, builds = (_table(known, head) for head in (HEAD, COURSE_HEAD, BROKEN_HEAD))
    for name, trials in by_row.items():
        rows[name] = line(name, trials)
        courses.pop(name, None)
        if told := next((each["course"] for each in trials if each.get("course")), None):
            courses[name] = cells(name, *(round(memory) for memory in told))
    for each in broken:
        name = f"`{each['row']}`"
        builds[name] = cells(name, each["trials"], each.get("lost", "?"))
    place = {name: number for number, name in enumerate(order)}
    parts = [HEAD, *_sorted(rows, place)]
    for head, table in ((COURSE_HEAD, courses), (BROKEN_HEAD, builds)):
        if table:
            parts += [head, *_sorted(table, place)]
    page.write_text("".join(parts))


def _table(lines: Sequence[str], head: str) -> dict[str, str]:
    """Return the rows that stand below a head's last line, by their names."""
    found: dict[str, str] = {}
    last = head.splitlines(keepends=True)[-2:]
    for at in range(1, len(lines)):
        if lines[at - 1 : at + 1] == last:
            for each in lines[at + 1 :]:
                if not each.startswith("| "):
                    break
                found[re.sub(r" \(\d+ without an account\)$", "", each.split(" | ")[0][2:])] = each
    return found


def _sorted(table: Mapping[str, str], place: Mapping[str, int]) -> list[str]:
    return [table[name] for name in sorted(table, key=lambda name: place.get(name, len(place)))]


def line(name: str, trials: list[dict[str, Any]]) -> str:
    """Return one row of the table; trials that came to no account are told."""
    counted = [each for each in trials if "error" not in each]
    failed = len(trials) - len(counted)
    found = [
        f"{name}{f' ({failed} without an account)' if failed else ''}",
        len(trials),
        *(
            total(counted, field)
            for field in ("kills", "lost", "duplicated", "unexpected", "left", "repeats")
        ),
        times(each["recovery"] for each in counted),
        round(max((each["memory"] for each in counted), default=0)),
    ]
    return cells(*found)


def cells(*words: object) -> str:
    """Return a row of a table."""
    return "| " + " | ".join(map(str, words)) + " |\n"


def total(trials: list[dict[str, Any]], field: str) -> int:
    """Return the sum of a field."""
    return sum(each[field] for each in trials)


def times(found: Iterable[float | None]) -> str:
    """Return the median and the longest."""
    seconds = [time for time in found if time is not None]
    return f"{median(seconds):.1f}, {max(seconds):.1f}" if seconds else ""
