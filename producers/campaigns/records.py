"""A campaign as the servers keep it: made of what was asked for, and read back."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import orjson

from producers.campaigns.model import CampaignSpec, Quiet, moment

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Record:
    """One campaign. ``stored`` is what the servers are given; ``request`` is what was asked for."""

    id: str
    stored: Mapping[str, Any]
    request: CampaignSpec

    @property
    def created(self) -> float:
        """Unix seconds."""
        return float(self.stored["created"])

    @property
    def expires(self) -> float:
        """Unix seconds."""
        return float(self.stored["expires"])

    @property
    def expected(self) -> dict[str, int]:
        """Devices that matched when it was created, by platform."""
        expected = self.stored.get("expected")
        return {str(k): int(v) for k, v in expected.items()} if isinstance(expected, dict) else {}

    @property
    def key(self) -> str:
        """The digest of the key that it was created with; empty if there was none."""
        return str(self.stored.get("key") or "")

    def shown(self) -> dict[str, Any]:
        """Return the spec for people: what was asked for, with the defaults filled in."""
        spec = self.request.model_dump(mode="json", exclude={"id", "allow_empty"})
        quiet = self.stored.get("quiet")
        spec["quiet"] = {name: f"{int(quiet[name]):02}:00" for name in ("from", "to")} if quiet else None
        spec["expires"] = moment(self.expires).isoformat()
        return spec


def identify(spec: CampaignSpec, key: str | None) -> str:
    """Return the campaign's id: its own, one made of the key (the same for the same key), or a new one."""
    if spec.id is not None:
        return spec.id
    return f"c-{digest(key)}" if key else f"c-{uuid4().hex[:16]}"


def digest(key: str) -> str:
    """Return a short digest of an idempotency key."""
    return blake2b(key.encode(), digest_size=8).hexdigest()


def make(
    id: str,  # noqa: A002 - the field's name
    spec: CampaignSpec,
    *,
    key: str | None,
    now: float,
    span: float,
    quiet: Quiet | None,
    servers: int,
    expected: Mapping[str, int],
) -> Record:
    """Return the record of a new campaign; ``servers`` share its rate evenly."""
    hours = spec.quiet if "quiet" in spec.model_fields_set else quiet
    stored: dict[str, Any] = {
        "notifications": {
            platform: {
                name: each.model_dump(mode="json", exclude_none=True) for name, each in variants.items()
            }
            for platform, variants in spec.notifications.items()
        },
        "filter": filter_of(spec),
        "use_preferred_hours": spec.use_preferred_hours,
        "expires": int(spec.expires.timestamp() if spec.expires else now + span),
        "batch": spec.batch,
        "dry_run": spec.dry_run,
        "created": int(now),
        "expected": dict(expected),
        "request": spec.model_dump_json(by_alias=True, exclude_unset=True, exclude={"id"}),
    }
    if hours is not None:
        stored["quiet"] = {"from": hours.from_, "to": hours.to}
    if spec.rate is not None:
        stored["rate"] = spec.rate / max(servers, 1)
    if spec.app is not None:
        stored["app"] = spec.app
    if key:
        stored["key"] = digest(key)
    return Record(id, stored, spec)


def read(id: str, stored: Mapping[str, Any]) -> Record:  # noqa: A002 - the field's name
    """Return the record that a server keeps."""
    return Record(id, stored, CampaignSpec.model_validate(orjson.loads(stored["request"])))


def filter_of(spec: CampaignSpec) -> dict[str, Any]:
    """Return the filter for the servers; a platform that nothing is said for is left out."""
    chosen = spec.filter.model_dump(mode="json", exclude_none=True)
    if len(spec.notifications) == 1:
        chosen["platform"] = next(iter(spec.notifications))
    return chosen
