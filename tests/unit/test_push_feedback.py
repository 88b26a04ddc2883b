"""Dead tokens reach the webhook: in bulks, again after failures, within bounds; nobody waits for it."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from time import monotonic

import orjson
import pytest

from aggregator.backoff import Backoff
from aggregator.sinks import push_feedback
from aggregator.sinks.push_feedback import Feedback
from tests.pushes import address


class Webhook:
    """Answers with the statuses it was given, then with 204; knows what it got."""

    def __init__(self):
        self.statuses = []
        self.got = []
        self.headers = []
        self.came = threading.Condition()
        webhook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = orjson.loads(self.rfile.read(int(self.headers["content-length"])))
                with webhook.came:
                    status = webhook.statuses.pop(0) if webhook.statuses else 204
                    webhook.headers.append(dict(self.headers))
                    if status == 204:
                        webhook.got += body
                    self.send_response(status)
                    self.send_header("content-length", "0")
                    self.end_headers()
                    webhook.came.notify_all()

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/dead"

    def wait(self, requests):
        with self.came:
            assert self.came.wait_for(lambda: len(self.headers) >= requests, 10)

    def close(self):
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def webhook():
    webhook = Webhook()
    yield webhook
    webhook.close()


def feedback(webhook, **more):
    return Feedback(webhook.url, **{"linger": 0.01, "backoff": Backoff(0.01, 0.02), **more})


def test_it_tells_all_that_is_known(webhook):
    told = feedback(webhook, token="hunter2")
    told.report(address(1, app="news"), "Unregistered", 1_700_000_000.5)
    told.report(address(2), "BadDeviceToken", None)
    told.close()
    assert webhook.got == [
        {
            "token": address(1).token, "device": "d1", "platform": "apns", "app": "news",
            "reason": "Unregistered", "unregistered_at": 1_700_000_000.5,
        },
        {
            "token": address(2).token, "device": "d2", "platform": "apns", "app": "",
            "reason": "BadDeviceToken", "unregistered_at": None,
        },
    ]  # fmt: skip
    assert webhook.headers[0]["authorization"] == "Bearer hunter2"


def test_many_go_together(webhook):
    told = feedback(webhook, linger=5)
    for number in range(1200):
        told.report(address(number), "Unregistered", 1.0)
    told.close()
    assert [entry["device"] for entry in webhook.got] == [f"d{number}" for number in range(1200)]
    assert len(webhook.headers) == 3


@pytest.mark.parametrize("status", [301, 400, 500])
def test_what_is_not_taken_comes_again(webhook, status):
    webhook.statuses = [status] * 3
    told = feedback(webhook)
    told.report(address(1), "Unregistered", 1.0)
    webhook.wait(4)
    told.close()
    assert [entry["device"] for entry in webhook.got] == ["d1"]
    assert len(webhook.headers) == 4


def test_nobody_there_costs_neither_the_writer_nor_the_close(webhook, monkeypatch):
    monkeypatch.setattr(push_feedback, "LAST", 0.1)
    webhook.close()
    told = feedback(webhook, most=10)
    start = monotonic()
    for number in range(10_000):
        told.report(address(number), "Unregistered", 1.0)
    assert len(told._waiting) == 10, "the newest are kept, and no more"
    assert told._waiting[-1]["device"] == "d9999"
    told.close()
    assert monotonic() - start < 8
    assert not told._waiting


def test_it_starts_again_after_a_close(webhook):
    told = feedback(webhook)
    told.close()
    for number in (1, 2):
        told.report(address(number), "Unregistered", 1.0)
        told.close()
        told.close()
    assert [entry["device"] for entry in webhook.got] == ["d1", "d2"]
