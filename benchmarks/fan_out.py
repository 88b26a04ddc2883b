"""How quickly a server queues a campaign, and how long point reads of users take meanwhile.

``python -m benchmarks.fan_out --users 500000`` prints a JSON line without reads and one with.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Any

from producers.campaigns import zones
from producers.campaigns.made_up import MadeUp
from tests.shard import Shard

if TYPE_CHECKING:
    from collections.abc import Callable

    from consumers.tarantool import Tarantool


def read_until(client: Tarantool, users: int, done: Callable[[], bool], rng: random.Random) -> list[float]:
    """Read users one by one; the seconds that each took."""
    found = []
    while not done():
        for _ in range(100):
            began = time.perf_counter()
            client.call("box.space.users:get", f"user-{rng.randrange(users):09d}")
            found.append(time.perf_counter() - began)
    return found


def shown(seconds: list[float]) -> dict[str, float]:
    """Return percentiles in milliseconds."""
    ordered = sorted(seconds)
    picks = {"p50": 0.5, "p99": 0.99, "p999": 0.999, "max": 1.0}
    return {"reads": len(ordered)} | {
        name: round(ordered[min(int(len(ordered) * share), len(ordered) - 1)] * 1000, 2)
        for name, share in picks.items()
    }


def measure(
    server: Tarantool, name: str, start: Callable[[], None], users: int, *, reads: bool
) -> dict[str, Any]:
    """Run one campaign, maybe with point reads meanwhile."""
    found: dict[str, Any] = {}
    cpu = "return require('clock').thread()"
    with closing(server.client()) as client, closing(server.client()) as admin:

        def walked() -> bool:
            return bool(admin.eval("return box.space.batons:get(...).finished", name)[0])

        if reads:
            ends = time.perf_counter() + 3
            idle = read_until(client, users, lambda: time.perf_counter() > ends, random.Random(1))
            found["reads before, ms"] = shown(idle)
        began, (spent,) = time.perf_counter(), admin.eval(cpu)
        start()
        if reads:
            found["reads during, ms"] = shown(read_until(client, users, walked, random.Random(2)))
        while not walked():
            time.sleep(0.05)
        found["users a second"] = round(users / (time.perf_counter() - began))
        if not reads:
            found["users a second of CPU"] = round(users / (admin.eval(cpu)[0] - spent))
        found["tasks"] = admin.eval("return box.space.claim_tasks:count()")[0]
        admin.eval("campaigns.revoke(...)", name)
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=200_000)
    parser.add_argument("--batch", type=int, default=10_000)
    parser.add_argument("--hours", action="store_true", help="with quiet and preferred hours")
    given = parser.parse_args()
    more = {"quiet": {"from": 22, "to": 8}, "use_preferred_hours": True} if given.hours else {}
    now = time.time()
    tables, _ = zones.tables(now - 86_400, now + 3 * 86_400)
    shard = Shard(1, memory="2048")
    try:
        shard.load(MadeUp().users(given.users))
        shard.writer.eval("relay.options.high_water = 1000000")
        for reads in (False, True):
            name = f"reads-{reads}"
            start = partial(shard.start, name, zones=tables, batch=given.batch, **more)
            found = measure(shard.writer, name, start, given.users, reads=reads)
            print(json.dumps({"users": given.users, "hours": given.hours} | found), flush=True)
    finally:
        shard.close()


if __name__ == "__main__":
    main()
