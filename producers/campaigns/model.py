"""What a campaign is, as the API takes it: checked field by field, with the words that say what is wrong.

All times are ISO 8601 with a zone, hours of the day are a device's own. :mod:`producers.campaigns.answers`
has what goes the other way.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import orjson
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    field_validator,
    model_validator,
)

from producers.campaigns.zones import zone_of

if TYPE_CHECKING:
    from collections.abc import Mapping

Platform = Literal["apns", "fcm"]
PLATFORMS: tuple[Platform, ...] = ("apns", "fcm")
MOST_BYTES = 4096
MOST_VOIP_BYTES = 5120
"""Apple takes more where an app rings."""
_COLLAPSE_BYTES = 64
_PUSH_TYPES = Literal[
    "alert", "background", "location", "voip", "complication", "fileprovider", "mdm", "liveactivity",
    "pushtotalk", "widgets", "controls",
]  # fmt: skip
_TIME = re.compile(r"(?P<hour>[01]?\d|2[0-3]):(?P<minute>[0-5]\d)")
_VERSION = re.compile(r"(\d{1,4})(?:\.(\d{1,3}))?(?:\.(\d{1,3}))?")
_FCM_OWN = frozenset({"token", "topic", "condition"})


def parse_hour(value: Any) -> Any:
    """Return an hour of the day (``"22:00"``, ``22``) as a whole number; ``ValueError`` otherwise."""
    if isinstance(value, int) and not isinstance(value, bool):
        hour, minute = value, 0
    elif isinstance(value, str) and (found := _TIME.fullmatch(value.strip())):
        hour, minute = int(found["hour"]), int(found["minute"])
    else:
        raise ValueError(f"{value!r} is no time of the day; one like 22:00 is needed")
    if not 0 <= hour <= 23:  # noqa: PLR2004 - the day's last hour
        raise ValueError(f"{hour} is no hour of the day; 0 to 23 is needed")
    if minute:
        raise ValueError(f"{value!r} is no full hour; one like 22:00 is needed")
    return hour


def parse_version(value: Any) -> Any:
    """Return an app's version (``"3.2.1"``) as the number that is stored: 3002001."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    if isinstance(value, str) and (found := _VERSION.fullmatch(value.strip())):
        major, minor, patch = (int(part or 0) for part in found.groups())
        return major * 1_000_000 + minor * 1_000 + patch
    raise ValueError(f"{value!r} is no version; one like 3.2.1 is needed")


def parse_expires(value: Any) -> Any:
    """Leave it to the library, but for bare numbers: nobody can tell seconds from milliseconds."""
    if isinstance(value, (str, datetime)):
        return value
    raise ValueError("a moment like 2030-01-31T18:00:00Z is needed")


def _several(value: Any) -> Any:
    return value if isinstance(value, (list, tuple)) else [value]


def _zone(name: str) -> str:
    zone_of(name)
    return name


Hour = Annotated[int, BeforeValidator(parse_hour)]
Version = Annotated[int, BeforeValidator(parse_version)]
Word = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=64)]
Zone = Annotated[str, AfterValidator(_zone)]
CampaignId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]


Value = TypeVar("Value")
OneOrMore = Annotated[tuple[Value, ...], BeforeValidator(_several), Field(min_length=1, max_length=500)]


class Strict(BaseModel):
    """Unknown fields are refused: a filter with a typing error must not reach everyone."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Filter(Strict):
    """Whom it is for; what is not set does not limit."""

    platform: Platform | None = None
    version_from: Version | None = Field(None, description="the lowest app version", examples=["3.2.0"])
    version_to: Version | None = Field(None, description="the highest app version", examples=["4.0.0"])
    language: OneOrMore[Word] | None = Field(
        None, description="one or several; de takes de-AT as well", examples=["de"]
    )
    resolution: OneOrMore[Word] | None = Field(None, examples=["1170x2532"])
    tz: OneOrMore[Zone] | None = Field(
        None, description="devices of these time zones only", examples=[["Europe/Berlin", "Europe/Vienna"]]
    )

    @model_validator(mode="after")
    def _in_order(self) -> Filter:
        if (
            self.version_from is not None
            and self.version_to is not None
            and self.version_from > self.version_to
        ):
            raise ValueError("version_from is above version_to: nobody has both")
        return self


class Quiet(Strict):
    """Nothing is sent between these hours of a device's own clock."""

    from_: Hour = Field(alias="from", examples=["22:00"])
    to: Hour = Field(examples=["08:00"])

    @model_validator(mode="after")
    def _not_all_day(self) -> Quiet:
        if self.from_ == self.to:
            raise ValueError("from and to are the same hour; for no quiet hours say null")
        return self


class Notification(Strict):
    """What devices of one platform and language are sent; the payload goes out as it is."""

    payload: dict[str, Any] = Field(
        examples=[{"aps": {"alert": {"title": "News", "body": "Spring sale: 20 % off"}, "sound": "default"}}]
    )
    collapse_id: Annotated[str, StringConstraints(min_length=1)] | None = None
    priority: Annotated[int, Field(ge=1, le=10)] | None = None
    push_type: _PUSH_TYPES | None = None
    topic: Word | None = None
    ttl: Annotated[int, Field(ge=0, le=28 * 86_400)] | None = Field(
        None, description="seconds for which the gateway keeps it for a device that is off"
    )

    @field_validator("collapse_id")
    @classmethod
    def _short(cls, value: str | None) -> str | None:
        if value is not None and len(value.encode()) > _COLLAPSE_BYTES:
            raise ValueError(f"it has {len(value.encode())} bytes; {_COLLAPSE_BYTES} at most are allowed")
        return value

    @property
    def size(self) -> int:
        """Bytes of the payload as it goes out."""
        return len(orjson.dumps(self.payload))


