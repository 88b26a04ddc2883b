"""``python -m benchmarks.campaign_trials``: campaigns whose servers and sending side are killed and stopped.

Each trial is a campaign of its own over the same users. At random moments a Tarantool server or the
sending side is killed with SIGKILL and started again after a while, or stopped by SIGSTOP for a while.
The compiled gateway counts which device got how many pushes, and whether repeats had the same apns-id.

A JSON line for each trial. ``bound``: how many pushes its faults may repeat, which is what workers held:
a server's workers their prefetch, the sending side that of all servers; ``held``: whether it did.
``takeovers``: how often servers took over claims: where a machine is so busy that servers are slow to answer,
it is more often than the faults say, and so are repeats. ``ended``: within its limit; ``missed`` says
nothing of a trial that has not. 1 if a device was missed, or a bound was not held. The printed seed repeats
a run.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import sys
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import requests

from aggregator.errors import AggregatorError
from benchmarks.build import BUILD, build
from benchmarks.push_engine import sink_url
from producers.campaigns.demo import CAMPAIGN
from producers.campaigns.stage import Stage

if TYPE_CHECKING:
    from producers.campaigns.stage import Api

TASK = 1_000
"""Devices of a task at most."""
SPAN = 1.0
"""Faults begin within so many times the seconds that a campaign takes undisturbed."""


def main() -> int:
    """Run the trials."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--users", type=int, default=300_000)
    parser.add_argument("--servers", type=int, default=3)
    parser.add_argument("--batch", type=int, default=10_000, help="users that the relay walks at a time")
    parser.add_argument("--prefetch", type=int, default=4)
    parser.add_argument("--limit", type=float, default=240.0, help="seconds for one trial")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    build("gateway")
    rng = random.Random(given.seed)
    missed = repeated = broken = 0
    with Stage(shown=sys.stderr) as stage:
        for _ in range(given.servers):
            stage.tarantool(memory=max(512, given.users // 500))
        stage.join()
        gateway = stage.told("gateway", [str(BUILD / "gateway")])
        stage.users(given.users)
        api = stage.api()
        sinks = {"apns": sink_url("curl", gateway), "fcm": sink_url("fcm", gateway)}
        stage.consume(sinks, workers=1, prefetch=given.prefetch)
        usual = campaign(stage, api, gateway, "usual", [], given=given)["seconds"]
        for number in range(given.trials):
            faults = plan(stage, rng, usual)
            found = campaign(stage, api, gateway, f"trial{number}", faults, given=given)
            print(json.dumps(found), flush=True)
            missed += found["missed"]
            repeated += found["duplicates"]
            broken += not found["held"]
    share = repeated / max(1, given.trials * given.users)
    told = {
        "seed": given.seed,
        "trials": given.trials,
        "usual": usual,
        "missed": missed,
        "duplicates": repeated,
        "bounds_not_held": broken,
    }
    print(json.dumps({**told, "share": round(share, 5)}))
    return 1 if missed or broken else 0


def in_flight(name: str, given: argparse.Namespace) -> int:
    """Return how many devices workers may hold that a fault of this process lets be sent to again."""
    of_a_server = len(CAMPAIGN["notifications"]) * given.prefetch * TASK
    return of_a_server * (given.servers if name == "consume" else 1)


def plan(stage: Stage, rng: random.Random, usual: float) -> list[tuple[float, str, str, float]]:
    """Draw faults: when, whom, kill or stop, for how many seconds."""
    names = [name for name in stage.processes if name.startswith(("tarantool", "consume"))]
    faults = []
    for name in rng.sample(names, rng.choice((1, 1, 2, 3))):
        kind = rng.choice(("kill", "kill", "stop"))
        faults.append((rng.uniform(0.1, usual * SPAN), name, kind, rng.uniform(0.3, 5.0)))
    return sorted(faults)


def campaign(
    stage: Stage,
    api: Api,
    gateway: dict[str, Any],
    name: str,
    faults: list[tuple[float, str, str, float]],
    *,
    given: argparse.Namespace,
) -> dict[str, Any]:
    """Run one campaign under these faults; return what the gateway counted."""
    control = gateway["control"]
    requests.post(f"{control}/reset?devices=0", timeout=30).raise_for_status()
    patiently(lambda: api.post("/campaigns", {**CAMPAIGN, "id": name, "batch": given.batch}))
    patiently(lambda: api.post(f"/campaigns/{name}/start"))
    began = time.monotonic()
    hands = [threading.Thread(target=inflict, args=(stage, *fault)) for fault in faults]
    for hand in hands:
        hand.start()
    while True:
        time.sleep(0.5)
        seconds = time.monotonic() - began
        delivered = requests.get(f"{control}/account", timeout=30).json()["delivered"]
        with suppress(AggregatorError, requests.RequestException):
            progress = api.get(f"/campaigns/{name}/progress")
            if (
                progress["state"] == "done"
                and not progress["remaining"]
                and not any(h.is_alive() for h in hands)
            ):
                break
        if seconds > given.limit:
            break
    for hand in hands:
        hand.join()
    account = requests.get(f"{control}/account", timeout=30).json()
    bound = sum(in_flight(whom, given) for _, whom, _, _ in faults)
    return {
        "trial": name,
        "faults": [f"{kind} {whom} at {at:.1f} s for {lasts:.1f} s" for at, whom, kind, lasts in faults],
        "seconds": round(seconds, 1),
        "missed": given.users - account["delivered"],
        "duplicates": account["duplicates"],
        "bound": bound,
        "held": account["duplicates"] <= bound,
        "takeovers": takeovers(stage, name),
        "ended": seconds <= given.limit,
        "repeats_with_the_same_id": account["same_id"],
        "delivered_when_done": delivered,
    }


def takeovers(stage: Stage, name: str) -> int:
    """Return how often servers have taken over claims of a campaign, by their logs."""
    logs = [stage.folder / f"{each}.log" for each in stage.processes if each.startswith("tarantool")]
    return sum(log.read_text(errors="replace").count(f": {name}: took over") for log in logs)


def patiently(ask: Any) -> Any:
    """Ask until somebody answers: a server may still be on its way up."""
    until = time.monotonic() + 30
    while True:
        try:
            return ask()
        except (AggregatorError, requests.RequestException):
            if time.monotonic() > until:
                raise
            time.sleep(0.5)


def inflict(stage: Stage, at: float, name: str, kind: str, lasts: float) -> None:
    """Kill a process and start it again, or stop it for a while."""
    time.sleep(at)
    if kind == "stop":
        process = stage.processes[name]
        process.send_signal(signal.SIGSTOP)
        time.sleep(lasts)
        process.send_signal(signal.SIGCONT)
        return
    stage.kill(name)
    time.sleep(lasts)
    stage.restart(name)


if __name__ == "__main__":
    sys.exit(main())
