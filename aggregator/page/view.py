"""What one process says of itself when somebody looks: plain values, ready for JSON.

A process of several sends it to its parent over their line.
"""

from __future__ import annotations

import os
from hashlib import blake2b
from secrets import token_bytes
from typing import TYPE_CHECKING, Any, Protocol

from aggregator.commands import SHOWN_KEY
from aggregator.page.waiting import Place, cause_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aggregator.clock import Clock
    from aggregator.history import BatchReport, RefusalReport
    from aggregator.look import WaitingGroup
    from aggregator.pipeline import Pipeline
    from aggregator.settings import Route

    Row = dict[str, Any]

#: How many groups of each kind, batches and refusals of a route are shown.
MOST_GROUPS, MOST_BATCHES, MOST_REFUSALS = 8, 12, 10
#: Characters of a text that others have chosen.
MOST_TEXT = 500


class Watched(Protocol):
    """A route at work, as far as it is watched."""

    pipeline: Pipeline
    failure: str
    queue_states: Mapping[str, int]

    @property
    def problem(self) -> str:
        """Why nothing can be taken from the broker; empty if it can."""
        ...

    def count_workers(self, state: str) -> int:
        """Return how many workers are in this state."""
        ...


class Viewer:
    """Looks at the routes of this process. Any thread may call. ``states``: those of workers."""

    def __init__(
        self, routes: Mapping[str, tuple[Route, Watched]], states: Sequence[str], clock: Clock
    ) -> None:
        self._routes = routes
        self._states = states
        self._clock = clock
        self._started = clock.monotonic()
        self._secret = token_bytes(16)

    def view(self) -> Row:
        """Return what there is to see."""
        return {
            "pid": os.getpid(),
            "uptime": round(self._clock.monotonic() - self._started, 1),
            "routes": [self._route(settings, route) for settings, route in self._routes.values()],
        }

    def _route(self, settings: Route, route: Watched) -> Row:
        look = route.pipeline.look(MOST_GROUPS)
        place = Place(route.failure, route.problem, route.count_workers("consuming"))
        cause = cause_of(look, place)
        history = route.pipeline.history
        return {
            "route": settings.name,
            "queue": settings.queue,
            "dead_letter_queue": settings.dead_letter_queue,
            "dead_letter_exchange": settings.dead_letter_exchange,
            "tubes": settings.from_tubes,
            "keyed": settings.correlate is not None,
            "state": "stopped" if route.failure else look.state.value,
            "reason": route.failure or look.reason,
            "cause": cause.word,
            "why": _cut(cause.why),
            "workers": {state: number for state in self._states if (number := route.count_workers(state))},
            "queue_messages": dict(route.queue_states),
            "held": {
                "messages": look.held_messages,
                "groups": look.groups,
                "bytes": look.held_bytes,
                "most_bytes": settings.max_held,
            },
            "outgoing": {"items": look.outgoing, "requests": look.requests},
            "dead_letters_pending": look.letters_pending,
            "groups": {
                "oldest": [self._group(group) for group in look.oldest],
                "fullest": [self._group(group) for group in look.fullest],
            },
            "batches": [_batch(report) for report in reversed(history.last()[-MOST_BATCHES:])],
            "refusals": [_refusal(report) for report in reversed(history.last_refused()[-MOST_REFUSALS:])],
        }

    def _group(self, waiting: WaitingGroup) -> Row:
        group = waiting.group
        return {
            "id": self._name(group.key, waiting.opening),
            "key": None if group.key is None else group.key[:SHOWN_KEY],
            "cut": group.key is not None and len(group.key) > SHOWN_KEY,
            "messages": group.messages,
            "sentinels": group.sentinels,
            "expected": group.expected,
            "bytes": group.bytes,
            "age": round(group.age, 1),
            "idle": round(group.idle, 1),
            "fill": None if waiting.fill is None else round(waiting.fill, 3),
            "due": None if waiting.due is None else round(waiting.due, 1),
            "trigger": waiting.trigger,
        }

    def _name(self, key: str | None, opening: float) -> str:
        """Return a word for a group that tells nothing of its key."""
        said = f"{opening!r} {key!r}".encode("utf-8", "replace")
        return blake2b(said, digest_size=4, key=self._secret).hexdigest()


def _batch(report: BatchReport) -> Row:
    return {
        "ended": round(report.ended, 3),
        "trigger": report.trigger,
        "part": report.part,
        "complete": report.complete,
        "messages": report.messages,
        "bytes": report.bytes,
        "fill": None if report.fill is None else round(report.fill, 3),
        "collecting": round(report.collecting, 3),
        "queueing": round(report.queueing, 3),
        "writing": round(report.writing, 3),
        "attempts": report.attempts,
        "verdicts": dict(report.verdicts),
    }


def _refusal(report: RefusalReport) -> Row:
    return {
        "at": round(report.at, 3),
        "reason": _cut(report.reason),
        "error_type": _cut(report.error_type),
        "status": report.status,
        "messages": report.messages,
        "detail": _cut(report.detail),
        "attempts": report.attempts,
    }


def _cut(text: str) -> str:
    return text if len(text) <= MOST_TEXT else f"{text[:MOST_TEXT]}…"
