"""What FCM's errors mean: whom each concerns, and whether its token is dead."""

from __future__ import annotations

from enum import Enum
from http import HTTPStatus
from typing import Any

import orjson

from aggregator.sinks.base import Fate
from aggregator.sinks.push_verdicts import Meaning, Meanings

_FCM_ERROR = "type.googleapis.com/google.firebase.fcm.v1.FcmError"


class Concern(Enum):
    """Whom an error concerns."""

    DEVICE = "device"
    NOTIFICATION = "notification"
    TOKEN = "access token"  # noqa: S105 - a name
    """Everything, if a new access token does not help."""
    EVERYTHING = "everything"
    BUSY = "busy"
    """This push, for now; everything, if most come with Retry-After."""
    QUOTA = "quota"
    """This push, for a minute at least: the device's quota. Everything, if most say so: the project's."""


#: FCM's own codes, and Google's words where FCM has none.
REASONS: dict[str, Meaning[Concern]] = {
    # the message, or a malformed token: never a reason to delete one
    "INVALID_ARGUMENT": Meaning(Concern.NOTIFICATION),
    "INVALID_TOKEN": Meaning(Concern.DEVICE),  # ours: the field at fault is the token
    "UNREGISTERED": Meaning(Concern.DEVICE, dead=True),
    # the token lives, but belongs to another project
    "SENDER_ID_MISMATCH": Meaning(Concern.DEVICE),
    "THIRD_PARTY_AUTH_ERROR": Meaning(Concern.EVERYTHING),
    "QUOTA_EXCEEDED": Meaning(Concern.QUOTA),
    "INTERNAL": Meaning(Concern.BUSY),
    "UNAVAILABLE": Meaning(Concern.BUSY),
    "UNAUTHENTICATED": Meaning(Concern.TOKEN),
    "PERMISSION_DENIED": Meaning(Concern.EVERYTHING),
    "NOT_FOUND": Meaning(Concern.EVERYTHING),
    "RESOURCE_EXHAUSTED": Meaning(Concern.QUOTA),
    "DEADLINE_EXCEEDED": Meaning(Concern.BUSY),
}
#: For errors that are new, or that no JSON tells.
STATUSES: dict[int, Meaning[Concern]] = {
    HTTPStatus.BAD_REQUEST: Meaning(Concern.NOTIFICATION),
    HTTPStatus.UNAUTHORIZED: Meaning(Concern.TOKEN),
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: Meaning(Concern.NOTIFICATION),
    HTTPStatus.TOO_MANY_REQUESTS: Meaning(Concern.QUOTA),
}
FATES = {
    Concern.DEVICE: Fate.REFUSED,
    Concern.NOTIFICATION: Fate.DEAD_LETTER,
    Concern.EVERYTHING: Fate.BLOCKED,
    Concern.TOKEN: Fate.BLOCKED,
    Concern.BUSY: Fate.RETRY,
    Concern.QUOTA: Fate.RETRY,
}
meaning = Meanings(REASONS, STATUSES, busy=Meaning(Concern.BUSY), foreign=Meaning(Concern.EVERYTHING)).find


def reason_of(body: bytes, status: int) -> tuple[str, str]:
    """Return the word of an error's body and a sentence, which names a field but never a value."""
    try:
        error = orjson.loads(body)["error"]
        details = [detail for detail in error.get("details", ()) if isinstance(detail, dict)]
    except (orjson.JSONDecodeError, LookupError, TypeError, AttributeError):
        return f"http-{status}", ""
    fields = _fields(details)
    if "message.token" in fields:
        return "INVALID_TOKEN", "message.token is malformed"
    codes = [detail.get("errorCode") for detail in details if detail.get("@type") == _FCM_ERROR]
    word = codes[0] if codes else error.get("status")
    if not isinstance(word, str) or not word.replace("_", "").isalpha() or len(word) > 50:  # noqa: PLR2004
        word = f"http-{status}"
    return word, f"at {', '.join(fields)[:200]}" if fields else ""


def _fields(details: list[dict[str, Any]]) -> list[str]:
    found = [
        one for detail in details for one in detail.get("fieldViolations") or () if isinstance(one, dict)
    ]
    return [name for one in found if isinstance(name := one.get("field"), str) and name.isprintable()]
