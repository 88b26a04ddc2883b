"""What APNs' reasons mean: whom each concerns, and whether its token is dead.

What concerns everything pauses the route, one device is refused, one notification is dead-lettered.
"""

from __future__ import annotations

from enum import Enum
from http import HTTPStatus

from aggregator.sinks.base import Fate
from aggregator.sinks.push_verdicts import Meaning, Meanings


class Concern(Enum):
    """Whom a reason concerns."""

    DEVICE = "device"
    NOTIFICATION = "notification"
    TOPIC = "topic"
    """The notification, if it brought its topic; else everything."""
    TOKEN = "provider token"  # noqa: S105 - a name
    """Everything, if a new provider token does not help."""
    EVERYTHING = "everything"
    BUSY = "busy"
    """This push, for now; everything, if most come with Retry-After."""
    THROTTLED = "throttled"
    """Everything, for now."""


_DEVICE, _NOTIFICATION = Meaning(Concern.DEVICE), Meaning(Concern.NOTIFICATION)
_DEAD, _TOPIC, _TOKEN = Meaning(Concern.DEVICE, dead=True), Meaning(Concern.TOPIC), Meaning(Concern.TOKEN)
_EVERYTHING, _BUSY, _THROTTLED = (
    Meaning(Concern.EVERYTHING),
    Meaning(Concern.BUSY),
    Meaning(Concern.THROTTLED),
)

#: All reasons that Apple documents.
REASONS: dict[str, Meaning[Concern]] = {
    "BadCollapseId": _NOTIFICATION,
    "BadDeviceToken": _DEAD,
    "BadExpirationDate": _NOTIFICATION,
    "BadMessageId": _NOTIFICATION,
    "BadPriority": _NOTIFICATION,
    "BadTopic": _TOPIC,
    # the token lives, but belongs to another app: not reported
    "DeviceTokenNotForTopic": _DEVICE,
    "DuplicateHeaders": _NOTIFICATION,
    "IdleTimeout": _BUSY,
    "InvalidPushType": _NOTIFICATION,
    "MissingDeviceToken": _DEVICE,
    "MissingTopic": _TOPIC,
    "PayloadEmpty": _NOTIFICATION,
    "TopicDisallowed": _TOPIC,
    "BadCertificate": _EVERYTHING,
    "BadCertificateEnvironment": _EVERYTHING,
    "BadEnvironmentKeyIdInToken": _EVERYTHING,
    "ExpiredProviderToken": _TOKEN,
    "Forbidden": _EVERYTHING,
    "InvalidProviderToken": _TOKEN,
    "MissingProviderToken": _TOKEN,
    "UnrelatedKeyIdInToken": _EVERYTHING,
    "BadPath": _EVERYTHING,
    "MethodNotAllowed": _EVERYTHING,
    "ExpiredToken": _DEAD,
    "Unregistered": _DEAD,
    "PayloadTooLarge": _NOTIFICATION,
    "TooManyProviderTokenUpdates": _THROTTLED,
    "TooManyRequests": _BUSY,
    "InternalServerError": _BUSY,
    "ServiceUnavailable": _BUSY,
    "Shutdown": _BUSY,
}
#: For reasons that are new, or missing.
STATUSES: dict[int, Meaning[Concern]] = {
    HTTPStatus.BAD_REQUEST: _NOTIFICATION,
    HTTPStatus.GONE: _DEVICE,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: _NOTIFICATION,
    HTTPStatus.TOO_MANY_REQUESTS: _BUSY,
}
FATES = {
    Concern.DEVICE: Fate.REFUSED,
    Concern.NOTIFICATION: Fate.DEAD_LETTER,
    Concern.EVERYTHING: Fate.BLOCKED,
    Concern.BUSY: Fate.RETRY,
    Concern.THROTTLED: Fate.RETRY,
}
meaning = Meanings(REASONS, STATUSES, busy=_BUSY, foreign=_EVERYTHING).find
