"""Writes items to Elasticsearch in bulk.

``elasticsearch+http(s)://[user:password@]host[:port][,host2[:port]]/index?option=value``; the port
is 9200 unless given. The index is fixed (``/tasks``), named by a date in the message
(``/logs-{/timestamp:%Y.%m.%d}``, in UTC), or taken from an allow-list
(``/?index_from=header:index&allow=logs,events``). ``EXPRESSION`` is that of
:mod:`aggregator.correlation`.

===================  ==================================================================================
``op``               ``create`` (the first wins, the default) or ``index`` (the last wins)
``version``          EXPRESSION: an external version, the highest wins; implies ``op=index``
``routing``          EXPRESSION: the routing value
``pipeline``         the ingest pipeline
``require_alias``    ``true``: the index has to be an alias
``failure_store``    ``written`` (counted) or ``dead-letter``: what a failure store took in
``api_key_env``      the environment variable, or with ``api_key_file`` the file, that holds an API key
``password_env``     the same for the password of ``user@``, with ``password_file``
``ca``               a file of certificates in PEM to trust, for https
``gzip``             ``true``: requests are compressed; costs CPU, saves network
``timeout``          of a request, ``30s``
``max_bytes``        of documents in a request, ``10MiB``
``max_items``        in a request; any number unless given
``concurrency``      requests under way at once, at most: 32
===================  ==================================================================================
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import quote

import orjson

from aggregator.errors import SinkUnavailableError
from aggregator.sinks.base import WRITTEN, Limits
from aggregator.sinks.elasticsearch_answer import FILTER_PATH, Rules, request_fault
from aggregator.sinks.elasticsearch_bulk import Actions
from aggregator.sinks.elasticsearch_client import Connection, require_client
from aggregator.sinks.elasticsearch_options import Settings, read_url
from aggregator.sinks.elasticsearch_probe import probe

if TYPE_CHECKING:
    from collections.abc import Sequence
    from urllib.parse import SplitResult

    from aggregator.delivery import Item
    from aggregator.sinks.base import Verdict
    from aggregator.sinks.elasticsearch_client import BulkConnection


def from_url(url: SplitResult) -> ElasticsearchSink:
    """Return the sink that ``url`` names. Raises ``ConfigurationError`` for the field ``sink``."""
    settings = read_url(url)
    require_client()
    return ElasticsearchSink(settings)


class ElasticsearchSink:
    """One bulk request for each :meth:`write`; any number of threads may write at once.

    A request ends within ``timeout`` of silence: later it is unknown what was written.
    """

    def __init__(self, settings: Settings) -> None:
        options = settings.options
        self._settings = settings
        self._connection: BulkConnection | None = None
        self._actions = Actions(settings.op, settings.index_of, settings.version, settings.routing)
        self._rules = Rules(
            op=settings.op,
            versioned=settings.version is not None,
            known=bool(settings.names),
            pipeline=options.pipeline,
            refuse_failure_store=options.failure_store == "dead-letter",
        )
        self._path = f"/{quote(settings.fixed, safe='')}/_bulk" if settings.fixed else "/_bulk"
        # the server gives up waiting (for a shard, a mapping) before we do, and says so
        self._params = {"filter_path": FILTER_PATH, "timeout": f"{int(options.timeout * 500)}ms"}
        if options.pipeline:
            self._params["pipeline"] = options.pipeline
        if options.require_alias:
            self._params["require_alias"] = "true"
        self.limits = Limits(options.max_items, options.max_bytes, options.concurrency)

    def open(self) -> None:
        """Connect anew, with credentials and certificates as they are now, and probe."""
        self.close()
        connection = self._connect()
        try:
            probe(connection, self._settings)
        except BaseException:
            connection.close()
            raise
        self._connection = connection

    def _connect(self) -> BulkConnection:
        """Return a new client."""
        return Connection(self._settings)

    def write(self, items: Sequence[Item]) -> Sequence[Verdict] | None:
        """Write ``items`` in one request; see :meth:`aggregator.sinks.base.Sink.write`."""
        request = self._actions.request(items)
        sent = self._send(request.body, request.items) if request.items else None
        if not request.refused:
            return sent
        answered = iter(sent if sent is not None else [WRITTEN] * len(request.items))
        return [request.refused.get(n) or next(answered) for n in range(len(items))]

    def _send(self, body: bytes, items: Sequence[Item]) -> list[Verdict] | None:
        connection = self._connection
        if connection is None:
            raise SinkUnavailableError("the sink is not open")
        reply = connection.bulk(self._path, body, self._params)
        if reply.status != HTTPStatus.OK:
            raise request_fault(reply.status, reply.body)
        return self._rules.verdicts(reply.body, [item.id for item in items])

    def known(self, ids: Sequence[str]) -> set[str]:
        """Return which of the ids stand in the index; none where documents name it, or nobody may read it."""
        connection, index = self._connection, self._settings.fixed
        if connection is None:
            raise SinkUnavailableError("the sink is not open")
        if not index:
            return set()
        asked = orjson.dumps({"docs": [{"_id": name, "_source": False} for name in ids]})
        reply = connection.post(f"/{quote(index, safe='')}/_mget", asked)
        found = reply.body.get("docs") if reply.status == HTTPStatus.OK and type(reply.body) is dict else None
        return {doc["_id"] for doc in found or () if doc.get("found") is True}

    def close(self) -> None:
        """Close all connections."""
        connection, self._connection = self._connection, None
        if connection:
            connection.close()

    def where(self) -> str:
        """Return the URL that shows some of the documents."""
        return f"{self._settings.urls[0]}/{self._settings.target}/_search?pretty"

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.where()}>"
