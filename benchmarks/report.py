"""From the JSON files of :mod:`benchmarks.compare` to tables; with ``write``, to docs/benchmarks.md.

python -m benchmarks.report FILE [FILE ...]             # print the tables
python -m benchmarks.report FILE [FILE ...] --write docs # the page, and its plots
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.catalogue import CATALOGUE, OURS
from benchmarks.figures import Spread, summarize

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Figure = tuple[str, str, int, bool]
#: Figures of a run: its key, the column's head, decimals, whether more is better.
FIGURES = (
    ("cpu_s_per_100k", "CPU s / 100,000", 2, False),
    ("messages_per_s", "messages/s", 0, True),
    ("peak_mb", "peak MB", 0, False),
    ("p50_ms", "p50 ms", 0, False),
    ("p99_ms", "p99 ms", 0, False),
    ("slow_cpu_s_per_100k", "CPU s / 100,000 at 1,000/s", 2, False),
)
FULL_SPEED, STEADY = FIGURES[:3], FIGURES[3:]
KEYS = tuple(key for key, *_ in FIGURES)


def line(run: Mapping[str, Any]) -> str:
    """Return one run as a line for people."""
    figures = [
        f"{head} {run[key]:,.{decimals}f}" for key, head, decimals, _ in FIGURES if run.get(key) is not None
    ]
    state = "; ".join(run["faults"]) or "all delivered"
    return f"{run['round']} {run['kind']:10} {run['peer']:15} {', '.join(figures)} ({state})"


def summary(result: Mapping[str, Any]) -> dict[str, dict[str, Spread]]:
    """Return for each peer the spread of its figures, over the runs without faults."""
    good = [run for run in result["runs"] if not run["faults"]]
    names = dict.fromkeys(run["peer"] for run in result["runs"])
    return {name: summarize([run for run in good if run["peer"] == name], KEYS) for name in names}


def ratios(result: Mapping[str, Any], key: str, base: str = OURS) -> dict[str, Spread]:
    """Return each peer's figure divided by that of ``base`` in the same round."""
    by_round: dict[int, dict[str, float]] = {}
    for run in result["runs"]:
        if run.get(key) is not None and not run["faults"]:
            by_round.setdefault(run["round"], {})[run["peer"]] = run[key]
    found: dict[str, list[float]] = {}
    for figures in by_round.values():
        for name, value in figures.items():
            if base in figures:
                found.setdefault(name, []).append(value / figures[base])
    return {name: Spread.of(values) for name, values in found.items()}


def cell(spread: Spread | None, decimals: int) -> str:
    """Return ``median (least-most)``."""
    if spread is None:
        return "-"
    low, high = f"{spread.least:,.{decimals}f}", f"{spread.most:,.{decimals}f}"
    middle = f"{spread.median:,.{decimals}f}"
    return middle if low == high else f"{middle} ({low}\u2013{high})"


def table(result: Mapping[str, Any], figures: Sequence[Figure] = FULL_SPEED) -> str:
    """Return some figures of all peers as a table in Markdown: the first figure orders it.

    For each of the first two figures there is a column of its ratios to ours.
    """
    found = summary(result)
    compared = [(head, ratios(result, key)) for key, head, _, _ in figures[:2]]
    heads = ["consumer", *(head for _, head, _, _ in figures), *(f"{head}: to ours" for head, _ in compared)]
    rows = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for name in ordered(found, figures[0][0]):
        cells = [cell(found[name].get(key), decimals) for key, _, decimals, _ in figures]
        cells += [cell(ratio.get(name), 2) for _, ratio in compared]
        rows.append(f"| {title(name)} | {' | '.join(cells)} |")
    return "\n".join(rows)


def tables(result: Mapping[str, Any]) -> str:
    """Return all tables of a result."""
    steady = any(run["kind"] == "latency" for run in result["runs"])
    return table(result) + (f"\n\n{table(result, STEADY)}" if steady else "")


def ordered(found: Mapping[str, Mapping[str, Spread]], key: str) -> list[str]:
    """Return the names of the peers that have a figure, the smallest first."""
    having = {name: one[key].median for name, one in found.items() if key in one}
    return sorted(having, key=having.__getitem__)


def failures(result: Mapping[str, Any]) -> list[str]:
    """Say of each run that does not count why; one line each."""
    runs = [run for run in result["runs"] if run["faults"]]
    what = [f"{title(run['peer'])}, {run['kind']}, round {run['round']}" for run in runs]
    return [f"{one}: {run['faults'][0].splitlines()[0]}" for one, run in zip(what, runs, strict=True)]


def better(result: Mapping[str, Any]) -> list[str]:
    """Say of each peer where its median is better than ours; one line each.

    What looks the same in the table is not better; ``~`` marks ranges that overlap.
    """
    found = summary(result)
    own = found.get(OURS, {})
    said = []
    for name, one in found.items():
        ahead = [
            f"{head} {one[key].median:,.{decimals}f} against {own[key].median:,.{decimals}f}"
            + (" ~" if one[key].overlaps(own[key]) else "")
            for key, head, decimals, more in FIGURES
            if key in one
            and key in own
            and is_better(round(one[key].median, decimals), round(own[key].median, decimals), more=more)
        ]
        if ahead and not name.startswith(OURS):
            said.append(f"{title(name)}: {', '.join(ahead)}")
    return said


def is_better(one: float, other: float, *, more: bool) -> bool:
    """Say whether a value is better than another; equal ones are not."""
    return one > other if more else one < other


def title(name: str) -> str:
    """Return a peer's title; its name if it is not in the catalogue any more."""
    return CATALOGUE[name].title if name in CATALOGUE else name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--write", type=Path, metavar="FOLDER", help="write benchmarks.md and plots there")
    parser.add_argument("--note", default="", help="a sentence about these runs, for the page")
    args = parser.parse_args()
    results: Sequence[dict[str, Any]] = [json.loads(file.read_text()) for file in args.files]
    if args.write:
        from benchmarks.page import write  # noqa: PLC0415 - it takes its tables from here
        from benchmarks.plots import bars  # noqa: PLC0415 - matplotlib is needed for nothing else

        write(results, args.write, bars, note=args.note)
        return
    for result in results:
        print(f"{result['target']}\n\n{tables(result)}\n")


if __name__ == "__main__":
    main()
