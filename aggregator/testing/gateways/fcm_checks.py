"""What FCM finds wrong with a message, and how it tells so."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import orjson

_FCM_ERROR = "type.googleapis.com/google.firebase.fcm.v1.FcmError"
_BAD_REQUEST = "type.googleapis.com/google.rpc.BadRequest"
#: Each reason with its status, Google's own word for that and the text. Those of FCM itself stand in
#: the details as ``errorCode``, the others do not.
KNOWN = {
    "INVALID_ARGUMENT": (400, "INVALID_ARGUMENT", "Request contains an invalid argument."),
    "THIRD_PARTY_AUTH_ERROR": (401, "UNAUTHENTICATED", "Auth error from APNS or Web Push Service"),
    "SENDER_ID_MISMATCH": (403, "PERMISSION_DENIED", "SenderId mismatch"),
    "UNREGISTERED": (404, "NOT_FOUND", "Requested entity was not found."),
    "QUOTA_EXCEEDED": (429, "RESOURCE_EXHAUSTED", "Quota exceeded for quota metric 'All requests'."),
    "INTERNAL": (500, "INTERNAL", "Internal error encountered."),
    "UNAVAILABLE": (503, "UNAVAILABLE", "The service is currently unavailable."),
}
OTHER = {
    "UNAUTHENTICATED": (
        401,
        "UNAUTHENTICATED",
        (
            "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or "
            "other valid authentication credential."
        ),
    ),
    "PERMISSION_DENIED": (
        403,
        "PERMISSION_DENIED",
        "Permission 'cloudmessaging.messages.create' denied on resource of this project.",
    ),
    "BAD_GATEWAY": (502, "", ""),
}
REASONS = {reason: told[0] for reason, told in (KNOWN | OTHER).items()}
_TARGETS = ("token", "topic", "condition")
_MESSAGE = {"name", "data", "notification", "android", "webpush", "apns", "fcm_options", *_TARGETS}
_ANDROID = {
    "collapse_key",
    "priority",
    "ttl",
    "restricted_package_name",
    "data",
    "notification",
    "fcm_options",
    "direct_boot_ok",
    "bandwidth_constrained_ok",
    "restricted_satellite_ok",
}
_TOKEN = re.compile(r"[A-Za-z0-9_:.-]{1,4096}")
_TTL = re.compile(r"(\d+)(?:\.\d{1,9})?s")
_RESERVED = re.compile(r"(?:google|gcm).*|from|message_type")
_LONGEST_TTL = 2_419_200  # four weeks
_LARGEST, _LARGEST_TO_TOPIC = 4096, 2048


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with a message: where (``field``, ``violation``), if told; ``code``: FCM's own."""

    message: str
    field: str = ""
    violation: str = ""
    code: str = ""


@dataclass(frozen=True, slots=True)
class Message:
    """A message that is right, or the ``fault`` found first; ``token`` as far as it could be read."""

    token: str
    fault: Fault | None
    validate_only: bool


def read(body: bytes) -> Message:
    """Return what a request's body says."""
    try:
        request = orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        return Message("", Fault(f"Invalid JSON payload received. {exc}"), validate_only=False)
    if not isinstance(request, dict):
        return Message("", Fault("Invalid JSON payload received. Not an object."), validate_only=False)
    message = request.get("message")
    token = message.get("token", "") if isinstance(message, dict) else ""
    validate_only = request.get("validate_only", request.get("validateOnly", False))
    fault = _unknown("", request, {"message", "validate_only", "validateOnly"})
    if fault is None and not isinstance(validate_only, bool):
        fault = _wrong("validate_only", "TYPE_BOOL", validate_only)
    fault = fault or _of_message(message)
    return Message(token if isinstance(token, str) else "", fault, validate_only=bool(validate_only))


def body_of(reason: str, fault: Fault | None = None) -> bytes:
    """Return an error's body; a gateway's own trouble is told in HTML."""
    if reason == "BAD_GATEWAY":
        return b"<!DOCTYPE html>\n<html lang=en><title>Error 502 (Server Error)!!1</title></html>\n"
    code, status, text = (KNOWN | OTHER)[reason]
    error: dict[str, Any] = {"code": code, "message": fault.message if fault else text, "status": status}
    details: list[dict[str, Any]] = []
    if own := fault.code if fault else reason if reason in KNOWN else "":
        details.append({"@type": _FCM_ERROR, "errorCode": own})
    if fault and fault.field:
        violation = {"field": fault.field, "description": fault.violation or fault.message}
        details.append({"@type": _BAD_REQUEST, "fieldViolations": [violation]})
    return orjson.dumps({"error": error | ({"details": details} if details else {})})


