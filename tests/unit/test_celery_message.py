"""Tasks of Celery as messages: both protocols, their ids and documents, what is refused, what is too late."""

from __future__ import annotations

import gzip
import json
from datetime import UTC, datetime, timedelta

import pytest

from aggregator import ConfigurationErrors
from aggregator.assembly import make_intake
from aggregator.celery_message import CANVAS, read_task
from aggregator.errors import MessageRefusedError
from aggregator.intake import Intake
from aggregator.testing import Harness
from aggregator.testing.memory import MemoryDelivery

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
JSON = {"content_type": "application/json", "content_encoding": "utf-8"}
EMBED = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
DOCUMENT = {"task": "shop.click", "id": "t1", "args": [{"n": 1}], "kwargs": {"user": "ann"}}


def at(seconds):
    return (NOW + timedelta(seconds=seconds)).isoformat()


def task(protocol=2, *, number="t1", args=({"n": 1},), kwargs=None, embed=EMBED, body=None, **given):
    """Return headers and body of a task."""
    kwargs = {"user": "ann"} if kwargs is None else kwargs
    said = {"task": "shop.click", "id": number, "eta": None, "expires": None, "retries": 0, **given}
    content = (
        [list(args), kwargs, embed] if protocol == 2 else {**said, "args": args, "kwargs": kwargs, **embed}
    )
    headers = {**said, "lang": "py", "timelimit": [None, None]} if protocol == 2 else {}
    return headers, json.dumps(content).encode() if body is None else body


def delivery(*given, properties=JSON, more=None, **named):
    headers, body = task(*given, **named)
    return MemoryDelivery(body, headers={**headers, **(more or {})}, properties=properties)


def publish(route, *given, more=None, properties=JSON, **named):
    headers, body = task(*given, **named)
    return route.publish(body, headers={**headers, **(more or {})}, **properties)


def harness(**settings):
    return Harness(messages="celery", at=NOW, **{"size": 1, **settings})


def reasons(route):
    return [entry.reason for entry in route.dead_letters]


@pytest.fixture(params=[1, 2], ids=["protocol 1", "protocol 2"])
def protocol(request):
    return request.param


# ── documents ──


def test_a_task_is_a_document_by_its_id(protocol):
    with harness() as route:
        publish(route, protocol)
        assert [(id_, json.loads(body)) for id_, body in route.sink.written] == [("t1", DOCUMENT)]


@pytest.mark.parametrize(
    ("part", "document"), [("/kwargs", {"user": "ann"}), ("/args/0", {"n": 1}), ("task", DOCUMENT)]
)
def test_a_part_of_it(protocol, part, document):
    with harness(celery_document=part) as route:
        publish(route, protocol)
        assert route.documents == [document]


@pytest.mark.parametrize("part", ["/args/1", "/kwargs/user"])
def test_a_part_that_is_no_object_is_refused(protocol, part):
    with harness(celery_document=part) as route:
        publish(route, protocol)
        assert reasons(route) == ["not-an-object"]


def test_an_expression_for_the_id_goes_before_the_task_s():
    with harness(id="/kwargs/user") as route:
        publish(route)
        assert [id_ for id_, _ in route.sink.written] == ["ann"]


def test_keys_are_read_from_headers_and_from_the_document(protocol):
    expression = "header:task + /kwargs/user" if protocol == 2 else "/task + /kwargs/user"
    with harness(correlate=expression, size=2, aggregate="list") as route:
        for number, user in enumerate(["ann", "bob", "bob", "ann"]):
            publish(route, protocol, number=f"t{number}", kwargs={"user": user})
        assert [[each["id"] for each in one["messages"]] for one in route.documents] == [
            ["t1", "t2"],
            ["t0", "t3"],
        ]
        assert route.documents[0]["key"] == '["shop.click","bob"]'


