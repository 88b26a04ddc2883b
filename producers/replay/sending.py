"""Dead letters on their way back, or out: each is taken out once the broker has it elsewhere."""

from __future__ import annotations

import uuid
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from aggregator.errors import ConfigurationError
from producers.replay.letter import DeadLetter

if TYPE_CHECKING:
    from collections.abc import Callable

    from consumers.publisher import Publisher
    from producers.replay.queue import DeadLetterQueue

#: Letters of one call of the publisher, which waits for all its confirms.
_CALL: Final = 200


@dataclass(slots=True)
class Replay:
    """One run of ``send`` or ``drop``; ``counts`` by what became of the letters."""

    queue: DeadLetterQueue
    publisher: Publisher
    to: str | None = None
    most_replays: int = 3
    edit: Callable[[DeadLetter], DeadLetter | None] | None = None
    dry_run: bool = False
    run: str = field(default_factory=lambda: uuid.uuid4().hex[:12])
    counts: Counter[str] = field(default_factory=Counter)
    problem: str = ""
    _waiting: list[tuple[DeadLetter, str, Any]] = field(default_factory=list)

    def send(self, letter: DeadLetter, tag: Any) -> bool:
        """Take a letter for the next call; return whether it is on its way."""
        to = self.to or letter.queue
        fault = (
            "sent by this run already"
            if letter.replayed_by == self.run
            else f"sent back {letter.replays} times"
            if letter.replays >= self.most_replays
            else "no queue is known; name one by --to"
            if not to
            else ""
        )
        if fault:
            self.counts[f"left: {fault}"] += 1
            return False
        mended = self._edited(letter)
        if mended is None:
            return False
        self._waiting.append((mended, to, tag))
        if len(self._waiting) >= _CALL:
            self.flush()
        return True

    def drop(self, letter: DeadLetter, tag: Any) -> bool:
        """Take a letter out for good."""
        del letter
        if not self.dry_run:
            self.queue.remove(tag)
        self.counts["dropped"] += 1
        return True

    def flush(self) -> None:
        """Publish what waits; take out what the broker confirmed, and nothing else."""
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        if self.dry_run:
            self.counts["sent"] += len(waiting)
            return
        outcomes = self.publisher.publish([letter.sent_back(to, self.run) for letter, to, _ in waiting])
        for (_, to, tag), outcome in zip(waiting, outcomes, strict=True):
            if outcome is None:
                self.queue.remove(tag)
                self.counts["sent"] += 1
            else:
                self.counts[f"refused: {outcome} in {to}"] += 1

    @property
    def refused(self) -> int:
        """Letters that the broker did not take, and those that an own function failed at."""
        return sum(count for what, count in self.counts.items() if what.startswith(("refused", "failed")))

    def _edited(self, letter: DeadLetter) -> DeadLetter | None:
        """Return the letter as the own function wants it; None, counted, where it has to stay."""
        if self.edit is None:
            return letter
        try:
            mended = self.edit(letter)
        except Exception as exc:  # noqa: BLE001  anyone's function; the letter stays
            self.counts[f"failed: --edit raised {type(exc).__qualname__}"] += 1
            self.problem = self.problem or f"{type(exc).__qualname__}: {exc}"
            return None
        if mended is None:
            self.counts["left: by --edit"] += 1
        elif not isinstance(mended, DeadLetter):
            raise ConfigurationError(
                "--edit", f"returned {type(mended).__qualname__}; a DeadLetter or None is needed"
            )
        return mended
