"""Publishes items to an exchange: the aggregated message goes on, confirmed.

``exchange+amqp(s)://[user:password@]host[:port]/vhost?exchange=NAME&routing_key=EXPRESSION``; the broker's
part is as in ``--broker``. Each item is a persistent message of JSON, mandatory, its id the ``message_id``.

==================  ===================================================================================
``exchange``        it has to be there; or
``queue``           through the default exchange; declared durable if it is absent
``routing_key``     EXPRESSION (:mod:`aggregator.correlation`): ``constant:orders``, ``/region``; empty unless
                    given
``correlation_id``  EXPRESSION: carried on, not set unless given
``content_type``    ``application/json``
``ca``              a file of certificates in PEM to trust, for amqps
``timeout``         without a single confirm the broker counts as away, ``30s``
``max_bytes``       of documents in a request, ``10MiB``
``max_items``       in a request: 1000
``concurrency``     connections, each for one request at a time, at most: 4
==================  ===================================================================================

What no queue takes (``unroutable``) pauses the route if all messages go the same way, and is dead-lettered
if the routing key comes from the message. What the broker refuses (``nacked``: a full queue) is sent again.
"""

from __future__ import annotations

from collections import deque
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final
from urllib.parse import SplitResult, urlunsplit

from pydantic import BaseModel, ConfigDict, Field

from aggregator.correlation import compile_expression
from aggregator.errors import (
    ConfigurationError,
    MessageRefusedError,
    PublisherUnavailableError,
    SinkBlockedError,
    SinkUnavailableError,
    UnrecoverableError,
)
from aggregator.masking import masked
from aggregator.sinks.base import WRITTEN, Fate, Limits, Verdict
from aggregator.sinks.url_options import check_ca, fault, read_pairs, unknown_option, validate
from aggregator.units import Duration, Size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aggregator.correlation import Expression
    from aggregator.delivery import Item
    from consumers.publisher import Outgoing, Publisher

_SHORT_BYTES: Final = 255
"""AMQP's limit on a message's id and on a routing key."""
_PERSISTENT: Final = 2


