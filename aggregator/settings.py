"""What a process was told, checked and frozen: :class:`Settings`, and a :class:`Route` for each way.

They are made by :mod:`aggregator.config`, and read by all that runs.
"""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003 - settings look at the types of their fields
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

from aggregator.defaults import SINGLE_ROUTE
from aggregator.options import Connection, ProcessOptions, RouteOptions, RunOptions
from aggregator.periodic import Periodic  # noqa: TC001 - as above
from aggregator.topology import NOTHING, Plan, Topology


class Route(RouteOptions):
    """One way from a queue to a sink; all that was left open is filled in.

    Durations are in seconds, sizes in bytes. ``prefetch`` is for each worker.
    """

    name: str = SINGLE_ROUTE
    workers: int
    prefetch: int
    request_items: int
    linger: float
    entity: Any = None
    """The queue as it is to be declared (a ``kombu.Queue``); None: it is taken as it stands."""
    topology: Plan = NOTHING
    """What has to stand at its broker before anything is taken from there."""

    @property
    def amqp(self) -> bool:
        """Whether the broker speaks AMQP."""
        return is_amqp(self.broker.get_secret_value())

    @property
    def from_tubes(self) -> bool:
        """Whether the queue is one or several tubes of Tarantool."""
        return is_tarantool(self.broker.get_secret_value())

    @property
    def tubes(self) -> tuple[str, ...]:
        """The tubes that the queue names."""
        return tuple(name.strip() for name in self.queue.split(","))

    @property
    def dead_letter_queue(self) -> str | None:
        """The queue that refused messages go to; None where an exchange takes them."""
        if self.dead_letter is None:
            return f"{self.queue}.dead"
        return None if self.dead_letter.startswith("exchange:") else self.dead_letter

    @property
    def dead_letter_exchange(self) -> str:
        """The exchange that refused messages go to; empty for the default exchange."""
        named = self.dead_letter or ""
        return named.removeprefix("exchange:") if named.startswith("exchange:") else ""


class Settings(ProcessOptions, RunOptions, Connection):
    """What a process was told. ``broker`` and its companions are those of routes without their own."""

    routes: dict[str, Route]
    topology: Topology = Topology()
    periodic: Mapping[str, Periodic] = {}
    """What is published by the clock, by name."""
    notes: tuple[str, ...] = ()
    """What was noticed while reading and is no fault."""


def with_vhost(broker: str, vhost: str | None) -> str:
    """Return the URL, or several joined by ``;``, with this virtual host in the place of its own."""
    if vhost is None or not is_amqp(broker):
        return broker
    parts = [urlsplit(part) for part in broker.split(";")]
    return ";".join(urlunsplit(part._replace(path=f"/{quote(vhost, safe='')}")) for part in parts)


def is_amqp(broker: str) -> bool:
    """Return whether the URL's transport speaks AMQP."""
    return "amqp" in broker.partition(":")[0].lower()


def is_tarantool(broker: str) -> bool:
    """Return whether the URL names servers of Tarantool."""
    return broker.partition(":")[0].lower() == "tarantool"
