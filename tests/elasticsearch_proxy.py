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

    def note(self, method, path, headers, body):
        self.seen.append((method, path, headers, body))

    def reply(self, method, path, headers, body):
        """Return status, content type and body; None breaks the connection off."""
        for start, answer in self.rules.items():
            if path.startswith(start):
                return answer
        if self.upstream:
            answer = self.forward(method, path, headers, body)
        elif "_bulk" in path:
            answer = (200, JSON, _written(body))
        else:
            answer = (200, JSON, INFO if path == "/" else b"{}")
        return self.change(*answer) if self.change and "_bulk" in path else answer

    def forward(self, method, path, headers, body):
        kept = {name: value for name, value in headers.items() if name in {"content-type", "accept"}}
        answer = requests.request(method, self.upstream + path, headers=kept, data=body, timeout=30)
        return answer.status_code, answer.headers["content-type"], answer.content


def edit(change):
    def changed(status, content_type, body):
        answer = orjson.loads(body)
        change(answer)
        return status, content_type, orjson.dumps(answer)

    return changed


def reverse_a_failure(answer):
    answer["errors"] = True
    answer["items"][0]["create"] |= {"status": 400, "error": {"type": "document_parsing_exception"}}
    answer["items"].reverse()


#: Answers after which nobody knows what was written: ``change`` of a :class:`Proxy`.
UNKNOWN = {
    "short": edit(lambda answer: answer["items"].pop()),
    "long": edit(lambda answer: answer["items"].append(answer["items"][0])),
    "another order": edit(reverse_a_failure),
    "another operation": edit(
        lambda answer: answer["items"][1].update(index=answer["items"][1].pop("create"))
    ),
    "html": lambda *_: (200, "text/html", b"<html>welcome</html>"),
    "html that says it is json": lambda *_: (200, JSON, b"<html>welcome</html>"),
    "no content type that is known": lambda *_: (200, "image/png", b"\x89PNG"),
    "cut json": lambda status, content_type, body: (status, content_type, body[:-20]),
    "empty": lambda status, content_type, body: (status, content_type, b""),
    "no utf-8": lambda status, content_type, body: (status, content_type, b'"\xff"'),
    "created": lambda status, content_type, body: (201, content_type, body),
    "bad gateway": lambda *_: (502, "text/html", b"<html>bad gateway</html>"),
    "gateway timeout": lambda *_: (504, "text/html", b""),
    "throttled": lambda *_: (429, JSON, b'{"error":{"type":"es_rejected_execution_exception"}}'),
    "bad request of a proxy": lambda *_: (400, "text/html", b"<html>bad request</html>"),
    "broken off": lambda *_: None,
}


def _written(body):
    """Answer as if each item had been written."""
    items = [orjson.loads(line) for line in body.split(b"\n")[:-1:2]]
    for action in items:
        for name, metadata in action.items():
            action[name] = {"_id": metadata["_id"], "status": 201}
    return orjson.dumps({"errors": False, "items": items})


def _handler(proxy):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _serve(self):
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            proxy.note(self.command, self.path, headers, body)
            known = not proxy.authorization or headers.get("authorization") == proxy.authorization
            answer = proxy.reply(self.command, self.path, headers, body) if known else proxy.refusal
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
def proxy(upstream=None, *, certificate=None, kind=Proxy, **more):
    """Yield a running :class:`Proxy` (or ``kind``); ``certificate`` (of trustme) makes it speak TLS."""
    made = kind(upstream=upstream, **more)
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
