"""OpenSearch's client, held as Elasticsearch's is: no retries, no sniffing, no words.

Foreign exceptions end here. None of them is chained: their texts and tracebacks carry bodies.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import orjson

from aggregator.errors import (
    ConfigurationError,
    SinkBlockedError,
    SinkError,
    SinkUnavailableError,
    let_go,
)
from aggregator.sinks.elasticsearch_client import BulkConnection, Reply

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opensearchpy import Transport
    from opensearchpy.exceptions import TransportError

    from aggregator.sinks.elasticsearch_options import Settings


def require_client() -> None:
    """Raise ``ConfigurationError`` if the client is not installed."""
    try:
        import opensearchpy  # noqa: F401, PLC0415
    except ImportError:
        raise ConfigurationError(
            "sink", "its client is not installed; pip install 'kombu-aggregator[opensearch]'"
        ) from None


class OpenSearchConnection(BulkConnection):
    """One client for all threads; what :class:`aggregator.sinks.elasticsearch_client.Connection` is.

    Raises ``SinkBlockedError`` where credentials cannot be read any more.
    """

    product, oldest = "OpenSearch", 1

    def __init__(self, settings: Settings) -> None:
        # it logs bodies, and each failure as a warning
        wordy = logging.getLogger("opensearch")
        wordy.propagate = False
        wordy.setLevel(logging.CRITICAL)
        self._hosts = ", ".join(settings.urls)
        try:
            self._once = _transport(settings, retries=0)
            self._asking = _transport(settings, retries=len(settings.hosts) - 1)
        except ConfigurationError as exc:  # it was right at the start: a file has changed since
            raise SinkBlockedError(exc.problem) from None

    def close(self) -> None:
        """Close all connections."""
        self._once.close()
        self._asking.close()

    def _perform(
        self,
        client: Transport,
        method: str,
        path: str,
        *,
        headers: dict[str, str],
        params: Mapping[str, Any] | None = None,
        body: bytes | None = None,
    ) -> Reply:
        from opensearchpy.exceptions import SerializationError, TransportError  # noqa: PLC0415

        fault: SinkError
        try:
            # among its params the client would take the server's ``timeout`` for its own
            asked = f"{path}?{urlencode(params)}" if params else path
            answer = client.perform_request(method, asked, headers=headers, body=body)
        except SerializationError as exc:
            fault = SinkUnavailableError("the answer does not parse")
            let_go(exc)
        except TransportError as exc:
            if isinstance(exc.status_code, int):
                return Reply(exc.status_code, exc.info)
            fault = self._fault(exc)
            let_go(exc)
        else:
            return Reply(200, answer)
        try:
            raise fault
        finally:
            del fault  # its traceback knows this frame, and the body in it

    def _fault(self, exc: TransportError) -> SinkError:
        from opensearchpy.exceptions import ConnectionTimeout, SSLError  # noqa: PLC0415

        if isinstance(exc, ConnectionTimeout):
            return SinkUnavailableError(f"no answer from {self._hosts} in time")
        words = type(exc.info).__name__ if isinstance(exc.info, BaseException) else type(exc).__name__
        if isinstance(exc, SSLError):
            return SinkBlockedError(f"TLS with {self._hosts}: {words}")
        return SinkUnavailableError(f"no answer from {self._hosts}: {words}")


def _transport(settings: Settings, *, retries: int) -> Transport:
    from opensearchpy import Transport, Urllib3HttpConnection  # noqa: PLC0415
    from opensearchpy.serializer import JSONSerializer  # noqa: PLC0415

    class Serializer(JSONSerializer):
        def loads(self, s: str) -> Any:
            return orjson.loads(s.encode("utf-8", "surrogatepass"))

    options = settings.options
    more: dict[str, Any] = {}
    if settings.user and settings.password:
        more["http_auth"] = (settings.user, settings.password.read())
    if settings.scheme == "https":
        more |= {"use_ssl": True, "verify_certs": True}
        if options.ca:
            more["ca_certs"] = str(options.ca)
    return Transport(
        [{"host": host, "port": port, "scheme": settings.scheme} for host, port in settings.hosts],
        connection_class=Urllib3HttpConnection,
        serializer=Serializer(),
        maxsize=options.concurrency,
        http_compress=options.gzip,
        timeout=options.timeout,
        max_retries=retries,
        retry_on_timeout=bool(retries),
        retry_on_status=(),
        **more,
    )
