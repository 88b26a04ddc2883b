"""The service with the compose file's settings, seen by a real Prometheus: every panel shows something."""

from __future__ import annotations

import time
from math import isfinite

import pytest
import requests

from tests import composed
from tests.composed import MAIN, SECRETS
from tests.monitoring import ALERTS, DASHBOARD, drawn
from tests.servers import Unavailable
from tests.servers.base import wait_for
from tests.service import Stage

pytestmark = [
    pytest.mark.integration,
    pytest.mark.parametrize("rabbitmq", ["rabbitmq4"], indirect=True),
]

#: The compose file's own index: host names give way, nothing else.
INDEX = "tasks"
USER, PASSWORD = "aggregator", SECRETS[MAIN]["RABBITMQ_PASSWORD"]
#: Panels without a line in a run where this is not used.
UNUSED = {"Restarted processes", "Processes", "Control", "Pushes", "Ids", "Detours"}


@pytest.fixture
def stage(rabbitmq, queue, elasticsearch, service):
    """A queue, with the user that the compose file makes; and the index that it names."""
    rabbitmq.ctl("add_user", USER, PASSWORD)
    rabbitmq.ctl("set_permissions", USER, ".*", ".*", ".*")
    yield Stage(rabbitmq, queue, elasticsearch, INDEX, service)
    for server in (rabbitmq, elasticsearch):
        server.heal()
    rabbitmq.ctl("delete_user", USER)
    elasticsearch.call("DELETE", f"/{INDEX}?ignore_unavailable=true")


@pytest.fixture
def running(stage, service):
    """The service as the compose file starts it."""
    try:
        services = composed.services(MAIN, AGGREGATOR_QUEUE=stage.queue)
    except Unavailable as why:
        from tests.conftest import missing

        missing(why)
    places = {
        "@rabbitmq:5672": f"@{stage.rabbitmq.url.split('@')[1].removesuffix('//')}",
        "http://elasticsearch:9200": stage.elasticsearch.url,
        "0.0.0.0": "127.0.0.1",
        "9108": "0",
    }
    settings = composed.environment(services["aggregator"])
    for there, here in places.items():
        changed = {name: value.replace(there, here) for name, value in settings.items()}
        assert changed != settings, f"{there} is gone from the file"
        settings = changed
    return service(environment=settings)


def test_the_compose_file_s_service_fills_the_dashboard_and_sets_off_no_alert(stage, running, prometheus):
    start = time.time()
    scraping = prometheus(running.address.removeprefix("http://"), rules=[ALERTS])
    numbers = iter(range(10**9))
    sent = 0

    def publish(count):
        nonlocal sent
        sent += stage.publish(stage.numbered(next(numbers) for _ in range(count)))
        return bool(scraping.query("aggregator_queue_messages"))

    stage.publish(stage.numbered([next(numbers), next(numbers)], body=b"{"))
    # the queue is asked for every ten seconds; until then there is something to be seen of all else
    wait_for(lambda: publish(100), "the queue's length in Prometheus", interval=0.2)
    stage.wait_written(sent)
    letters = []
    wait_for(lambda: len(letters.extend(stage.dead()) or letters) == 2, "dead letters", interval=0.2)
    assert set(stage.numbers().values()) == {1}
    settled = "sum(aggregator_deliveries_total)"
    wait_for(lambda: scraping.query(settled)[0]["value"][1] == str(sent + 2), settled, interval=0.2)

    empty = set()
    for panel in DASHBOARD["panels"]():
        lines = drawn(scraping, panel, start, time.time())
        if not any(isfinite(value) for line in lines for _, value in line.points):
            empty.add(panel["title"])
    assert empty == UNUSED
    quiet = {panel["title"] for panel in DASHBOARD["panels"]() if panel.get("quiet")}
    assert quiet >= UNUSED

    rules = scraping.rules()
    assert len(rules) > 10
    assert {rule["health"] for rule in rules} == {"ok"}
    assert [rule["name"] for rule in rules if rule["state"] == "firing"] == []
    health = requests.get(f"{running.address}/healthz", timeout=30)
    assert health.status_code == 200
    assert running.stop() == 0
