"""Kombu transports of this project.

``register()`` makes them known to kombu by their URL schemes; nothing is imported before a
connection of that scheme is opened.
"""

from __future__ import annotations

from typing import Final

from kombu.transport import TRANSPORT_ALIASES

SQLITE_QUEUE: Final = "sqlite-queue"
"""The URL scheme of the durable queue in one SQLite file."""

AMQP_BATCHED: Final = "amqp-batched"
"""The URL scheme of AMQP whose deliveries are received many at a time."""
AMQPS_BATCHED: Final = "amqps-batched"
"""The same over TLS."""

REDIS_NOTED: Final = "redis-noted"
"""The transport for Redis that pops a message and notes it in one step."""

_OURS: Final = {
    SQLITE_QUEUE: "consumers.transports.sqlite:Transport",
    AMQP_BATCHED: "consumers.transports.amqp_batched:Transport",
    AMQPS_BATCHED: "consumers.transports.amqp_batched:SSLTransport",
    REDIS_NOTED: "consumers.transports.redis_noted:Transport",
}


def register() -> None:
    """Make this project's URL schemes known to kombu; calling it again changes nothing."""
    TRANSPORT_ALIASES.update(_OURS)
