"""The sink against Elasticsearch itself."""

from __future__ import annotations

import contextlib
import uuid

import orjson
import pytest
import requests

from aggregator.errors import RequestTooLargeError, SinkBlockedError, SinkUnavailableError
from aggregator.sinks import from_url
from aggregator.sinks.base import DUPLICATE, WRITTEN, Fate
from aggregator.testing.memory import MemoryDelivery
from tests.elasticsearch_proxy import proxy

pytestmark = pytest.mark.integration


# any setting makes it a node that no other test shares
OWN = {"node.attr.own": "yes"}


def item(name, document=b'{"n":1}', **properties):
    made = MemoryDelivery(document, **properties)
    made.id = name
    made.document = document
    return made


@pytest.fixture
def connect():
    made = []

    def opened(server, rest):
        sink = from_url(f"elasticsearch+{server.url}/{rest}")
        made.append(sink)
        sink.open()
        return sink

    yield opened
    for sink in made:
        sink.close()


def fates(verdicts):
    return [verdict.fate for verdict in verdicts]


def block(server, index, name, value):
    server.call("PUT", f"/{index}/_settings", {f"index.blocks.{name}": value})


def test_written_as_it_came(elasticsearch, index, connect):
    documents = {
        "plain": b'{"n":1}',
        'quo"te\\ \u2028 \u00e4 \U0001f600': b'{"text":"\\n \\u2028 \xc3\xa4"}',
        "evil": b'{"delete":{"_index":"x","_id":"plain"}}',
        "broken": b'{"n":\n 1 }',
        "\r\n\t": b"{}",
    }
    sink = connect(elasticsearch, index)
    assert sink.write([item(name, document) for name, document in documents.items()]) is None
    assert elasticsearch.documents(index) == {name: orjson.loads(doc) for name, doc in documents.items()}


def test_written_once(elasticsearch, index, connect):
    sink = connect(elasticsearch, index)
    assert sink.write([item("a"), item("b")]) is None
    assert sink.write([item("a", b'{"n":2}'), item("c")]) == [DUPLICATE, WRITTEN]
    assert elasticsearch.documents(index)["a"] == {"n": 1}


def test_the_last_one_wins_with_index(elasticsearch, index, connect):
    sink = connect(elasticsearch, f"{index}?op=index")
    assert sink.write([item("a"), item("a", b'{"n":2}')]) is None
    assert sink.write([item("a", b'{"n":3}')]) is None
    assert elasticsearch.documents(index) == {"a": {"n": 3}}


def test_the_highest_version_wins(elasticsearch, index, connect):
    sink = connect(elasticsearch, f"{index}?version=header:v")
    assert sink.write([item("a", b'{"n":5}', headers={"v": 5})]) is None
    verdicts = sink.write(
        [
            item("a", b'{"n":4}', headers={"v": 4}),
            item("a", b'{"n":5}', headers={"v": 5}),
            item("a", b'{"n":7}', headers={"v": "7"}),
            item("b", headers={}),
        ]
    )
    assert verdicts[:3] == [DUPLICATE, DUPLICATE, WRITTEN]
    assert (verdicts[3].fate, verdicts[3].reason) == (Fate.DEAD_LETTER, "bad-version")
    assert elasticsearch.documents(index) == {"a": {"n": 7}}


def test_a_document_that_does_not_fit_harms_no_neighbour(elasticsearch, index, connect):
    elasticsearch.call("PUT", f"/{index}", {"mappings": {"properties": {"n": {"type": "integer"}}}})
    sink = connect(elasticsearch, index)
    verdicts = sink.write(
        [item("a"), item("b", b'{"n":"SECRET"}'), item("c"), item("d", b"[1]"), item("e", b"")]
    )
    dead = Fate.DEAD_LETTER
    assert fates(verdicts) == [Fate.WRITTEN, dead, Fate.WRITTEN, dead, dead]
    said = verdicts[1]
    assert (said.reason, said.status) == ("document_parsing_exception", 400)
    assert said.detail == "field [n] of type [integer], caused by number_format_exception"
    assert [verdict.detail for verdict in verdicts[3:]] == ["not an object", "the document is empty"]
    assert set(elasticsearch.documents(index)) == {"a", "c"}


def test_a_strict_mapping(elasticsearch, index, connect):
    elasticsearch.call(
        "PUT", f"/{index}", {"mappings": {"dynamic": "strict", "properties": {"n": {"type": "long"}}}}
    )
    verdicts = connect(elasticsearch, index).write([item("a", b'{"extra":1}'), item("b")])
    assert verdicts[0].reason == "strict_dynamic_mapping_exception"
    assert verdicts[0].detail == "unknown field [extra]"
    assert verdicts[1] == WRITTEN


