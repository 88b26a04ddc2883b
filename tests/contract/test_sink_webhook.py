"""The webhook under the contract of sinks, and what it does beside, against a small HTTP server."""

from __future__ import annotations

import gzip
import hashlib
import hmac
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from aggregator.errors import (
    ConfigurationError,
    RequestRefusedError,
    RequestTooLargeError,
    SinkBlockedError,
    SinkUnavailableError,
)
from aggregator.sinks import from_url
from aggregator.sinks.base import DUPLICATE, WRITTEN, Fate
from aggregator.sinks.webhook_answer import verdicts
from tests.contract.sink_contract import SinkContract, item, items

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from aggregator.sinks.base import Sink

    Server = "WebhookServer"


class WebhookServer(ThreadingHTTPServer):
    """Takes what is posted. ``tells``: it answers with verdicts, the first of an id wins."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.tells = True
        self.answer: tuple[int, bytes] | None = None
        self.taken: list[tuple[str, Any]] = []
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self.lock = threading.Lock()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"

    def take(self, entries: list[dict[str, Any]]) -> list[dict[str, str]]:
        told = []
        for entry in entries:
            known = self.tells and any(name == entry["id"] for name, _ in self.taken)
            if not known:
                self.taken.append((entry["id"], entry["document"]))
            told.append({"status": "duplicate" if known else "written"})
        return told


class Handler(BaseHTTPRequestHandler):
    server: WebhookServer
    protocol_version = "HTTP/1.1"

    def do_OPTIONS(self) -> None:
        self.respond(204 if self.server.answer is None else self.server.answer[0], b"")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        with self.server.lock:
            headers = {name.lower(): value for name, value in self.headers.items()}
            self.server.requests.append((self.path, headers, body))
            if self.server.answer is not None:
                self.respond(*self.server.answer)
                return
            if headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            if headers["content-type"] == "application/x-ndjson":
                entries = [orjson.loads(line) for line in body.split(b"\n") if line]
            else:
                entries = orjson.loads(body)["items"]
            told = self.server.take(entries)
        self.respond(200, orjson.dumps({"items": told}) if self.server.tells else b"ok")

    def respond(self, status: int, body: bytes) -> None:
        self.send_response(status)
        if status // 100 == 3:
            self.send_header("location", "http://127.0.0.1:1/")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[WebhookServer]:
    server = WebhookServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


class TestWebhook(SinkContract):
    options = ""
    secrets = ("hunter2",)

    @pytest.fixture
    def sink_factory(self, server: WebhookServer) -> Callable[[], Sink]:
        return lambda: from_url(f"webhook+http://user:hunter2@{server.address}/items{self.options}")

    @pytest.fixture
    def read_back(self, server: WebhookServer) -> Callable[[], list[tuple[Any, Any]]]:
        return lambda: list(server.taken)


@pytest.mark.integration
class TestWebhookLines(TestWebhook):
    options = "?format=ndjson&gzip=true"


@pytest.mark.integration
class TestWebhookThatSaysNothing(TestWebhook):
    knows_ids = False

    @pytest.fixture
    def sink_factory(self, server: WebhookServer) -> Callable[[], Sink]:
        server.tells = False
        return lambda: from_url(f"webhook+http://{server.address}/items")


def opened(server: WebhookServer, options: str = "", user: str = "") -> Sink:
    sink = from_url(f"webhook+http://{user}{server.address}/items{options}")
    sink.open()
    return sink


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (301, SinkBlockedError),
        (302, SinkBlockedError),
        (400, RequestRefusedError),
        (401, SinkBlockedError),
        (404, SinkBlockedError),
        (413, RequestTooLargeError),
        (422, RequestRefusedError),
        (429, SinkUnavailableError),
        (500, SinkUnavailableError),
        (503, SinkUnavailableError),
    ],
)
def test_an_answer_about_the_request(server: WebhookServer, status: int, error: type[Exception]) -> None:
    sink = opened(server)
    server.answer = (status, b"<html>")
    with pytest.raises(error, match=str(status)):
        sink.write(items("a"))
    assert len(server.requests) == 1
    sink.close()


def test_credentials_are_asked_for_before_the_first_item(server: WebhookServer) -> None:
    server.answer = (403, b"")
    with pytest.raises(SinkBlockedError, match="credentials are refused"):
        opened(server)
    server.answer = (502, b"")
    with pytest.raises(SinkUnavailableError, match="502"):
        opened(server)
    server.answer = (405, b"")  # it knows no OPTIONS, and is there
    opened(server).close()


def test_each_item_has_its_verdict() -> None:
    told = [
        {"status": "written"},
        {"status": "duplicate"},
        {"status": "retry"},
        {"status": "refused", "reason": "too-old", "detail": "of last year"},
        {"status": "refused", "reason": "not a word", "detail": 5},
    ]
    found = verdicts(200, orjson.dumps({"items": told}), 5)
    assert found
    assert found[:2] == [WRITTEN, DUPLICATE]
    assert [(each.fate, each.reason, each.detail) for each in found[2:]] == [
        (Fate.RETRY, "retry", ""),
        (Fate.DEAD_LETTER, "too-old", "of last year"),
        (Fate.DEAD_LETTER, "refused", ""),
    ]


@pytest.mark.parametrize("answer", [b"", b"ok", b"[]", b"{}", b'{"items":5}', b'{"ok":true}', b"{"])
def test_any_other_answer_means_its_status(answer: bytes) -> None:
    assert verdicts(202, answer, 3) is None


@pytest.mark.parametrize("told", [[{}], [5], [{"status": "fine"}], [{"status": []}], []])
def test_verdicts_that_are_none_leave_it_unknown(told: list[Any]) -> None:
    with pytest.raises(SinkUnavailableError):
        verdicts(200, orjson.dumps({"items": told}), 1)


def test_the_body_is_signed_and_can_be_known_again(
    server: WebhookServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOOK_SECRET", "very secret")
    monkeypatch.setenv("HOOK_TOKEN", "bearer of it")
    sink = opened(server, "?secret_env=HOOK_SECRET&token_env=HOOK_TOKEN&gzip=true")
    sink.write(items("a", "b"))
    sink.write(items("a", "b"))
    sink.write(items("b", "a"))
    sink.close()
    for path, headers, body in server.requests:
        signature = hmac.new(b"very secret", body, hashlib.sha256).hexdigest()
        assert (path, headers["x-signature-256"]) == ("/items", f"sha256={signature}")
        assert headers["authorization"] == "Bearer bearer of it"
    keys = [headers["idempotency-key"] for _, headers, _ in server.requests]
    assert keys[0] == keys[1] != keys[2]


def test_nobody_answers() -> None:
    sink = from_url("webhook+http://user:hunter2@127.0.0.1:1/items")
    with pytest.raises(SinkUnavailableError, match="no answer from http://127") as told:
        sink.open()
    assert "hunter2" not in str(told.value)
    with pytest.raises(SinkUnavailableError):
        sink.write([item("a")])


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("webhook+http:///path", "host: it is missing"),
        ("webhook+http://h/p?color=red", "color: unknown option"),
        ("webhook+http://h/p?ca=/etc/hosts", "ca: only https"),
        ("webhook+https://h/p?ca=/etc/hosts", "no PEM certificates"),
        ("webhook+http://user@h/p", "user and password belong together"),
        ("webhook+http://u:p@h/p?token_env=HOME", "either a token or a user"),
        ("webhook+http://h/p?token_env=NO_SUCH_VARIABLE", "no variable NO_SUCH_VARIABLE"),
        ("webhook+http://h/p?timeout=5", "timeout"),
        ("webhook+http://h/p?format=xml", "format"),
        ("webhook+http://h/p#x", "%23"),
    ],
)
def test_wrong_urls(url: str, problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem) as refused:
        from_url(url)
    assert refused.value.field == "sink"
