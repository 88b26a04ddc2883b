"""OpenSearch under the contract of sinks."""

from __future__ import annotations

import uuid
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
import requests

from aggregator.errors import ConfigurationError, SinkBlockedError
from aggregator.sinks import from_url
from aggregator.sinks.base import Fate
from tests.contract.sink_contract import SinkContract, fates, item, items

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from aggregator.sinks.base import Sink
    from tests.servers import Elasticsearch, OpenSearch

pytestmark = pytest.mark.integration


@pytest.fixture
def there(opensearch: OpenSearch) -> Iterator[str]:
    """The name of an index that takes every document."""
    name = f"test-{uuid.uuid4().hex}"
    # a guessed mapping would refuse what does not resemble the first document
    opensearch.call("PUT", f"/{name}", {"mappings": {"dynamic": False}})
    yield name
    with suppress(requests.HTTPError):
        opensearch.call("DELETE", f"/{name}?ignore_unavailable=true")


class TestOpenSearch(SinkContract):
    options = ""
    secrets = ("hunter2",)

    @pytest.fixture
    def sink_factory(self, opensearch: OpenSearch, there: str) -> Callable[[], Sink]:
        host = opensearch.url.partition("://")[2]
        return lambda: from_url(f"opensearch+http://user:hunter2@{host}/{there}{self.options}")

    @pytest.fixture
    def read_back(self, opensearch: OpenSearch, there: str) -> Callable[[], list[tuple[Any, Any]]]:
        return lambda: list(opensearch.documents(there).items())


class TestOpenSearchCompressed(TestOpenSearch):
    options = "?gzip=true"


def test_a_document_that_is_refused_harms_no_neighbour(opensearch: OpenSearch, there: str) -> None:
    opensearch.call("PUT", f"/{there}/_mapping", {"properties": {"n": {"type": "integer"}}})
    sink = from_url(f"opensearch+{opensearch.url}/{there}")
    sink.open()
    verdicts = sink.write([item("a", b'{"n":1}'), item("b", b'{"n":"one"}'), item("c", b'{"n":3}')])
    sink.close()
    assert verdicts
    assert [verdict.fate for verdict in verdicts] == [Fate.WRITTEN, Fate.DEAD_LETTER, Fate.WRITTEN]
    assert verdicts[1].reason == "mapper_parsing_exception"
    assert "one" not in verdicts[1].detail


def test_an_index_that_is_read_only_blocks(opensearch: OpenSearch, there: str) -> None:
    sink = from_url(f"opensearch+{opensearch.url}/{there}")
    sink.open()
    opensearch.call("PUT", f"/{there}/_settings", {"index.blocks.write": True})
    try:
        assert fates(sink, items("a")) == [Fate.BLOCKED]
        with pytest.raises(SinkBlockedError, match="is blocked"):
            sink.open()
    finally:
        opensearch.call("PUT", f"/{there}/_settings", {"index.blocks.write": None})
    sink.open()
    assert fates(sink, items("a")) == [Fate.WRITTEN]
    sink.close()


def test_each_sink_refuses_the_other_server(opensearch: OpenSearch, elasticsearch: Elasticsearch) -> None:
    for scheme, server, words in (
        ("opensearch", elasticsearch, "not OpenSearch"),
        ("elasticsearch", opensearch, "not Elasticsearch"),
    ):
        sink = from_url(f"{scheme}+{server.url}/any")
        with pytest.raises(SinkBlockedError, match=words):
            sink.open()
        sink.close()


@pytest.mark.parametrize("option", ["api_key_env=HOME", "failure_store=dead-letter"])
def test_what_it_does_not_know(option: str) -> None:
    with pytest.raises(ConfigurationError, match="OpenSearch"):
        from_url(f"opensearch+http://localhost/index?{option}")