Variants = Annotated[
    dict[
        Annotated[str, StringConstraints(pattern=r"^(default|[A-Za-z]{2,8}([_-][A-Za-z0-9]{1,8})*)$")],
        Notification,
    ],
    Field(min_length=1),
]


def _payload_fault(platform: str, notification: Notification) -> str | None:
    payload = notification.payload
    if not payload:
        return "it is empty"
    try:
        size = notification.size
    except TypeError as exc:
        return f"it is no JSON: {exc}"
    most = MOST_VOIP_BYTES if platform == "apns" and notification.push_type == "voip" else MOST_BYTES
    if size > most:
        return f"it has {size} bytes as JSON; {platform} takes {most} at most"
    return _fcm_fault(payload) if platform == "fcm" else None


def _fcm_fault(payload: Mapping[str, Any]) -> str | None:
    if own := _FCM_OWN & payload.keys():
        return f"{min(own)!r} is set for each device; remove it"
    data = payload.get("data", {})
    if not isinstance(data, dict) or any(not isinstance(value, str) for value in data.values()):
        return "the values of data have to be strings"
    return None


class CampaignSpec(Strict):
    """What to send, to whom and when. Only ``notifications`` is needed."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        json_schema_extra={
            "examples": [
                {
                    "id": "spring-sale",
                    "notifications": {
                        "apns": {
                            "default": {"payload": {"aps": {"alert": "Spring sale"}}, "collapse_id": "sale"}
                        },
                        "fcm": {"default": {"payload": {"notification": {"title": "Spring sale"}}}},
                    },
                    "filter": {"version_from": "3.0.0", "language": "en"},
                    "quiet": {"from": "22:00", "to": "08:00"},
                    "rate": 5000,
                    "expires": "2030-03-21T20:00:00Z",
                }
            ]
        },
    )

    id: CampaignId | None = Field(
        None,
        description="letters, digits, - _ and .; left out, it is made of the Idempotency-Key or up",
    )
    app: Word | None = Field(None, description="whose keys are used, where the sending side has several apps")
    notifications: dict[Platform, Variants] = Field(
        min_length=1,
        description="by platform, then by language, default for the others; platforms not named get nothing",
    )
    filter: Filter = Filter()
    quiet: Quiet | None = Field(
        None, description="null: at any hour. Left out: the service's own quiet hours"
    )
    use_preferred_hours: bool = Field(False, description="only in the hours that each user has chosen")
    rate: Annotated[float, Field(gt=0, le=10_000_000)] | None = Field(
        None, description="pushes a second over all servers; null: as fast as it goes"
    )
    expires: Annotated[AwareDatetime, BeforeValidator(parse_expires)] | None = Field(
        None, description="nothing is sent after it; left out: the service's own span from now on"
    )
    batch: Annotated[int, Field(ge=100, le=100_000)] = Field(10_000, description="users read at a time")
    dry_run: bool = Field(False, description="walk all users and count, send nothing")
    allow_empty: bool = Field(False, description="create it even if nobody matches now")

    @model_validator(mode="after")
    def _payloads(self) -> CampaignSpec:
        for platform, variants in self.notifications.items():
            if "default" not in variants:
                raise ValueError(
                    f"notifications.{platform}: default is missing; it is for all other languages"
                )
            for name, each in variants.items():
                if fault := _payload_fault(platform, each):
                    raise ValueError(f"notifications.{platform}.{name}.payload: {fault}")
                if platform == "apns" and each.priority not in {None, 1, 5, 10}:
                    raise ValueError(f"notifications.apns.{name}.priority: 10, 5 or 1 is needed")
        wanted = self.filter.platform
        if wanted is not None and wanted not in self.notifications:
            raise ValueError(f"filter.platform is {wanted}, but notifications has nothing for it")
        return self

    def differences(self, other: CampaignSpec) -> list[str]:
        """Return the names of the fields in which two campaigns differ, but for the id."""
        mine, theirs = self.model_dump(mode="json"), other.model_dump(mode="json")
        # left out, they are the service's own, which is not the same as null
        left_out = {"quiet", "expires"} & (self.model_fields_set ^ other.model_fields_set)
        return sorted(
            name for name in mine if name != "id" and (mine[name] != theirs[name] or name in left_out)
        )


class DeadToken(Strict):
    """A device that a gateway refused for good, as the sending side reports it."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    token: Annotated[str, StringConstraints(min_length=1, max_length=4096)]
    device: str | int
    platform: Platform
    app: str = ""
    reason: str = Field(examples=["Unregistered"])
    unregistered_at: float | None = Field(
        description="unix seconds at which the gateway saw it gone; null: it did not say",
        examples=[1_900_000_000.0],
    )


def moment(seconds: float) -> datetime:
    """Return unix seconds as a moment in UTC, to the second."""
    return datetime.fromtimestamp(int(seconds), UTC)
