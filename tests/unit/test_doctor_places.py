"""Which places the doctor examines and how, with doubles: nothing is made, asked or told too much."""

from __future__ import annotations

import os

import pytest

from aggregator.config import load
from aggregator.doctor.__main__ import places
from aggregator.doctor.finding import Level
from consumers import doctor_places
from consumers.doctor_broker import BrokerExamination
from consumers.doctor_places import broker_places


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    for name in list(os.environ):
        if name.upper().startswith("AGGREGATOR_"):
            monkeypatch.delenv(name)


def titled(start, settings):
    (found,) = [place for place in broker_places(settings) if place.title.startswith(start)]
    return found


# ── brokers beside those of the routes ──


def test_a_queue_file_for_commands_is_looked_at_and_not_made(tmp_path):
    url = f"sqlite-queue:///{tmp_path}/control/queue.db"
    settings = load(["--broker", "amqp://h", "--control", "--control-broker", url])
    found = list(titled("control_broker", settings).examine())
    assert {finding.about for finding in found} == {"queue file"}
    assert max(finding.level for finding in found) < Level.ERROR
    assert list(tmp_path.iterdir()) == [], "nothing is made"


def test_redis_for_commands_is_asked_as_redis(monkeypatch):
    monkeypatch.setattr(doctor_places, "_redis", lambda broker, routes: iter([(broker.url, routes)]))
    argv = ["--broker", "amqp://h", "--control", "--control-broker", "redis://r:1/0"]
    place = titled("control_broker", load(argv))
    assert not isinstance(place.examine, BrokerExamination)
    assert list(place.examine()) == [("redis://r:1/0", ())]


@pytest.mark.parametrize("broker", ["sqlite-queue:///{}/made/queue.db", "filesystem://{}/made"])
def test_a_topology_in_a_queue_file_is_not_compared(tmp_path, monkeypatch, broker):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "settings.toml"
    file.write_text(f'broker = "{broker.format(tmp_path)}"\n[queues.q]\n[routes.r]\nqueue = "q"\n')
    (place,) = [each for each in places(load(["--config", str(file)])) if each.title == "topology"]
    (found,) = place.examine()
    assert (found.level, found.about) == (Level.NOTE, "routes.r.topology")
    assert list(tmp_path.iterdir()) == [file], "nothing is made"
