"""``aggregate = "push:templates.toml"``: the events of a group become one notification for each type.

An event is a JSON object of the sender's own fields; the file says where its type, its language and
the devices of its user stand (:mod:`aggregator.templates`). Language and devices are the last event's.

Devices are a list of ``{"platform": "apns", "token": …, "device": …, "app": …, "registered": …}``, of
which the last three may be missing. A function for them is called with the group's key and the last
event, and returns such a list; it runs on flush threads, several at once, and bounds its own time.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from aggregator.clock import SYSTEM_CLOCK
from aggregator.errors import MessageRefusedError
from aggregator.made import Made, Part
from aggregator.merging import group_ids, read_object
from aggregator.push import Address, Notification
from aggregator.push_message import PLATFORMS, fault_of
from aggregator.reading import Reading
from aggregator.request import Final
from aggregator.sinks.base import Fate, Verdict
from aggregator.templates import Templates

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from aggregator.clock import Clock
    from aggregator.delivery import Delivery
    from aggregator.templates import Template, Text

#: Its user has no device: there is nothing to send, and nothing to look into.
NO_DEVICE = Verdict(Fate.REFUSED, "no-device")


class _Event(NamedTuple):
    delivery: Delivery
    document: dict[str, Any]


@dataclass(frozen=True, slots=True)
class PushEvents(Reading):
    """Makes notifications of events. Raises ``ConfigurationError`` (``aggregate``) for a wrong file."""

    path: Path = field(kw_only=False)
    clock: Clock = SYSTEM_CLOCK
    _templates: Templates = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_templates", Templates(self.path))  # frozen for everybody else

    def make(self, key: str | None, deliveries: Sequence[Delivery], max_bytes: int) -> Made:  # noqa: ARG002
        """Return a notification for each type among the events, and each device of the last one's user."""
        work = self.read(key, deliveries)
        final: list[Final] = []
        by_type: dict[str, list[_Event]] = {}
        for delivery, document in work.members:
            try:
                event = _Event(delivery, read_object(document))
                by_type.setdefault(self._templates.type_of(event.document), []).append(event)
            except MessageRefusedError as exc:
                work.refuse([delivery], exc.with_traceback(None))
        for kind, events in by_type.items():
            members = work.with_copies([event.delivery for event in events])
            work.repeats += len(members) - len(events)
            try:
                parts = self._notify(key, kind, events, members)
            except MessageRefusedError as exc:
                work.refused += ((delivery, exc.with_traceback(None)) for delivery in members)
                continue
            work.parts += parts
            if not parts:
                final += (Final(delivery, NO_DEVICE) for delivery in members)
        return work.made()._replace(final=final)

    def _notify(
        self, key: str | None, kind: str, events: Sequence[_Event], members: Sequence[Delivery]
    ) -> list[Part]:
        """Return the parts for all devices; none if there is no device."""
        last = events[-1].document
        devices = [_device(device) for device in self._devices(key, last)]
        if not devices:
            return []
        text = self._templates.render(kind, self._templates.language_of(last), len(events), last)
        template = self._templates.types[kind]
        name = group_ids(self.route, key, members, [kind.encode()])[0]
        given = all(delivery.fingerprint for delivery in members)
        notifications: dict[str, Notification] = {}
        parts = []
        for index, (platform, app, device, token, registered) in enumerate(devices):
            if (notification := notifications.get(platform)) is None:
                payload = PAYLOADS[platform](kind, template, text, len(events))
                notification = notifications[platform] = self._notification(template, name, payload)
            address = Address(token, device, platform, app, registered, index, notification)
            own = f"{name}/{device or token}"
            fingerprint = (hash(own) or 1) if given else 0
            parts.append(Part(own, notification.payload, members, fingerprint, len(devices), address))
        return parts

    def _devices(self, key: str | None, event: dict[str, Any]) -> list[Any]:
        problem = ""
        try:
            devices = self._templates.devices_of(key, event)
        except MessageRefusedError:
            raise
        except (Exception, SystemExit) as exc:  # noqa: BLE001 - the user's own function; its words may hold the event
            problem = f"the function for devices raised {type(exc).__qualname__}"
        if problem:
            raise MessageRefusedError("aggregation-failed", problem)
        if devices is None:
            return []
        if not isinstance(devices, list | tuple):
            raise MessageRefusedError("bad-push", "devices are no list")
        return list(devices)

    def _notification(self, template: Template, name: str, payload: dict[str, Any]) -> Notification:
        return Notification(
            payload=orjson.dumps(payload),
            campaign=name,
            topic=template.topic,
            collapse_id=template.collapse_id,
            push_type=template.push_type,
            priority=template.priority,
            expiration=None if template.ttl is None else int(self.clock.time() + template.ttl),
        )


def _device(given: Any) -> tuple[str, str, str, str, float]:
    """Return platform, app, device, token and when it was registered. Raises ``MessageRefusedError``."""
    if not isinstance(given, dict):
        raise MessageRefusedError("bad-push", "a device is no object")
    platform, app, device = given.get("platform"), given.get("app", ""), given.get("device", "")
    token, registered = given.get("token"), given.get("registered") or 0
    fault = "" if platform in PLATFORMS else f"has a platform that is none of {', '.join(PLATFORMS)}"
    fault = fault or ("" if isinstance(app, str) else "has an app that is no text")
    fault = fault or fault_of([device, token, registered])
    if fault or not isinstance(token, str):
        raise MessageRefusedError("bad-push", f"a device {fault}")
    return str(platform), app, str(device), token, registered


def _apns(kind: str, template: Template, text: Text, count: int) -> dict[str, Any]:
    alert = {"title": text.title} if text.title else {}
    aps: dict[str, Any] = {"alert": {**alert, "body": text.body}}
    if template.badge:
        aps["badge"] = count
    if template.sound:
        aps["sound"] = template.sound
    return {"aps": aps, "type": kind, "count": count}


def _fcm(kind: str, template: Template, text: Text, count: int) -> dict[str, Any]:
    title = {"title": text.title} if text.title else {}
    message: dict[str, Any] = {
        "notification": {**title, "body": text.body},
        "data": {"type": kind, "count": str(count)},  # of FCM's data all values are texts
    }
    if template.sound:
        message["android"] = {"notification": {"sound": template.sound}}
    return message


#: What is sent, by platform.
PAYLOADS: dict[str, Callable[[str, Template, Text, int], dict[str, Any]]] = {"apns": _apns, "fcm": _fcm}
