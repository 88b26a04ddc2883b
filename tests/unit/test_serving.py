"""The HTTP server of a process: what it answers, and ports that it cannot have."""

from __future__ import annotations

import socket
from contextlib import contextmanager, suppress

import pytest
import requests

from aggregator import serving as module
from aggregator.errors import ConfigurationError
from aggregator.metrics import Metrics
from aggregator.serving import MetricsServer


@contextmanager
def serving(healthy=list, ready=list, notes=list):
    metrics = Metrics()
    metrics.route("r").settled("written", 3)
    server = MetricsServer("127.0.0.1", 0, metrics.registry, healthy, ready, notes=notes)
    server.start()
    try:
        yield f"http://127.0.0.1:{server.port}"
    finally:
        server.stop()


def get(url):
    with requests.get(url, timeout=10) as answer:
        return answer.status_code, answer.text


def test_metrics_are_what_prometheus_reads():
    with serving() as url, requests.get(f"{url}/metrics", timeout=10) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/plain; version=")
        assert 'aggregator_deliveries_total{route="r",verdict="written"} 3.0' in answer.text


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_all_is_well(path):
    with serving() as url:
        assert get(url + path) == (200, "ok\n")


def test_each_check_answers_for_itself():
    with serving(healthy=lambda: ["a thread has died"], ready=lambda: ["r: waiting", "s: waiting"]) as url:
        assert get(f"{url}/healthz") == (503, "a thread has died\n")
        assert get(f"{url}/readyz") == (503, "r: waiting\ns: waiting\n")


def test_notes_change_no_answer():
    with serving(ready=lambda: ["r: paused"], notes=lambda: ["control: away"]) as url:
        assert get(f"{url}/healthz") == (200, "ok\ncontrol: away\n")
        assert get(f"{url}/readyz") == (503, "r: paused\ncontrol: away\n")


def test_a_check_is_asked_anew_each_time():
    faults = ["not yet"]
    with serving(ready=lambda: faults) as url:
        assert get(f"{url}/readyz")[0] == 503
        faults.clear()
        assert get(f"{url}/readyz")[0] == 200


@pytest.mark.parametrize("path", ["/", "/metrics/", "/admin", "/../etc/passwd"])
def test_there_is_nothing_else(path):
    with serving() as url:
        status, text = get(url + path)
    assert status == 404
    assert "/metrics" in text


def test_many_may_ask_at_once():
    with serving() as url, socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=10):
        assert get(f"{url}/healthz")[0] == 200, "one that says nothing holds no other up"


def test_a_port_in_use_is_named():
    with serving() as url:
        port = int(url.rpartition(":")[2])
        with pytest.raises(ConfigurationError) as wrong:
            MetricsServer("127.0.0.1", port, Metrics().registry, list, list)
    assert wrong.value.field == "metrics_port"
    assert str(port) in wrong.value.problem
    assert "choose another port" in wrong.value.problem


@pytest.mark.parametrize(
    ("host", "port"), [("127.0.0.1", 65536), ("127.0.0.1", -1), ("no.such.host.invalid", 0)]
)
def test_what_cannot_be_listened_on_is_named(host, port):
    with pytest.raises(ConfigurationError) as wrong:
        MetricsServer(host, port, Metrics().registry, list, list)
    assert wrong.value.field == "metrics_port"
    assert "\n" not in str(wrong.value)


def test_a_stopped_server_frees_its_port():
    with serving() as url:
        port = int(url.rpartition(":")[2])
    again = MetricsServer("127.0.0.1", port, Metrics().registry, list, list)
    assert again.port == port
    again.stop()  # never started


# ── clients that are slow, and many ──


def test_the_page_answers_what_nothing_else_does():
    def page(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [environ["PATH_INFO"].encode()]

    server = MetricsServer("127.0.0.1", 0, Metrics().registry, list, list, page=page)
    server.start()
    try:
        url = f"http://127.0.0.1:{server.port}"
        assert get(f"{url}/x") == (200, "/x")
        assert get(f"{url}/healthz") == (200, "ok\n")
        assert "aggregator_" in get(f"{url}/metrics")[1]
    finally:
        server.stop()


def sent(port, data):
    end = socket.create_connection(("127.0.0.1", port), timeout=20)
    end.sendall(data)
    return end


def test_a_byte_now_and_then_is_too_slow(monkeypatch):
    monkeypatch.setattr(module, "PATIENCE", 0.3)
    with serving() as url, sent(int(url.rpartition(":")[2]), b"GET /healthz HTTP/1.1\r\n") as slow:
        started = module.SYSTEM_CLOCK.monotonic()
        slow.settimeout(0.05)
        while True:  # each byte comes in time, the whole does not
            try:
                slow.sendall(b"x")
                if not slow.recv(1):
                    break
            except TimeoutError:
                assert module.SYSTEM_CLOCK.monotonic() - started < 20, "it is never let go"
            except OSError:
                break
        assert get(f"{url}/healthz")[0] == 200


def test_more_clients_than_there_are_places_for_are_let_go(monkeypatch):
    monkeypatch.setattr(module, "MOST_CLIENTS", 3)
    with serving() as url:
        port = int(url.rpartition(":")[2])
        idle = [sent(port, b"GET /healthz HTTP/1.1\r\n") for _ in range(3)]
        with sent(port, b"") as fourth:
            assert fourth.recv(1) == b""
        for each in idle:
            each.close()
        # their places are free again
        for _ in range(200):
            try:
                assert get(f"{url}/healthz")[0] == 200
                break
            except requests.ConnectionError:
                continue
        else:
            pytest.fail("no place is ever free again")


def test_a_request_that_is_none_harms_nobody():
    with serving() as url:
        for data in (b"\0\xff\r\n\r\n", b"GET / HTTP/9\r\n\r\n", b"G" * 70_000 + b"\r\n\r\n", b"\r\n"):
            with sent(int(url.rpartition(":")[2]), data) as client, suppress(OSError):
                client.recv(4096)
        assert get(f"{url}/healthz")[0] == 200
