"""A task of a tube as a delivery, and what became of its recipients so far."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import orjson

from aggregator.delivery import Delivery
from aggregator.intake import DELIVERY_COUNT

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from aggregator.delivery import Item, Link
    from aggregator.sinks.base import Verdict

SENT, EXPIRED, REFUSED, DONE = "sent", "expired", "refused", "done"
_WORDS = {"written": SENT, "duplicate": SENT, "expired": EXPIRED}


class Progress:
    """The last words on the parts of a task. Shared by all copies of it, over lost sessions too.

    ``done``: by place, why a recipient is done with; ``dead``: by place, why one is to be buried, which it
    is only once the whole task is. ``whole``: the word on a task that was not divided. Any thread may write.
    """

    __slots__ = ("dead", "done", "whole")

    def __init__(self) -> None:
        self.done: dict[int, str] = {}
        self.dead: dict[int, str] = {}
        self.whole = ""


class TubeDelivery(Delivery):
    """A task that this session has taken: a ``row`` of tube, id, attempts and data.

    ``tag`` is its id, never used twice by its server. ``server``: ``host:port``. ``attempts``: how often it
    was taken before. ``until``: unix seconds before which it is not to be handed out again, 0 for at once.
    """

    __slots__ = ("attempts", "content_type", "progress", "server", "tube", "until")

    def __init__(self, link: Link, server: str, row: tuple[str, int, int, Any]) -> None:
        tube, task, attempts, data = row
        body, self.content_type = as_body(data)
        super().__init__(body, link, task, redelivered=attempts > 0)
        if isinstance(data, dict):
            self._json = data
        self.server = server
        self.tube = tube
        self.attempts = attempts
        self.progress = Progress()
        self.until = 0.0

    # ── what expressions read ──

    @property
    def message_id(self) -> str:
        """What no other task of any server has."""
        return f"{self.server}/{self.tube}/{self.tag}"

    @property
    def headers(self) -> Mapping[str, Any]:
        """How often it was taken before, by the name that brokers have for it."""
        return {DELIVERY_COUNT: self.attempts} if self.attempts else {}

    @property
    def properties(self) -> Mapping[str, Any]:
        """``message_id``, and ``content_type`` where the data is not text."""
        given = {"content_type": self.content_type} if self.content_type else {}
        return {"message_id": self.message_id, **given}

    @property
    def exchange(self) -> str:
        """The server."""
        return self.server

    @property
    def routing_key(self) -> str:
        """The tube."""
        return self.tube

    # ── what the core tells ──

    @property
    def parts(self) -> Collection[int]:  # type: ignore[override]
        """Those that are done with."""
        return self.progress.done

    def part_final(self, item: Item, verdict: Verdict) -> None:
        """Note the last word on a recipient, or on the task."""
        fate = verdict.fate.value
        dead = fate == "dead_letter"
        if dead:
            word, notes = verdict.reason, self.progress.dead
        else:
            word, notes = _WORDS.get(fate) or verdict.reason or REFUSED, self.progress.done
        if item.address is not None:
            notes[item.address.index] = word
        elif not dead:
            self.progress.whole = word

    def postpone(self, until: float) -> bool:
        """Release it with a delay: the longest of those that its recipients need."""
        self.until = max(self.until, until)
        return True

    def join(self, known: Delivery) -> None:
        """Share the notes of the copy that is under way."""
        if isinstance(known, TubeDelivery):
            self.progress = known.progress

    # ── what the link sends ──

    @property
    def cost(self) -> int:
        """How many recipients it names; 1 for any other task."""
        recipients = self._data().get("recipients")
        return len(recipients) if isinstance(recipients, list) and recipients else 1

    def report(self) -> dict[str, int]:
        """Return how many recipients are done with, by the word on them."""
        progress = self.progress
        if progress.done:
            return dict(Counter(list(progress.done.values())))
        return {progress.whole: self.cost} if progress.whole else {DONE: 1}

    def rest(self) -> dict[str, Any] | None:
        """Return the data without the recipients that are done with; None where there are none left.

        Only asked where some are.
        """
        data, done = self._data(), set(self.progress.done)
        recipients = data.get("recipients")
        if not isinstance(recipients, list):
            return None
        left = [each for index, each in enumerate(recipients) if index not in done]
        return {**data, "recipients": left} if left else None

    def _data(self) -> dict[str, Any]:
        try:
            data = orjson.loads(self.body)
        except orjson.JSONDecodeError:
            return {}
        return data if isinstance(data, dict) else {}


def as_body(data: Any) -> tuple[bytes, str | None]:
    """Return a task's data as a body and its content type; text has none: it may be JSON."""
    if isinstance(data, bytes):
        return data, None
    if isinstance(data, str):
        return data.encode("utf-8", "surrogatepass"), None
    try:
        return orjson.dumps(data), "application/json"
    except TypeError:
        return repr(type(data)).encode(), "application/msgpack"  # what JSON has no word for is refused
