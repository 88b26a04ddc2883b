"""The catalogue: names, labels, and what is counted where."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from aggregator.defaults import DISTRIBUTION
from aggregator.metrics import Metrics, describe_process
from aggregator.standing import STATES


def samples(metrics):
    """Return each sample's value by name and labels, as Prometheus reads them."""
    text = generate_latest(metrics.registry).decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.fixture
def metrics():
    return Metrics()


@pytest.fixture
def route(metrics):
    return metrics.route("r")


def value(metrics, name, **labels):
    return samples(metrics)[f"aggregator_{name}", tuple(sorted({"route": "r", **labels}.items()))]


def test_each_metric_has_its_unit_its_help_and_its_route(metrics):
    families = list(metrics.registry.collect())
    assert len(families) > 15
    for family in families:
        assert re.fullmatch(r"aggregator_[a-z_]+", family.name)
        assert family.documentation.endswith(".")
        if family.type == "histogram":
            assert family.name.endswith(("_seconds", "_bytes", "_messages", "_items", "_ratio"))
    for name, metric in vars(metrics).items():
        if not name.startswith("_") and not isinstance(metric, CollectorRegistry):
            # a sink counts for itself: it knows no route
            first = {"pushes": "gateway", "seen_ids": "outcome"}.get(name, "route")
            assert metric._labelnames[0] == first


def test_two_processes_in_one_do_not_meet():
    first, second = Metrics(), Metrics()
    first.route("r").settled("written", 3)
    assert second.totals() == {}


def test_a_registry_may_be_given():
    registry = CollectorRegistry()
    assert Metrics(registry).registry is registry


def test_a_batch(metrics, route):
    route.batch("size", True, 20, 4096, 1.5)
    route.batch("size", True, 10, 100, 0.5)
    assert value(metrics, "batches_total", trigger="size", complete="true") == 2
    assert value(metrics, "batch_messages_sum") == 30
    assert value(metrics, "batch_bytes_sum") == 4196
    assert value(metrics, "batch_age_seconds_sum") == 2.0
    assert value(metrics, "batch_messages_bucket", le="20.0") == 2
    assert value(metrics, "batch_messages_bucket", le="10.0") == 1


def test_a_request(metrics, route):
    route.request("answered", 7, 0.25)
    assert value(metrics, "requests_total", outcome="answered") == 1
    assert value(metrics, "request_items_sum") == 7
    assert value(metrics, "flush_seconds_count") == 1


def test_totals_are_by_route_and_verdict(metrics, route):
    route.settled("written", 3)
    route.settled("written", 2)
    route.settled("duplicate", 1)
    route.settled("control", 0)
    metrics.route("other").settled("written", 1)
    assert metrics.totals() == {"r": {"written": 5, "duplicate": 1}, "other": {"written": 1}}


def test_what_alerts_are_raised_by_is_there_before_it_happens(metrics, route):
    assert value(metrics, "deliveries_total", verdict="dead_lettered") == 0
    assert value(metrics, "requests_total", outcome="answered") == 0
    assert metrics.totals() == {}


def test_dead_letters_by_reason(metrics, route):
    route.dead_letter("bad-json", 3)
    assert value(metrics, "dead_letters_total", reason="bad-json") == 3


def test_one_state_at_a_time(metrics, route):
    for now in STATES:
        route.state(now, STATES)
        assert [value(metrics, "route_state", state=state) for state in STATES] == [
            float(state == now) for state in STATES
        ]


def test_gauges_are_read_when_they_are_asked_for(metrics, route):
    held = [3]
    route.watch({"held_messages": lambda: held[0]})
    assert value(metrics, "held_messages") == 3
    held[0] = 5
    assert value(metrics, "held_messages") == 5


def test_workers_by_state(metrics, route):
    counts = {"consuming": 4, "waiting": 1}
    route.watch_workers(("consuming", "waiting"), counts.__getitem__)
    assert value(metrics, "workers", state="consuming") == 4
    assert value(metrics, "workers", state="waiting") == 1


@pytest.mark.parametrize(("fills", "observed"), [([0.25, 1.0], 2), ([None], 0)])
def test_the_fill_of_groups_that_something_would_have_made_full(metrics, route, fills, observed):
    for fill in fills:
        route.concluded(0.0, 0.0, fill)
    assert value(metrics, "batch_fill_ratio_count") == observed
    assert value(metrics, "batch_fill_ratio_bucket", le="0.25") == min(observed, 1)
    assert value(metrics, "batch_queue_seconds_count") == len(fills)


def test_a_process_tells_what_it_is(metrics):
    describe_process(metrics.registry)
    found = {name: dict(labels) for name, labels in samples(metrics)}
    assert found["aggregator_build_info"]["python"]
    assert found["aggregator_build_info"]["version"] != "unknown"
    assert {"process_start_time_seconds", "process_resident_memory_bytes"} <= set(found)


def test_the_distribution_is_the_one_that_is_built():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    assert project["project"]["name"] == DISTRIBUTION
