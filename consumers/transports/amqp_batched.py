"""A kombu transport that takes all deliveries of one read at once: ``amqp-batched://``, ``amqps-batched://``.

py-amqp reads frame by frame and decodes each property; kombu makes a second message of it. Here one
read brings up to 256 KiB, and each delivery that stands whole in it becomes one object; all other
frames go to py-amqp, in order and unchanged. So everything but the receiving is py-amqp's own, and a
program of kombu's runs on either transport. It may notice these differences:

- One ``drain_events`` hands out all deliveries of a read, not one; it returns behind any other method.
- Who waits for the socket by own means has to ask :meth:`Connection.pending` first.
- What cannot be decoded is raised where it is asked for (``DecodeError``), not by ``drain_events``.
- A frame of more than twice the negotiated size ends the connection.

``channel.make_delivery`` makes the objects; a program may set one of its own, see :class:`Channel`.
"""

from __future__ import annotations

from collections import deque
from functools import partial
from ssl import SSLWantReadError, SSLWantWriteError
from struct import Struct
from typing import TYPE_CHECKING, Any, Final

import amqp
from amqp import spec
from kombu.exceptions import DecodeError
from kombu.transport import pyamqp

from consumers.transports.amqp_frames import (
    DELIVER,
    END,
    GET_OK,
    HEADER,
    METHOD,
    Arrival,
    FrameBuffer,
    join_deliver,
    split_deliver,
    split_get_ok,
)
from consumers.transports.amqp_message import Message
from consumers.transports.amqp_properties import read_all

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

#: Bytes of one read at most.
READ_BYTES: Final = 256 * 1024
#: py-amqp's own size of a frame, before the broker has named one.
_DEFAULT_FRAME: Final = 131_072
#: Where a header frame's payload has its flags, and flags that say: no properties.
_FLAGS, _NO_PROPERTIES = 12, b"\0\0"
#: ``basic.ack``: type, channel, size, class and method; then tag, the bit for multiple, the end octet.
_OPENING: Final = Struct(">BHIHH")
_ACK: Final = Struct(">QBB")
_ACK_SIZE: Final = 13
_WOULD_BLOCK: Final = (BlockingIOError, InterruptedError, SSLWantReadError, SSLWantWriteError)


class Channel(pyamqp.Channel):
    """kombu's channel. ``make_delivery`` makes what a consumer's callback gets.

    It is called with an :class:`Arrival`, or a plain tuple of its order. What stands in there as bytes
    is read by :mod:`consumers.transports.amqp_properties`. ``on_deliveries`` is called, in place of the
    callback, with the list of all that one read brought to one consumer and to nobody else.
    """

    make_delivery: Callable[[Arrival], Any]
    on_deliveries: Callable[[list[Any]], object] | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.make_delivery = partial(Message, self)

    def ack_many(self, delivery_tags: Iterable[int]) -> None:
        """Ack messages one by one, in one write."""
        opening = _OPENING.pack(METHOD, self.channel_id, _ACK_SIZE, *spec.Basic.Ack)
        frames = [opening + _ACK.pack(tag, 0, END) for tag in delivery_tags]
        self.connection.transport.write(b"".join(frames))
        self.connection.bytes_sent += len(frames)  # py-amqp counts frames, and takes them for signs of life

    def message_to_python(self, raw_message: Any) -> Any:
        """Return a delivery as it is; what ``basic_get`` brought becomes kombu's message."""
        if type(raw_message) is amqp.Message:
            if getattr(raw_message, "undecodable", False):  # it will say so when it is asked
                return self.make_delivery(raw_message.arrival)
            return super().message_to_python(raw_message)  # type: ignore[no-untyped-call]
        return raw_message


