"""Kill and stop servers of a shard during campaigns; count whom nobody and whom somebody twice has sent to.

``python -m benchmarks.relay_trials --trials 30 --users 300000`` prints a JSON line for each trial and a sum.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from dataclasses import asdict

from tests.shard import KINDS, Shard, run_trial, user


def main() -> int:
    """Run the trials; 1 if a user was missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=7)
    parser.add_argument("--users", type=int, default=20_000)
    parser.add_argument("--servers", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--pause", type=float, default=0.02, help="seconds of each take of a consumer")
    parser.add_argument("--kind", choices=KINDS)
    given = parser.parse_args()
    rng = random.Random(given.seed)
    shard = Shard(given.servers, memory="512")
    missed = repeated = 0
    try:
        shard.load(user(number) for number in range(given.users))
        for trial in range(given.trials):
            kind = given.kind or KINDS[trial % len(KINDS)]
            outcome = run_trial(shard, f"trial{trial}", kind, users=given.users, rng=rng, pause=given.pause)
            print(json.dumps(asdict(outcome)), flush=True)
            missed += outcome.missed
            repeated += outcome.repeated
    finally:
        shard.close()
    share = repeated / max(1, given.trials * given.users)
    print(
        json.dumps({"trials": given.trials, "missed": missed, "repeated": repeated, "share": round(share, 5)})
    )
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
