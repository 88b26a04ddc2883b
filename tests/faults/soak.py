"""Faults drawn at random, one after the other and two at once, for as long as wanted.

All that is drawn comes from one seed, which is printed: the same seed draws the same again.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

from tests.faults import faults
from tests.faults.catalogue import ALL, BROKER, FLOOD_STAGE, NETWORK, SINK
from tests.faults.trial import trial
from tests.servers.toxiproxy import DOWN

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from tests.faults.account import Account
    from tests.faults.faults import Fault
    from tests.faults.trial import Trial
    from tests.servers import Fleet

#: A trial is played for so long; then it is accounted for, and the next begins with another setting.
ROUND_SECONDS = 180.0
HOLD_SECONDS = (0.2, 8.0)
MESSAGES = (50, 400)

ON_SERVICE: list[Callable[[], Fault]] = [faults.KillService, faults.StopService, faults.FreezeService]
ON_BROKER: list[Callable[[], Fault]] = [
    faults.kill_broker,
    faults.stop_broker,
    faults.freeze_broker,
    faults.CloseConnections,
    faults.MemoryAlarm,
    faults.ConsumerTimeout,
    *(partial(make, BROKER) for make in NETWORK.values()),
]
ON_SINK: list[Callable[[], Fault]] = [
    faults.freeze_elasticsearch,
    partial(faults.Slow, 1.0),
    partial(faults.Answers, "broken off"),
    partial(faults.Answers, "short"),
    partial(faults.Answers, "html"),
    partial(faults.Answers, "cut json"),
    partial(faults.Block, "write"),
    partial(faults.Block, FLOOD_STAGE),
    *(partial(make, SINK) for make in NETWORK.values()),
]


def draw(chance: random.Random) -> Fault:
    """Return one fault, or two of different places."""
    places = chance.sample([ON_SERVICE, ON_BROKER, ON_SINK], k=chance.choice((1, 1, 2)))
    drawn = [chance.choice(place)() for place in places]
    return drawn[0] if len(drawn) == 1 else faults.Together(*drawn)


def play(played: Trial, seconds: float, say: Callable[[str], None]) -> None:
    """Hurt for so many seconds; after each fault all is well for a moment."""
    until = time.monotonic() + seconds
    played.sink_leg.add("latency", DOWN, name="pace", latency=20)
    played.publish(played.chance.randint(*MESSAGES))
    played.start()
    played.wait_writes()
    while time.monotonic() < until:
        fault, hold = draw(played.chance), played.chance.uniform(*HOLD_SECONDS)
        say(f"{fault} for {hold:.1f} s")
        with fault.on(played):
            if fault.takes:
                played.publish(played.chance.randint(*MESSAGES))
            faults.hold(played, hold)
        played.publish(played.chance.randint(*MESSAGES))
        faults.hold(played, played.chance.uniform(0, 2))
    played.note_healed()
    played.publish(20)


def soak(fleet: Fleet, minutes: float, seed: int, say: Callable[[str], None]) -> list[tuple[str, Account]]:
    """Play rounds until the time is over; return each with its setting."""
    until = time.monotonic() + minutes * 60
    done: list[tuple[str, Account]] = []
    while (left := until - time.monotonic()) > 0 or not done:
        number = len(done)
        setting = ALL[(seed + number) % len(ALL)]
        say(f"round {number}: {setting}")
        with trial(fleet, setting, seed=seed + number) as played:
            play(played, min(left, ROUND_SECONDS), say)
            account = played.finish()
        say(f"round {number}: {account}")
        done.append((str(setting), account))
    return done
