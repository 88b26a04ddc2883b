"""The compose file, as compose itself reads it, and what it tells the service, as the service reads it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.servers import Unavailable
from tests.servers.base import program

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
FILE = ROOT / "docker" / "compose.yaml"
PASSWORD = "onlyfortests"


def run(*command: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, check=False, capture_output=True, text=True, **options)


def compose_command() -> list[str]:
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]) and run(*command, "version").returncode == 0:
            return command
    raise Unavailable("docker compose is not installed")


def config(password: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "RABBITMQ_PASSWORD": password}
    return run(*compose_command(), "-f", FILE, "config", env=environment)


def services() -> dict[str, Any]:
    done = config(PASSWORD)
    assert done.returncode == 0, done.stderr
    return yaml.safe_load(done.stdout)["services"]


def test_compose_accepts_the_file_and_fills_in_the_password() -> None:
    found = services()
    assert set(found) == {"aggregator", "elasticsearch", "prometheus", "rabbitmq"}
    assert PASSWORD in found["aggregator"]["environment"]["AGGREGATOR_BROKER"]
    assert found["rabbitmq"]["environment"]["RABBITMQ_DEFAULT_PASS"] == PASSWORD


def test_compose_refuses_to_start_without_a_password() -> None:
    done = config("")
    assert done.returncode != 0
    assert "choose a password" in done.stderr


def test_nothing_is_published_beyond_the_loopback_interface() -> None:
    ports = [port for service in services().values() for port in service.get("ports", [])]
    assert len(ports) == 4
    assert all("127.0.0.1" in json.dumps(port) for port in ports)


def test_the_service_accepts_its_environment(tmp_path: Path) -> None:
    given = services()["aggregator"]["environment"]
    settings = {name: str(value) for name, value in given.items() if name.startswith("AGGREGATOR_")}
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **settings}
    done = run(sys.executable, "-m", "aggregator.consume", "--check", cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    assert "task_queue" in done.stdout
    assert PASSWORD not in done.stdout + done.stderr


def test_prometheus_accepts_its_configuration() -> None:
    done = run(program("promtool"), "check", "config", ROOT / "docker" / "prometheus.yml")
    assert done.returncode == 0, done.stdout + done.stderr