def test_what_kombu_marks_is_text():
    marked = {
        "at": {"__type__": "datetime", "__value__": "2026-01-02T03:04:05"},
        "ids": [{"__type__": "uuid", "__value__": {"hex": "00ff"}}],
        "price": {"__type__": "decimal", "__value__": "1.10"},
        "own": {"__type__": "x", "__value__": 1, "more": 2},
    }
    plain = {"at": "2026-01-02T03:04:05", "ids": ["00ff"], "price": "1.10", "own": marked["own"]}
    assert read_task(delivery(kwargs=marked), 10**6).kwargs == plain


def test_what_was_inflated_is_not_held():
    headers, body = task(kwargs={"text": "x" * 10_000})
    for settings in ({}, {"correlate": "/kwargs/text"}, {"aggregate": "list"}):
        with harness(size=2, age="1s", max_message="20kB", **settings) as route:
            intake = route._process.pipeline._intake
            given = MemoryDelivery(
                gzip.compress(body), headers={**headers, "compression": "application/x-gzip"}, properties=JSON
            )
            assert len(intake.sort([given]).entries) == 1
            assert not given.document
            assert not given.parsed
            route.publish(gzip.compress(body), headers={**headers, "compression": "gzip"}, **JSON)
            route.settle()
            (document,) = route.documents
            assert len(json.dumps(document)) > 10_000


# ── what is refused ──