class Options(BaseModel):
    """What stands behind the ``?``; every option has its default."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    exchange: str | None = Field(None, min_length=1, max_length=_SHORT_BYTES)
    queue: str | None = Field(None, min_length=1, max_length=_SHORT_BYTES)
    routing_key: str | None = None
    correlation_id: str | None = None
    content_type: str = "application/json"
    ca: Path | None = None
    timeout: Annotated[Duration, Field(ge=1)] = 30.0
    max_bytes: Annotated[Size, Field(ge=1)] = 10 * 1024 * 1024
    max_items: int = Field(1000, ge=1)
    concurrency: int = Field(4, ge=1, le=64)


def from_url(url: SplitResult) -> ExchangeSink:
    """Return the sink that ``url`` names. Raises ``ConfigurationError`` for the field ``sink``."""
    options = validate(read_pairs(url.query, Options, partial(unknown_option, Options)), Options)
    scheme = url.scheme.partition("+")[2]
    if (options.exchange is None) == (options.queue is None):
        raise fault(
            "exchange: either an exchange or a queue is needed, like ?exchange=events or ?queue=groups"
        )
    if options.queue and options.routing_key:
        raise fault("routing_key: a queue's name is its routing key; leave one of them away")
    if options.ca and scheme != "amqps":
        raise fault("ca: only amqps has a certificate to check; write exchange+amqps://")
    if options.ca:
        check_ca(options.ca)
    routing_key = _expression("routing_key", options.routing_key)
    broker = urlunsplit(SplitResult(scheme, url.netloc, url.path, "", ""))
    return ExchangeSink(broker, options, routing_key, _expression("correlation_id", options.correlation_id))


def _expression(option: str, text: str | None) -> Expression | None:
    try:
        return None if text is None else compile_expression(text, "sink")
    except ConfigurationError as exc:
        raise fault(f"{option}: {exc.problem}") from None


class ExchangeSink:
    """A message for each item; each thread that writes has a connection for as long as it does."""

    def __init__(
        self, broker: str, options: Options, routing_key: Expression | None, correlation_id: Expression | None
    ) -> None:
        self._broker = broker
        self._options = options
        self._routing_key = routing_key
        self._correlation_id = correlation_id
        # a constant is the same way for all
        self._one_way = routing_key is None or (options.routing_key or "").startswith("constant:")
        self._idle: deque[Publisher] = deque()
        self._open = False
        self.limits = Limits(options.max_items, options.max_bytes, options.concurrency)

    def open(self) -> None:
        """Connect anew, and see that exchange or queue is there."""
        self.close()
        publisher = self._publisher()
        try:
            if self._options.queue:
                publisher.declare_queue(self._options.queue)
            else:
                publisher.check_exchange(self._options.exchange or "")
        except PublisherUnavailableError as exc:
            publisher.close()
            raise SinkUnavailableError(str(exc)) from None
        except UnrecoverableError as exc:
            publisher.close()
            raise SinkBlockedError(str(exc)) from None
        self._idle.append(publisher)
        self._open = True

    def write(self, items: Sequence[Item]) -> Sequence[Verdict] | None:
        """Publish ``items`` and wait for the confirms; see :meth:`aggregator.sinks.base.Sink.write`."""
        if not self._open:
            raise SinkUnavailableError("the sink is not open")
        refused: dict[int, Verdict] = {}
        messages: list[Outgoing] = []
        for number, item in enumerate(items):
            try:
                messages.append(self._message(item))
            except MessageRefusedError as exc:
                refused[number] = Verdict(Fate.DEAD_LETTER, exc.reason, exc.detail)
        outcomes = self._publish(messages)
        if not refused and not any(outcomes):
            return None
        told = iter(outcomes)
        return [refused.get(number) or self._verdict(next(told)) for number in range(len(items))]

    def _publish(self, messages: list[Outgoing]) -> Sequence[str | None]:
        if not messages:
            return []
        try:
            publisher = self._idle.popleft()
        except IndexError:
            publisher = self._publisher()
        try:
            outcomes: Sequence[str | None] = publisher.publish(messages)
        except PublisherUnavailableError as exc:
            publisher.close()
            if len(exc.outcomes) < len(messages) or all(word == "unknown" for word in exc.outcomes):
                raise SinkUnavailableError(str(exc)) from None
            return exc.outcomes
        self._idle.append(publisher)
        return outcomes

    def _message(self, item: Item) -> Outgoing:
        from consumers.publisher import Outgoing  # noqa: PLC0415

        properties: dict[str, Any] = {
            "message_id": _short(item.id, "id"),
            "content_type": self._options.content_type,
            "delivery_mode": _PERSISTENT,
        }
        if self._correlation_id and (correlation_id := self._correlation_id(item)) is not None:
            properties["correlation_id"] = _short(correlation_id, "correlation id")
        key = self._options.queue or ""
        if self._routing_key:
            key = _short(self._routing_key(item) or "", "routing key")
        return Outgoing(self._options.exchange or "", key, item.document, properties)

    def _verdict(self, outcome: str | None) -> Verdict:
        if outcome is None:
            return WRITTEN
        if outcome == "unroutable" and self._one_way:
            return Verdict(Fate.BLOCKED, outcome, "no queue takes it: the exchange has no binding for it")
        if outcome in {"unknown", "nacked"}:
            return Verdict(Fate.RETRY, outcome)
        return Verdict(Fate.DEAD_LETTER, outcome)

    def _publisher(self) -> Publisher:
        from consumers.connecting import Broker  # noqa: PLC0415
        from consumers.publisher import Publisher  # noqa: PLC0415

        ca = self._options.ca
        tls = Broker(self._broker, ca=str(ca) if ca else None).tls
        return Publisher(self._broker, confirm_timeout=self._options.timeout, window=1000, tls=tls)

    def close(self) -> None:
        """Close all connections."""
        self._open = False
        while self._idle:
            self._idle.popleft().close()

    def where(self) -> str:
        """Return the broker, and what the messages go to."""
        named = self._options.exchange
        return f"{masked(self._broker)} {f'exchange {named}' if named else f'queue {self._options.queue}'}"

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.where()}>"


def _short(text: str, what: str) -> str:
    """Return what AMQP can carry as a short string."""
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise MessageRefusedError("bad-id", f"the {what} is no Unicode") from None
    if size > _SHORT_BYTES:
        raise MessageRefusedError("bad-id", f"the {what} has {size} bytes; AMQP carries {_SHORT_BYTES}")
    return text
