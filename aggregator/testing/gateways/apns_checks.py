"""What APNs finds wrong with a request: path, headers and payload."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

import orjson

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aggregator.testing.gateways.exchange import Request

#: Each reason with its status.
REASONS = {
    "BadCollapseId": 400,
    "BadDeviceToken": 400,
    "BadExpirationDate": 400,
    "BadMessageId": 400,
    "BadPriority": 400,
    "BadTopic": 400,
    "DeviceTokenNotForTopic": 400,
    "DuplicateHeaders": 400,
    "IdleTimeout": 400,
    "InvalidPushType": 400,
    "MissingDeviceToken": 400,
    "MissingTopic": 400,
    "PayloadEmpty": 400,
    "TopicDisallowed": 400,
    "BadCertificate": 403,
    "BadCertificateEnvironment": 403,
    "BadEnvironmentKeyIdInToken": 403,
    "ExpiredProviderToken": 403,
    "Forbidden": 403,
    "InvalidProviderToken": 403,
    "MissingProviderToken": 403,
    "UnrelatedKeyIdInToken": 403,
    "BadPath": 404,
    "MethodNotAllowed": 405,
    "ExpiredToken": 410,
    "Unregistered": 410,
    "PayloadTooLarge": 413,
    "TooManyProviderTokenUpdates": 429,
    "TooManyRequests": 429,
    "InternalServerError": 500,
    "ServiceUnavailable": 503,
    "Shutdown": 503,
}
#: Each push type with what its topic has to end on.
PUSH_TYPES = {
    "alert": "",
    "background": "",
    "complication": ".complication",
    "controls": ".push-type.controls",
    "fileprovider": ".pushkit.fileprovider",
    "liveactivity": ".push-type.liveactivity",
    "location": ".location-query",
    "mdm": "",
    "pushtotalk": ".voip-ptt",
    "voip": ".voip",
    "widgets": ".push-type.widgets",
}
PREFIX = "/3/device/"
_TOKEN = re.compile(r"(?:[0-9a-fA-F]{2}){32,100}")
_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_TOPIC = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_EXPIRATION = re.compile(r"\d{1,19}")
_LONGEST_COLLAPSE_ID = 64
_LONGEST_TOPIC = 255
_LARGEST, _LARGEST_VOIP = 4096, 5120


def of_path(request: Request) -> str:
    """Return the reason to refuse method or path, empty if they are right."""
    path = request.headers[":path"]
    if request.headers[":method"] != "POST":
        return "MethodNotAllowed"
    if path in {PREFIX, PREFIX[:-1]}:
        return "MissingDeviceToken"
    if not path.startswith(PREFIX) or "/" in path[len(PREFIX) :]:
        return "BadPath"
    return ""


def of_headers(request: Request) -> str:
    """Return the reason to refuse the token of the path, or a header by itself."""
    headers = request.headers
    if len(headers) != len(request.pairs) and _repeated(request):
        return "DuplicateHeaders"
    if not _TOKEN.fullmatch(headers[":path"][len(PREFIX) :]):
        return "BadDeviceToken"
    if "apns-id" in headers and not _UUID.fullmatch(headers["apns-id"]):
        return "BadMessageId"
    if "apns-expiration" in headers and not _EXPIRATION.fullmatch(headers["apns-expiration"]):
        return "BadExpirationDate"
    if len(headers.get("apns-collapse-id", "").encode()) > _LONGEST_COLLAPSE_ID:
        return "BadCollapseId"
    return _of_type(headers)


def _of_type(headers: Mapping[str, str]) -> str:
    kind = headers.get("apns-push-type", "alert")
    if kind not in PUSH_TYPES:
        return "InvalidPushType"
    # silent pushes have the lower priorities alone
    allowed = ("1", "5") if kind == "background" else ("1", "5", "10")
    return "" if headers.get("apns-priority", allowed[-1]) in allowed else "BadPriority"


def of_topic(request: Request, topic: str) -> str:
    """Return the reason to refuse the form of a topic, or its not fitting the push type."""
    ending = PUSH_TYPES[request.headers.get("apns-push-type", "alert")]
    if len(topic) > _LONGEST_TOPIC or not _TOPIC.fullmatch(topic) or not topic.endswith(ending):
        return "BadTopic"
    return ""


def app_of(topic: str) -> str:
    """Return the topic of the app itself, without what push types put behind it."""
    for ending in PUSH_TYPES.values():
        if ending and topic.endswith(ending):
            return topic[: -len(ending)]
    return topic


def of_payload(request: Request) -> str:
    """Return the reason to refuse the payload; one that is no JSON object counts as empty."""
    voip = request.headers.get("apns-push-type") == "voip"
    if request.size > (_LARGEST_VOIP if voip else _LARGEST):
        return "PayloadTooLarge"
    try:
        found = orjson.loads(request.body)
    except orjson.JSONDecodeError:
        return "PayloadEmpty"
    return "" if isinstance(found, dict) and found else "PayloadEmpty"


def _repeated(request: Request) -> bool:
    # cookies alone may be split, by the rules of HTTP/2 itself
    counts = Counter(name for name, _ in request.pairs)
    return any(count > 1 for name, count in counts.items() if name != "cookie")
