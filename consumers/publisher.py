"""A publisher with a connection of its own, pipelined confirms and mandatory.

It keeps no connection busy while idle: no heartbeats are sent (none is negotiated), and a
connection that was idle for 30 s is replaced before the next publish, so that one which a firewall
has forgotten is not trusted. A connection that failed is dropped, never revived.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

import amqp
from kombu.connection import Connection

from aggregator.clock import SYSTEM_CLOCK, Clock
from aggregator.errors import ConfigurationError, PublisherUnavailableError, UnrecoverableError
from aggregator.redis_transport import split_url
from consumers.publish_amqp import AmqpLine
from consumers.publish_virtual import VirtualLine
from consumers.refusals import advice

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

#: Seconds after which an idle connection is replaced rather than trusted.
_IDLE_SECONDS: Final = 30.0
_CONNECT_SECONDS: Final = 5.0
_NOT_FOUND: Final = "404"
#: Answers about a declaration that trying again will not change: access, locked, arguments, not allowed.
_FINAL_CODES: Final = frozenset({"403", "405", "406", "530", "540"})
#: What the closing of a connection by the broker names where no method was at fault: the login.
_LOGIN: Final = (0, 0)


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One message to be published; mandatory always.

    ``properties``: AMQP's basic properties by AMQP's names (``delivery_mode``, ``message_id``, …);
    ``headers`` among them, a mapping.
    """

    exchange: str
    routing_key: str
    body: bytes
    properties: Mapping[str, Any]


class _Line(Protocol):
    """What carries messages: one connection, until its first error."""

    frame_max: int
    channel: Any

    def poll(self) -> None: ...
    def publish(self, messages: Sequence[Outgoing], outcomes: list[str | None]) -> None: ...
    def abort(self) -> None: ...
    def close(self) -> None: ...
    def drop(self) -> None: ...


