"""What is pushed, and to whom: one notification for many devices, one address for each of them."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from math import inf
from typing import NamedTuple

#: A window that does not say when it opens again does so a day later.
DAY = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Notification:
    """What all devices of one message are sent; one object for all of them.

    ``payload``: a JSON object in UTF-8, sent as it is. ``expiration``: unix seconds after which a gateway
    gives up, 0 to try once; ``priority``: the gateway's own number. Empty or None: not set.
    ``opens`` and ``shuts``: the window in which it may be sent, in unix seconds; ``later``: the windows after
    it, each of them daily until the next begins, the last for ever; none: it does not open again.
    ``expires``: from then on it is sent no more.
    """

    payload: bytes
    campaign: str = ""
    topic: str = ""
    collapse_id: str = ""
    push_type: str = ""
    priority: int | None = None
    expiration: int | None = None
    opens: float = -inf
    shuts: float = inf
    later: tuple[tuple[float, float], ...] = ()
    expires: float = inf

    def due(self, now: float) -> float:
        """Return when it may be sent, in unix seconds: ``now`` for at once, ``inf`` for never again."""
        if now >= self.expires or 0 < (self.expiration or 0) <= now:
            return inf
        when = self._opening(now)
        return when if when < self.expires else inf

    def _opening(self, now: float) -> float:
        if now <= self.shuts:
            return max(now, self.opens)
        if not self.later:
            return inf
        opens, shuts = self.later[0]
        following = inf
        for window in self.later:
            if now < window[0]:
                following = window[0]
                break
            opens, shuts = window
        if now < opens:
            return opens
        since = (now - opens) % DAY
        # a daily one that would open within half a day of the following is that one, where clocks change
        latest = following - DAY / 2
        if since <= shuts - opens and now - since <= latest:
            return now
        again = now - since + DAY
        return again if again <= latest else following


class Address(NamedTuple):
    """One device. ``platform``: ``apns`` or ``fcm``; ``app``: whose keys are used, empty for the only one.

    ``registered``: unix seconds at which the token was got, 0 if unknown. ``index``: its place among the
    recipients of its message.
    """

    token: str
    device: str
    platform: str
    app: str
    registered: float
    index: int  # type: ignore[assignment]  # a word of tuples that nobody needs here
    notification: Notification

    @property
    def campaign(self) -> str:
        """What it is sent for."""
        return self.notification.campaign

    @property
    def apns_id(self) -> str:
        """A UUID of campaign and device: the same however often it is sent."""
        text = f"{self.notification.campaign}\0{self.device or self.token}"
        digest = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
        # version 8 (own scheme), variant of RFC 9562
        return f"{digest[:8]}-{digest[8:12]}-8{digest[13:16]}-a{digest[17:20]}-{digest[20:]}"
