"""The official client, held so that it decides nothing by itself: no retries, no sniffing, no words.

Foreign exceptions end here. None of them is chained: their texts and tracebacks carry bodies.
"""

from __future__ import annotations

import logging
import ssl
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aggregator.errors import ConfigurationError, SinkBlockedError, SinkError, SinkUnavailableError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from elasticsearch import Elasticsearch

    from aggregator.sinks.elasticsearch_options import Settings

_LONGEST_WORDS = 200
_JSON = {"accept": "application/json"}
_NDJSON = {"accept": "application/json", "content-type": "application/x-ndjson"}
_TLS_BROKEN_OFF = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer of whatever status; ``body`` is decoded if it was JSON, else its text."""

    status: int
    body: Any


def require_client() -> None:
    """Raise ``ConfigurationError`` if the client is not installed."""
    try:
        import elasticsearch  # noqa: F401, PLC0415
    except ImportError:
        raise ConfigurationError(
            "sink", "its client is not installed; pip install 'kombu-aggregator[elasticsearch]'"
        ) from None


class Connection:
    """One client for all threads. ``settings`` give hosts, credentials and timeouts."""

    def __init__(self, settings: Settings) -> None:
        _keep_quiet()
        self._hosts = ", ".join(settings.urls)
        self._client = _client(settings)

    def get(self, path: str, params: Mapping[str, Any] | None = None) -> Reply:
        """Send GET; raises ``SinkError`` where there is no answer."""
        return self._perform("GET", path, params, _JSON, None)

    def post(
        self, path: str, body: bytes, *, ndjson: bool = False, params: Mapping[str, Any] | None = None
    ) -> Reply:
        """Send POST with ``body`` as it is; raises ``SinkError`` where there is no answer."""
        headers = _NDJSON if ndjson else {**_JSON, "content-type": "application/json"}
        return self._perform("POST", path, params, headers, body)

    def close(self) -> None:
        """Close all connections."""
        self._client.close()

    def _perform(
        self,
        method: str,
        path: str,
        params: Mapping[str, Any] | None,
        headers: dict[str, str],
        body: bytes | None,
    ) -> Reply:
        from elastic_transport import TransportError  # noqa: PLC0415
        from elasticsearch import ApiError, UnsupportedProductError  # noqa: PLC0415

        try:
            answer = self._client.perform_request(method, path, params=params, headers=headers, body=body)
        except UnsupportedProductError:
            fault: SinkError = SinkBlockedError(f"what answers at {self._hosts} is not Elasticsearch")
        except ApiError as exc:
            return Reply(exc.meta.status, exc.body)
        except TransportError as exc:
            fault = self._fault(exc)
        else:
            return Reply(answer.meta.status, answer.body)
        raise fault

    def _fault(self, exc: Exception) -> SinkError:
        from elastic_transport import ConnectionTimeout, SerializationError, TlsError  # noqa: PLC0415

        if isinstance(exc, SerializationError):
            return SinkUnavailableError("the answer does not parse")  # its text is the answer itself
        if isinstance(exc, ConnectionTimeout):
            return SinkUnavailableError(f"no answer from {self._hosts} in time")
        words = "".join(c if c.isprintable() else " " for c in str(exc)[:_LONGEST_WORDS])
        if isinstance(exc, TlsError) and not _broken_off(exc):
            return SinkBlockedError(f"TLS with {self._hosts}: {words}")
        return SinkUnavailableError(f"no answer from {self._hosts}: {words}")


def _broken_off(exc: BaseException) -> bool:
    """Tell whether TLS failed because the connection ended, rather than because it was refused."""
    seen: list[BaseException] = [exc]
    while seen:
        one = seen.pop()
        if isinstance(one, _TLS_BROKEN_OFF):
            return True
        inner = [*one.args, *getattr(one, "errors", ())]
        seen.extend(cause for cause in inner if isinstance(cause, BaseException))
    return False


def _client(settings: Settings) -> Elasticsearch:
    from elastic_transport import OrjsonSerializer  # noqa: PLC0415
    from elasticsearch import Elasticsearch  # noqa: PLC0415

    options = settings.options
    more: dict[str, Any] = {}
    if settings.user and settings.password:
        more["basic_auth"] = (settings.user, settings.password.read())
    if settings.api_key:
        name, colon, key = settings.api_key.read().partition(":")
        more["api_key"] = (name, key) if colon else name
    if options.ca:
        more["ca_certs"] = str(options.ca)
    serializer = OrjsonSerializer()
    return Elasticsearch(
        settings.urls,
        connections_per_node=options.concurrency,
        http_compress=options.gzip,
        request_timeout=options.timeout,
        max_retries=0,
        retry_on_timeout=False,
        retry_on_status=(),
        serializers=dict.fromkeys(("application/json", "application/vnd.elasticsearch+json"), serializer),
        **more,
    )


def _keep_quiet() -> None:
    """Keep bodies out of the logs, and warnings of the server out of the control flow.

    The transport logs bodies at DEBUG, and decodes each of them for it as soon as any handler is
    within its reach, whatever the level.
    """
    from elasticsearch import ElasticsearchWarning  # noqa: PLC0415

    logging.getLogger("elastic_transport.node").propagate = False
    warnings.filterwarnings("ignore", category=ElasticsearchWarning)
