"""A little HTTP server before Elasticsearch, or in its place: it answers as a test tells it to."""

from __future__ import annotations

import ssl
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import orjson
import requests

JSON = "application/vnd.elasticsearch+json;compatible-with=9"
INFO = orjson.dumps({"version": {"number": "9.5.3"}})


@dataclass
class Proxy:
    """``url`` is where it listens; ``seen`` are the requests: method, path, headers, body.

    ``upstream`` is the Elasticsearch behind it, if there is one. ``change`` takes the answer to a
    bulk request (status, content type, body) and returns another one; None breaks the connection off.
    ``rules`` are answers to other paths, by their beginning. Who does not send ``authorization``, if it
    is set, is answered with ``refusal``.
    """

    url: str = ""
    upstream: str | None = None
    product: str = "Elasticsearch"
    warning: str = ""
    change: object = None
    rules: dict = field(default_factory=dict)
    authorization: str = ""
    refusal: object = None
    seen: list = field(default_factory=list)

    def bulk_bodies(self):
        return [body for method, path, _, body in self.seen if "_bulk" in path]


def _written(body):
    """Answer as if each item had been written."""
    items = [orjson.loads(line) for line in body.split(b"\n")[:-1:2]]
    for action in items:
        for name, metadata in action.items():
            action[name] = {"_id": metadata["_id"], "status": 201}
    return orjson.dumps({"errors": False, "items": items})


def _forward(proxy, method, path, headers, body):
    kept = {name: value for name, value in headers.items() if name.lower() in {"content-type", "accept"}}
    answer = requests.request(method, proxy.upstream + path, headers=kept, data=body, timeout=30)
    return answer.status_code, answer.headers["content-type"], answer.content


def _answer(proxy, method, path, headers, body):
    for start, answer in proxy.rules.items():
        if path.startswith(start):
            return answer
    if proxy.upstream:
        answer = _forward(proxy, method, path, headers, body)
    elif "_bulk" in path:
        answer = (200, JSON, _written(body))
    else:
        answer = (200, JSON, INFO if path == "/" else b"{}")
    return proxy.change(*answer) if proxy.change and "_bulk" in path else answer


def _handler(proxy):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _serve(self):
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            proxy.seen.append((self.command, self.path, headers, body))
            known = not proxy.authorization or headers.get("authorization") == proxy.authorization
            answer = _answer(proxy, self.command, self.path, self.headers, body) if known else proxy.refusal
            if answer is None:
                self.close_connection = True
                return
            status, content_type, content = answer
            self.send_response(status)
            self.send_header("content-type", content_type)
            if proxy.product:
                self.send_header("x-elastic-product", proxy.product)
            if proxy.warning:
                self.send_header("warning", f'299 Elasticsearch-9.5.3 "{proxy.warning}"')
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_HEAD = _serve  # noqa: N815

        def log_message(self, *args):
            pass

    return Handler


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        """A client that hangs up, or refuses the certificate, is what some tests are about."""


@contextmanager
def proxy(upstream=None, *, certificate=None, **more):
    """Yield a running :class:`Proxy`; ``certificate`` (of trustme) makes it speak TLS."""
    made = Proxy(upstream=upstream, **more)
    server = _Server(("127.0.0.1", 0), _handler(made))
    if certificate:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        certificate.configure_cert(context)
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    made.url = f"{'https' if certificate else 'http'}://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield made
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def slow(upstream):
    """Yield a proxy that answers bulk requests only once ``answer`` is set; ``asked`` tells of one."""
    asked, answer = threading.Event(), threading.Event()

    def change(*content):
        asked.set()
        answer.wait(60)
        return content

    with proxy(upstream, change=change) as made:
        made.asked, made.answer = asked, answer
        try:
            yield made
        finally:
            answer.set()
