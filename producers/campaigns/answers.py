"""What the API answers: a campaign, its progress, what became of an action at each server."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

State = Literal["created", "running", "paused", "sending", "done", "cancelled", "revoked", "unknown"]
"""``sending``: all users are walked, tasks are left. ``unknown``: no server answers."""
ENDED: frozenset[str] = frozenset({"done", "cancelled", "revoked"})


class Answered(BaseModel):
    """The base of all answers."""

    model_config = ConfigDict(frozen=True)


class ServerFault(Answered):
    """A server that did not do what it was asked for."""

    server: str = Field(examples=["main/10.0.0.2:3301"])
    error: str = Field(examples=["no answer within 2 s"])


class Counts(Answered):
    """How many devices match, as counted now."""

    devices: int = Field(examples=[103_422])
    platforms: dict[str, int] = Field(examples=[{"apns": 51_200, "fcm": 52_222}])
    unanswered: list[ServerFault] = []


class DryRun(Counts):
    """What a campaign would be; nothing was created."""

    payload_bytes: dict[str, dict[str, int]] = Field(examples=[{"apns": {"default": 83}}])
    unknown_zones: list[str] = Field([], description="devices have these zones, which nobody knows")


class PlatformProgress(Answered):
    """What became of one platform's devices. ``waiting``: in tasks, not yet taken; ``in_flight``: taken."""

    platform: str = Field(examples=["apns"])
    sent: int = 0
    refused: int = 0
    waiting: int = 0
    delayed: int = 0
    in_flight: int = 0
    buried: int = 0
    reasons: dict[str, int] = Field({}, examples=[{"Unregistered": 12}])


class ServerProgress(Answered):
    """What one server says; zeros with an ``error`` where it says nothing."""

    server: str
    shard: str
    state: str = "unknown"
    answered: bool = True
    error: str = ""
    walked: int = 0
    matched: int = 0
    queued: int = 0
    done: int = 0
    pending: int = 0
    baton: bool = Field(False, description="whether it walks the users at this moment")


class Wave(Answered):
    """Devices that had to wait for their hours, and when these begin: mostly a moment for each zone."""

    at: datetime
    devices: int
    open: bool = Field(description="whether that moment has come")


class Progress(Answered):
    """How far a campaign is. Counts are devices; each is in exactly one of the sums of ``platforms``."""

    id: str
    state: State
    sampled: datetime
    started: datetime | None = None
    ended: datetime | None = None
    expected: int = Field(description="devices that matched when it was created, or more if more were found")
    walked: int
    matched: int
    queued: int
    done: int = Field(description="sent or refused for good")
    remaining: int
    rate: float | None = Field(description="devices done per second of late; null: not known yet")
    eta_seconds: float | None = None
    reasons: dict[str, int] = Field(description="refused or dropped devices by the gateway's word")
    skipped: dict[str, int] = Field(
        {}, description="users that were walked and not queued", examples=[{"filter": 120, "expired": 3}]
    )
    platforms: list[PlatformProgress]
    servers: list[ServerProgress]
    wave: list[Wave] = Field(description="devices queued for later, by the moment their hours begin")
    unanswered: list[ServerFault] = []


class Campaign(Answered):
    """A campaign as it was created. ``spec`` is what was asked for, with the service's defaults filled in."""

    id: str
    state: State
    created: datetime
    expires: datetime
    expected: dict[str, int]
    spec: dict[str, Any]
    unanswered: list[ServerFault] = []


class Campaigns(Answered):
    """All campaigns, the youngest first."""

    campaigns: list[Campaign]
    unanswered: list[ServerFault] = []


class Outcome(Answered):
    """What became of an action at one server."""

    server: str
    state: str = ""
    answered: bool = True
    error: str = ""


class Acted(Answered):
    """What became of an action. Not ``complete``: some servers did not answer; calling again is safe."""

    id: str
    action: str
    state: State
    complete: bool
    repeated: bool = Field(False, description="it was so already; nothing was done")
    servers: list[Outcome]
    unanswered: list[ServerFault] = []


class Forgotten(Answered):
    """What became of reported tokens. ``kept``: registered again since, or without a moment to compare."""

    forgotten: int
    kept: int
    unanswered: list[ServerFault] = []


class Problem(BaseModel):
    """A fault, by RFC 9457; ``type`` is ``about:blank`` where the status says it all."""

    model_config = ConfigDict(extra="allow")

    type: str = "about:blank"
    title: str
    status: int
    detail: str = ""
