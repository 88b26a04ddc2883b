"""Pipelined confirms over py-amqp: many messages on the way, none taken as safe before its ack.

Which message was returned? A return carries exchange, routing key, properties and body but no
sequence number, and comes before the ack of its message. So the first outstanding message that
equals it in all of these is it: among equal messages it makes no difference which one is meant.
Where a broker altered the message on its way (an interceptor that adds headers), every outstanding
message with the same exchange and routing key is taken as returned: that can duplicate, never lose.
"""

from __future__ import annotations

from contextlib import suppress
from socket import SHUT_RDWR
from typing import TYPE_CHECKING, Any, Final

from amqp.serialization import decode_properties_basic

from aggregator.clock import SYSTEM_CLOCK, Clock
from consumers.publish_frames import FrameEncoder, UnencodableError, encode_properties

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import amqp

    from consumers.publisher import Outgoing

#: Bytes that are gathered for one write.
_WRITE_BYTES: Final = 64 * 1024
#: Seconds granted to a farewell; a frozen broker must not hold up a shutdown.
_CLOSE_SECONDS: Final = 2.0


class AmqpLine:
    """One connection and one channel in confirm mode; of no use after its first error.

    ``frame_max`` is the negotiated size of a frame in bytes.
    """

    def __init__(
        self, connection: amqp.Connection, *, confirm_timeout: float, window: int, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        self._connection = connection
        self._timeout = confirm_timeout
        self._window = window
        self._clock = clock
        self._blocked = False
        self._sequence = 0
        self._outstanding: dict[int, tuple[int, Outgoing]] = {}
        self._returned: set[int] = set()
        self._outcomes: list[str | None] = []
        # py-amqp waits for the answer to each method without a limit, unless the socket has one
        self._socket = connection.transport.sock
        self._socket.settimeout(confirm_timeout)
        connection.on_blocked = self._on_blocked
        connection.on_unblocked = self._on_unblocked
        self.channel = connection.channel()
        self.channel.confirm_select()
        self.channel.events["basic_ack"].add(self._on_ack)
        self.channel.events["basic_nack"].add(self._on_nack)
        self.channel.events["basic_return"].add(self._on_return)
        self.frame_max: int = connection.frame_max
        self._encoder = FrameEncoder(self.channel.channel_id, self.frame_max)

    def poll(self) -> None:
        """Take in what the broker said meanwhile; raises if the connection is gone."""
        with suppress(TimeoutError):
            while True:
                self._connection.drain_events(timeout=0)

    def publish(self, messages: Sequence[Outgoing], outcomes: list[str | None]) -> None:
        """Publish all and wait for all; writes each verdict into ``outcomes`` as it comes.

        Raises what py-amqp raises, and ``TimeoutError`` if no verdict came for the confirm timeout.
        """
        self._outcomes = outcomes
        pending = bytearray()
        for index, message in enumerate(messages):
            try:
                pending += self._encoder.encode(
                    message.exchange, message.routing_key, message.properties, message.body
                )
            except UnencodableError as exc:
                outcomes[index] = exc.reason
                continue
            self._sequence += 1
            self._outstanding[self._sequence] = (index, message)
            full = len(self._outstanding) >= self._window
            if full or len(pending) >= _WRITE_BYTES:
                self._write(pending)
                pending = bytearray()
            if full:
                self._await(self._window // 2)
        if pending:
            self._write(pending)
        self._await(0)

    def abort(self) -> None:
        """Break the connection, so that a publish under way raises. Any thread may call."""
        with suppress(OSError):
            self._socket.shutdown(SHUT_RDWR)

    def close(self) -> None:
        """Say goodbye within seconds; never raises."""
        with suppress(Exception):
            self._socket.settimeout(_CLOSE_SECONDS)
            self._connection.close()
        self.drop()

    def drop(self) -> None:
        """Let go of the socket without a word; never raises."""
        with suppress(Exception):
            self._connection.collect()

    def _write(self, frames: bytearray) -> None:
        with self._connection.transport.having_timeout(self._timeout):
            self._connection.transport.write(frames)

    def _await(self, limit: int) -> None:
        """Wait until at most ``limit`` messages are without a verdict."""
        deadline = self._clock.monotonic() + self._timeout
        while (left := len(self._outstanding)) > limit:
            seconds = deadline - self._clock.monotonic()
            if seconds <= 0:
                raise TimeoutError(self._silence())
            try:
                self._connection.drain_events(timeout=seconds)
            except TimeoutError:
                raise TimeoutError(self._silence()) from None
            if len(self._outstanding) < left:
                deadline = self._clock.monotonic() + self._timeout

    def _silence(self) -> str:
        alarm = ": the broker blocks publishers (a memory or disk alarm)" if self._blocked else ""
        return f"no confirm for {self._timeout:g} s{alarm}"

    def _on_blocked(self, _reason: str) -> None:
        self._blocked = True

    def _on_unblocked(self) -> None:
        self._blocked = False

    def _on_ack(self, tag: int, multiple: bool) -> None:
        self._settle(tag, None, multiple=multiple)

    def _on_nack(self, tag: int, multiple: bool) -> None:
        self._settle(tag, "nacked", multiple=multiple)

    def _settle(self, tag: int, word: str | None, *, multiple: bool) -> None:
        for sequence in self._up_to(tag) if multiple else (tag,):
            index, _ = self._outstanding.pop(sequence)
            if sequence in self._returned:
                self._returned.discard(sequence)
                self._outcomes[index] = "unroutable"
            else:
                self._outcomes[index] = word

    def _up_to(self, tag: int) -> Iterable[int]:
        if tag == 0:  # AMQP's word for "all outstanding"
            return tuple(self._outstanding)
        # sequence numbers were put in rising, and a dict keeps that order
        found = []
        for sequence in self._outstanding:
            if sequence > tag:
                break
            found.append(sequence)
        return found

    def _on_return(self, _error: Exception, exchange: str, routing_key: str, message: Any) -> None:
        body = bytes(message.body or b"")
        same_route = []
        for sequence, (_, sent) in self._outstanding.items():
            if sequence in self._returned or sent.routing_key != routing_key or sent.exchange != exchange:
                continue
            if sent.body == body and _as_received(sent) == message.properties:
                self._returned.add(sequence)
                return
            same_route.append(sequence)
        self._returned.update(same_route)


def _as_received(sent: Outgoing) -> dict[str, Any]:
    """Return the properties of a sent message as py-amqp decodes them."""
    decoded, _ = decode_properties_basic(encode_properties(sent.properties), 0)
    return dict(decoded)
