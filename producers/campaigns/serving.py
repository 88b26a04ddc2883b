"""The service as a process: settings in, an HTTP server out."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import structlog
import uvicorn

from aggregator.clock import SYSTEM_CLOCK
from aggregator.errors import ConfigurationError
from aggregator.signals import Signals
from producers.campaigns.api import make_app
from producers.campaigns.servers import Server, Shards
from producers.campaigns.service import CampaignService
from producers.campaigns.watching import Watching

if TYPE_CHECKING:
    from fastapi import FastAPI

    from aggregator.clock import Clock
    from producers.campaigns.ports import Connect
    from producers.campaigns.settings import CampaignSettings

log = structlog.get_logger()
_GRACE = 3
_BACKLOG = 128


def make_shards(settings: CampaignSettings, connect: Connect, clock: Clock = SYSTEM_CLOCK) -> Shards:
    """Return the servers that the settings name; nothing is connected yet."""
    found: dict[str, list[Server]] = {}
    for shard, address in settings.servers():
        server = Server(
            shard,
            address,
            connect,
            timeout=settings.timeout,
            slow_timeout=settings.slow_timeout,
            clock=clock,
        )
        found.setdefault(shard, []).append(server)
    return Shards(found)


def build(settings: CampaignSettings, connect: Connect, clock: Clock = SYSTEM_CLOCK) -> FastAPI:
    """Return the application that the settings describe."""
    shards = make_shards(settings, connect, clock)
    service = CampaignService(shards, clock, span=settings.span, quiet=settings.quiet)
    watching = Watching(service, settings.interval, settings.watchers)
    return make_app(service, watching, token=settings.secret(), feedback_token=settings.feedback_token)


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket; ``ConfigurationError`` if there is none to be had."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(address)
            sock.listen(_BACKLOG)
        except OSError:
            sock.close()
            raise
    except OSError as exc:
        problem = f"{host}:{port} cannot be listened on ({exc.strerror or exc}); choose another"
        raise ConfigurationError("port", problem) from None
    return sock


def make_server(app: FastAPI) -> uvicorn.Server:
    """Return the HTTP server for an application: it logs no requests, and ends streams when it stops."""
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws="none",
        lifespan="on",
        limit_concurrency=512,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=_GRACE,
    )
    return uvicorn.Server(config)


def serve(settings: CampaignSettings, connect: Connect) -> None:
    """Serve until SIGTERM or SIGINT."""
    app = build(settings, connect)
    # uvicorn ends by the signal once more, when all is closed: that one is only counted
    Signals(impatient=False).install()
    with listen(settings.host, settings.port) as sock:
        port = sock.getsockname()[1]
        log.info(
            "serving",
            url=f"http://{settings.host}:{port}/",
            servers=[str(server) for _, server in settings.servers()],
        )
        make_server(app).run(sockets=[sock])
    log.info("stopped")
