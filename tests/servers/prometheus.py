"""Prometheus, scraping what a test wants scraped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import requests

from producers.network import free_port
from tests.servers.base import Server, program, wait_for
from tests.servers.local import LocalHost, new_folder

if TYPE_CHECKING:
    from collections.abc import Sequence


class Prometheus(Server):
    """A server that scrapes its targets every second; ``url`` is ``http://127.0.0.1:PORT``."""

    def ready(self) -> bool:
        """Ask its own readiness probe."""
        return requests.get(f"{self.url}/-/ready", timeout=2).ok

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return the instant vector of a PromQL expression: ``{"metric": {…}, "value": [time, "text"]}``."""
        answer = requests.get(f"{self.url}/api/v1/query", params={"query": expression}, timeout=10)
        answer.raise_for_status()
        result: list[dict[str, Any]] = answer.json()["data"]["result"]
        return result

    def query_range(self, expression: str, start: float, end: float, step: float) -> list[dict[str, Any]]:
        """Return an expression's lines over a time in unix seconds: ``metric``, ``values`` (time, text)."""
        asked: dict[str, str | float] = {"query": expression, "start": start, "end": end, "step": step}
        answer = requests.get(f"{self.url}/api/v1/query_range", params=asked, timeout=10)
        answer.raise_for_status()
        result: list[dict[str, Any]] = answer.json()["data"]["result"]
        return result

    def rules(self) -> list[dict[str, Any]]:
        """Return the alert rules, each with ``name``, ``health`` and ``state``."""
        answer = requests.get(f"{self.url}/api/v1/rules", timeout=10)
        return [rule for group in answer.json()["data"]["groups"] for rule in group["rules"]]

    def wait_for(self, expression: str, timeout: float = 30.0) -> list[dict[str, Any]]:
        """Wait until the expression gives something; ``TimeoutError`` if it never does."""
        wait_for(
            lambda: bool(self.query(expression)), f"{expression} in Prometheus", timeout=timeout, interval=0.2
        )
        return self.query(expression)

    def targets(self) -> list[dict[str, Any]]:
        """Return the active targets, each with ``health`` and ``lastError``."""
        answer = requests.get(f"{self.url}/api/v1/targets", timeout=10)
        found: list[dict[str, Any]] = answer.json()["data"]["activeTargets"]
        return found


def prometheus(targets: Sequence[str], rules: Sequence[Path] = ()) -> Prometheus:
    """Return a server, not started, that scrapes ``/metrics`` of the targets (``host:port``).

    ``rules``: files of rules, looked at as often.
    """
    binary = program("prometheus")
    folder = new_folder("prometheus")
    listed = ", ".join(f"'{target}'" for target in targets)
    Path(folder, "prometheus.yml").write_text(
        "global: {scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}\n"
        f"rule_files: {json.dumps([str(file) for file in rules])}\n"
        "scrape_configs:\n"
        "  - job_name: aggregator\n"
        f"    static_configs: [{{targets: [{listed}]}}]\n"
    )
    port = free_port()
    command = [
        binary,
        f"--config.file={folder}/prometheus.yml",
        f"--storage.tsdb.path={folder}/data",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=warn",
    ]
    return Prometheus("prometheus", f"http://127.0.0.1:{port}", LocalHost("prometheus", folder, command, {}))
