"""What is tried on tubes of Tarantool."""

from __future__ import annotations

from tests.faults import faults
from tests.faults import tube_plays as plays
from tests.faults.catalogue import Row
from tests.faults.plays import LIVES, frozen_at
from tests.faults.tube_plays import during, kills
from tests.faults.tube_trial import tube_trial


def row(name, play, **more):
    """Return a row that is played on a tube."""
    return Row(f"tubes: {name}", play, ("apns",), on=tube_trial, **more)


ROWS = [
    *(
        row(f"service killed -9: {point}", kills(point), deaths=LIVES - 1)
        for point in ("before-flush", "after-reply", "in-settle")
    ),
    row("Tarantool killed -9", during(faults.kill_broker, 0.5, times=3, deaths=1), deaths=3),
    row("Tarantool away 15 s", during(faults.kill_broker, 15.0, deaths=1), deaths=1),
    row("Tarantool restarted", during(faults.stop_broker, 0.5, times=3)),
    row("Tarantool frozen 6 s", during(faults.freeze_broker, 6.0)),
    row("Tarantool frozen 75 s", during(faults.freeze_broker, 75.0)),
    row("service frozen 12 s", plays.service_frozen),
    row("both killed -9", plays.all_killed, deaths=2 * (LIVES - 1)),
    row("Tarantool killed -9, gateway failing", plays.gateway_fails_too, deaths=2),
    *(
        row(f"Tarantool killed -9, service at {point}", frozen_at(point, faults.kill_broker))
        for point in ("before-flush", "after-reply", "in-settle")
    ),
]
