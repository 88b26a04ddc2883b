"""``python -m producers.campaigns demo``: a campaign on this machine, from its users to the last device.

Starts Tarantool servers, simulators of both gateways, the API and the sending side, loads made-up users,
starts a campaign over HTTP, and shows it to its end. Nothing leaves this machine, nothing stays.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from aggregator.clock import sleep
from aggregator.errors import UnrecoverableError
from producers.campaigns.answers import ENDED
from producers.campaigns.stage import Stage
from producers.cli import run, whole

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

PROG: Final = "producers.campaigns demo"
CAMPAIGN: Final = {
    "id": "demo",
    "notifications": {
        "apns": {
            "default": {"payload": {"aps": {"alert": {"title": "Hello", "body": "This is a demonstration"}}}},
            "de": {"payload": {"aps": {"alert": {"title": "Hallo", "body": "Das ist eine Vorführung"}}}},
        },
        "fcm": {
            "default": {"payload": {"notification": {"title": "Hello", "body": "This is a demonstration"}}},
            "de": {"payload": {"notification": {"title": "Hallo", "body": "Das ist eine Vorführung"}}},
        },
    },
    "quiet": None,
}
_TICK, _LINE = 0.5, 2.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; return the exit code."""
    parser = ArgumentParser(prog=PROG, description=__doc__, allow_abbrev=False)
    parser.add_argument("--users", type=whole(1), default=100_000, metavar="N", help="made-up users (100000)")
    parser.add_argument("--servers", type=whole(1), default=2, metavar="N", help="Tarantool servers (2)")
    parser.add_argument("--latency", default="20ms", metavar="DURATION", help="of the gateways (20ms)")
    given = parser.parse_args(arguments)
    return run(PROG, lambda: show(given.users, given.servers, given.latency))


def show(users: int, servers: int, latency: str) -> None:
    """Set the stage, and show a campaign to its end."""
    console = Console(stderr=True)
    with Stage(shown=sys.stderr if console.is_terminal else None) as stage:
        console.print(f"starting {servers} Tarantool servers, two gateways, the API, the sending side")
        for _ in range(servers):
            stage.tarantool()
        stage.join()
        sinks = {kind: stage.gateway(kind, "--latency", latency) for kind in ("apns", "fcm")}
        console.print(f"loading {users:,} made-up users")
        stage.users(users)
        api = stage.api()
        stage.consume(sinks)
        created = api.post("/campaigns", CAMPAIGN)
        api.post(f"/campaigns/{created['id']}/start")
        console.print(f"campaign {created['id']} has been started over HTTP at {api.url}")
        progress = watch(console, lambda: api.get(f"/campaigns/{created['id']}/progress"))
        sent = sum(each["sent"] for each in progress["platforms"])
        console.print(f"{sent:,} of {users:,} devices were sent to; everything is ended and removed")
        if progress["done"] < users:
            raise UnrecoverableError(f"{users - progress['done']:,} devices have no last word")


def watch(console: Console, ask: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Show a campaign until it ends; on a terminal in place, else now and then a line."""
    if not console.is_terminal:
        while (progress := ask())["state"] not in ENDED:
            console.print(headline(progress))
            sleep(_LINE)
        console.print(table(progress))
        return progress
    with Live(console=console, refresh_per_second=4) as live:
        while True:
            progress = ask()
            live.update(table(progress))
            if progress["state"] in ENDED:
                return progress
            sleep(_TICK)


def headline(progress: dict[str, Any]) -> str:
    """Return where a campaign stands, in a line."""
    rate, eta = progress["rate"], progress["eta_seconds"]
    head = f"{progress['state']}: {progress['done']:,} of {progress['expected']:,}"
    head += f", {rate:,.0f}/s" if rate else ""
    return head + (f", {eta:.0f} s left" if eta and progress["state"] not in ENDED else "")


def table(progress: dict[str, Any]) -> Group:
    """Return what a person wants to see of a campaign."""
    rows = Table(box=None, pad_edge=False)
    for column in ("platform", "sent", "refused", "waiting", "in flight", "reasons"):
        rows.add_column(column, justify="left" if column in {"platform", "reasons"} else "right")
    for each in progress["platforms"]:
        reasons = ", ".join(f"{word} {number:,}" for word, number in each["reasons"].items())
        numbers = (each["sent"], each["refused"], each["waiting"] + each["delayed"], each["in_flight"])
        rows.add_row(each["platform"], *(f"{number:,}" for number in numbers), reasons)
    bar = ProgressBar(total=max(progress["expected"], 1), completed=progress["done"])
    return Group(headline(progress), bar, rows)


if __name__ == "__main__":
    sys.exit(main())
