"""The server that the benchmark measures against answers as Elasticsearch does."""

from __future__ import annotations

import json
import shutil

import pytest
import requests

from aggregator.sinks.elasticsearch_answer import FILTER_PATH
from benchmarks.build import BUILD, build
from benchmarks.catalogue import CATALOGUE, OURS
from benchmarks.targets import NullSink

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(not shutil.which("go"), reason="the sink is written in Go, which is not installed"),
]


@pytest.fixture(scope="module")
def sink():
    build("sink")
    sink = NullSink(BUILD / "sink")
    yield sink
    sink.close()


def lines(*numbers, op="create", identity=lambda n: f"id-{n}"):
    made = []
    for n in numbers:
        made += [{op: {"_id": identity(n)} if identity else {}}, {"id": f"id-{n}", "number": n}]
    return "".join(json.dumps(line) + "\n" for line in made).encode()


def post(url, body, path=None, **headers):
    headers = {"Content-Type": "application/x-ndjson", **headers}
    return requests.post(
        f"{url}/_bulk", body, params={"filter_path": path} if path else {}, headers=headers, timeout=30
    )


def shape(answer):
    """The answer with what a server is free to choose blanked."""
    free = {"took", "_index", "_seq_no", "_version", "_primary_term", "_shards"}
    if isinstance(answer, dict):
        return {key: None if key in free else shape(value) for key, value in answer.items()}
    return [shape(one) for one in answer] if isinstance(answer, list) else answer


@pytest.mark.parametrize("path", [None, FILTER_PATH, "errors", "errors,items.*.error", "items.*.status"])
def test_it_answers_with_the_fields_that_elasticsearch_would(sink, elasticsearch, index, path):
    sink.reset(3)
    body = lines(0, 1, 2)
    ours = post(f"{sink.url}/{index}", body, path).json()
    assert shape(ours) == shape(post(f"{elasticsearch.url}/{index}", body, path).json())


def test_it_counts_each_number_once_and_looks_at_ids(sink):
    peer = CATALOGUE[OURS]
    sink.reset(4)
    post(f"{sink.url}/x", lines(0, 1))
    assert sink.faults(peer) == ["2 of 4 came, 0 strange ones"]
    post(f"{sink.url}/x", lines(2, 3))
    assert sink.faults(peer) == []
    post(f"{sink.url}/x", lines(3))
    assert sink.faults(peer) == ["1 came again"]
    post(f"{sink.url}/x", lines(9, identity=lambda _: "other"))
    assert sink.faults(peer) == ["4 of 4 came, 1 strange ones", "1 came again", "5 of 6 have their id"]


def test_it_takes_gzip_and_refuses_what_is_cut(sink):
    import gzip

    sink.reset(1)
    assert post(f"{sink.url}/x", gzip.compress(lines(0, op="index")), **{"Content-Encoding": "gzip"}).ok
    assert sink.account()["documents"] == 1
    assert post(f"{sink.url}/x", lines(0)[:20]).status_code == 400
    assert post(f"{sink.url}/x", b'{"create":{}}\n').status_code == 400
    assert sink.account()["documents"] == 1
