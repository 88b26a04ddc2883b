"""What the service exports, and what dashboard and alerts ask for: for the tests that compare them."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml

from aggregator.metrics import Metrics, describe_process
from aggregator.processes.shared import SharedMetrics

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client import CollectorRegistry

    from tests.servers import Prometheus

ROOT = Path(__file__).parents[1]
ALERTS = ROOT / "docker" / "prometheus" / "alerts.yml"
DASHBOARD = runpy.run_path(str(ROOT / "docker" / "grafana" / "dashboard.py"))

_SUFFIXES = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}
_METRIC = re.compile(r"\b(?:aggregator_|process_|up\b)\w*")
_SELECTED = re.compile(r"\b((?:aggregator_|process_|up\b)\w*)\{([^}]*)\}")
_LABEL = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)")


class Exported(NamedTuple):
    """A metric: its name as it is scraped (a histogram's without a suffix), and its labels."""

    name: str
    kind: str
    labels: tuple[str, ...]
    help: str

    @property
    def samples(self) -> list[str]:
        """The names that its samples have."""
        return (
            [self.name] if self.kind != "histogram" else [self.name + end for end in _SUFFIXES["histogram"]]
        )


def exported() -> list[Exported]:
    """Return every metric that a process of the service can export, in the order of the catalogue."""
    metrics = Metrics()
    metrics.watch_control(lambda: True)
    describe_process(metrics.registry)
    parent = SharedMetrics("")
    found = [*_described(metrics.registry), *_described(parent.registry)]
    return list({each.name: each for each in found}.values())


def _described(registry: CollectorRegistry) -> Iterator[Exported]:
    for collector in list(registry._collector_to_names):
        labels = tuple(getattr(collector, "_labelnames", ()))
        for family in collector.collect() if not isinstance(collector, SharedMetrics) else ():
            name = family.name + ("_total" if family.type == "counter" else "")
            yield Exported(name, family.type, labels, family.documentation)


def queries() -> list[tuple[str, str]]:
    """Return (panel, PromQL) of the dashboard."""
    return [(panel["title"], query) for panel in DASHBOARD["panels"]() for _, query in panel["queries"]]


def alerts() -> list[dict[str, Any]]:
    """Return the alert rules."""
    return [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]


def metrics_of(query: str) -> set[str]:
    """Return the names of the metrics that a query reads."""
    return set(_METRIC.findall(re.sub(r'"[^"]*"', "", query)))


def labels_of(query: str) -> set[tuple[str, str]]:
    """Return (metric, label) of each matcher."""
    return {
        (name, label)
        for name, matchers in _SELECTED.findall(query)
        for label in _LABEL.findall(re.sub(r'"[^"]*"', "", matchers))
    }


class Drawn(NamedTuple):
    """One line of a panel: its legend, and (unix seconds, value) of each moment; NaN left out."""

    legend: str
    points: list[tuple[float, float]]


def drawn(prometheus: Prometheus, panel: dict[str, Any], start: float, end: float) -> list[Drawn]:
    """Return what Grafana would draw of a panel, of the route ``default``, scraped and drawn each second."""
    found = []
    for legend, query in panel["queries"]:
        chosen = query.replace("$route", "default").replace("$instance", ".*")
        for line in prometheus.query_range(chosen.replace("$__rate_interval", "5s"), start, end, 1):
            labels = line["metric"]
            name = re.sub(r"{{(\w+)}}", lambda match, labels=labels: labels.get(match[1], ""), legend)
            points = [(float(when), float(text)) for when, text in line["values"] if text != "NaN"]
            if points:
                found.append(Drawn(name, points))
    return found
