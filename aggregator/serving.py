"""The HTTP server of a process: ``/metrics`` for Prometheus, ``/healthz`` and ``/readyz``, the live page.

It listens on loopback unless told otherwise, and shows no bodies and no passwords. Who is slow, or comes in
great numbers, costs it a few threads for a few seconds.
"""

from __future__ import annotations

from io import BufferedReader, RawIOBase
from ipaddress import ip_address
from socketserver import ThreadingMixIn
from threading import BoundedSemaphore, Thread
from typing import TYPE_CHECKING, Any, Protocol
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import structlog
from prometheus_client import make_wsgi_app

from aggregator.clock import SYSTEM_CLOCK
from aggregator.errors import ConfigurationError
from aggregator.page.access import Access
from aggregator.page.joined import Status, Watching
from aggregator.page.site import Site

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterable
    from contextlib import ExitStack

    from prometheus_client import CollectorRegistry

    from aggregator.settings import Settings

    #: what is wrong, a line each; nothing if all is well
    Check = Callable[[], list[str]]
    #: a WSGI application
    Application = Callable[[dict[str, Any], Any], Iterable[bytes]]


log = structlog.get_logger()

#: Seconds that a client may take for its request, and again for the answer; how many may be there at once.
PATIENCE, MOST_CLIENTS = 10.0, 64


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def __init__(self, *args: Any) -> None:
        self._places = BoundedSemaphore(MOST_CLIENTS)
        super().__init__(*args)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._places.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:  # there is no thread to be had
            self._places.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that go away, or are too slow."""


class _Request(RawIOBase):
    """What a client sends, all of it within :data:`PATIENCE`: a byte now and then holds no thread."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._until = SYSTEM_CLOCK.monotonic() + PATIENCE

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left = self._until - SYSTEM_CLOCK.monotonic()
        if left <= 0:
            raise TimeoutError
        self._connection.settimeout(left)
        try:
            return self._connection.recv_into(buffer)
        finally:
            self._connection.settimeout(PATIENCE)


class _Handler(WSGIRequestHandler):
    timeout = PATIENCE

    def setup(self) -> None:
        super().setup()
        self.rfile = BufferedReader(_Request(self.connection))

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Say nothing: a scrape every few seconds is no news."""


class MetricsServer:
    """Serves in a thread of its own from :meth:`start` to :meth:`stop`.

    ``healthy`` and ``ready`` return what is wrong; ``/healthz`` and ``/readyz`` answer 503 with it. What
    ``notes`` returns is told below, and changes no answer. ``page`` answers what is for none of these.
    """

    def __init__(
        self,
        host: str,
        port: int,
        registry: CollectorRegistry,
        healthy: Check,
        ready: Check,
        *,
        notes: Check = list,
        page: Application | None = None,
    ) -> None:
        metrics = make_wsgi_app(registry)
        checks = {"/healthz": healthy, "/readyz": ready}

        def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
            path = environ.get("PATH_INFO", "")
            if path == "/metrics":
                return metrics(environ, start_response)  # type: ignore[no-any-return]
            check = checks.get(path)
            if check is None and page is not None:
                return page(environ, start_response)
            faults = check() if check else ["/metrics, /healthz and /readyz are here"]
            status = "200 OK" if not faults else "503 Service Unavailable" if check else "404 Not Found"
            start_response(status, [("Content-Type", "text/plain; charset=utf-8")])
            told = notes() if check else []
            return ["\n".join([*(faults or ["ok"]), *told, ""]).encode()]

        try:
            self._server = make_server(host, port, app, _Server, _Handler)
        except OSError as exc:
            problem = f"{host}:{port} cannot be listened on ({exc.strerror or exc}); choose another port"
            raise ConfigurationError("metrics_port", problem) from None
        except OverflowError:
            raise ConfigurationError("metrics_port", f"{port} is no port; 0 to 65535 is needed") from None
        # a short poll: stopping waits for it
        self._thread = Thread(target=self._server.serve_forever, args=(0.1,), name="metrics", daemon=True)

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self._server.server_port)

    def start(self) -> None:
        """Begin to serve."""
        self._thread.start()

    def stop(self) -> None:
        """Stop serving and free the port."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()


class Served(Watching, Protocol):
    """What is asked: one process, or the parent of several."""

    def lifeless(self) -> list[str]:
        """Return what is wrong with the process."""
        ...

    def faults(self) -> list[str]:
        """Return why it is not ready."""
        ...

    def notes(self) -> list[str]:
        """Return what is wrong and keeps no route from its work."""
        ...


def serve(
    settings: Settings,
    stack: ExitStack,
    registry: CollectorRegistry,
    served: Served,
) -> None:
    """Serve on the port that the settings name, if any, until ``stack`` ends."""
    if settings.metrics_port is None:
        return
    server = MetricsServer(
        settings.metrics_host,
        settings.metrics_port,
        registry,
        served.lifeless,
        served.faults,
        notes=served.notes,
        page=make_page(settings, served),
    )
    stack.callback(server.stop)
    server.start()
    address = f"http://{settings.metrics_host}:{server.port}"
    log.info("metrics", url=f"{address}/metrics", page=f"{address}/")


def make_page(settings: Settings, watching: Watching) -> Site:
    """Return the live page that the settings describe."""
    token = settings.page_token
    hosts = (settings.page_hosts or "").split(",")
    access = Access(
        token.get_secret_value() if token else None, [settings.metrics_host, *hosts], SYSTEM_CLOCK
    )
    details = settings.page_details
    if details == "auto":
        private = token is not None
        details_for = "private" if private else "shown" if _is_loopback(settings.metrics_host) else "hidden"
    else:
        details_for = details
    return Site(watching, Status(watching, SYSTEM_CLOCK), access, details=details_for)


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