def test_too_many_fields(elasticsearch, index, connect):
    document = orjson.dumps({f"f{n}": n for n in range(1001)})
    (verdict,) = connect(elasticsearch, index).write([item("a", document)])
    assert (verdict.fate, verdict.detail.split(",")[0]) == (Fate.DEAD_LETTER, "limit of total fields [1000]")


@pytest.mark.parametrize("name", ["read_only", "read_only_allow_delete", "write"])
def test_a_block_of_the_index_pauses_until_it_is_lifted(elasticsearch, index, connect, name):
    elasticsearch.call("PUT", f"/{index}")
    sink = connect(elasticsearch, index)
    block(elasticsearch, index, name, True)
    verdicts = sink.write([item("a"), item("b")])
    assert fates(verdicts) == [Fate.BLOCKED] * 2
    assert verdicts[0].reason == "cluster_block_exception"
    assert f"index [{index}] blocked by" in verdicts[0].detail
    with pytest.raises(SinkBlockedError, match=f"the index {index} is blocked: index.blocks.{name}"):
        sink.open()
    block(elasticsearch, index, name, None)
    sink.open()
    assert sink.write([item("a"), item("b")]) is None


def test_a_block_of_the_cluster(own_elasticsearch, connect):
    server = own_elasticsearch(OWN, heap="400m")
    sink = connect(server, "tasks")
    server.call("PUT", "/_cluster/settings", {"persistent": {"cluster.blocks.read_only": True}})
    with pytest.raises(SinkBlockedError, match="cluster read-only"):
        sink.write([item("a")])
    with pytest.raises(SinkBlockedError, match=r"the cluster is blocked: cluster\.blocks\.read_only"):
        sink.open()
    server.call("PUT", "/_cluster/settings", {"persistent": {"cluster.blocks.read_only": None}})
    sink.open()
    assert sink.write([item("a")]) is None
    # no more shards: a refusal that concerns each new index
    server.call("PUT", "/_cluster/settings", {"persistent": {"cluster.max_shards_per_node": 1}})
    (verdict,) = connect(server, "other").write([item("a")])
    assert (verdict.fate, verdict.reason) == (Fate.BLOCKED, "validation_exception")


def test_a_closed_index(elasticsearch, index, connect):
    elasticsearch.call("PUT", f"/{index}")
    sink = connect(elasticsearch, index)
    elasticsearch.call("POST", f"/{index}/_close")
    assert fates(sink.write([item("a")])) == [Fate.BLOCKED]
    with pytest.raises(SinkBlockedError, match="it is closed"):
        sink.open()
    elasticsearch.call("POST", f"/{index}/_open?wait_for_active_shards=1")
    sink.open()
    assert sink.write([item("a")]) is None


def test_an_alias_writes_where_it_points(elasticsearch, index, connect):
    alias, old, new = f"{index}-alias", f"{index}-1", f"{index}-2"
    with contextlib.ExitStack() as after:
        for name, is_write in ((old, False), (new, True)):
            body = {"aliases": {alias: {"is_write_index": is_write}}}
            elasticsearch.call("PUT", f"/{name}", body)
            after.callback(elasticsearch.call, "DELETE", f"/{name}")
        block(elasticsearch, old, "read_only", True)
        after.callback(block, elasticsearch, old, "read_only", None)
        sink = connect(elasticsearch, f"{alias}?require_alias=true")
        assert sink.write([item("a")]) is None
        assert elasticsearch.count(new) == 1
        block(elasticsearch, new, "write", True)
        with pytest.raises(SinkBlockedError):
            sink.open()
        with pytest.raises(SinkBlockedError, match="is an index, no alias"):
            connect(elasticsearch, f"{new}?require_alias=true")


def test_an_alias_that_is_missing(elasticsearch, index, connect):
    with pytest.raises(SinkBlockedError, match=f"there is no alias {index}"):
        connect(elasticsearch, f"{index}?require_alias=true")


def test_a_pipeline_that_is_missing(elasticsearch, index, connect):
    with pytest.raises(SinkBlockedError, match="there is no ingest pipeline nowhere"):
        connect(elasticsearch, f"{index}?pipeline=nowhere")


def test_a_pipeline(elasticsearch, index, connect):
    name = f"p-{uuid.uuid4().hex}"
    elasticsearch.call("PUT", f"/_ingest/pipeline/{name}", {"processors": []})
    sink = connect(elasticsearch, f"{index}?pipeline={name}")
    assert sink.write([item("a")]) is None
    elasticsearch.call("DELETE", f"/_ingest/pipeline/{name}")
    (verdict,) = sink.write([item("b")])
    assert verdict.fate is Fate.BLOCKED


