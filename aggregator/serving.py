"""The HTTP server of a process: ``/metrics`` for Prometheus, ``/healthz`` and ``/readyz``.

It listens on loopback unless told otherwise, and shows nothing of messages or passwords.
"""

from __future__ import annotations

from socketserver import ThreadingMixIn
from threading import Thread
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import structlog
from prometheus_client import make_wsgi_app

from aggregator.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from contextlib import ExitStack

    from prometheus_client import CollectorRegistry

    from aggregator.settings import Settings

    #: what is wrong, a line each; nothing if all is well
    Check = Callable[[], list[str]]


log = structlog.get_logger()


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Handler(WSGIRequestHandler):
    timeout = 10  # a client that sends nothing holds no thread for ever

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Say nothing: a scrape every few seconds is no news."""


class MetricsServer:
    """Serves in a thread of its own from :meth:`start` to :meth:`stop`.

    ``healthy`` and ``ready`` return what is wrong; ``/healthz`` and ``/readyz`` answer 503 with it. What
    ``notes`` returns is told below, and changes no answer.
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
    ) -> None:
        metrics = make_wsgi_app(registry)
        checks = {"/healthz": healthy, "/readyz": ready}

        def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
            path = environ.get("PATH_INFO", "")
            if path == "/metrics":
                return metrics(environ, start_response)  # type: ignore[no-any-return]
            check = checks.get(path)
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


def serve(
    settings: Settings,
    stack: ExitStack,
    registry: CollectorRegistry,
    healthy: Check,
    ready: Check,
    *,
    notes: Check = list,
) -> None:
    """Serve on the port that the settings name, if any, until ``stack`` ends."""
    if settings.metrics_port is None:
        return
    server = MetricsServer(
        settings.metrics_host, settings.metrics_port, registry, healthy, ready, notes=notes
    )
    stack.callback(server.stop)
    server.start()
    log.info("metrics", url=f"http://{settings.metrics_host}:{server.port}/metrics")
