"""The body of a bulk request, and the index that a document goes to."""

from __future__ import annotations

from datetime import UTC, datetime

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.correlation import compile_expression
from aggregator.errors import ConfigurationError, MessageRefusedError
from aggregator.sinks.base import Fate
from aggregator.sinks.elasticsearch_bulk import LONGEST_ID, Actions
from aggregator.sinks.elasticsearch_index import AllowedIndex, compile_pattern, name_fault, parse_date
from aggregator.testing.memory import MemoryDelivery


def item(name, document=b"{}", body=None, **properties):
    made = MemoryDelivery(document if body is None else body, **properties)
    made.id = name
    made.document = made.body
    return made


def lines(request):
    assert request.body.endswith(b"\n") or not request.body
    return request.body.split(b"\n")[:-1]


def refusals(request):
    return {position: verdict.reason for position, verdict in request.refused.items()}


def test_the_plain_case():
    request = Actions("create").request([item("a", b'{"n":1}'), item("b", b'{"n":2}')])
    assert request.body == b'{"create":{"_id":"a"}}\n{"n":1}\n{"create":{"_id":"b"}}\n{"n":2}\n'
    assert not request.refused


def test_a_document_is_never_metadata():
    evil = b'{"delete":{"_index":"other","_id":"x"}}'
    request = Actions("create").request([item("a", evil), item("b", evil)])
    assert lines(request)[1::2] == [evil, evil]
    assert [orjson.loads(line) for line in lines(request)[0::2]] == [
        {"create": {"_id": "a"}},
        {"create": {"_id": "b"}},
    ]


def test_line_breaks_between_tokens_are_no_lines():
    request = Actions("create").request([item("a", b'{"n":\n1,\r\n"m":"\\n"}'), item("b", b"{}")])
    assert len(lines(request)) == 4
    assert orjson.loads(lines(request)[1]) == {"n": 1, "m": "\n"}


@pytest.mark.parametrize("name", ["", "x" * (LONGEST_ID + 1), "ä" * 257, "\ud800"])
def test_an_id_that_would_fail_the_whole_request(name):
    request = Actions("create").request([item("a"), item(name), item("b")])
    assert refusals(request) == {1: "bad-id"}
    assert request.refused[1].fate is Fate.DEAD_LETTER
    assert [i.id for i in request.items] == ["a", "b"]
    assert len(lines(request)) == 4


@pytest.mark.parametrize("name", ["x" * LONGEST_ID, "ä" * 256, "\U0001f600" * 128])
def test_the_longest_ids(name):
    request = Actions("create").request([item(name)])
    assert orjson.loads(lines(request)[0]) == {"create": {"_id": name}}


@given(
    st.lists(
        st.tuples(
            st.text(max_size=600) | st.text(alphabet='"\\\n\r{}\u2028\ud800\0', max_size=9),
            st.dictionaries(st.text(max_size=5), st.text(max_size=5) | st.integers(-9, 9), max_size=3),
            st.booleans(),
        ),
        max_size=8,
    ),
    st.booleans(),
)
def test_two_lines_for_each_item_whatever_it_holds(triples, routed):
    options = orjson.OPT_INDENT_2
    surely = [
        ("".join(c for c in name if not "\ud800" <= c <= "\udfff") if clean else name, document)
        for name, document, clean in triples
    ]
    items = []
    for name, document in surely:
        try:
            items.append(item(name, orjson.dumps(document, option=options)))
        except TypeError:  # a lone surrogate inside the document: never an item
            items.append(item(name, b"{}"))
    routing = compile_expression("constant:r\n") if routed else None
    request = Actions("index", routing=routing).request(items)
    kept = [i for n, i in enumerate(items) if n not in request.refused]
    assert list(request.items) == kept
    assert len(lines(request)) == 2 * len(kept)
    for i, action, document in zip(kept, lines(request)[::2], lines(request)[1::2], strict=True):
        metadata = {"_id": i.id, "routing": "r\n"} if routed else {"_id": i.id}
        assert orjson.loads(action) == {"index": metadata}
        assert orjson.loads(document) == orjson.loads(i.document)
    for n, verdict in request.refused.items():
        assert verdict.reason == "bad-id"
        bad = "".join(c for c in items[n].id if "\ud800" <= c <= "\udfff")
        assert bad or not 1 <= len(items[n].id.encode()) <= LONGEST_ID


