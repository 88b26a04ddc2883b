"""Which dead letters a command is about."""

from __future__ import annotations

from argparse import ArgumentTypeError
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from aggregator.clock import utc_now
from aggregator.units import parse_duration

if TYPE_CHECKING:
    from argparse import Namespace

    from producers.replay.letter import DeadLetter


@dataclass(frozen=True, slots=True)
class Selection:
    """What a letter has to be; an empty condition holds for all. A letter without a time is never in time."""

    reasons: frozenset[str] = frozenset()
    error_types: frozenset[str] = frozenset()
    ids: frozenset[str] = frozenset()
    since: datetime | None = None
    until: datetime | None = None

    @classmethod
    def of(cls, given: Namespace) -> Selection:
        """Return what the command line asks for."""
        return cls(
            frozenset(given.reason or ()),
            frozenset(given.error_type or ()),
            frozenset(given.id or ()),
            given.since,
            given.until,
        )

    def takes(self, letter: DeadLetter) -> bool:
        """Say whether the letter is one of them."""
        return (
            (not self.reasons or letter.reason in self.reasons)
            and (not self.error_types or letter.error_type in self.error_types)
            and (not self.ids or letter.id in self.ids)
            and (self.since is None or (letter.last is not None and letter.last >= self.since))
            and (self.until is None or (letter.last is not None and letter.last < self.until))
        )


def moment(text: str) -> datetime:
    """Read a moment: a duration (``2h``: so long ago) or ISO 8601; without a zone it is UTC."""
    try:
        return utc_now() - timedelta(seconds=parse_duration(text))
    except ValueError:
        pass
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is neither a duration like 2h nor a moment in ISO 8601") from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)
