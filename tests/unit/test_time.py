"""Retry queues and expiry without a server: which step comes next, what it looks like, what is too old."""

from __future__ import annotations

import re

import pytest

from aggregator import rules
from aggregator.assembly import make_pipeline
from aggregator.backoff import Backoff
from aggregator.check import check
from aggregator.config import load
from aggregator.delivery import Settlement
from aggregator.errors import ConfigurationError, ConfigurationErrors
from aggregator.expiry import moment
from aggregator.metrics import Metrics
from aggregator.ports import Refused
from aggregator.retrying import RETRIES, Retries, queue_arguments, read_steps
from aggregator.sinks.base import Fate, Verdict
from aggregator.testing import Harness
from aggregator.testing.clock import VirtualClock
from aggregator.testing.dead_letters import MemoryDeadLetters
from aggregator.testing.memory import MemoryDelivery, MemoryLink
from aggregator.testing.settings import from_arguments
from aggregator.testing.sink import MemorySink
from consumers.dead_letter_message import dead_letter, original
from consumers.dead_letters import DeadLetters
from producers.delay import delayed

TARGET = {"queue": "q", "exchange": "", "routing_key": "q.dead", "frame_max": 131_072}
NOON = 1_800_000_000.0


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    monkeypatch.setattr(rules, "from_url", lambda url: None)


def refused(reason="retries-exhausted", status=None, attempts=1, **delivery):
    return Refused(MemoryDelivery(b"body", **delivery), reason, status=status, attempts=attempts)


# ── retry queues: which step ──


def test_each_step_comes_once_and_then_no_other():
    retries = Retries("q", read_steps("1m, 10m,60m"), ["retries-exhausted"])
    assert [retries.step(refused(headers={RETRIES: done} if done else {})) for done in range(4)] == [
        (1, "q.retry.1m"), (2, "q.retry.10m"), (3, "q.retry.1h"), None,
    ]  # fmt: skip


def test_only_what_may_pass_is_retried():
    retries = Retries("q", [60], ["retries-exhausted", "503"])
    assert retries.step(refused("whatever", status=503))
    assert retries.step(refused("mapping", status=400)) is None
    assert Retries("q", [60], ["*"]).step(refused("mapping"))


@pytest.mark.parametrize("said", [-1, True, "0", 1.0, [0], 2**70])
def test_a_number_of_steps_that_somebody_made_up_never_goes_round(said):
    assert Retries("q", [60, 60], ["*"]).step(refused(headers={RETRIES: said})) is None


def test_headers_that_cannot_be_read_make_a_dead_letter():
    class Unreadable(MemoryDelivery):
        @property
        def headers(self):
            raise ValueError("cut short")

    assert Retries("q", [60], ["*"]).step(Refused(Unreadable(b""), "bad-properties")) is None


def test_the_queue_of_a_step_gives_back_safely():
    assert queue_arguments("orders", 0.25) == {
        "x-queue-type": "quorum", "x-message-ttl": 250, "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": "orders", "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",
    }  # fmt: skip


# ── retry queues: the message ──


def test_the_first_journey_is_known_to_the_end():
    first = dead_letter(
        refused(
            attempts=3, exchange="shop", routing_key="order.new",
            headers={"n": 1, "CC": ["elsewhere"]}, properties={"message_id": "m", "expiration": "5000"},
        ),
        **TARGET, retries=1,
    )  # fmt: skip
    headers = first.properties.pop("headers")
    assert (headers[RETRIES], first.properties["message_id"]) == (1, "m")
    assert "expiration" not in first.properties
    # as the broker brings it back
    back = refused("mapping", attempts=2, routing_key="q", headers=headers, properties=first.properties)
    last = dead_letter(back, **TARGET)
    found = last.properties["headers"]
    assert found["x-aggregator-reason"] == "mapping"
    assert found["x-aggregator-attempts"] == 5
    assert found["x-aggregator-cc"] == ["elsewhere"]
    assert found[RETRIES] == 1
    again = original(last.properties)
    assert (again.exchange, again.routing_key) == ("shop", "order.new")
    # sent back by hand, it begins anew
    assert again.properties == {"message_id": "m", "expiration": "5000", "headers": {"n": 1}}


