"""Messages that are published by the clock: ``[periodic.NAME]`` of a file, and the moments they come at.

Of two publishers that do not know of one another each message has the same id, so that a store with ids
keeps one of them. Who publishes is :mod:`consumers.periodic`'s.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Self

import orjson
from pydantic import BeforeValidator, Field, model_validator

from aggregator.option_types import Crontab, Name, Text, Unset, Zone, option
from aggregator.schedule import crontab
from aggregator.topology import Arguments, Entity, ExchangeName
from aggregator.units import Duration  # noqa: TC001 - settings look at the types of their fields

if TYPE_CHECKING:
    from collections.abc import Callable

#: Headers of what was published by the clock: the table's name, and the moment in ISO 8601.
NAME_HEADER = "x-aggregator-periodic"
MOMENT_HEADER = "x-aggregator-at"
_PERSISTENT = 2


def _body(value: Any) -> Any:
    """Take a text as it stands; a table or a list is JSON."""
    return value if value is None or isinstance(value, str) else orjson.dumps(value)


class Periodic(Entity):
    """Periodic messages, `[periodic.NAME]`"""

    name: str = Field(exclude=True)
    crontab: Annotated[Crontab | None, Unset] = option(
        None, "the moments: '0 3 * * *'; this or interval is needed", "CRONTAB", unset="off"
    )
    interval: Annotated[Duration | None, Unset] = option(
        None, "or whenever the wall clock passes a multiple of this (15m: each quarter of an hour)",
        "DURATION", unset="off", ge=1,
    )  # fmt: skip
    time_zone: Zone = option("UTC", "whose calendar crontab follows", "ZONE")
    queue: Annotated[Name | None, Unset] = option(
        None, "the queue that they go to; this or exchange is needed", "NAME", unset="none"
    )
    exchange: Annotated[ExchangeName | None, Unset] = option(
        None, "or the exchange", "NAME", unset="the default exchange"
    )
    routing_key: str = option("", "for an exchange", "KEY")
    body: Annotated[str | bytes | None, BeforeValidator(_body)] = option(
        None,
        "a text, or a table or list that becomes JSON",
        "VALUE",
        unset='{"periodic": NAME, "at": MOMENT}',
    )
    content_type: Annotated[Text | None, Unset] = option(
        None, "what the body is", "TYPE", unset="application/json; text/plain for a text"
    )
    type: Annotated[Text | None, Unset] = option(
        None, "the property type: sentinel, say", "TEXT", unset="none"
    )
    correlation_id: Annotated[Text | None, Unset] = option(
        None, "the property of this name", "TEXT", unset="none"
    )
    headers: Arguments | None = option(None, "headers of the message", "{NAME = VALUE}", unset="none")
    expiration: Annotated[Duration | None, Unset] = option(
        None, "waited so long in a queue, the broker drops it", "DURATION", unset="off", gt=0
    )
    catch_up: Duration = option(
        "1h", "the last moment that nobody was there for is made up for if it was no longer ago; 1m at least",
        "DURATION", ge=60,
    )  # fmt: skip

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.crontab is None) == (self.interval is None):
            raise ValueError("crontab or interval is needed, one of them")
        if (self.queue is None) == (self.exchange is None):
            raise ValueError("queue or exchange is needed, one of them")
        if self.queue is not None and self.routing_key:
            raise ValueError("routing_key goes with exchange; a queue is reached by its name")
        return self

    def shown(self) -> str:
        """Return when and where to, for people."""
        when = f"crontab {self.crontab} ({self.time_zone})" if self.crontab else f"every {self.interval:g} s"
        keyed = f" by {self.routing_key!r}" if self.routing_key else ""
        return f"{when} to " + (
            f"queue {self.queue!r}" if self.queue else f"exchange {self.exchange!r}{keyed}"
        )


@dataclass(frozen=True, slots=True)
class Message:
    """What is published at one moment; ``properties`` by AMQP's names."""

    exchange: str
    routing_key: str
    body: bytes
    properties: dict[str, Any]


class Timetable:
    """The moments of one table, in seconds since 1970, and the message of each."""

    def __init__(self, periodic: Periodic) -> None:
        self.periodic = periodic
        self.next_after = _moments(periodic)

    def due(self, last: float, now: float) -> float | None:
        """Return the last moment up to ``now`` that came after ``last`` and can be made up for still."""
        found, moment = None, self.next_after(max(last, now - self.periodic.catch_up))
        while moment <= now:
            found, moment = moment, self.next_after(moment)
        return found

    def message(self, moment: float) -> Message:
        """Return the message of a moment: the same whoever makes it, and whenever."""
        periodic = self.periodic
        at = datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        body, text = periodic.body, isinstance(periodic.body, str)
        if body is None:
            body = orjson.dumps({"periodic": periodic.name, "at": at})
        properties = {
            "message_id": f"{periodic.name}@{at}",
            "timestamp": int(moment),
            "delivery_mode": _PERSISTENT,
            "content_type": periodic.content_type or ("text/plain" if text else "application/json"),
            "headers": {**(periodic.headers or {}), NAME_HEADER: periodic.name, MOMENT_HEADER: at},
        }
        for name in ("type", "correlation_id"):
            if (value := getattr(periodic, name)) is not None:
                properties[name] = value
        if periodic.expiration is not None:
            properties["expiration"] = str(round(periodic.expiration * 1000))
        return Message(
            periodic.exchange or "",
            periodic.queue or periodic.routing_key,
            body.encode() if isinstance(body, str) else body,
            properties,
        )


def _moments(periodic: Periodic) -> Callable[[float], float]:
    if periodic.crontab is not None:
        return crontab(periodic.crontab, periodic.time_zone)
    step = periodic.interval or 1.0

    def next_after(wall: float) -> float:
        number = wall // step + 1
        while number * step <= wall:  # of fractions of a second the quotient may be one too few
            number += 1
        return number * step

    return next_after
