"""The connection that stands in for aioapns' own: what the gateway may say, frame by frame."""

from __future__ import annotations

import asyncio

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.settings import SettingCodes

from aggregator.sinks.apns_aioapns_client import MendedProtocol
from aggregator.sinks.apns_aioapns_streams import LostError, Slots, UntouchedError
from aggregator.sinks.push_batch import Reply, Request

PUSH = Request(b"/3/device/ab", [b"apns-topic: t", b"accept:"], b'{"aps":{}}')


class Wire(asyncio.Transport):
    """Hands everything to a server that a test plays."""

    def __init__(self):
        super().__init__()
        self.server = H2Connection(H2Configuration(client_side=False))
        self.closed = False

    def write(self, data):
        if data:
            self.server.receive_data(data)

    def is_closing(self):
        return self.closed

    def close(self):
        self.closed = True


class Play:
    """A connection and the gateway's end of it."""

    def __init__(self, streams=10):
        self.wire = Wire()
        self.protocol = MendedProtocol("", asyncio.get_running_loop(), None, None)
        self.protocol.connection_made(self.wire)
        self.server = self.wire.server
        self.server.initiate_connection()
        self.server.update_settings({SettingCodes.MAX_CONCURRENT_STREAMS: streams})
        self.say()

    def say(self):
        self.protocol.data_received(self.server.data_to_send())

    async def push(self):
        task = asyncio.create_task(self.protocol.push(PUSH, 5))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return task


def played(story):
    def test():
        asyncio.run(story())

    return test


async def _empty_frames():
    play = Play()
    task = await play.push()
    play.server.send_headers(1, [(":status", "200")])
    play.server.send_data(1, b"")
    play.say()
    assert not task.done()
    play.server.send_data(1, b"", end_stream=True)
    play.say()
    assert await task == Reply(200)


async def _body_in_pieces():
    play = Play()
    task = await play.push()
    play.server.send_headers(1, [(":status", "503"), ("retry-after", "7")])
    for piece in (b'{"reason":', b'"Shutdown"}'):
        play.server.send_data(1, piece)
        play.say()
    play.server.end_stream(1)
    play.say()
    assert await task == Reply(503, b'{"reason":"Shutdown"}', 7.0)


async def _nothing_is_kept():
    play = Play()
    for stream in range(1, 41, 2):
        task = await play.push()
        play.server.send_headers(stream, [(":status", "200")], end_stream=True)
        play.say()
        await task
    assert not play.protocol.streams
    assert not play.protocol.requests
    assert not play.protocol.request_streams
    assert play.protocol.slots.used == 0


async def _reset():
    play = Play()
    for stream, code, error in (
        (1, ErrorCodes.INTERNAL_ERROR, LostError), (3, ErrorCodes.REFUSED_STREAM, UntouchedError),
    ):  # fmt: skip
        task = await play.push()
        play.server.reset_stream(stream, code)
        play.say()
        with pytest.raises(error):
            await task
    assert play.protocol.slots.used == 0


async def _goaway():
    play = Play()
    first, second = await play.push(), await play.push()
    play.server.close_connection(last_stream_id=1)
    goaway = play.server.data_to_send()
    play.protocol.data_received(goaway)
    with pytest.raises(UntouchedError):
        await second
    assert play.protocol.is_busy
    assert not play.wire.closed, "the first one is still to be answered"
    answer = H2Connection(H2Configuration(client_side=False))
    headers = answer.encoder.encode([(b":status", b"200")])
    play.protocol.data_received(len(headers).to_bytes(3) + b"\x01\x05\x00\x00\x00\x01" + headers)
    assert await first == Reply(200)
    assert play.wire.closed
    with pytest.raises(UntouchedError):
        await play.protocol.push(PUSH, 5)


async def _cancelled_then_lost():
    play = Play()
    late, waiting = await play.push(), await play.push()
    late.cancel()
    await asyncio.sleep(0)
    play.protocol.connection_lost(ConnectionResetError())
    with pytest.raises(LostError):
        await waiting
    assert not play.protocol.streams


async def _noise():
    play = Play()
    task = await play.push()
    play.protocol.data_received(b"\x00\x00\x00\x00\x00\x00\x00\x00\x00")  # data without a stream
    with pytest.raises(LostError):
        await task
    assert play.wire.closed


async def _limits():
    slots = Slots(2)
    await slots.acquire()
    await slots.acquire()
    slots.limit(1)
    third = asyncio.create_task(slots.acquire())
    await asyncio.sleep(0)
    slots.release()
    await asyncio.sleep(0)
    assert not third.done(), "the limit fell below what was in use"
    slots.release()
    await third
    assert slots.used == 1
    last = asyncio.create_task(slots.acquire())
    await asyncio.sleep(0)
    slots.close()
    with pytest.raises(UntouchedError):
        await last


test_empty_data_frames_end_nothing = played(_empty_frames)
test_a_body_comes_in_pieces = played(_body_in_pieces)
test_nothing_is_kept_of_what_is_done = played(_nothing_is_kept)
test_a_reset_stream_ends = played(_reset)
test_goaway_lets_the_older_ones_end = played(_goaway)
test_a_cancelled_push_breaks_no_other = played(_cancelled_then_lost)
test_noise_ends_everything = played(_noise)
test_a_limit_that_falls_is_kept = played(_limits)