class Line:
    """Stands for a publisher: notes what it is asked for; the first letters are unroutable."""

    frame_max = 131_072

    def __init__(self, refusals):
        self.refusals = refusals
        self.declared, self.published = [], []

    def declare_queue(self, name):
        self.declared.append(name)

    def insist_on_queue(self, name, _arguments):
        self.declared.append(name)

    def publish(self, messages):
        self.published += messages
        outcomes = ["unroutable" if self.refusals > 0 else None for _ in messages]
        self.refusals -= 1
        return outcomes

    def close(self):
        pass


def test_what_is_retried_is_told_apart_and_its_queue_made_again():
    dead, later = [], []
    letters = DeadLetters(
        "memory://", "q", on_published=dead.extend, retries=Retries("q", [60], ["503"]),
        on_retried=later.extend,
    )  # fmt: skip
    letters._publisher = line = Line(refusals=1)
    letters.start()
    assert line.declared == ["q.dead", "q.retry.1m"]
    sent = [refused(status=503), refused("mapping"), refused(status=503, headers={RETRIES: 1})]
    letters.submit(sent)
    assert letters.drain(30)
    assert letters.stop(5)
    assert (later, sorted(map(id, dead))) == ([sent[0]], sorted(map(id, sent[1:])))
    assert line.declared == ["q.dead", "q.retry.1m"] * 2
    assert {message.routing_key for message in line.published} == {"q.retry.1m", "q.dead"}


def test_what_comes_back_is_written_even_where_it_was_handed_out_before():
    clock, link, sink = VirtualClock(), MemoryLink(), MemorySink()
    dead = MemoryDeadLetters(clock)
    route = from_arguments({"size": 1, "id": "message_id"})
    pipeline = make_pipeline(
        route, sink=sink, dead_letters=dead, metrics=Metrics().route("r"), clock=clock, backoff=Backoff(1, 2)
    )
    dead.report = pipeline.retried
    pipeline.link_opened(link, 10)
    sink.decide = lambda items: [Verdict(Fate.DEAD_LETTER, "later") for _ in items]
    for again in (False, True):
        # the second time another process has had it, and was killed
        pipeline.accept([MemoryDelivery(b"{}", properties={"message_id": "m"}, link=link, redelivered=again)])
        while pipeline.step():
            pass
        sink.decide = sink.create
        dead.begin(1)
        dead.end(confirmed=True)
    assert list(sink.stored) == ["m"]
    assert len(link.of(Settlement.ACK)) == 1 + 1


# ── what is refused at the start ──


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"retry": "1m,10"}, "retry: 10 has no unit"),
        ({"retry": ","}, "retry: no step is named; durations separated by commas"),
        ({"retry": "0"}, "retry: a step of 0 is none"),
        ({"retry": "50d"}, "retry: 1200h is longer than RabbitMQ can wait; 49d at most"),
        ({"retry": ",".join(["1s"] * 21)}, "retry: these are 21 steps; up to 20"),
        ({"retry_reasons": " , "}, "retry_reasons: no reason is named"),
        ({"retry": "1m", "broker": "memory://"}, "retry: messages wait in queues of RabbitMQ; amqp://"),
        ({"retry": "1m", "on_refused": "stop"}, "retry: with on_refused = stop nothing leaves the queue"),
        ({"retry": "1m", "correlate": "routing_key"}, "correlate: 'routing_key': what comes back by a retry"),
        ({"retry": "1m", "partitions": 2, "correlate": "message_id"}, "retry: what comes back goes to one"),
        ({"retry": "1m", "queue": "q" * 250}, "queue: 259 bytes with .retry. and its step"),
        ({"expires": "/until"}, "expires: '/until' is in the body, which is not read for this"),
        ({"expires": "expiration"}, "expires: 'expiration' is a stretch of time that the broker keeps"),
        ({"expires": "heador:x"}, "expires: 'heador:x' is no expression"),
    ],
)
def test_what_is_refused(settings, said):
    with pytest.raises(ConfigurationErrors) as caught:
        from_arguments({"broker": "amqp://h", **settings})
    assert any(str(fault).startswith(said) for fault in caught.value.faults), str(caught.value)


def test_a_list_is_taken_from_a_file_and_shown(tmp_path, capsys):
    path = tmp_path / "settings.toml"
    path.write_text('broker = "amqp://h"\nretry = ["60s", "1h"]\nretry_reasons = ["busy", 503]\n')
    settings = load(["--config", str(path)])
    assert settings.routes["default"].retry == "60s,1h"
    check(settings).show()
    said = " ".join(capsys.readouterr().out.split())
    queue = settings.routes["default"].queue
    assert f"'{queue}.retry.1m', '{queue}.retry.1h', if busy or 503" in said


