"""A running simulator, told what to do over HTTP: on a loopback port of its own, without TLS."""

from __future__ import annotations

from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import parse_qs, urlsplit

import orjson

from aggregator.testing.gateways.script import Rule

if TYPE_CHECKING:
    from collections.abc import Callable

    from aggregator.testing.gateways.server import Gateway

_MOST = 1000
#: Seconds within which it notices that it shall end.
_TICK = 0.02


class Control:
    """Serves ``gateway``'s control on 127.0.0.1; ``port`` 0 takes a free one. Raises ``OSError``."""

    def __init__(self, gateway: Gateway, port: int) -> None:
        handler = type("Handler", (_Handler,), {"gateway": gateway})
        self._server = ThreadingHTTPServer(("127.0.0.1", port), cast("type[_Handler]", handler))
        self._server.daemon_threads = True
        self._thread = Thread(target=self._server.serve_forever, args=(_TICK,), name="control", daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """Its address, without a path."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        """Serve no more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    gateway: Gateway

    def do_GET(self) -> None:
        self._do("GET")

    def do_PUT(self) -> None:
        self._do("PUT")

    def do_POST(self) -> None:
        self._do("POST")

    def do_DELETE(self) -> None:
        self._do("DELETE")

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _do(self, method: str) -> None:
        url = urlsplit(self.path)
        act = _ACTIONS.get((method, url.path))
        # read in any case, or the connection breaks before its client has the answer
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        if act is None:
            known = ", ".join(f"{one} {path}" for one, path in _ACTIONS)
            self._tell(404, {"error": f"no {method} {url.path}; there is {known}"})
            return
        try:
            given = orjson.loads(body) if body else {}
            query = {name: values[-1] for name, values in parse_qs(url.query).items()}
            self._tell(200, act(self.gateway, query if method == "GET" else given))
        except (ValueError, TypeError, AttributeError) as exc:
            self._tell(400, {"error": str(exc)})

    def _tell(self, status: int, content: Any) -> None:
        body = orjson.dumps(content)
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _load(gateway: Gateway, given: Any) -> Any:
    gateway.script.load(given)
    return gateway.script.to_json()


def _add(gateway: Gateway, given: Any) -> Any:
    gateway.script.add(Rule.parse(given))
    return gateway.script.to_json()


def _clear(gateway: Gateway, _: Any) -> Any:
    gateway.script.clear()
    return gateway.script.to_json()


def _goaway(gateway: Gateway, given: Any) -> Any:
    gateway.goaway(**given)
    return {}


def _drop(gateway: Gateway, _: Any) -> Any:
    gateway.drop()
    return {}


def _account(gateway: Gateway, _: Any) -> Any:
    made = {"connections": gateway.connections, "connections_made": gateway.connections_made}
    return gateway.journal.account() | made


def _journal(gateway: Gateway, given: Any) -> Any:
    entries = gateway.journal.of(given["token"]) if "token" in given else list(gateway.journal)
    last = int(given.get("last", _MOST))
    if last < 1:
        raise ValueError(f"last is {last}; at least 1 is needed")
    return [orjson.loads(entry.to_json()) for entry in entries[-last:]]


def _forget(gateway: Gateway, _: Any) -> Any:
    gateway.journal.clear()
    return {}


_ACTIONS: dict[tuple[str, str], Callable[[Gateway, Any], Any]] = {
    ("GET", "/"): lambda gateway, _: gateway.ready(),
    ("GET", "/script"): lambda gateway, _: gateway.script.to_json(),
    ("PUT", "/script"): _load,
    ("POST", "/rules"): _add,
    ("DELETE", "/rules"): _clear,
    ("POST", "/goaway"): _goaway,
    ("POST", "/drop"): _drop,
    ("GET", "/account"): _account,
    ("GET", "/journal"): _journal,
    ("DELETE", "/journal"): _forget,
}
