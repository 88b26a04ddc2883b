"""A real Prometheus scrapes a real run: the figures add up, and health tells what is wrong."""

from __future__ import annotations

import pytest
import requests

from tests.servers.base import wait_for

pytestmark = [
    pytest.mark.integration,
    pytest.mark.parametrize("rabbitmq", ["rabbitmq4"], indirect=True),
]


def value(prometheus, expression):
    found = prometheus.query(expression)
    return float(found[0]["value"][1]) if found else 0.0


def test_the_figures_add_up(stage, prometheus):
    messages = stage.numbered(range(200))
    messages += stage.numbered(range(200, 203), body=b"{")
    messages += stage.numbered(range(203, 210))
    stage.publish(messages)
    running = stage.start("--size", "20", "--age", "3s", "--metrics-port", "0", "--workers", "3")
    running.wait_event("batch", 11)
    scraping = prometheus(running.address.removeprefix("http://"))
    all_settled = "sum(aggregator_deliveries_total)"
    wait_for(lambda: value(scraping, all_settled) == 210, "210 settled deliveries in Prometheus")

    def is_(expression, number):
        assert value(scraping, expression) == number, expression

    is_("sum(aggregator_received_total)", 210)
    is_('aggregator_deliveries_total{verdict="written"}', 207)
    is_('aggregator_deliveries_total{verdict="dead_lettered"}', 3)
    is_('aggregator_dead_letters_total{reason="bad-json"}', 3)
    is_('aggregator_batches_total{trigger="size"}', 10)
    is_("sum(aggregator_batches_total)", 11)
    is_("aggregator_batch_messages_count", 11)
    is_("aggregator_batch_messages_sum", 210)
    is_('aggregator_batch_messages_bucket{le="10.0"}', 1)
    is_('aggregator_batch_messages_bucket{le="20.0"}', 11)
    is_("aggregator_request_items_sum", 207)
    is_('sum(aggregator_requests_total{outcome="answered"})', 11)
    is_('aggregator_workers{state="consuming"}', 3)
    is_('aggregator_route_state{state="running"}', 1)
    for gauge in ("held_messages", "held_groups", "held_bytes", "outgoing_items", "dead_letters_pending"):
        is_(f"aggregator_{gauge}", 0)
    for seconds in ("flush_seconds", "ack_lag_seconds", "batch_age_seconds"):
        assert value(scraping, f"aggregator_{seconds}_count") > 0
        assert 0 < value(scraping, f"histogram_quantile(0.99, aggregator_{seconds}_bucket)") <= 300
    (target,) = scraping.targets()
    assert target["health"] == "up"
    assert running.stop() == 0


def test_health_and_readiness(stage):
    running = stage.start("--metrics-port", "0", "--retry-max", "1s", "--heartbeat", "2s")
    running.wait_event("route_runs")
    wait_for(lambda: running.ready()[0] == 200, "readiness")
    health = requests.get(f"{running.address}/healthz", timeout=30)
    assert (health.status_code, health.text) == (200, "ok\n")
    assert requests.get(f"{running.address}/elsewhere", timeout=30).status_code == 404

    stage.rabbitmq.kill()
    running.wait_event("link_lost", 5)
    assert running.ready() == (503, "default: no worker consumes\n")
    # alive: a restart of the process would not bring the broker back
    assert requests.get(f"{running.address}/healthz", timeout=30).status_code == 200
    stage.rabbitmq.start()
    wait_for(lambda: running.ready()[0] == 200, "readiness")
    assert running.stop() == 0


def test_not_ready_before_the_sink_is_there(stage):
    stage.elasticsearch.kill()
    running = stage.start("--metrics-port", "0", "--retry-max", "1s")
    running.wait_event("sink_away")
    code, why = running.ready()
    assert code == 503
    assert why.startswith("default: waiting")
    stage.elasticsearch.start()
    wait_for(lambda: running.ready()[0] == 200, "readiness")
    assert running.stop() == 0
