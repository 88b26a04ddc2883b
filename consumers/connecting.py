"""Connections to brokers: TLS that checks the host's name, bounded waits, dead peers noticed."""

from __future__ import annotations

import re
import socket
import ssl
from dataclasses import dataclass
from typing import Any

from kombu.connection import Connection
from kombu.utils.url import parse_url

from aggregator.redis_transport import is_redis, split_url
from consumers.transports import REDIS_NOTED, register

_PLAIN_AMQP = re.compile(r"(?<![^;])(amqps?)://")
CONNECT_SECONDS = 10.0
#: How long written bytes may stay unacknowledged before the connection counts as dead. py-amqp's own
#: second is too short for a broker that is far away or busy.
USER_TIMEOUT_MS = 15_000


@dataclass(frozen=True, slots=True)
class Broker:
    """How to reach a broker. ``heartbeat`` in seconds; ``ca`` a PEM file; both for AMQP only.

    ``batched``: whether ``amqp://`` and ``amqps://`` stand for the transport that takes all deliveries
    of one read at once, or for kombu's own; Redis's likewise, whose own loses messages by kills.
    """

    url: str
    heartbeat: float = 20.0
    ca: str | None = None
    server_hostname: str | None = None
    batched: bool = True

    @property
    def amqp(self) -> bool:
        """Whether the transport speaks AMQP."""
        return "amqp" in self.url.partition(":")[0].lower()

    @property
    def redis(self) -> bool:
        """Whether it is Redis."""
        return is_redis(self.url)

    @property
    def tls(self) -> dict[str, Any] | None:
        """How the broker is verified, in its client's terms; None where nothing is encrypted."""
        if self.url.startswith("rediss"):  # kombu's own default would verify nothing
            return {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_check_hostname": True}
        if not self.url.startswith("amqps"):
            return None
        hosts = {parse_url(url)["hostname"] or "localhost" for url in self.url.split(";")}
        return {
            "cert_reqs": ssl.CERT_REQUIRED,
            "ca_certs": self.ca or ssl.get_default_verify_paths().cafile,
            # without a name the chain is checked, but not whose it is. None is kombu's word for the
            # URL's host, but it takes 127.0.0.1 for localhost
            "server_hostname": self.server_hostname or (hosts.pop() if len(hosts) == 1 else None),
        }

    @property
    def hosts(self) -> int:
        """How many brokers the URL names."""
        return self.url.count(";") + 1

    def connection(self, first: int = 0) -> Connection:
        """Return an unopened connection; each thread makes its own.

        ``first``: which of the URL's brokers is tried first, the others after it, round and round.
        """
        register()
        options: dict[str, Any] = {}
        if self.amqp:
            options = {
                "heartbeat": self.heartbeat,
                "connect_timeout": CONNECT_SECONDS,
                "transport_options": {"socket_settings": {socket.TCP_USER_TIMEOUT: USER_TIMEOUT_MS}},
            }
        if self.tls:
            options["ssl"] = self.tls
        url, transport_options = split_url(self.url)
        if transport_options:
            options["transport_options"] = transport_options
        urls = url.split(";")
        start = first % len(urls)
        url = ";".join(urls[start:] + urls[:start])
        url = _PLAIN_AMQP.sub(r"\1-batched://", url) if self.batched else url
        connection = Connection(url, **options)
        if self.batched and connection.transport_cls in {"redis", "rediss"}:
            connection.transport_cls = REDIS_NOTED
        return connection


def is_not_found(exc: BaseException) -> bool:
    """Whether a broker says that there is no such queue: 404, which kombu's transports give as text."""
    return _code(exc) == "404"


def is_contradiction(exc: BaseException) -> bool:
    """Whether a broker says that a declaration can never be right.

    406: it stands there declared otherwise, or an argument is none; 503: no such type of exchange.
    """
    return _code(exc) in {"406", "503"}


def is_refusal(exc: BaseException) -> bool:
    """Whether a broker says no to what was asked, and would again: no right, no such thing, not allowed."""
    return _code(exc) in {"403", "404", "405", "406", "503", "530", "540"}


def _code(exc: BaseException) -> str:
    return str(getattr(exc, "reply_code", None) or getattr(exc, "code", ""))
