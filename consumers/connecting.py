"""Connections to brokers: TLS that checks the host's name, bounded waits, dead peers noticed."""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass
from typing import Any

from kombu.connection import Connection

from consumers.transports import register

CONNECT_SECONDS = 5.0
#: How long written bytes may stay unacknowledged before the connection counts as dead. py-amqp's own
#: second is too short for a broker that is far away or busy.
USER_TIMEOUT_MS = 15_000


@dataclass(frozen=True, slots=True)
class Broker:
    """How to reach a broker. ``heartbeat`` in seconds; ``ca`` a PEM file; both for AMQP only."""

    url: str
    heartbeat: float = 20.0
    ca: str | None = None
    server_hostname: str | None = None

    @property
    def amqp(self) -> bool:
        """Whether the transport speaks AMQP."""
        return "amqp" in self.url.partition(":")[0].lower()

    def connection(self) -> Connection:
        """Return an unopened connection; each thread makes its own."""
        register()
        options: dict[str, Any] = {}
        if self.amqp:
            options = {
                "heartbeat": self.heartbeat,
                "connect_timeout": CONNECT_SECONDS,
                "transport_options": {"socket_settings": {socket.TCP_USER_TIMEOUT: USER_TIMEOUT_MS}},
            }
        if self.url.startswith("amqps"):
            options["ssl"] = {
                "cert_reqs": ssl.CERT_REQUIRED,
                "ca_certs": self.ca or ssl.get_default_verify_paths().cafile,
                # None: the URL's host. Without it the chain is checked, but not whose it is.
                "server_hostname": self.server_hostname,
            }
        return Connection(self.url, **options)