def _of_message(message: Any) -> Fault | None:
    if not isinstance(message, dict):
        return Fault(
            "Recipient of the message is not set.", "message", "Recipient of the message is not set.", _OWN
        )
    return (
        _unknown("message", message, _MESSAGE)
        or _of_data("message.data", message.get("data", {}))
        or _of_android(message.get("android", {}))
        or _of_target(message)
        or _of_size(message)
    )


_OWN = "INVALID_ARGUMENT"


def _of_target(message: dict[str, Any]) -> Fault | None:
    given = [name for name in _TARGETS if message.get(name)]
    if not given:
        text = "Recipient of the message is not set."
        return Fault(text, "message", text, _OWN)
    if len(given) > 1:
        return Fault("Exactly one of token, topic or condition is required", code=_OWN)
    token = message.get("token", "")
    if "token" in given and (not isinstance(token, str) or not _TOKEN.fullmatch(token)):
        text = "The registration token is not a valid FCM registration token"
        return Fault(text, "message.token", "Invalid registration token", _OWN)
    return None


def _of_data(place: str, data: Any) -> Fault | None:
    if not isinstance(data, dict):
        return _wrong(place, "MAP", data)
    for index, (name, value) in enumerate(data.items()):
        if not isinstance(value, str):
            return _wrong(f"{place}[{index}].value", "TYPE_STRING", value)
        if _RESERVED.fullmatch(name):
            return Fault(
                f"Invalid data payload key: {name}", place, f"Invalid data payload key: {name}", _OWN
            )
    return None


def _of_android(android: Any) -> Fault | None:
    if not isinstance(android, dict):
        return _wrong("message.android", "MESSAGE", android)
    if fault := _unknown("message.android", android, _ANDROID):
        return fault
    if "ttl" in android:
        ttl = android["ttl"]
        found = _TTL.fullmatch(ttl) if isinstance(ttl, str) else None
        if not found:
            return _wrong("message.android.ttl", "type.googleapis.com/google.protobuf.Duration", ttl)
        if int(found[1]) > _LONGEST_TTL:
            return Fault("Invalid TTL", "message.android.ttl", "TTL must be within four weeks", _OWN)
    if str(android.get("priority", "high")).lower() not in {"high", "normal"}:
        kind = "type.googleapis.com/google.firebase.fcm.v1.AndroidMessagePriority"
        return _wrong("message.android.priority", kind, android["priority"])
    return _of_data("message.android.data", android.get("data", {}))


def _of_size(message: dict[str, Any]) -> Fault | None:
    """Count the payload: keys and values of the notification and the data."""
    size = sum(_length(message.get(name, {})) for name in ("notification", "data"))
    size += sum(_length(message.get("android", {}).get(name, {})) for name in ("notification", "data"))
    if size > (_LARGEST if message.get("token") else _LARGEST_TO_TOPIC):
        return Fault("Android message is too big", code=_OWN)
    return None


def _length(value: Any) -> int:
    if isinstance(value, dict):
        return sum(len(name.encode()) + _length(one) for name, one in value.items())
    if isinstance(value, list):
        return sum(_length(one) for one in value)
    return len(str(value).encode())


def _unknown(place: str, given: dict[str, Any], known: set[str]) -> Fault | None:
    for name in given:
        if _snake(name) not in known and name not in known:
            where = f" at '{place}'" if place else ""
            text = f'Invalid JSON payload received. Unknown name "{name}"{where}: Cannot find field.'
            return Fault(text, place, text)
    return None


def _wrong(place: str, kind: str, value: Any) -> Fault:
    text = f"Invalid value at '{place}' ({kind}), {orjson.dumps(value).decode()}"
    return Fault(text, place, text)


def _snake(name: str) -> str:
    return re.sub(r"([A-Z])", lambda found: "_" + found[1].lower(), name)
