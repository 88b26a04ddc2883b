"""Examines places side by side; one that is silent for too long is given up, and said so."""

from __future__ import annotations

from dataclasses import dataclass, field
from threading import Condition, Thread
from typing import TYPE_CHECKING

from aggregator.doctor.finding import error
from aggregator.masking import masked

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aggregator.clock import Clock
    from aggregator.doctor.finding import Finding, Place

#: A place that has said nothing for so long is given up: longer than any wait of a check.
PATIENCE = 5.0
#: Words of an exception that are shown.
_LONGEST = 200


@dataclass(slots=True)
class Examined:
    """A place with what was found there, in order; ``done``: whether the examination has ended."""

    place: Place
    findings: list[Finding] = field(default_factory=list)
    last: float = 0.0
    done: bool = False


def examine(
    places: Sequence[Place],
    clock: Clock,
    *,
    patience: float = PATIENCE,
) -> list[Examined]:
    """Examine all; return what was found, in the order of ``places``.

    Threads that never come back are left behind: they hold nothing, and end with the process.
    """
    changed = Condition()
    began = clock.monotonic()
    runs = [Examined(place, last=began) for place in places]
    for run in runs:
        Thread(target=_one, args=(run, changed, clock), name=run.place.title, daemon=True).start()
    with changed:
        for run in runs:
            while not run.done:
                left = run.last + patience - clock.monotonic()
                if left <= 0:
                    _give_up(run, patience)
                else:
                    changed.wait(left)
    return runs


def _one(run: Examined, changed: Condition, clock: Clock) -> None:
    try:
        for finding in run.place.examine():
            with changed:
                if run.done:
                    return  # given up meanwhile
                run.findings.append(finding)
                run.last = clock.monotonic()
                changed.notify_all()
    except Exception as exc:  # noqa: BLE001 - whatever it is, the others are examined all the same
        with changed:
            if not run.done:
                words = masked(" ".join(str(exc).split()))[:_LONGEST]
                says = f"the examination broke off: {type(exc).__name__}: {words}"
                run.findings.append(error(run.place.title, says, "what comes after it was not looked at"))
    finally:
        with changed:
            run.done = True
            changed.notify_all()


def _give_up(run: Examined, patience: float) -> None:
    says = f"no {'further ' * bool(run.findings)}answer within {patience:g} s"
    then = "the route would wait for it; whatever comes after it was not looked at"
    do = "look whether the server is frozen or overloaded, and whether a firewall drops packets"
    run.findings.append(error(run.place.title, says, then, do))
    run.done = True
