"""This service beside its peers: what 100,000 messages cost each, from a quorum queue to _bulk.

    python -m benchmarks.compare                           # all, RabbitMQ to a sink that keeps nothing
    python -m benchmarks.compare --target elasticsearch
    python -m benchmarks.compare --quick                   # ours, Go and plain kombu, in two minutes
    python -m benchmarks.compare --peers ours go --rounds 5 --count 200000

The consumers take turns, round by round, each time in another order; each finds the same messages
in a fresh queue. A run counts only if every message was written and acked. Writes one JSON file.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import runs
from benchmarks.build import BUILD, MissingError, build
from benchmarks.catalogue import CATALOGUE, QUICK
from benchmarks.machine import machine, versions
from benchmarks.report import line, tables
from benchmarks.targets import NullSink, RealElasticsearch
from tests.servers import Fleet

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmarks.catalogue import Peer
    from benchmarks.targets import Target

#: What the consumers print, the last run's.
LOGS = BUILD / "logs"


def main() -> int:
    """Run what was asked for; 1 if a consumer failed, 2 if nothing can be measured."""
    args = _arguments()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # servers are ended on the way out
    try:
        missing = prepare(args.peers, args.target)
    except MissingError as why:
        print(f"the sink cannot be built: {why}", file=sys.stderr)
        return 2
    peers = [CATALOGUE[name] for name in args.peers if name not in missing]
    LOGS.mkdir(exist_ok=True)
    fleet = Fleet(full_speed=True)
    found: list[dict[str, Any]] = []
    try:
        rabbit = fleet.get("rabbitmq")
        about = {**versions(), "rabbitmq": rabbit.version}
        target = _target(fleet, args.target)
        try:
            for one in measure(runs.Bench(rabbit, target, LOGS), peers, args):
                found.append(one)
                print(line(one), flush=True)
        finally:
            target.close()
    finally:
        fleet.close()
    result = {
        "target": args.target,
        "count": args.count,
        "rounds": args.rounds,
        "seconds": args.seconds,
        "machine": machine(),
        "versions": about,
        "missing": missing,
        "runs": found,
    }
    args.json.parent.mkdir(parents=True, exist_ok=True)
    args.json.write_text(json.dumps(result, indent=1) + "\n")
    print(f"\n{tables(result)}\n\n{args.json}")
    return 1 if any(one["faults"] for one in found) else 0


def measure(bench: runs.Bench, peers: Sequence[Peer], args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Run every peer in turn, as often as there are rounds; then the latencies."""
    if args.target == "elasticsearch":
        runs.throughput(bench, CATALOGUE["ours"], 300_000)  # a server that has just started is slow
    for number in range(args.rounds):
        for peer in rotated(peers, number):
            yield run("throughput", number, bench, peer, args.count)
    for number in range(args.rounds if args.seconds else 0):
        for peer in rotated([peer for peer in peers if peer.timed], number):
            yield run("latency", number, bench, peer, args.seconds)


def rotated(peers: Sequence[Peer], number: int) -> list[Peer]:
    """Return another order for each round: turned by one, and every second one backwards."""
    at = number % len(peers) if peers else 0
    turned = [*peers[at:], *peers[:at]]
    return turned[::-1] if number % 2 else turned


def run(kind: str, number: int, bench: runs.Bench, peer: Peer, amount: float) -> dict[str, Any]:
    """Run one; a failure is a result."""
    try:
        measured = getattr(runs, kind)(bench, peer, amount)
    except (runs.RunError, ValueError) as exc:
        measured = {"faults": [str(exc)]}
    return {"kind": kind, "peer": peer.name, "round": number, **measured}


def prepare(names: Sequence[str], target: str) -> dict[str, str]:
    """Build what these need; return why some are not to be had. Raises ``MissingError`` for the sink."""
    if target == "null":
        build("sink")
    missing = {}
    for name in names:
        if needed := CATALOGUE[name].build:
            try:
                build(needed)
            except MissingError as why:
                missing[name] = str(why)
                print(f"{name} is left out: {why}", file=sys.stderr)
    return missing


def _target(fleet: Fleet, name: str) -> Target:
    return NullSink(BUILD / "sink") if name == "null" else RealElasticsearch(fleet.get("elasticsearch"))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--peers", nargs="+", choices=CATALOGUE, metavar="NAME", help=", ".join(CATALOGUE))
    parser.add_argument("--target", choices=("null", "elasticsearch"), default="null")
    parser.add_argument("--quick", action="store_true", help="three peers, two rounds, no latency")
    parser.add_argument("--count", type=int, help="messages that count in a run (100000; quick: 60000)")
    parser.add_argument("--rounds", type=int, help="runs of each (3; quick: 2)")
    parser.add_argument("--seconds", type=float, help="of a run at 1,000 messages a second; 0: none (10)")
    parser.add_argument("--json", type=Path, help="where the figures go (benchmarks/build/TARGET.json)")
    args = parser.parse_args()
    quick = args.quick
    args.peers = args.peers or list(QUICK if quick else CATALOGUE)
    args.count = args.count or (60_000 if quick else 100_000)
    args.rounds = args.rounds or (2 if quick else 3)
    if args.seconds is None:
        args.seconds = 0.0 if quick else 10.0
    args.json = args.json or BUILD / f"{'quick' if quick else args.target}.json"
    return args


if __name__ == "__main__":
    sys.exit(main())
