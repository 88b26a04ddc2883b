"""What a message costs the broker and the service, and what that comes to at any rate: docs/capacity.md.

    python -m benchmarks.capacity                     # measure, and print the table
    python -m benchmarks.capacity --count 400000

RabbitMQ 4.0, one node, a quorum queue; messages of 200 bytes with an id, published with confirms by one
producer while nobody consumes, then consumed into a sink that keeps nothing. CPU seconds are those of the
broker's and of the service's processes. The table multiplies them: nothing in it was run at these rates.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.servers import Fleet

SINK = "def write(request):\n    pass\n"
#: A core is planned to be busy for this share of its time.
BUSY = 0.6
#: Copies of a quorum queue: each costs its node what one node costs here, at least.
COPIES = 3
RATES = (10_000, 100_000, 1_000_000)
#: Bytes of an open group with its first message, and seconds that a group is open.
GROUP_BYTES, OPEN_SECONDS, MEMBERS = 1_550, 30.0, 20


@dataclass(frozen=True, slots=True)
class Costs:
    """CPU seconds for 100,000 messages."""

    publish: float
    deliver: float
    service: float


def measure(count: int) -> Costs:
    """Return what was found."""
    fleet = Fleet(full_speed=True)
    try:
        rabbit = fleet.get("rabbitmq4")
        queue = "capacity"
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "keeping_nothing.py").write_text(SINK)
            environment = {**os.environ, "PYTHONPATH": f"{folder}:{Path.cwd()}"}
            ends = ("--broker", rabbit.url, "--queue", queue)
            load = ("--count", str(count), "--queue-type", "quorum")
            idle = rabbit.host.cpu_seconds()
            run("producers.load", *ends, *load, environment=environment)
            published = rabbit.host.cpu_seconds()
            spent = run(
                "aggregator.consume", *ends, "--until-empty", "--log-level", "error",
                "--sink", "function:keeping_nothing:write", environment=environment,
            )  # fmt: skip
            delivered = rabbit.host.cpu_seconds()
        rabbit.delete_queues(queue, f"{queue}.dead")
    finally:
        fleet.close()
    share = 100_000 / count
    return Costs((published - idle) * share, (delivered - published) * share, spent * share)


def run(module: str, *arguments: str, environment: dict[str, str]) -> float:
    """Run a program to its end; return the CPU seconds that it took."""
    process = subprocess.Popen([sys.executable, "-m", module, *arguments], env=environment)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{module} ended with {status}")
    return usage.ru_utime + usage.ru_stime


def table(costs: Costs) -> str:
    """Return the rows of docs/capacity.md."""
    lines = []
    for rate in RATES:
        service = rate / 100_000 * costs.service / BUSY
        broker = rate / 100_000 * (costs.publish + costs.deliver) * COPIES / BUSY
        groups = rate / MEMBERS * OPEN_SECONDS
        memory = groups * GROUP_BYTES + rate * OPEN_SECONDS * 200
        lines.append(f"| {rate:,} | {service:.1f} | {broker:.0f} | {groups:,.0f} | {memory / 1e9:.1f} GB |")
    return "\n".join(lines)


def main() -> int:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--count", type=int, default=200_000)
    costs = measure(parser.parse_args().count)
    print(f"CPU s for 100,000: publish {costs.publish:.2f}, deliver and ack {costs.deliver:.2f} (broker),")
    print(f"service {costs.service:.2f}")
    print(table(costs))
    return 0


if __name__ == "__main__":
    sys.exit(main())
