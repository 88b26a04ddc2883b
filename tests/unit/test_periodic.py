"""Messages by the clock: what is said of them, and when they are due."""

from __future__ import annotations

from datetime import UTC, datetime

import orjson
import pytest

from aggregator import Aggregator
from aggregator.config import load
from aggregator.errors import ConfigurationErrors
from aggregator.periodic import Periodic, Timetable


def at(text):
    return datetime.fromisoformat(text).timestamp()


def timetable(**said):
    said = {"queue": "q", **said} if "exchange" not in said else said
    return Timetable(Periodic.model_validate({"name": "nightly", **said}))


def read(tmp_path, text, broker="amqp://h//"):
    path = tmp_path / "a.toml"
    path.write_text(f'broker = "{broker}"\n[periodic.nightly]\n{text}\n[routes.r]\nqueue = "q"\n')
    return load(["--config", str(path)])


def test_the_message_is_the_same_whoever_makes_it():
    made = timetable(crontab="0 3 * * *", time_zone="Europe/Berlin").message(at("2026-11-22T03:00+01:00"))
    assert (made.exchange, made.routing_key) == ("", "q")
    assert orjson.loads(made.body) == {"periodic": "nightly", "at": "2026-11-22T02:00:00Z"}
    assert made.properties == {
        "message_id": "nightly@2026-11-22T02:00:00Z",
        "timestamp": int(at("2026-11-22T02:00Z")),
        "delivery_mode": 2,
        "content_type": "application/json",
        "headers": {"x-aggregator-periodic": "nightly", "x-aggregator-at": "2026-11-22T02:00:00Z"},
    }


def test_all_that_can_be_said_of_it():
    made = timetable(
        interval="1m", exchange="amq.topic", routing_key="a.b", body="wörds", type="sentinel",
        correlation_id="c", headers={"end": True}, expiration="1m30s",
    ).message(60.0)  # fmt: skip
    assert (made.exchange, made.routing_key, made.body.decode()) == ("amq.topic", "a.b", "wörds")
    told = made.properties
    assert (told["content_type"], told["type"], told["correlation_id"]) == ("text/plain", "sentinel", "c")
    assert (told["expiration"], told["headers"]["end"]) == ("90000", True)
    assert orjson.loads(timetable(interval="1m", body=[{"n": 1}]).message(0).body) == [{"n": 1}]


@pytest.mark.parametrize(
    ("said", "last", "now", "due"),
    [
        ({"interval": "15m"}, "2026-11-22T10:00Z", "2026-11-22T10:14:59Z", None),
        ({"interval": "15m"}, "2026-11-22T10:00Z", "2026-11-22T10:15Z", "2026-11-22T10:15Z"),
        # of several that were missed the last one
        ({"interval": "15m"}, "2026-11-22T10:00Z", "2026-11-22T11:20Z", "2026-11-22T11:15Z"),
        ({"crontab": "0 3 * * *"}, "2026-11-20T03:00Z", "2026-11-22T03:59Z", "2026-11-22T03:00Z"),
        ({"crontab": "0 3 * * *"}, "2026-11-20T03:00Z", "2026-11-22T04:01Z", None),
        (
            {"crontab": "0 3 * * *", "catch_up": "1d"},
            "2026-11-20T03:00Z", "2026-11-22T04:01Z", "2026-11-22T03:00Z",
        ),
        ({"crontab": "0 3 * * *", "catch_up": "1m"}, "2026-11-20T03:00Z", "2026-11-22T03:01:01Z", None),
    ],
)  # fmt: skip
def test_due(said, last, now, due):
    assert timetable(**said).due(at(last), at(now)) == (due and at(due))


@pytest.mark.parametrize("interval", ["1.1s", "1.3s", "2.3s", "60.1s", "7s"])
def test_moments_of_an_interval_go_on(interval):
    table, moment = timetable(interval=interval), 1_700_000_000.0
    for _ in range(1000):
        assert table.next_after(moment) > moment
        moment = table.next_after(moment)


def test_each_moment_comes_once_where_clocks_are_put_back():
    table = timetable(crontab="30 2 * * *", time_zone="Europe/Berlin")
    last, now, found = at("2026-10-24T12:00Z"), at("2026-10-24T12:00Z"), []
    while now < at("2026-10-26T12:00Z"):
        now += 60
        if (due := table.due(last, now)) is not None:
            last = due
            found.append(datetime.fromtimestamp(due, UTC).isoformat())
    assert found == ["2026-10-25T00:30:00+00:00", "2026-10-26T01:30:00+00:00"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('queue = "q"', "periodic.nightly: crontab or interval is needed, one of them"),
        ('queue = "q"\ncrontab = "* * * * *"\ninterval = "1m"', "crontab or interval is needed, one of them"),
        ('crontab = "* * * * *"', "periodic.nightly: queue or exchange is needed, one of them"),
        ('interval = "1m"\nqueue = "q"\nexchange = "e"', "queue or exchange is needed, one of them"),
        ('interval = "1m"\nqueue = "q"\nrouting_key = "k"', "routing_key goes with exchange"),
        ('crontab = "every night"\nqueue = "q"', "periodic.nightly.crontab: 'every night' names no moment"),
        ('interval = "100ms"\nqueue = "q"', "periodic.nightly.interval: "),
        ('interval = "1m"\nqueue = "q"\ntime_zone = "Mars"', "periodic.nightly.time_zone: 'Mars' is none"),
        ('interval = "1m"\nqueue = "q"\ncatch_up = "0s"', "periodic.nightly.catch_up: "),
        ('interval = "1m"\nqeue = "q"', "periodic.nightly.qeue: no such setting; did you mean queue?"),
        ('interval = "1m"\nqueue = "q"\nheaders = { a = [1] }', "periodic.nightly.headers.a: a text"),
    ],
)
def test_bad_tables(tmp_path, text, problem):
    with pytest.raises(ConfigurationErrors) as caught:
        read(tmp_path, text)
    assert problem in str(caught.value)


def test_it_needs_rabbitmq(tmp_path):
    with pytest.raises(ConfigurationErrors, match="periodic: messages by the clock need RabbitMQ"):
        read(tmp_path, 'interval = "1m"\nqueue = "q"', broker="memory://")


def test_said_in_python():
    app = Aggregator("amqp://h//", environment=False)
    app.route("q")
    app.periodic("nightly", interval=60, queue="q", body={"n": 1}, headers={"end": True})
    said = app.settings().periodic["nightly"]
    assert (said.interval, said.body, said.headers) == (60.0, b'{"n":1}', {"end": True})
    with pytest.raises(Exception, match="there is one of this name"):
        app.periodic("nightly", interval=60, queue="q")
