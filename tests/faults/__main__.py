"""Try everything in the catalogue, and write down what came of it.

    python -m tests.faults --kills 20 --write docs/reliability.md
    python -m tests.faults --only 'kill -9'
    python -m tests.faults --soak 10

Exit code 1: a row did not hold, or a broken build was not found out.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.faults import cluster_rows, local_rows, tube_rows
from tests.faults.catalogue import ALL, BROKEN, ONE, ROWS, Row
from tests.faults.page import write
from tests.faults.soak import soak
from tests.faults.trial import trial
from tests.servers import Fleet

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.faults.trial import Setting

SERVERS = ("rabbitmq", "rabbitmq4", "elasticsearch", "toxiproxy")
EVERY = (*ROWS, *cluster_rows.ROWS, *local_rows.ROWS, *tube_rows.ROWS)
#: A broken build is found out within so many trials.
CHECKS = 3


def main() -> int:
    """Run what was asked for; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="at each point")
    parser.add_argument("--full", action="store_true", help="every row in every setting, and the long ones")
    parser.add_argument("--only", default="", metavar="REGEX", help="rows whose names it is found in")
    parser.add_argument("--soak", type=float, metavar="MINUTES", help="faults drawn at random instead")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument(
        "--json", type=Path, default=Path("tests/faults/build/faults.json"), help="the results"
    )
    parser.add_argument("--write", type=Path, metavar="FILE", help="the page that is made of them")
    parser.add_argument("--keep", action="store_true", help="rows of the page that are not tried now")
    given = parser.parse_args()
    print(f"seed {given.seed}", flush=True)
    given.json.parent.mkdir(parents=True, exist_ok=True)
    results: list[dict[str, Any]] = []
    fleet = Fleet()
    try:
        if given.soak or any(row.on is trial for row in chosen(given)):
            fleet.prefetch(SERVERS)
        if given.soak:
            done = soak(fleet, given.soak, given.seed, say)
            return int(not all(account.held for _, account in done))
        for result in chain(rows(fleet, given), broken(fleet, given)):
            results.append(result)
            told = {"seed": given.seed, "kills": given.kills, "results": results}
            given.json.write_text(json.dumps(told, indent=1))
            if given.write:
                write(told, given.write, order=[row.name for row in EVERY], keep=given.keep)
    finally:
        fleet.close()
    bad = [result for result in results if not result["good"]]
    for result in bad:
        say(f"NOT GOOD: {result}")
    return int(bool(bad))


def say(text: str) -> None:
    """Print a line at once."""
    print(text, flush=True)


def plan(row: Row, kills: int, *, full: bool) -> list[Setting]:
    """Return where a row is tried, once for each trial."""
    if row.on is not trial:  # elsewhere than on one broker: as it says
        return list(row.settings)
    settings = ALL if (full and not row.long) or row.deaths else row.settings
    times = max(len(settings), -(-kills // row.deaths) if row.deaths else 0)
    return [settings[number % len(settings)] for number in range(times)]


def chosen(given: argparse.Namespace) -> list[Row]:
    """Return the rows that were asked for."""
    found = [row for row in EVERY if re.search(given.only, row.name)]
    return [row for row in found if given.full or given.only or not row.long]


def rows(fleet: Fleet, given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Try each row as often as it has to be; yield what came of it."""
    for row in chosen(given):
        for number, setting in enumerate(plan(row, given.kills, full=given.full)):
            yield tried(fleet, row, setting, given.seed + number)


def tried(fleet: Fleet, row: Row, setting: Setting, seed: int, build: str = "") -> dict[str, Any]:
    """Play one trial; return its account, or why there is none. Of a broken ``build`` a loss is good."""
    told: dict[str, Any] = {"row": row.name, "setting": str(setting), "seed": seed, "good": False}
    try:
        with row.on(fleet, setting, seed=seed, recorded=row.recorded) as played:
            played.module = build
            row.play(played)
            account = played.finish()
            told |= account.told()
            row.check(account)
            told["good"] = account.held
            if not account.held:
                told["words"] = played.service.last_words()
    except Exception as exc:  # noqa: BLE001 - the next row has to be tried
        told["error"] = f"{type(exc).__name__}: {str(exc)[-2000:]}"
    if build:
        told["good"] = bool(told.get("lost"))
    say(f"{'good' if told['good'] else 'BAD '} {row.name}, {setting}, {told.get('seconds')} s")
    if not told["good"]:
        say(json.dumps(told, indent=1))
    return told


def broken(fleet: Fleet, given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Try the broken builds: good is what is found out."""
    for build, play in BROKEN.items():
        if not re.search(given.only, build):
            continue
        for check in range(CHECKS):
            told = tried(fleet, Row(build, play), ONE[0], given.seed + check, build)
            if told["good"]:
                break
        told["broken"], told["trials"] = True, check + 1
        yield told


if __name__ == "__main__":
    sys.exit(main())
