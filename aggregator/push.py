"""What is pushed, and to whom: one notification for many devices, one address for each of them."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b


@dataclass(frozen=True, slots=True, kw_only=True)
class Notification:
    """What all devices of one message are sent; one object for all of them.

    ``payload``: a JSON object in UTF-8, sent as it is. ``expiration``: unix seconds after which a gateway
    gives up, 0 to try once; ``priority``: the gateway's own number. Empty or None: not set.
    """

    payload: bytes
    campaign: str = ""
    topic: str = ""
    collapse_id: str = ""
    push_type: str = ""
    priority: int | None = None
    expiration: int | None = None


@dataclass(frozen=True, slots=True)
class Address:
    """One device. ``platform``: ``apns`` or ``fcm``; ``app``: whose keys are used, empty for the only one.

    ``registered``: unix seconds at which the token was got, 0 if unknown. ``index``: its place among the
    recipients of its message.
    """

    token: str
    device: str
    platform: str
    app: str
    registered: float
    index: int
    notification: Notification

    @property
    def apns_id(self) -> str:
        """A UUID of campaign and device: the same however often it is sent."""
        text = f"{self.notification.campaign}\0{self.device or self.token}"
        digest = blake2b(text.encode(), digest_size=16).hexdigest()
        # version 8 (own scheme), variant of RFC 9562
        return f"{digest[:8]}-{digest[8:12]}-8{digest[13:16]}-a{digest[17:20]}-{digest[20:]}"