class Connection(pyamqp.Connection):
    """py-amqp's connection, with its own way of reading."""

    Channel = Channel

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._input = FrameBuffer()
        self._arrivals: deque[Arrival] = deque()
        #: Channels on which py-amqp puts a message together, and the properties of those deliveries.
        self._busy: dict[int, bytes | None] = {}
        super().__init__(*args, **kwargs)

    @property
    def _limit(self) -> int:
        # a broker adds headers of its own (x-death) to a header frame that was full already
        agreed: int = self.frame_max if self._handshake_complete else max(self.frame_max, _DEFAULT_FRAME)
        return 2 * agreed

    def pending(self) -> bool:
        """Tell whether something was received that is not handed out yet; the socket shows none of it."""
        if not self._arrivals:
            # py-amqp counts frames, and takes a new number for a sign of life
            self.bytes_recv += self._input.scan(self._limit, self._busy, self._arrivals.append)
        return bool(self._arrivals) or self._input.has_frame

    def blocking_read(self, timeout: float | None = None) -> bool:
        """Hand out what was received, after one read at most if that is nothing; tell if it was an event.

        Ends behind each frame that is no delivery: whoever waits for an answer has to see it, and a
        consumer's callback is known only when it has. Raises ``TimeoutError``, and as py-amqp does.
        """
        if not self.pending():
            self._receive(timeout)
            if not self.pending():
                return False
        if self._arrivals:
            self._hand_out()
            return True
        return self._pass_on(self._input.take_frame(self._limit))

    def collect(self) -> None:
        """Let go of the socket, and of what was received over it."""
        self._input.clear()
        self._arrivals.clear()
        self._busy.clear()
        super().collect()

    def on_inbound_method(self, channel_id: int, method_sig: Any, payload: bytes, content: Any) -> Any:
        """Take what py-amqp has put together."""
        properties = self._busy.pop(channel_id, None) if content is not None else None
        if properties:
            body = content.body or b""
            if method_sig == spec.Basic.Deliver:
                arrival = split_deliver(channel_id, payload, properties, body)
                if arrival is not None:
                    self._arrivals.append(arrival)
                    return self._hand_out()
            else:
                content.arrival = split_get_ok(channel_id, payload, properties, body)
                try:
                    content.properties = read_all(properties)
                except DecodeError:
                    content.undecodable = True
        return super().on_inbound_method(channel_id, method_sig, payload, content)

    def _receive(self, timeout: float | None) -> None:
        transport = self.transport
        if transport.sock is None:
            raise amqp.RecoverableConnectionError("connection already closed")
        with transport.having_timeout(timeout):
            try:
                data = transport.sock.recv(READ_BYTES)
            except _WOULD_BLOCK:
                raise TimeoutError from None
            except TimeoutError:
                raise
            except OSError as exc:
                if "timed out" in str(exc):
                    raise TimeoutError from None
                transport.connected = False
                raise
        if not data:
            transport.connected = False
            raise OSError("Server unexpectedly closed connection")
        self._input.feed(data)

    def _hand_out(self) -> None:
        """Call the consumers. One may read on itself, close the channel or raise: the rest stays."""
        arrivals = self._arrivals
        take = arrivals.popleft
        channels = self.channels
        if len(arrivals) > 1 and self._hand_out_together():
            return
        while arrivals:
            arrival = take()
            try:
                channel = channels[arrival[0]]
                callback = channel.callbacks[arrival[1].decode()]
            except (KeyError, UnicodeDecodeError):
                channel = None
            if channel is None or channel.is_closing:
                self._refuse(Arrival(*arrival))
            else:
                callback(channel.make_delivery(arrival))

    def _hand_out_together(self) -> bool:
        """Hand all to the one consumer that they are for, if it takes them so; tell whether it did."""
        arrivals = self._arrivals
        number, consumer = arrivals[0][:2]
        channel = self.channels.get(number)
        if channel is None or getattr(channel, "on_deliveries", None) is None or channel.is_closing:
            return False
        known = consumer.decode("utf-8", "replace") in channel.callbacks
        if not known or any([a[0] != number or a[1] != consumer for a in arrivals]):  # noqa: C419 - faster
            return False
        made = [*map(channel.make_delivery, arrivals)]
        arrivals.clear()
        channel.on_deliveries(made)
        return True

    def _refuse(self, arrival: Arrival) -> None:
        """Have py-amqp do as it does with a delivery that nobody waits for."""
        super().on_inbound_method(
            arrival.channel, spec.Basic.Deliver, join_deliver(arrival), amqp.Message(arrival.body)
        )

    def _pass_on(self, frame: tuple[int, int, bytes]) -> bool:
        """Give a frame to py-amqp; tell whether it was an event, as py-amqp does.

        Of a message for a consumer or for ``basic_get`` the properties are kept back: they are decoded
        when someone asks, and what is wrong with them is then that message's fault alone.
        """
        kind, number, payload = frame
        if (
            kind == HEADER
            and self._busy.get(number) == b""
            and payload[:2] == DELIVER[:2]
            and len(payload) > _FLAGS + 1
        ):
            self._busy[number] = payload[_FLAGS:]
            frame = (kind, number, payload[:_FLAGS] + _NO_PROPERTIES)
        complete = bool(self.on_inbound_frame(frame))
        if kind == METHOD and not complete:
            self._busy[number] = b"" if payload[: len(DELIVER)] in {DELIVER, GET_OK} else None
        return complete


class Transport(pyamqp.Transport):
    """kombu's transport for ``amqp-batched://``."""

    Connection = Connection


class SSLTransport(pyamqp.SSLTransport):
    """kombu's transport for ``amqps-batched://``."""

    Connection = Connection
