"""The scripts of trials without any server."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.faults import faults
from tests.faults.plays import MESSAGES

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.faults.local_trial import LocalTrial

    LocalPlay = Callable[[LocalTrial], None]

KILLS = 4


def producers_killed(trial: LocalTrial) -> None:
    """Producers die in the midst of publishing, the service at work."""
    trial.start()
    for _ in range(KILLS):
        trial.produce_until_killed(trial.chance.randint(1, 120))
    trial.note_healed()
    trial.publish(20)


def two_services(trial: LocalTrial) -> None:
    """Two services share both files; one of them is killed, again and again."""
    trial.publish(3 * MESSAGES)
    trial.start()
    for _ in range(KILLS):
        trial.start()
        trial.service.wait_event("route_runs")
        with trial.publishing(50):
            faults.hold(trial, trial.chance.uniform(0, 0.4))
            trial.kill()
    trial.note_healed()
    trial.publish(20)


def frozen_beyond_lease(trial: LocalTrial) -> None:
    """A service is stopped for longer than its lease; another takes over; it goes on and learns of it.

    Not in the midst of a transaction: as long as that is open, nobody else can write.
    """
    trial.publish(MESSAGES)
    trial.start()
    trial.wait_writes()
    freeze = faults.FreezeService()
    freeze.start(trial)
    while not trial.is_free():
        freeze.stop(trial)
        faults.hold(trial, 0.01)
        freeze.start(trial)
    frozen = trial.service
    trial.start()
    trial.publish(100)
    trial.wait_writes(3)
    faults.hold(trial, 3.0)
    trial.services.remove(frozen)
    trial.services.append(frozen)
    freeze.stop(trial)
    trial.note_healed()
    trial.publish(100)


def disk_full(trial: LocalTrial) -> None:
    """No block is left for some seconds, while producers and the service are at work."""
    trial.publish(MESSAGES)
    trial.start()
    trial.wait_writes()
    trial.fill()
    with trial.publishing(200):
        faults.hold(trial, 4.0)
        trial.empty()
        trial.note_healed()
    trial.publish(20)


def disk_full_at_the_start(trial: LocalTrial) -> None:
    """A service starts while no block is left."""
    trial.publish(MESSAGES)
    trial.fill()
    trial.start()
    faults.hold(trial, 4.0)
    trial.empty()
    trial.note_healed()
    trial.publish(20)


def locked(side: str, seconds: float, *, stop: bool = False) -> LocalPlay:
    """Another program holds a file's lock for so long. ``stop``: SIGTERM comes meanwhile."""

    def play(trial: LocalTrial) -> None:
        trial.publish(MESSAGES)
        trial.start()
        trial.wait_writes()
        with trial.locked(trial.queue_file if side == "queue" else trial.store):
            faults.hold(trial, seconds)
            if stop:
                trial.stop()
        trial.note_healed()
        if stop:
            trial.start()
        trial.publish(20)

    return play


def stopped_while_full(trial: LocalTrial) -> None:
    """SIGTERM while no block is left: the end comes within the grace."""
    trial.publish(MESSAGES)
    trial.start()
    trial.wait_writes()
    trial.fill()
    faults.hold(trial, 1.0)
    trial.stop()
    trial.empty()
    trial.note_healed()
    trial.start()
