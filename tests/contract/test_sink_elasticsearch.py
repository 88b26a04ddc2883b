"""Elasticsearch under the contract of sinks."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import pytest

from aggregator.sinks import from_url
from tests.contract.sink_contract import SinkContract

if TYPE_CHECKING:
    from collections.abc import Callable

    from aggregator.sinks.base import Sink
    from tests.servers.elastic import Elasticsearch

pytestmark = pytest.mark.integration


class TestElasticsearch(SinkContract):
    options = ""
    secrets = ("hunter2", base64.b64encode(b"user:hunter2").decode())

    @pytest.fixture
    def sink_factory(self, elasticsearch: Elasticsearch, index: str) -> Callable[[], Sink]:
        # a guessed mapping would refuse what does not resemble the first document
        elasticsearch.call("PUT", f"/{index}", {"mappings": {"dynamic": False}})
        host = elasticsearch.url.partition("://")[2]
        return lambda: from_url(f"elasticsearch+http://user:hunter2@{host}/{index}{self.options}")

    @pytest.fixture
    def read_back(self, elasticsearch: Elasticsearch, index: str) -> Callable[[], list[tuple[Any, Any]]]:
        def read() -> list[tuple[Any, Any]]:
            if not elasticsearch.count(index):
                return []
            return list(elasticsearch.documents(index).items())

        return read


class TestElasticsearchCompressed(TestElasticsearch):
    options = "?gzip=true"


class TestElasticsearchRouted(TestElasticsearch):
    """An expression makes each action line on its own: the other way of building requests."""

    options = "?routing=constant:home"
