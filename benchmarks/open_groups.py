"""What a message costs with so many groups open, and what an open group costs in memory.

    python -m benchmarks.open_groups --groups 1000 10000 100000 1000000

The whole path but for broker and sink: intake (id and key), ledger, buffer with its timers (age and
idle), outbox, documents, verdicts, acks, over a source in memory. Each group gets four members; all
groups are open at once, their members interleaved. Each number of groups runs in a process of its own,
as often as ``--runs`` says, interleaved. Prints one JSON object a run.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import subprocess
import sys
import time

import structlog

from aggregator import Aggregator, age, header, idle, size
from aggregator.assembly import make_pipeline
from aggregator.clock import SYSTEM_CLOCK
from aggregator.delivery import Settlement
from aggregator.metrics import Metrics
from aggregator.sinks.base import Limits
from aggregator.testing.dead_letters import MemoryDeadLetters
from aggregator.testing.memory import MemoryDelivery

MEMBERS = 4
READ = 200
BODY = b'{"id":%d,"text":"' + b"x" * 170 + b'"}'


class NullSink:
    """Takes everything."""

    limits = Limits()

    def open(self):
        pass

    def write(self, _items):
        return None

    def close(self):
        pass

    def where(self):
        return "nowhere"


class NullLink:
    """Counts what is settled."""

    epoch = 1
    alive = True
    unsent = False

    def __init__(self):
        self.acked = 0

    def settle(self, deliveries, how):
        assert how is Settlement.ACK
        self.acked += len(deliveries)

    def wake(self):
        pass


def main() -> None:
    """Run all, each in its own process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--groups", type=int, nargs="+", default=[1_000, 10_000, 100_000, 1_000_000])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(run(args.one)), flush=True)
        return
    for _ in range(args.runs):
        for groups in args.groups:
            subprocess.run([sys.executable, "-m", "benchmarks.open_groups", "--one", str(groups)], check=True)


def run(groups: int) -> dict[str, object]:
    """Have ``groups`` groups open at once, over and over for at least 400,000 messages."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    app = Aggregator(environment=False)
    app.route(
        "r", correlate=header("k"), complete=size(MEMBERS) | age("1h") | idle("10m"), linger="0",
        max_held="8GB", ack_deadline="4h", prefetch=65_535,
    )  # fmt: skip
    link = NullLink()
    pipeline = make_pipeline(
        app.settings().routes["r"],
        sink=NullSink(),
        dead_letters=MemoryDeadLetters(SYSTEM_CLOCK),
        metrics=Metrics().route("r"),
    )
    pipeline.step()
    pipeline.link_opened(link, 10**9)
    rounds = max(1, 400_000 // (groups * MEMBERS))
    cpu, number, opened, empty = 0.0, 0, 0, resident()
    for _ in range(rounds):
        for _ in range(MEMBERS):
            for start in range(0, groups, READ):
                # made outside of the measure: the broker's client makes them
                read = []
                for group in range(start, min(start + READ, groups)):
                    number += 1
                    read.append(
                        MemoryDelivery(
                            BODY % number,
                            headers={"k": f"group-{group}"},
                            properties={"message_id": f"id-{number}", "content_type": "application/json"},
                            link=link,
                            tag=number,
                        )
                    )
                began = time.process_time()
                pipeline.accept(read)
                while pipeline.step():
                    pass
                cpu += time.process_time() - began
            if not opened:
                gc.collect()
                opened = resident()
    assert link.acked == number == groups * MEMBERS * rounds
    return {
        "groups": groups,
        "messages": number,
        "cpu_s_per_100k": round(cpu / number * 100_000, 3),
        # its first message is part of it: about 200 bytes of body, id, header, properties
        "bytes_for_an_open_group": round((opened - empty) / groups),
    }


def resident() -> int:
    """Return the bytes in memory."""
    with open("/proc/self/statm") as statm:  # noqa: PTH123
        return int(statm.read().split()[1]) * 4096


if __name__ == "__main__":
    main()
