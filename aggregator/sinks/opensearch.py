"""Writes items to OpenSearch in bulk.

``opensearch+http(s)://[user:password@]host[:port][,host2[:port]]/index?option=value``: options, ids,
verdicts and answers are those of :mod:`aggregator.sinks.elasticsearch`, whose bulk interface OpenSearch
has kept; ``api_key_…`` and ``failure_store`` are Elasticsearch's alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aggregator.sinks.elasticsearch import ElasticsearchSink
from aggregator.sinks.elasticsearch_options import read_url
from aggregator.sinks.opensearch_client import OpenSearchConnection, require_client
from aggregator.sinks.url_options import fault

if TYPE_CHECKING:
    from urllib.parse import SplitResult


def from_url(url: SplitResult) -> OpenSearchSink:
    """Return the sink that ``url`` names. Raises ``ConfigurationError`` for the field ``sink``."""
    settings = read_url(url)
    if settings.api_key:
        raise fault("api_key: OpenSearch knows none; write user:password@host, or use password_file")
    if settings.options.failure_store != "written":
        raise fault("failure_store: OpenSearch has none; leave it away")
    require_client()
    return OpenSearchSink(settings)


class OpenSearchSink(ElasticsearchSink):
    """One bulk request for each :meth:`write`; any number of threads may write at once."""

    def _connect(self) -> OpenSearchConnection:
        return OpenSearchConnection(self._settings)
