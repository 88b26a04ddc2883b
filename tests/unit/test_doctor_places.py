"""Which places the doctor examines and how, with doubles: nothing is made, asked or told too much."""

from __future__ import annotations

import os
import socket
from types import SimpleNamespace

import pytest
from amqp.exceptions import AccessRefused, NotFound, PreconditionFailed

from aggregator.config import load
from aggregator.doctor import search, sinks
from aggregator.doctor.__main__ import main, places
from aggregator.doctor.finding import Level
from aggregator.errors import ConfigurationError
from consumers import doctor_broker, doctor_places
from consumers.doctor_broker import BrokerExamination
from consumers.doctor_places import broker_places, exchange_findings


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


PERIODIC = """
broker = "amqp://own"
{more}
[periodic.daily]
interval = "1h"
exchange = "by.the.clock"
routing_key = "k"
[routes.a]
broker = "amqp://a"
[routes.b]
broker = "{second}"
"""


def periodic(tmp_path, second, more=""):
    file = tmp_path / "settings.toml"
    file.write_text(PERIODIC.format(second=second, more=more))
    return list(broker_places(load(["--config", str(file)])))


def test_the_broker_that_is_published_to_by_the_clock_is_looked_at_once(tmp_path):
    control = 'control = true\ncontrol_broker = "amqp://own"'
    (*_, found) = periodic(tmp_path, "amqp://b", control)
    assert found.title.startswith("broker of [periodic] amqp://own")
    assert found.examine._exchanges == ["by.the.clock"]
    # a route's own is looked at with the route
    assert [place.routes for place in periodic(tmp_path, "amqp://own")] == [("a",), ("b",)]


# ── one dead host of several ──


@pytest.mark.parametrize("url", ["amqp://dead;amqp://alive", "amqp://alive;amqp://dead"])
def test_one_dead_host_of_several_is_a_warning(broker, monkeypatch, url):
    broker("RabbitMQ", "4.0.5")
    alive = doctor_broker.connected
    monkeypatch.setattr(doctor_broker, "connected", lambda to: dead(to, alive))
    found = list(titled("broker", load(["--broker", url])).examine())
    (worse,) = [each for each in found if each.about == "connection" and each.level > Level.OK]
    assert (worse.level, worse.says) == (Level.WARNING, "dead:5672: nothing listens there")


def test_no_host_that_answers_is_an_error(broker, monkeypatch):
    monkeypatch.setattr(doctor_broker, "connected", lambda to: dead(to, None))
    one = list(titled("broker", load(["--broker", "amqp://dead"])).examine())
    two = list(titled("broker", load(["--broker", "amqp://dead:1;amqp://dead:2"])).examine())
    assert [each.level for each in one] == [Level.ERROR]
    assert [each.level for each in two] == [Level.WARNING, Level.WARNING, Level.ERROR]
    assert two[-1].says == "none of the 2 hosts lets us in"


def dead(to, otherwise):
    if "dead" in to.url:
        raise ConnectionRefusedError
    return otherwise(to)


@pytest.mark.parametrize(
    ("nodes", "levels"),
    [
        ("127.0.0.1:1,127.0.0.1:{0}", [Level.WARNING, Level.OK]),
        ("127.0.0.1:{0},127.0.0.1:1", [Level.OK, Level.WARNING]),
        ("127.0.0.1:1,127.0.0.1:2", [Level.WARNING, Level.WARNING, Level.ERROR]),
        ("127.0.0.1:1", [Level.ERROR]),
    ],
)
def test_one_dead_node_of_several_is_a_warning(monkeypatch, nodes, levels):
    monkeypatch.setattr(search, "_server", lambda _: iter(()))
    for name in ("_health", "_blocks", "_indices", "_rights", "_pipeline", "_sizes", "_disks", "_clock"):
        monkeypatch.setattr(search, name, lambda *_: iter(()))
    with socket.create_server(("127.0.0.1", 0)) as there:
        url = f"elasticsearch+http://{nodes.format(there.getsockname()[1])}/x"
        found = list(search.examine(url, load(["--broker", "amqp://h"]).routes["default"]))
    assert [each.level for each in found] == levels


def test_redis_that_refuses_is_asked_once_and_said_so(monkeypatch):
    def no_pause(*_):
        raise AssertionError("it is tried again")

    monkeypatch.setattr("kombu.utils.functional.sleep", no_pause)
    (found,) = titled("broker", load(["--broker", "redis://127.0.0.1:1/0"])).examine()
    assert (found.level, found.says) == (Level.ERROR, "redis://127.0.0.1:1/0: nothing listens there")


# ── apps of pushes ──


