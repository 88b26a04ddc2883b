"""Made-up users: user number ``n`` of a seed is the same however many are made."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

#: Roughly where people live, for who has no shares of his own.
ZONES = {
    "America/Los_Angeles": 5, "America/New_York": 12, "America/Sao_Paulo": 8, "Europe/London": 8,
    "Europe/Berlin": 17, "Africa/Lagos": 6, "Europe/Istanbul": 5, "Asia/Kolkata": 14, "Asia/Kathmandu": 1,
    "Asia/Shanghai": 10, "Asia/Tokyo": 8, "Australia/Sydney": 3, "Pacific/Auckland": 1, "-03:30": 1, "UTC": 1,
}  # fmt: skip
PLATFORMS = {"apns": 45, "fcm": 55}
LANGUAGES = {"en": 45, "de": 20, "fr": 12, "pt-BR": 10, "ja": 8, "hi": 5}
RESOLUTIONS = {"1170x2532": 30, "1080x2400": 40, "1290x2796": 15, "720x1600": 15}
#: Hours that users chose: most chose none.
HOURS = {"": 70, "9-18": 12, "18-22": 10, "7-21": 6, "22-2": 2}
_BLOCK = 1000
_FIRST, _LAST = 1_600_000_000, 1_750_000_000


class _Choice:
    """Chooses by shares; which need not add up to anything."""

    def __init__(self, shares: Mapping[str, float]) -> None:
        self.names = list(shares)
        self.sums = list(accumulate(shares.values()))

    def some(self, rng: random.Random, count: int) -> list[str]:
        return rng.choices(self.names, cum_weights=self.sums, k=count)


@dataclass(frozen=True, slots=True)
class MadeUp:
    """How they are spread: names and their shares, which need not add up to anything."""

    seed: int = 0
    zones: Mapping[str, float] = field(default_factory=lambda: ZONES)
    platforms: Mapping[str, float] = field(default_factory=lambda: PLATFORMS)

    def users(self, count: int) -> Iterator[list[Any]]:
        """Yield rows as the servers keep them."""
        names = [self.zones, self.platforms, LANGUAGES, RESOLUTIONS, HOURS]
        choices = [_Choice(shares) for shares in names]
        for first in range(0, count, _BLOCK):
            rng = random.Random(f"{self.seed}/{first}")  # noqa: S311 - nothing is kept secret with it
            columns = [choice.some(rng, _BLOCK) for choice in choices]
            numbers = range(first, first + _BLOCK)
            for number, chosen in zip(numbers, zip(*columns, strict=True), strict=True):
                row = _user(rng, number, chosen)
                if number < count:
                    yield row


def _user(rng: random.Random, number: int, chosen: tuple[str, ...]) -> list[Any]:
    tz, platform, language, resolution, hours = chosen
    if platform == "apns":
        token = f"{rng.getrandbits(256):064x}"
    else:
        token = f"{rng.getrandbits(128):032x}:APA91b{rng.getrandbits(400):0100x}"
    version = rng.randrange(2, 5) * 1_000_000 + rng.randrange(10) * 1_000 + rng.randrange(5)
    first, _, last = hours.partition("-")
    return [
        f"user-{number:09d}", token, platform, version, language, resolution, tz,
        int(first) if hours else None, int(last) if hours else None, rng.randrange(_FIRST, _LAST),
    ]  # fmt: skip