# ── what is too old ──


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1800000000", NOON), ("1800000000.5", NOON + 0.5), ("2027-01-15T08:00:00Z", NOON),
        ("2027-01-15T09:00:00+01:00", NOON), ("2027-01-15 08:00", NOON),
    ],
)  # fmt: skip
def test_a_moment(text, seconds):
    assert moment(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "60", "20270115", "1800000000000", "nan", "inf", "9" * 400])
def test_no_moment(text):
    with pytest.raises(ValueError, match=r"unix seconds are needed"):
        moment(text)


def expiring(route, number, expires):
    route.publish({"n": number}, id=str(number), headers={} if expires is None else {"expires": expires})


def test_what_is_too_old_when_its_group_goes_is_acked_and_not_written():
    with Harness(size=4, age="10s", expires="header:expires", at=NOON) as route:
        for number, expires in enumerate([None, NOON + 5, str(NOON + 11), NOON - 1]):
            expiring(route, number, expires)
        assert [each["n"] for each in route.documents] == [0, 1, 2]
        expiring(route, 4, NOON + 5)
        route.advance("10s")
        assert (route.totals, route.queue) == ({"written": 3, "expired": 2}, [])


def test_what_becomes_too_old_while_the_sink_is_away_is_not_sent_again():
    with Harness(size=1, expires="header:expires", at=NOON, retry_first="20s", retry_max="20s") as route:
        route.sink.retry(lambda document: True)
        expiring(route, 1, NOON + 5)
        route.settle()
        assert (route.documents, route.totals) == ([], {"expired": 1})


def test_what_says_its_moment_wrongly_is_dead_lettered_alone():
    with Harness(size=2, expires="header:expires", at=NOON) as route:
        expiring(route, 1, "tomorrow")
        expiring(route, 2, None)
        assert [(each.reason, each.delivery.id) for each in route.dead_letters] == [("bad-expires", "1")]
        assert [each["n"] for each in route.documents] == [2]


def test_a_group_is_made_of_those_in_time():
    with Harness(size=2, aggregate="list", correlate="header:k", expires="header:expires", at=NOON) as route:
        route.publish({"n": 1}, headers={"k": "a", "expires": NOON - 1})
        route.publish({"n": 2}, headers={"k": "a"})
        assert route.documents == [{"key": "a", "messages": [{"n": 2}]}]
        assert route.totals == {"written": 1, "expired": 1}


def test_without_the_setting_nobody_asks():
    with Harness(size=1) as route:
        assert not [each for each in route._process.pipeline._screening._screens if each.active]


# ── for later ──


@pytest.mark.parametrize(("seconds", "waits"), [(1, {1}), (12.2, {1, 4, 8}), (64, {64}), (2**20 - 1, None)])
def test_a_delay_is_the_sum_of_its_levels(seconds, waits):
    message = delayed("a.b", b"", {"message_id": "m"}, seconds)
    words = message.routing_key.split(".")
    bits, queue = words[:20], words[20:]
    found = {2 ** (19 - place) for place, bit in enumerate(bits) if bit == "1"}
    assert queue == ["a", "b"]
    assert message.properties == {"message_id": "m"}
    assert found == waits or (waits is None and len(found) == 20)
    assert message.exchange == f"aggregator.delay.{max(found).bit_length() - 1}"


def test_no_delay_is_none():
    message = delayed("q", b"", {}, 0)
    assert (message.exchange, message.routing_key) == ("", "q")


@pytest.mark.parametrize(
    ("queue", "seconds", "said"),
    [("q", -1, "delay: -1 s"), ("q", 2**20, "delay: 1.04858e"), ("q", float("nan"), "delay: nan"),
     ("a.#", 1, "queue: 'a.#': * and #"), ("q" * 216, 1, "queue: the name is too long")],
)  # fmt: skip
def test_what_cannot_be_delayed(queue, seconds, said):
    with pytest.raises(ConfigurationError, match=f"^{re.escape(said)}"):
        delayed(queue, b"", {}, seconds)


def test_an_expiration_would_cut_a_delay_short():
    with pytest.raises(ConfigurationError, match=r"^expiration: "):
        delayed("q", b"", {"expiration": "5"}, 1)
