"""Messages whose time is over before they are written: a screen that reads each one's own ``expires``."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from aggregator.errors import MessageRefusedError
from aggregator.sinks.base import Fate, Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aggregator.clock import Clock
    from aggregator.correlation import Expression
    from aggregator.delivery import Delivery
    from aggregator.screening import Judged

EXPIRED = Verdict(Fate.EXPIRED, "expired")
#: Unix seconds of the years 2001 and 5138: less is a stretch of time and no moment, more are milliseconds.
_FIRST, _LAST = 1e9, 1e11
_HELP = "ISO 8601 (2026-11-22T06:30:00+01:00; UTC without a zone) or unix seconds are needed"


def moment(text: str) -> float:
    """Return a moment in unix seconds, from ISO 8601 or a number of seconds; without a zone it is UTC.

    Raises ``ValueError``, whose text says what would be right.
    """
    try:
        seconds = float(text)
    except ValueError:
        try:
            at = datetime.fromisoformat(text.strip())
            seconds = (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
        except (ValueError, OverflowError):
            raise ValueError(f"no moment; {_HELP}") from None
    if not _FIRST <= seconds < _LAST:  # neither is what is no number
        raise ValueError(f"no number of seconds since 1970; {_HELP}")
    return seconds


class Expiry:
    """Judges by the moment that an expression reads from each message; one without it never expires.

    What is no moment is dead-lettered as ``bad-expires``. Asked when a group is made and each time before
    it is sent, not at receipt: what a message says is read by the threads that write.
    """

    at_receipt = False
    active = True

    def __init__(self, read: Expression, clock: Clock) -> None:
        self._read = read
        self._clock = clock

    def judge(self, _key: str | None, deliveries: Sequence[Delivery]) -> Sequence[Judged]:
        """Return those whose time is over, and those that say it wrongly."""
        now = self._clock.time()
        return [(each, word) for each in deliveries if (word := self._word(each, now)) is not None]

    def _word(self, delivery: Delivery, now: float) -> Verdict | None:
        try:
            said = self._read(delivery)
            if said is not None and moment(said) <= now:
                return EXPIRED
        except MessageRefusedError as exc:
            return Verdict(Fate.DEAD_LETTER, exc.reason, exc.detail)
        except ValueError as exc:
            return Verdict(Fate.DEAD_LETTER, "bad-expires", str(exc))
        return None
