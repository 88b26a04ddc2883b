"""The official client, held so that it decides nothing by itself: no retries, no sniffing, no words.

Foreign exceptions end here. None of them is chained: their texts and tracebacks carry bodies.
"""

from __future__ import annotations

import logging
import ssl
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aggregator.errors import (
    ConfigurationError,
    SinkBlockedError,
    SinkError,
    SinkUnavailableError,
    let_go,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from elastic_transport import TransportError
    from elasticsearch import Elasticsearch

    from aggregator.sinks.elasticsearch_options import Settings

_LONGEST_WORDS = 200
JSON = {"accept": "application/json"}
JSON_BODY = {"accept": "application/json", "content-type": "application/json"}
NDJSON = {"accept": "application/json", "content-type": "application/x-ndjson"}
_TLS_BROKEN_OFF = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer of whatever status; ``body`` is decoded if it was JSON, else its text."""

    status: int
    body: Any


class BulkConnection:
    """What the sink and its probe ask of a client; each service's own sends it, and gives its ``product``.

    ``oldest``: the version from which on it is known to work. ``_once`` is the client for writes, ``_asking``
    the one for questions: these may be asked of each host, since with one of them away a write can work.
    """

    product: str
    oldest: int
    _once: Any
    _asking: Any

    def bulk(self, path: str, body: bytes, params: Mapping[str, Any]) -> Reply:
        """Send a bulk request, once; raises ``SinkError`` where there is no answer."""
        return self._perform(self._once, "POST", path, headers=NDJSON, params=params, body=body)

    def get(self, path: str, params: Mapping[str, Any] | None = None) -> Reply:
        """Ask for ``path``, one host after the other; raises ``SinkError`` where none answers."""
        return self._perform(self._asking, "GET", path, headers=JSON, params=params)

    def post(self, path: str, body: bytes) -> Reply:
        """Ask with a body in JSON; the same as :meth:`get`."""
        return self._perform(self._asking, "POST", path, headers=JSON_BODY, body=body)

    def close(self) -> None:
        """Close all connections."""
        raise NotImplementedError

    def _perform(
        self,
        client: Any,
        method: str,
        path: str,
        *,
        headers: dict[str, str],
        params: Mapping[str, Any] | None = None,
        body: bytes | None = None,
    ) -> Reply:
        """Send a request by this client; foreign exceptions end here."""
        raise NotImplementedError


def require_client() -> None:
    """Raise ``ConfigurationError`` if the client is not installed."""
    try:
        import elasticsearch  # noqa: F401, PLC0415
    except ImportError:
        raise ConfigurationError(
            "sink", "its client is not installed; pip install 'kombu-aggregator[elasticsearch]'"
        ) from None


class Connection(BulkConnection):
    """One client for all threads. ``settings`` give hosts, credentials and timeouts.

    Raises ``SinkBlockedError`` where credentials cannot be read any more.
    """

    product, oldest = "Elasticsearch", 8

    def __init__(self, settings: Settings) -> None:
        _keep_quiet()
        self._hosts = ", ".join(settings.urls)
        try:
            self._once = _client(settings)
        except ConfigurationError as exc:  # it was right at the start: a file has changed since
            raise SinkBlockedError(exc.problem) from None
        self._asking = self._once.options(max_retries=len(settings.hosts) - 1, retry_on_timeout=True)

    def close(self) -> None:
        """Close all connections."""
        self._once.close()

    def _perform(
        self,
        client: Elasticsearch,
        method: str,
        path: str,
        *,
        headers: dict[str, str],
        params: Mapping[str, Any] | None = None,
        body: bytes | None = None,
    ) -> Reply:
        from elastic_transport import TransportError  # noqa: PLC0415
        from elasticsearch import ApiError, UnsupportedProductError  # noqa: PLC0415

        try:
            answer = client.perform_request(method, path, params=params, headers=headers, body=body)
        except UnsupportedProductError:
            words = f"what answers at {self._hosts} is not Elasticsearch"
            # while it was Elasticsearch at the opening, a page in between is a passing fault
            fault: SinkError = (
                SinkUnavailableError(words) if client is self._once else SinkBlockedError(words)
            )
        except ApiError as exc:
            return Reply(exc.meta.status, exc.body)
        except TransportError as exc:
            fault = self._fault(exc)
            let_go(exc)
        else:
            return Reply(answer.meta.status, answer.body)
        try:
            raise fault
        finally:
            del fault  # its traceback knows this frame, and the body in it

    def _fault(self, exc: TransportError) -> SinkError:
        from elastic_transport import ConnectionTimeout, SerializationError, TlsError  # noqa: PLC0415

        if isinstance(exc, SerializationError):
            return SinkUnavailableError("the answer does not parse")  # its text is the answer itself
        if isinstance(exc, ConnectionTimeout):
            return SinkUnavailableError(f"no answer from {self._hosts} in time")
        words = "".join(c if c.isprintable() else " " for c in str(exc.message)[:_LONGEST_WORDS])
        broken_off = any(isinstance(cause, _TLS_BROKEN_OFF) for cause in _causes(exc))
        if isinstance(exc, TlsError) and not broken_off:
            return SinkBlockedError(f"TLS with {self._hosts}: {words}")
        return SinkUnavailableError(f"no answer from {self._hosts}: {words}")


def _causes(exc: BaseException) -> Iterator[BaseException]:
    """Yield what the client wrapped: urllib3 keeps the inner exception in ``args``."""
    wrapped: BaseException | None = exc.__cause__
    while wrapped is not None:
        yield wrapped
        inner = [arg for arg in wrapped.args if isinstance(arg, BaseException)]
        wrapped = inner[0] if inner else None


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

    wordy = logging.getLogger("elastic_transport.node")
    wordy.propagate = False
    wordy.setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", category=ElasticsearchWarning)
