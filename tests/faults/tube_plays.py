"""The scripts of trials on a tube."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.faults import faults
from tests.faults.plays import LIVES
from tests.faults.tube_trial import ANSWER_SECONDS, ITEMS, REQUESTS

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.faults.faults import Fault
    from tests.faults.tube_trial import TubeTrial

    TubePlay = Callable[[TubeTrial], None]

RECIPIENTS = 3_000


def kills(point: str) -> TubePlay:
    """Lives that end at a point, one after the other."""

    def play(trial: TubeTrial) -> None:
        trial.publish(RECIPIENTS)
        trial.start(points=[f"{point}:{trial.chance.randint(1, 3)}" for _ in range(LIVES - 1)])
        trial.service.wait_event("life_ended", LIVES - 1)
        trial.note_healed()

    return play


def during(fault: Callable[[], Fault], seconds: float, *, times: int = 1, deaths: int = 0) -> TubePlay:
    """The server is hurt for so long, so often, in the midst of work; ``deaths``: kills each time."""

    def play(trial: TubeTrial) -> None:
        trial.publish(RECIPIENTS)
        trial.start()
        for _ in range(times):
            trial.wait_writes(3)
            with fault().on(trial):
                trial.account.kills += deaths
                faults.hold(trial, seconds)
            trial.note_healed()
            trial.publish(200)

    return play


def service_frozen(trial: TubeTrial) -> None:
    """The service is stopped for longer than it waits for answers: what was under way is sent again."""
    trial.doubtful = REQUESTS * ITEMS
    during(faults.FreezeService, ANSWER_SECONDS + 4.0)(trial)


def all_killed(trial: TubeTrial) -> None:
    """The server and the service are killed, one shortly after the other."""
    trial.publish(RECIPIENTS)
    for _ in range(LIVES - 1):
        trial.start()
        trial.wait_writes(3)
        with faults.kill_broker().on(trial):
            trial.account.kills += 1
            faults.hold(trial, trial.chance.uniform(0, 0.5))
            trial.kill()
    trial.note_healed()
    trial.start()


def gateway_fails_too(trial: TubeTrial) -> None:
    """The server is killed while the gateway resets every fifth stream before it has taken anything."""
    trial.gateway.script.fault("rst", share=0.2, code=7)
    during(faults.kill_broker, 0.5, times=2, deaths=1)(trial)
    trial.wait_writes(3)
    trial.gateway.script.clear()
