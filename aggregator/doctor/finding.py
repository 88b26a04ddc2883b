"""What an examination finds, and the place that it looks at."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: How long any single wait for a server may last, in seconds.
WAIT_SECONDS = 4.0


class Level(IntEnum):
    """How bad a finding is."""

    OK = 0
    NOTE = 1
    """Worth knowing; nothing goes wrong by it."""
    WARNING = 2
    """It goes wrong some day: under load, at a fault, when something is full."""
    ERROR = 3
    """It does not work, or loses messages."""

    @property
    def word(self) -> str:
        """Return its name as it is shown."""
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    ``about``: which (``queue 'orders'``); ``says``: what was found; ``then``: what goes wrong by it;
    ``do``: the command or the setting that puts it right. None of them ever holds a password.
    """

    level: Level
    about: str
    says: str
    then: str = ""
    do: str = ""


@dataclass(frozen=True, slots=True)
class Place:
    """What is examined as one, in one thread. ``routes``: those that need it; empty for all."""

    title: str
    examine: Callable[[], Iterator[Finding]]
    routes: tuple[str, ...] = ()


def ok(about: str, says: str) -> Finding:
    """Return a finding that all is well."""
    return Finding(Level.OK, about, says)


def note(about: str, says: str, then: str = "", do: str = "") -> Finding:
    """Return something worth knowing."""
    return Finding(Level.NOTE, about, says, then, do)


def warning(about: str, says: str, then: str = "", do: str = "") -> Finding:
    """Return what goes wrong some day."""
    return Finding(Level.WARNING, about, says, then, do)


def error(about: str, says: str, then: str = "", do: str = "") -> Finding:
    """Return what is wrong now."""
    return Finding(Level.ERROR, about, says, then, do)


def amount(count: float) -> str:
    """Return a number of bytes for people, to three digits: ``23.5 GB``."""
    for unit, length in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= length:
            return f"{count / length:.3g} {unit}"
    return f"{count:g} bytes"


def clock_finding(about: str, skew: float, within: float) -> Finding:
    """Judge a server's clock: ``skew`` seconds ahead of ours, known to ``within`` seconds."""
    if abs(skew) <= max(CLOCK_SECONDS, within):
        return ok(about, f"its clock agrees with ours (within {max(within, abs(skew)):.1f} s)")
    direction = "ahead of" if skew > 0 else "behind"
    says = f"its clock is {abs(skew):.0f} s {direction} this machine's"
    then = "messages expire, crontab fires and dates are named by another time; signed tokens may be refused"
    do = "timedatectl set-ntp true, on whichever of the two is wrong"
    return (error if abs(skew) > WRONG_CLOCK_SECONDS else warning)(about, says, then, do)


#: From here on a clock is worth a warning, and an error.
CLOCK_SECONDS, WRONG_CLOCK_SECONDS = 5.0, 300.0