WRONG = {
    "no task": (delivery(1, body=b'["x"]'), "bad-task"),
    "no name": (delivery(1, task=None), "bad-task"),
    "no id": (delivery(number=None), "bad-task"),
    "an id that is none": (delivery(number=7), "bad-task"),
    "args": (delivery(body=b'[{"a": 1}, {}, {}]'), "bad-task"),
    "kwargs": (delivery(body=b"[[], [], {}]"), "bad-task"),
    "two": (delivery(body=b"[[], {}]"), "bad-task"),
    "an object": (delivery(body=b"{}"), "bad-task"),
    "eta": (delivery(eta="soon"), "bad-task"),
    "a span": (delivery(expires=60), "bad-task"),
    "milliseconds": (delivery(expires=1.8e12), "bad-task"),
    "infinity": (delivery(expires=float("inf")), "bad-task"),
    "true": (delivery(1, expires=True), "bad-task"),
    "no JSON": (delivery(body=b"[[], {}"), "bad-json"),
    "NaN": (delivery(body=b"[[NaN], {}, {}]"), "bad-json"),
    "deep marks": (delivery(body=b'[[], {"x": %b"__type__"%b}, {}]' % (b"[" * 300, b"]" * 300)), "bad-json"),
    "empty": (delivery(body=b""), "empty-body"),
    "charset": (delivery(body=b"\xff", properties={**JSON, "content_encoding": "ascii"}), "bad-charset"),
    "no charset": (delivery(properties={**JSON, "content_encoding": "punycode"}), "bad-charset"),
    "large": (delivery(args=["x" * 2000]), "too-large"),
    "bomb": (
        delivery(body=gzip.compress(b"[[], {}, {}]" + b" " * 2000), more={"compression": "gzip"}),
        "compressed",
    ),
    **{
        kind: (
            delivery(properties={"content_type": kind, "content_encoding": encoding}),
            "unsupported-serializer",
        )
        for kind, encoding in [
            ("application/x-python-serialize", "binary"),
            ("application/x-yaml", "utf-8"),
            ("application/x-msgpack", "binary"),
            ("application/data", "binary"),
        ]
    },
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_task_is_refused_by_its_reason(name):
    given, reason = WRONG[name]
    with pytest.raises(MessageRefusedError) as caught:
        read_task(given, 1000)
    assert caught.value.reason == reason


@pytest.mark.parametrize("following", CANVAS)
def test_a_task_that_others_follow_is_refused(protocol, following):
    with pytest.raises(MessageRefusedError, match=following) as caught:
        read_task(delivery(protocol, embed={**EMBED, following: [{"task": "next"}]}), 1000)
    assert caught.value.reason == "unsupported-canvas"


def test_one_that_is_wrong_takes_no_other_with_it():
    with harness(size=2) as route:
        publish(route, number="t1")
        publish(route, body=b"\xff")
        publish(route, number="t2")
        assert [each["id"] for each in route.documents] == ["t1", "t2"]
        assert route.totals == {"written": 2, "dead_lettered": 1}


# ── time ──


@pytest.mark.parametrize(
    "moment", [at(-1), at(0), at(-1).replace("+00:00", "Z"), at(-1)[:-6], NOW.timestamp()]
)
def test_an_expired_task_is_discarded_and_counted(protocol, moment):
    with harness(size=2) as route:
        publish(route, protocol, expires=moment)
        assert (route.queue, route.totals) == ([], {"expired": 1})


def test_a_task_that_expires_while_it_is_held(protocol):
    with harness(size=2, age="10s") as route:
        publish(route, protocol, expires=at(5))
        publish(route, protocol, number="t2", expires=at(60))
        assert route.totals == {"written": 2}
        publish(route, protocol, number="t3", expires=at(5))
        assert len(route.queue) == 1
        route.advance(10)
        assert (route.queue, route.totals) == ([], {"written": 2, "expired": 1})


def test_of_a_group_the_expired_are_left_out():
    with harness(correlate="header:task", size=2, aggregate="list") as route:
        publish(route, expires=at(-5))
        publish(route, number="t2")
        assert [[each["id"] for each in one["messages"]] for one in route.documents] == [["t2"]]
        assert route.totals == {"written": 1, "expired": 1}


def test_while_nothing_expires_nobody_is_asked():
    with harness() as route:
        publish(route)
        assert not route._process.pipeline._intake.tasks.active


def test_an_eta_to_come_is_refused(protocol):
    with harness() as route:
        publish(route, protocol, eta=at(2))
        publish(route, protocol, number="t2", eta=at(0.9))
        publish(route, protocol, number="t3", eta=at(-60))
        assert reasons(route) == ["eta-in-future"]
        assert [each["id"] for each in route.documents] == ["t2", "t3"]


def test_an_eta_to_come_is_not_waited_for_if_told_so(protocol):
    with harness(celery_eta="write") as route:
        publish(route, protocol, eta=at(3600))
        assert route.totals == {"written": 1}


def test_what_expires_before_its_eta_has_expired():
    with harness() as route:
        publish(route, eta=at(60), expires=at(-1))
        assert route.totals == {"expired": 1}


def test_a_task_is_revoked_by_its_id(protocol):
    with harness() as route:
        route.revoke("t1")
        publish(route, protocol)
        publish(route, protocol, number="t2")
        assert route.totals == {"revoked": 1, "written": 1}


# ── settings ──


def test_plain_messages_are_read_as_ever():
    with Harness(size=1) as route:
        assert type(make_intake(route.route)) is Intake
        route.publish({"task": "x"}, id="m1")
        assert route.documents == [{"task": "x"}]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"messages": "celery", "celery_document": "args"}, "'args' is no part of a task"),
        ({"messages": "celery", "celery_document": "/args/"}, "'/args/' is no part of a task"),
        ({"messages": "celery", "celery_document": "/kwargsx"}, "'/kwargsx' is no part of a task"),
        ({"celery_document": "/kwargs"}, "messages are plain"),
        ({"celery_eta": "write"}, "messages are plain"),
        ({"messages": "celery", "aggregate": "push"}, "a task of Celery is no push message"),
        (
            {"messages": "celery", "broker": "tarantool://u:p@h:1/", "queue": "t"},
            "Celery puts no tasks into tubes",
        ),
    ],
)
def test_settings_that_cannot_be(settings, words):
    with pytest.raises(ConfigurationErrors, match=words):
        Harness(**settings)