def test_files_of_an_app_are_relative_and_one_that_is_wrong_stops_no_other(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf").mkdir()
    apps = tmp_path / "conf/apps.toml"
    url = "fcm+https://127.0.0.1:1/?credentials={}.json&project=p"
    apps.write_text("".join(f'[apps.{name}]\nurl = "{url.format(name)}"\n' for name in ("away", "news")))
    (tmp_path / "conf/news.json").write_text("{}")
    tried = []

    def from_url(parts, base, app):
        tried.append(app)
        if not (base / f"{app}.json").exists():
            raise ConfigurationError("sink", f"credentials: {base / app}.json is not there")
        return SimpleNamespace(open=lambda: None, close=lambda: None)

    monkeypatch.setattr("aggregator.sinks.fcm.from_url", from_url)
    found = list(sinks._apps("push:conf/apps.toml"))
    assert tried == ["away", "news"]
    (wrong,) = [each for each in found if "credentials" in each.says]
    assert (wrong.level, wrong.about) == (Level.ERROR, "fcm of away")
    assert "fcm of news" in [each.about for each in found if each.level is Level.OK]


# ── the management API ──

TWO = """
[routes.a]
broker = "amqp://u:hunter2@a/x"
[routes.b]
broker = "{}"
"""


def test_one_management_api_is_not_asked_with_the_credentials_of_another_broker(tmp_path, capsys):
    file = tmp_path / "settings.toml"
    file.write_text(TWO.format("amqp://v:hunter3@b/x"))
    assert main(["--config", str(file), "--management", "http://a:15672"]) == 2
    told = capsys.readouterr().err
    assert "--management: these settings name 2 brokers of AMQP (a:5672; b:5672)" in told
    assert "hunter" not in told


@pytest.mark.parametrize("second", ["amqp://v:w@a:5672/y", "redis://r:1/0"])
def test_one_broker_of_amqp_has_one_management_api(tmp_path, second):
    file = tmp_path / "settings.toml"
    file.write_text(TWO.format(second))
    found = list(places(load(["--config", str(file)]), "http://a:15672"))
    asked = [place.examine._named for place in found if isinstance(place.examine, BrokerExamination)]
    assert set(asked) == {"http://a:15672"}


# ── questions that a broker might not refuse ──


class Channel:
    """Notes what is asked but passively, and refuses that as RabbitMQ does."""

    def __init__(self, asked):
        self._asked = asked

    def queue_declare(self, queue, *, passive=False, **_):
        if passive and queue.endswith(".dead"):
            raise NotFound("no such queue")
        if not passive:
            self._refuse("declare")
        return queue, 0, 0

    def basic_consume(self, *_, **__):
        self._refuse("consume")

    def basic_publish(self, *_, **__):
        self._asked.append("publish")

    def basic_qos(self, *_, **__):
        raise AccessRefused("not allowed")

    def close(self):
        pass

    def _refuse(self, what):
        self._asked.append(what)
        raise PreconditionFailed("no such argument")


@pytest.fixture
def broker(monkeypatch):
    """Return what makes a double of a broker by what it tells of itself; gives what it was asked."""

    def made(product, version):
        asked = []
        connection = SimpleNamespace(
            server_properties={"product": product, "version": version},
            heartbeat=20, frame_max=131_072, virtual_host="/", sock=None,
            channel=lambda: Channel(asked), collect=lambda: None,
        )  # fmt: skip
        for module in (doctor_broker, doctor_places):
            monkeypatch.setattr(module, "connected", lambda _: connection)
        return asked

    monkeypatch.setattr(doctor_broker.Management, "findings", lambda _: iter(()))
    monkeypatch.setattr(doctor_broker.Management, "queue", lambda *_: {})
    return made


@pytest.mark.parametrize(
    ("product", "version", "harmless"),
    [
        ("RabbitMQ", "4.0.5", True),
        ("RabbitMQ", "3.10.8", True),
        ("RabbitMQ", "3.8.9", False),
        ("RabbitMQ", "", False),
        ("LavinMQ", "4.1.0", False),
        (None, "4.1.0", False),
    ],
)
def test_rights_are_asked_of_a_broker_that_is_known_to_refuse(broker, product, version, harmless):
    asked = broker(product, version)
    settings = load(["--broker", "amqp://h", "--queue", "q"])
    found = list(titled("broker", settings).examine())
    sink = list(exchange_findings("exchange+amqp://h?queue=q", settings.routes["default"], heartbeat=1))
    for findings in (found, sink):
        assert [each.level for each in findings if each.about == "rights"] == [Level.NOTE] * (not harmless)
    assert set(asked) == ({"declare", "consume", "publish"} if harmless else set())
    dead = [each.level for each in found if each.about == "queue 'q.dead'"]
    assert dead == [Level.OK]