def test_routing_version_and_index_come_from_the_message():
    index_of, _ = compile_pattern("logs-{/t:%Y.%m.%d}")
    actions = Actions("index", index_of, compile_expression("header:v"), compile_expression("/user/id"))
    made = item("a", b'{"t":"2026-01-31T23:30:00-01:00","user":{"id":7}}', headers={"v": 12})
    request = actions.request([made])
    assert orjson.loads(lines(request)[0]) == {
        "index": {
            "_id": "a",
            "_index": "logs-2026.02.01",
            "routing": "7",
            "version": 12,
            "version_type": "external",
        }
    }
    assert made._json is None


def test_what_the_message_does_not_say():
    index_of, _ = compile_pattern("logs-{/t:%Y}")
    actions = Actions("index", index_of, compile_expression("header:v"), compile_expression("/r"))
    good = {"headers": {"v": "1"}, "body": b'{"t":"2026-01-01"}'}
    request = actions.request(
        [
            item("a", **good),
            item("b", **good | {"body": b"{}"}),
            item("c", **good | {"body": b"nonsense"}),
            item("d", **good | {"headers": {}}),
            item("e", **good | {"body": b'{"t":"2026-01-01","r":[]}'}),
        ]
    )
    assert refusals(request) == {1: "bad-date", 2: "bad-json", 3: "bad-version", 4: "bad-value"}
    assert len(lines(request)) == 2


@pytest.mark.parametrize("value", ["-1", "1.5", "", "x", "9223372036854775807", "1" * 30, "\u0661", None])
def test_versions_that_would_fail_the_whole_request(value):
    request = Actions("index", version=compile_expression("header:v")).request(
        [item("a", headers={"v": value})]
    )
    assert refusals(request) == {0: "bad-version"}
    assert not request.body


@pytest.mark.parametrize("value", [0, "0", 9223372036854775806])
def test_versions(value):
    request = Actions("index", version=compile_expression("header:v")).request(
        [item("a", headers={"v": value})]
    )
    assert orjson.loads(lines(request)[0])["index"]["version"] == int(value)


def test_an_index_from_the_allow_list():
    index_of = AllowedIndex(compile_expression("type"), "type", frozenset({"logs", "events"}))
    request = Actions("create", index_of).request(
        [
            item("a", properties={"type": "events"}),
            item("b", properties={"type": ".security"}),
            item("c"),
        ]
    )
    assert orjson.loads(lines(request)[0]) == {"create": {"_id": "a", "_index": "events"}}
    assert refusals(request) == {1: "bad-index", 2: "bad-index"}
    assert ".security" not in request.refused[1].detail


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-03-01", "2026-03-01T00:00:00"),
        ("20260301", "2026-03-01T00:00:00"),
        ("2026-03-01T10:00:00Z", "2026-03-01T10:00:00"),
        ("2026-03-01T10:00:00.5+02:00", "2026-03-01T08:00:00.5"),
        ("1772359200", "2026-03-01T10:00:00"),
        ("1772359200.5", "2026-03-01T10:00:00.5"),
        ("1772359200500", "2026-03-01T10:00:00.5"),
        ("1772359200500.0", "2026-03-01T10:00:00.5"),
    ],
)
def test_dates(text, moment):
    assert parse_date(text) == datetime.fromisoformat(moment).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    "text", ["", "x", "1", "0001-01-01", "9999-12-31T23:00-05:00", "1772359200500000", "2026-02-30"]
)
def test_no_dates(text):
    with pytest.raises((ValueError, OverflowError)):
        parse_date(text)
    index_of, _ = compile_pattern("logs-{header:t:%Y}")
    with pytest.raises(MessageRefusedError, match="bad-date"):
        index_of(item("a", headers={"t": text}))


def test_patterns():
    index_of, target = compile_pattern("logs-{header:when:%G-w%V}-x")
    assert target == "logs-*-x"
    assert index_of(item("a", headers={"when": "2026-01-01"})) == "logs-2026-w01-x"


@pytest.mark.parametrize("text", ["{/a:%Y}{/b:%m}", "a{:%Y}", "a{/t:Y}", "a}/t:%Y{"])
def test_no_patterns(text):
    with pytest.raises(ConfigurationError, match="is no pattern"):
        compile_pattern(text)


@given(st.text(max_size=300))
def test_names_of_indices_follow_the_rules_of_elasticsearch(name):
    broken = (
        not name
        or any(c in '\\/*?"<>| ,#:' or ord(c) < 32 or ord(c) == 127 for c in name)
        or name != name.lower()
        or name[0] in "-_+"
        or name in {".", ".."}
        or len(name.encode(errors="replace")) > 255
    )
    assert (name_fault(name) is not None) == broken
