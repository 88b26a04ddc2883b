"""The campaign service over HTTP on a free port, in a thread of the tests."""

from __future__ import annotations

import asyncio
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import httpx

from producers.campaigns.serving import build, listen, make_server
from producers.campaigns.settings import CampaignSettings
from tests.servers.base import wait_for

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator

    from fastapi import FastAPI

TOKEN = "a-token-of-the-tests-0123456789"
SPEC: dict[str, Any] = {
    "id": "sale",
    "notifications": {
        "apns": {"default": {"payload": {"aps": {"alert": "Sale"}}}},
        "fcm": {"default": {"payload": {"notification": {"title": "Sale"}}}},
    },
    "quiet": None,
}


def spec(**changed: Any) -> dict[str, Any]:
    """Return a campaign; ``None`` as a value is a null, ``...`` takes a field away."""
    return {name: value for name, value in {**SPEC, **changed}.items() if value is not ...}


def _application(shards: dict[str, str], connect: Any, settings: dict[str, Any]) -> FastAPI:
    given = {"timeout": "2s", "interval": "100ms", "token": TOKEN, **settings}
    return build(CampaignSettings(shards=shards, **given), connect)


@contextmanager
def serving(shards: dict[str, str], connect: Any, **settings: Any) -> Iterator[str]:
    """The service before these shards; yields its URL."""
    with _http(_application(shards, connect, settings)) as url:
        yield url


class Front:
    """An HTTP server for one application after the other: to end one of its own takes longer than a test."""

    def __init__(self) -> None:
        self.url = ""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._application: FastAPI | None = None

    @contextmanager
    def serving(self, shards: dict[str, str], connect: Any, **settings: Any) -> Iterator[str]:
        """The same as the function."""
        self._application = _application(shards, connect, settings)
        life = self._application.router.lifespan_context(self._application)
        self._run(life.__aenter__())
        try:
            yield self.url
        finally:
            self._run(life.__aexit__(None, None, None))

    def _run(self, step: Coroutine[Any, Any, object]) -> None:
        assert self._loop
        asyncio.run_coroutine_threadsafe(step, self._loop).result(20)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            assert self._application
            return await self._application(scope, receive, send)
        for step in ("startup", "shutdown"):
            await receive()
            self._loop = asyncio.get_running_loop()
            await send({"type": f"lifespan.{step}.complete"})
        return None


@contextmanager
def front() -> Iterator[Front]:
    """A front, on a free port."""
    made = Front()
    with _http(made) as made.url:
        yield made


@contextmanager
def _http(app: Any) -> Iterator[str]:
    with listen("127.0.0.1", 0) as sock:
        server = make_server(app)
        # signals are for the main thread, and there they are for the tests
        thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]})
        thread.start()
        try:
            wait_for(lambda: server.started or not thread.is_alive(), "the service", interval=0.005)
            yield f"http://127.0.0.1:{sock.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(20)


def client(url: str, token: str = TOKEN) -> httpx.Client:
    """Return a client with the token."""
    headers = {"authorization": f"Bearer {token}"} if token else {}
    # plain HTTP: to load certificates would take longer than most tests
    return httpx.Client(base_url=url, headers=headers, timeout=30, trust_env=False, verify=False)
