"""Image and compose files: read as compose and a linter read them, and run without containers.

No engine is needed. What compose makes of its files is what the services are started with here, as
processes, between the real servers of the tests.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
import tomllib
from pathlib import Path
from subprocess import run
from xml.etree import ElementTree as ET

import pytest
import requests

from aggregator.config import load
from aggregator.ending import CLOSING_SECONDS
from tests import composed
from tests.composed import DOCKER, MAIN, PUSH, ROOT, SECRETS, Composed
from tests.servers import Unavailable, elastic, rabbitmq
from tests.servers.base import program, wait_for

pytestmark = pytest.mark.integration

FILES = [MAIN, PUSH]
#: Images that are made for it.
HARDENED = {
    "kombu-aggregator",
    "kombu-aggregator-push",
    "prom/prometheus",
    "grafana/grafana",
    "tarantool/tarantool",
}
DOCKERFILE = (DOCKER / "Dockerfile").read_text()


@pytest.fixture(scope="module", params=FILES, ids=["main", "push"])
def file(request):
    return request.param


@pytest.fixture(scope="module")
def services(file):
    try:
        return composed.services(file)
    except Unavailable as why:
        from tests.conftest import missing

        missing(why)


# ── what stands in the files ──


def test_compose_takes_the_files():
    assert {"aggregator", "elasticsearch", "grafana", "prometheus", "rabbitmq"} == set(
        composed.services(MAIN)
    )
    assert {"tarantool-a", "tarantool-b", "introduce", "load", "campaigns", "apns", "fcm", "push"} == set(
        composed.services(PUSH)
    )


@pytest.mark.parametrize(
    ("file", "secret"), [(file, secret) for file in FILES for secret in SECRETS[file]], indirect=["file"]
)
def test_compose_refuses_to_start_without_a_password(file, secret):
    done = composed.config(file, **{secret: ""})
    assert done.returncode != 0
    assert "choose a" in done.stderr


def test_nothing_is_published_beyond_the_loopback_interface(services):
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert ports
    assert all("127.0.0.1" in json.dumps(port) for port in ports)


def test_what_can_be_is_read_only_and_without_rights(services):
    hardened = 0
    for name, service in services.items():
        assert any("no-new-privileges" in option for option in service["security_opt"]), name
        if service["image"].split(":")[0] in HARDENED:
            assert service["read_only"] is True, name
            assert service["cap_drop"] == ["ALL"], name
            assert "privileged" not in service, name
            hardened += 1
    assert hardened >= 3


def test_each_service_has_bounds_and_a_look_at_its_health(services):
    for name, service in services.items():
        assert service.get("mem_limit"), name
        ends = service.get("restart") == "no"
        checked = service.get("healthcheck", {}).get("test") or service["image"].startswith(
            "kombu-aggregator"
        )
        assert ends or checked, name
        for other, condition in service.get("depends_on", {}).items():
            wanted = (
                "service_completed_successfully"
                if services[other].get("restart") == "no"
                else "service_healthy"
            )
            assert condition["condition"] == wanted, (name, other)


def test_what_is_mounted_is_there(services):
    for name, service in services.items():
        for target, source in composed.mounts(service).items():
            if source.startswith("/"):
                assert Path(source).exists(), (name, target)


def test_the_versions_are_those_that_the_tests_run():
    images = {name: each["image"] for name, each in composed.services(MAIN).items()}
    assert images["rabbitmq"].startswith(f"rabbitmq:{rabbitmq.rabbitmq4().version}-")
    pom = ET.parse(Path(elastic.__file__).parent / "elasticsearch" / "pom.xml")
    version = next(each.text for each in pom.iter() if each.tag.endswith("elasticsearch.version"))
    assert images["elasticsearch"] == f"elasticsearch:{version}"


def seconds(text):
    return sum(
        int(number) * {"m": 60, "s": 1}[unit] for number, unit in re.findall(r"(\d+)([ms])", str(text))
    )


def test_the_service_takes_its_settings(monkeypatch):
    service = composed.services(MAIN)["aggregator"]
    for variable, value in composed.environment(service).items():
        monkeypatch.setenv(variable, value)
    settings = load([])
    assert settings.notes == ()
    assert seconds(service["stop_grace_period"]) > settings.grace + CLOSING_SECONDS
    memory = 1024 * 1024 * int(re.sub(r"\D", "", service["mem_limit"]))
    assert 2 * settings.routes["default"].max_held < memory


def test_the_sending_side_is_never_killed_over_a_flush():
    service = composed.services(PUSH)["push"]
    (path,) = [source for target, source in composed.mounts(service).items() if target.endswith(".toml")]
    grace = seconds(tomllib.loads(Path(path).read_text())["grace"])
    assert seconds(service["stop_grace_period"]) > grace + CLOSING_SECONDS


# ── the image ──


def test_a_linter_finds_no_fault_in_the_dockerfile():
    linter = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or program("hadolint")
    done = run([linter, DOCKER / "Dockerfile"], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_image_has_what_it_starts_and_no_more():
    entry = json.loads(re.findall(r"^ENTRYPOINT (.*)$", DOCKERFILE, re.MULTILINE)[0])
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert entry[0] in project["scripts"]
    assert re.search(r"^USER [1-9]\d*$", DOCKERFILE, re.MULTILINE)
    assert all(
        re.search(r":\$|:\d+\.\d+", line) for line in re.findall(r"^FROM \S+", DOCKERFILE, re.MULTILINE)
    )
    last = DOCKERFILE.split("\nFROM ")[-1]
    assert "pip uninstall" in last
    assert "pip install" not in last
    ignored = (DOCKER / "Dockerfile.dockerignore").read_text().split()
    for sources in re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE, re.MULTILINE):
        for source in sources.split():
            assert (ROOT / source).exists()
            assert f"!{source}" in ignored
    for each in (MAIN, PUSH):
        for service in composed.services(each).values():
            wanted = service.get("build", {}).get("args", {}).get("EXTRAS", "")
            assert set(filter(None, wanted.split(","))) <= set(project["optional-dependencies"])


# ── Prometheus ──


@pytest.mark.parametrize(
    "command",
    [
        ("check", "config", "prometheus.yml"),
        ("check", "rules", "alerts.yml"),
        ("test", "rules", "alerts_test.yml"),
    ],
    ids=" ".join,
)
def test_promtool_accepts(command):
    *words, name = command
    done = run([program("promtool"), *words, DOCKER / "prometheus" / name], check=False, capture_output=True)
    assert done.returncode == 0, (done.stdout + done.stderr).decode()


def test_promtool_accepts_the_page(tmp_path):
    (block,) = re.findall(
        r"```yaml\n# prometheus.yml\n(.*?)```", (ROOT / "docs/monitoring.md").read_text(), re.DOTALL
    )
    (tmp_path / "prometheus.yml").write_text(block)
    shutil.copy(DOCKER / "prometheus" / "alerts.yml", tmp_path)
    done = run([program("promtool"), "check", "config", tmp_path / "prometheus.yml"], check=False)
    assert done.returncode == 0


# ── run ──


def test_a_campaign_goes_through_all_services_of_the_push_file():
    try:
        stage = Composed(PUSH)
    except Unavailable as why:
        from tests.conftest import missing

        missing(why)
    with stage:
        stage.services["load"]["command"][0] = "--generate=300"
        for name in ("load", "campaigns", "push"):
            stage.start(name)
        wait_for(lambda: stage.healthy("push"), "the sending side")
        api = f"http://127.0.0.1:{stage.port('8620')}"
        auth = {"Authorization": f"Bearer {SECRETS[PUSH]['CAMPAIGNS_TOKEN']}"}
        text = {"default": {"payload": {"aps": {"alert": "x"}}}}
        spec = {
            "id": "sale",
            "quiet": None,
            "notifications": {
                "apns": text,
                "fcm": {"default": {"payload": {"notification": {"title": "x"}}}},
            },
        }
        requests.post(f"{api}/campaigns", json=spec, headers=auth, timeout=30).raise_for_status()
        requests.post(f"{api}/campaigns/sale/start", headers=auth, timeout=30).raise_for_status()

        def progress():
            return requests.get(f"{api}/campaigns/sale/progress", headers=auth, timeout=30).json()

        wait_for(lambda: progress()["done"] == 300, "300 pushes", detail=lambda: str(progress()))
        metrics = requests.get(f"http://127.0.0.1:{stage.port('9464')}/metrics", timeout=30).text
        sent = re.findall(r'aggregator_pushes_total{.*gateway="(\w+)",outcome="written".*} (\d+)', metrics)
        assert sum(int(number) for _, number in sent) == 300
        assert len(sent) == 2