def test_routing(elasticsearch, index, connect):
    sink = connect(elasticsearch, f"{index}?routing=/user")
    assert sink.write([item("a", b'{"user":"u 1"}'), item("b", b"{}")]) is None
    elasticsearch.call("POST", f"/{index}/_refresh")
    hits = elasticsearch.call("GET", f"/{index}/_search")["hits"]["hits"]
    assert {hit["_id"]: hit.get("_routing") for hit in hits} == {"a": "u 1", "b": None}


def test_an_index_for_each_day_of_the_message(elasticsearch, index, connect):
    sink = connect(elasticsearch, f"{index}-{{/t:%Y.%m.%d}}")
    days = [f"{index}-2026.01.31", f"{index}-2026.02.01"]
    try:
        verdicts = sink.write(
            [
                item("a", b'{"t":"2026-01-31T10:00:00Z"}'),
                item("b", b'{"t":"2026-01-31T23:30:00-01:00"}'),
                item("c", b'{"t":"yesterday"}'),
                item("d", b'{"u":1}'),
            ]
        )
        assert fates(verdicts) == [Fate.WRITTEN] * 2 + [Fate.DEAD_LETTER] * 2
        assert {verdict.reason for verdict in verdicts[2:]} == {"bad-date"}
        assert [set(elasticsearch.documents(day)) for day in days] == [{"a"}, {"b"}]
        assert sink.write([item("a", b'{"t":"2026-01-31T10:00:00Z"}')]) == [DUPLICATE]
    finally:
        for day in days:
            elasticsearch.call("DELETE", f"/{day}?ignore_unavailable=true")


def test_an_index_from_the_allow_list(elasticsearch, index, connect):
    names = [f"{index}-a", f"{index}-b"]
    sink = connect(elasticsearch, f"?index_from=header:to&allow={','.join(names)}")
    try:
        verdicts = sink.write([item(name, headers={"to": name}) for name in [*names, index]])
        assert fates(verdicts) == [Fate.WRITTEN, Fate.WRITTEN, Fate.DEAD_LETTER]
        assert [elasticsearch.count(name) for name in names] == [1, 1]
        block(elasticsearch, names[1], "write", True)
        with pytest.raises(SinkBlockedError):
            sink.open()
    finally:
        for name in names:
            elasticsearch.call("DELETE", f"/{name}?ignore_unavailable=true")


def test_a_request_that_is_too_large_and_its_halves(own_elasticsearch, connect):
    server = own_elasticsearch({"http.max_content_length": "64kb"}, heap="400m")
    sink = connect(server, "tasks")
    items = [item(f"{n}", b'{"text":"' + b"x" * 1000 + b'"}') for n in range(80)]
    with pytest.raises(RequestTooLargeError):
        sink.write(items)
    assert sink.write(items[:40]) is None
    assert sink.write(items[40:]) is None
    assert server.count("tasks") == 80


def test_a_server_under_pressure(own_elasticsearch, connect):
    server = own_elasticsearch({"indexing_pressure.memory.limit": "32kb"}, heap="400m")
    sink = connect(server, "tasks")
    with pytest.raises(SinkUnavailableError, match="429 es_rejected_execution_exception"):
        sink.write([item(f"{n}", b'{"text":"' + b"x" * 1000 + b'"}') for n in range(80)])
    assert sink.write([item("a")]) is None
    assert server.count("tasks") == 1


def test_a_lost_answer_makes_no_duplicate(elasticsearch, index):
    with proxy(elasticsearch.url) as between:
        sink = from_url(f"elasticsearch+{between.url}/{index}")
        sink.open()
        items = [item(f"{n}") for n in range(10)]
        between.change = lambda *_: None
        with pytest.raises(SinkUnavailableError):
            sink.write(items)
        assert elasticsearch.count(index) == 10
        between.change = None
        assert sink.write(items) == [DUPLICATE] * 10
        sink.close()
    assert elasticsearch.count(index) == 10


def test_away_and_back(own_elasticsearch, connect):
    server = own_elasticsearch(OWN, heap="400m")
    sink = connect(server, "tasks")
    assert sink.write([item("a")]) is None
    server.kill()
    with pytest.raises(SinkUnavailableError):
        sink.write([item("b")])
    with pytest.raises(SinkUnavailableError):
        sink.open()
    server.heal()
    sink.open()
    assert sink.write([item("a"), item("b")]) == [DUPLICATE, WRITTEN]


def test_where_a_person_can_look(elasticsearch, index, connect):
    sink = connect(elasticsearch, index)
    sink.write([item("a", b'{"n":42}')])
    elasticsearch.call("POST", f"/{index}/_refresh")
    assert '"n" : 42' in requests.get(sink.where(), timeout=10).text