class Publisher:
    """Publishes to one broker; one thread owns it (:meth:`abort` excepted).

    ``broker``: any kombu URL. ``confirm_timeout``: seconds without a single verdict after which the
    broker counts as unavailable. ``window``: messages on the way without a verdict. ``tls``: how an
    ``amqps`` broker is verified, in py-amqp's terms. The connection is opened by the first use.
    """

    def __init__(
        self,
        broker: str,
        *,
        confirm_timeout: float = 30.0,
        window: int = 500,
        transport_options: Mapping[str, Any] | None = None,
        tls: Mapping[str, Any] | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        broker, said = split_url(broker)
        self._options = {**said, **(transport_options or {})}
        try:
            self._settings = Connection(
                broker,
                connect_timeout=_CONNECT_SECONDS,
                heartbeat=0,
                transport_options=self._options,
                **({"ssl": dict(tls)} if tls else {}),
            )
            self._settings.get_transport_cls()
        except (KeyError, ImportError, AttributeError) as exc:
            raise ConfigurationError("broker", f"kombu knows no such transport: {exc.args[0]}") from None
        except ValueError:
            # its text may hold a piece of the password
            raise ConfigurationError(
                "broker", "no URL: percent-encode the password, check the port"
            ) from None
        self._confirm_timeout = confirm_timeout
        self._window = max(2, window)
        self._clock = clock
        self._line: _Line | None = None
        self._used = 0.0
        self._aborted = False

    @property
    def address(self) -> str:
        """The broker's URL, its password masked."""
        return str(self._settings.as_uri())

    @property
    def frame_max(self) -> int:
        """Bytes of a frame: what the properties and headers of one message must fit in."""
        return self._line.frame_max if self._line else 131_072

    def publish(self, messages: Sequence[Outgoing]) -> list[str | None]:
        """Publish all; return for each ``None`` (confirmed and routed) or the word of its refusal.

        Words: ``unroutable``, ``nacked``, ``unencodable``, ``headers-too-large``. Raises
        ``PublisherUnavailableError`` with the outcomes so far if the broker stopped answering.
        """
        outcomes: list[str | None] = ["unknown"] * len(messages)

        def run(line: _Line) -> None:
            line.publish(messages, outcomes)

        self._guarded(run, outcomes)
        return outcomes

    def declare_queue(self, name: str, *, arguments: Mapping[str, Any] | None = None) -> None:
        """Make sure that the queue exists: taken as it is if present, else declared durable.

        Raises ``UnrecoverableError`` where the broker refuses, ``PublisherUnavailableError`` else.
        """

        def passive(line: _Line) -> None:
            line.channel.queue_declare(queue=name, passive=True)

        if not self._exists(passive, "queue", name):
            self.insist_on_queue(name, arguments or {})

    def insist_on_queue(self, name: str, arguments: Mapping[str, Any]) -> None:
        """Make sure that the queue exists with these very arguments; errors as of :meth:`declare_queue`."""

        def declare(line: _Line) -> None:
            line.channel.queue_declare(queue=name, durable=True, auto_delete=False, arguments=dict(arguments))

        self._declared(declare, "queue", name)

    def check_exchange(self, name: str) -> None:
        """Raise ``UnrecoverableError`` if the exchange does not exist; never declares it."""

        def passive(line: _Line) -> None:
            line.channel.exchange_declare(exchange=name, type="direct", passive=True)

        if not self._exists(passive, "exchange", name):
            raise UnrecoverableError(f"exchange {name!r} does not exist at {self.address}")

    def abort(self) -> None:
        """Break the connection for good: a call under way raises soon, and each later one at once.

        Any thread may call. Only the opening of a connection runs on, for its own few seconds.
        """
        self._aborted = True
        if line := self._line:
            line.abort()

    def close(self) -> None:
        """Close the connection within seconds; never raises. The next use would open a new one."""
        if line := self._line:
            self._line = None
            line.close()

    def _exists(self, passive: Callable[[_Line], None], kind: str, name: str) -> bool:
        try:
            self._declared(passive, kind, name)
        except _NotFoundError:
            return False
        return True

    def _declared(self, action: Callable[[_Line], None], kind: str, name: str) -> None:
        try:
            self._guarded(action, ())
        except PublisherUnavailableError as exc:
            code = str(getattr(exc.__cause__, "reply_code", ""))
            if code == _NOT_FOUND:
                raise _NotFoundError(str(exc)) from exc
            # a refused login is not final: credentials may be put right, and workers go on trying as well
            if code in _FINAL_CODES and getattr(exc.__cause__, "method_sig", None) != _LOGIN:
                words = advice(exc.__cause__ or exc, name) or exc
                raise UnrecoverableError(f"{kind} {name!r}: {words}") from exc
            raise

    def _guarded(self, action: Callable[[_Line], None], outcomes: Sequence[str | None]) -> None:
        """Run an action on an open line; whatever breaks drops the line for good."""
        try:
            action(self._opened())
        except Exception as exc:
            # py-amqp tells of a lost connection by AttributeError, KeyError and ValueError too
            self._drop()
            detail = f"{self.address}: {str(exc) or type(exc).__name__}"
            # of several hosts the next one: this may be alone, frozen or starting, and take connections yet
            if not isinstance(exc, amqp.ChannelError):
                self._settings.maybe_switch_next()
            raise PublisherUnavailableError(detail, outcomes) from exc
        except BaseException:
            self._drop()
            raise
        self._used = self._clock.monotonic()

    def _opened(self) -> _Line:
        if self._line and self._clock.monotonic() - self._used > _IDLE_SECONDS:
            self.close()
        if self._line:
            try:
                self._line.poll()
            except Exception:  # noqa: BLE001  nothing was sent on it yet: a new one takes its place
                self._drop()
        if not self._line and not self._aborted:
            self._line = self._open()
        # abort() may have come while there was no line yet that it could break
        if not self._line or self._aborted:
            raise ConnectionAbortedError("aborted")
        return self._line

    def _open(self) -> _Line:
        if self._settings.transport.driver_type != "amqp":
            return VirtualLine(self._settings.clone())
        connection = self._settings.transport.establish_connection()
        if not isinstance(connection, amqp.Connection):
            with suppress(Exception):
                connection.close()
            raise UnrecoverableError("only py-amqp can confirm what was published: remove librabbitmq")
        try:
            return AmqpLine(
                connection, confirm_timeout=self._confirm_timeout, window=self._window, clock=self._clock
            )
        except BaseException:
            connection.collect()
            raise

    def _drop(self) -> None:
        if line := self._line:
            self._line = None
            line.drop()


class _NotFoundError(PublisherUnavailableError):
    """The broker knows no such queue or exchange."""
