"""A kombu transport over one SQLite file: durable, shared by processes and threads, no server.

``Connection("sqlite-queue:///data/queue.db")`` after ``consumers.transports.register()``. What it
keeps, also under kill -9 at any moment:

- A publish that returned is on the disk (``synchronous=normal`` waives that for loss of power).
- A message is leased to one channel at a time, and deleted by its ack alone. Leases of a process that
  has ended are released within a quarter of a second, each message at its old place, redelivered,
  with the deliveries counted in the header ``x-delivery-count``; those of one that hangs, after ``lease``.
- Acks may be forgotten by loss of power, and while they are collected by kill -9: at least once.

Exchanges (direct, topic, fanout), queues and bindings stand in the file. Beside it lie SQLite's
``-wal`` and ``-shm``, and a folder ``-owners`` with the locks of living consumers. All users of a
file must run on one machine's kernel: SQLite's WAL does not work over a network.
Not there: headers exchanges, priorities, queue limits, ``x-death``.
"""

# ruff: noqa: ARG002 - the signatures are kombu's

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Any

import amqp
from kombu.transport import base

from consumers.transports.sqlite_connection import Connection
from consumers.transports.sqlite_settings import parse_url

if TYPE_CHECKING:
    from consumers.transports.sqlite_channel import Channel
    from consumers.transports.sqlite_settings import Settings


class Transport(base.Transport):
    """What kombu asks of a transport; one belongs to each ``kombu.Connection``."""

    client: Any
    can_parse_url = True
    driver_type = "sqlite-queue"
    driver_name = "sqlite3"

    #: a file that is no queue is in neither: no reconnecting makes it one
    connection_errors = (amqp.ConnectionError,)
    channel_errors = (amqp.ChannelError,)
    recoverable_connection_errors = (amqp.RecoverableConnectionError,)
    recoverable_channel_errors = (amqp.exceptions.RecoverableChannelError,)

    #: ``basic_ack(tag, multiple=True)`` acks every lower tag of the channel too
    supports_multiple_ack = True
    supports_batch_publish = True

    implements = base.Transport.implements.extend(
        asynchronous=False,
        batch_publish=True,
        exchange_type=frozenset(["direct", "topic", "fanout"]),
        heartbeats=True,
    )

    @property
    def settings(self) -> Settings:
        """What the URL and the transport options say; raises ``ConfigurationError``."""
        return parse_url(self.client.hostname, self.client.transport_options)

    def driver_version(self) -> str:
        """Return SQLite's version."""
        return sqlite3.sqlite_version

    def establish_connection(self) -> Connection:
        """Open the file, and make it if there is none; the calling thread owns the connection."""
        return Connection(self.settings, self.client)

    def close_connection(self, connection: Connection) -> None:
        """Close the connection: acks are committed, unacked messages given back."""
        connection.close()

    def _collect(self, connection: Connection | None) -> None:
        if connection is not None:
            connection.collect()

    def create_channel(self, connection: Connection) -> Channel:
        """Open a channel."""
        return connection.channel()

    def close_channel(self, connection: Channel) -> None:
        """Close a channel."""
        connection.close()

    def drain_events(self, connection: Connection, timeout: float | None = None, **_options: Any) -> None:
        """Deliver messages, or raise ``TimeoutError`` after ``timeout`` seconds."""
        connection.drain_events(timeout)

    def verify_connection(self, connection: Connection) -> bool:
        """Tell whether the connection is open."""
        return connection.connected

    def heartbeat_check(self, connection: Connection, rate: int = 2) -> None:
        """Show a sign of life, commit collected acks; any number of calls a second is fine."""
        connection.heartbeat_check()

    def get_heartbeat_interval(self, connection: Connection) -> float:
        """Return the seconds within which a sign of life is due."""
        return connection.settings.lease / 4

    def as_uri(self, uri: str, include_password: bool = False, mask: str = "**") -> str:
        """Return the URL; there is nothing in it to hide."""
        return uri
