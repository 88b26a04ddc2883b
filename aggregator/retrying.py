"""Retry queues: what is refused for a reason that may pass waits at the broker, and comes again later.

``retry = "1m,10m,1h"`` makes three steps. A message waits in ``QUEUE.retry.1m``, whose time to live gives it
back to ``QUEUE``; refused again it waits in ``QUEUE.retry.10m``, and so on. After the last step it is a dead
letter. How many steps it has behind it stands in its header :data:`RETRIES`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from aggregator.units import format_duration, parse_duration

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aggregator.ports import Refused

#: The header of a message that has come back: its steps so far.
RETRIES: Final = "x-aggregator-retries"
#: A reason that stands for all.
ANY: Final = "*"
#: RabbitMQ counts a time to live in 32 bits of milliseconds, that is somewhat more than 49 days.
LONGEST: Final = 49 * 86_400.0
MOST_STEPS: Final = 20


def read_steps(text: str) -> tuple[float, ...]:
    """Return the seconds of each step of ``"1m,10m,1h"``; raises ``ValueError`` for anything else."""
    steps = tuple(parse_duration(part) for part in words(text))
    if not steps:
        raise ValueError("no step is named; durations separated by commas are needed, like 1m,10m,1h")
    if len(steps) > MOST_STEPS:
        raise ValueError(f"these are {len(steps)} steps; up to {MOST_STEPS} are possible")
    for seconds in steps:
        if seconds > LONGEST:
            raise ValueError(f"{format_duration(seconds)} is longer than RabbitMQ can wait; 49d at most")
        if round(seconds * 1000) < 1:
            raise ValueError("a step of 0 is none; 1ms at least is needed")
    return steps


def words(text: str) -> list[str]:
    """Return what commas separate, without the blanks around."""
    return [word for part in text.split(",") if (word := part.strip())]


def queue_name(queue: str, seconds: float) -> str:
    """Return the name of a step's queue: ``orders.retry.10m``."""
    return f"{queue}.retry.{format_duration(seconds)}"


def queue_arguments(queue: str, seconds: float) -> dict[str, str | int]:
    """Return the arguments of a step's queue.

    A quorum queue whose dead letters are confirmed by the queue they go to before they leave: a classic
    queue lets go of them unconfirmed. That takes ``reject-publish``.
    """
    return {
        "x-queue-type": "quorum",
        "x-message-ttl": round(seconds * 1000),
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": queue,
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",
    }


class Retries:
    """The steps of one queue. ``reasons``: words of refusals or statuses of the sink, :data:`ANY` for all."""

    def __init__(self, queue: str, steps: Sequence[float], reasons: Sequence[str]) -> None:
        self._queues = [queue_name(queue, seconds) for seconds in steps]
        self._reasons = frozenset(reasons)
        #: what has to stand at the broker: each name with its arguments
        self.queues: Mapping[str, Mapping[str, str | int]] = {
            queue_name(queue, seconds): queue_arguments(queue, seconds) for seconds in steps
        }

    def step(self, refused: Refused) -> tuple[int, str] | None:
        """Return the number of the next step, from 1, and its queue; None where it is a dead letter."""
        reasons = self._reasons
        if not (ANY in reasons or refused.reason in reasons or str(refused.status) in reasons):
            return None
        done = steps_done(refused)
        return (done + 1, self._queues[done]) if done is not None and done < len(self._queues) else None


def steps_done(refused: Refused) -> int | None:
    """Return how many steps a message has behind it; None where its headers cannot be read."""
    try:
        said = refused.delivery.header(RETRIES)
    except Exception:  # noqa: BLE001 - decoded on first use: it is a dead letter, whatever its reason
        return None
    if said is None:
        return 0
    # anybody may have written it: what is no number of steps must not go round for ever
    return said if isinstance(said, int) and not isinstance(said, bool) and said >= 0 else None
