"""Messages of a route that are tasks of Celery: their ids, their documents, and when they are too late.

Everything of it is made for such routes alone; the others read as ever.
"""

from __future__ import annotations

from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import orjson

from aggregator.celery_message import expires_at, read_task
from aggregator.errors import MessageRefusedError
from aggregator.intake import WRAPPING, Intake, Sorted
from aggregator.json_pointer import compile_pointer
from aggregator.sinks.base import Fate, Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aggregator.celery_message import Task
    from aggregator.clock import Clock
    from aggregator.delivery import Delivery
    from aggregator.screening import Judged

EXPIRED = Verdict(Fate.EXPIRED, "expired")
#: An eta so near is now: no delivery gets to its sink sooner.
NEAR_SECONDS = 1.0
#: The document that is the whole task.
WHOLE = "task"
#: Reads the id that :class:`TaskIntake` has given a delivery.
task_id = attrgetter("id")


class Tasks:
    """Reads tasks, and screens those that have expired.

    ``part``: ``task`` for the whole, or a JSON pointer to what is the document: ``/kwargs``, ``/args/0``.
    ``early``: what has an eta in the future is written at once, not refused.
    """

    at_receipt = True

    def __init__(self, clock: Clock, *, part: str = WHOLE, early: bool = False, max_message: int) -> None:
        self._clock = clock
        self._part = part
        self._look = None if part == WHOLE else compile_pointer(part)
        self._early = early
        self._max_bytes = max_message
        self.active = False
        """Whether any task came that has a moment to expire."""

    def receive(self, delivery: Delivery) -> None:
        """Give a delivery its task's id and document.

        Raises ``MessageRefusedError`` as :func:`read_task`, or for ``eta-in-future``,
        ``not-an-object``, ``bad-json``.
        """
        task = read_task(delivery, self._max_bytes)
        now = self._clock.time()
        if task.expires is not None:
            self.active = True
        # what has expired before its eta is not refused, but discarded
        live = task.expires is None or task.expires > now
        if live and not self._early and task.eta is not None and task.eta > now + NEAR_SECONDS:
            raise MessageRefusedError(
                "eta-in-future", "a bulk writer holds no task until its time; celery_eta = write ignores it"
            )
        delivery.document = self._document(task)
        delivery.id = task.id

    def make(self, delivery: Delivery, *, trust_json: bool, max_bytes: int) -> bytes:
        """Return the document of a delivery; as ``make_document``, whose place it takes."""
        del trust_json  # it is parsed in any case
        return self._document(read_task(delivery, max_bytes))

    def judge(self, key: str | None, deliveries: Sequence[Delivery]) -> Sequence[Judged]:
        """Return the tasks that have expired."""
        del key
        now = self._clock.time()
        found = []
        for delivery in deliveries:
            expires = expires_at(delivery, self._max_bytes)
            if expires is not None and expires <= now:
                found.append((delivery, EXPIRED))
        return found

    def _document(self, task: Task) -> bytes:
        value: Any = task.said()
        if self._look is not None:
            value = self._look(value)
            if type(value) is not dict:
                raise MessageRefusedError("not-an-object", f"{self._part} of the task is no object")
        problem = ""
        try:
            return orjson.dumps(value)
        except orjson.JSONEncodeError as exc:
            problem = str(exc)
        raise MessageRefusedError("bad-json", problem)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskIntake(Intake):
    """How tasks are read. ``id`` may be :func:`task_id`; ``make`` is to be that of ``tasks``."""

    tasks: Tasks

    def sort(self, deliveries: Sequence[Delivery]) -> Sorted:
        """Read each delivery; whatever is wrong with one concerns that one alone."""
        result = Sorted()
        for delivery in deliveries:
            problem = self._receive(delivery)
            if problem is not None:
                result.refused.append(self.refusal(delivery, problem))
                continue
            one = Intake.sort(self, (delivery,))
            result.entries += one.entries
            result.refused += one.refused
            result.suspects += one.suspects
            if len(delivery.document) > len(delivery.body) + WRAPPING:
                # inflated, it would be held beyond all bounds: it is made again
                delivery.document = b""
        return result

    def _receive(self, delivery: Delivery) -> MessageRefusedError | None:
        try:
            self.tasks.receive(delivery)
        except MessageRefusedError as exc:
            return exc.with_traceback(None)
        except Exception as exc:  # noqa: BLE001 - a message that nobody foresaw; words may hold its body
            return MessageRefusedError("unreadable", type(exc).__name__)
        return None
