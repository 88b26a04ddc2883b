"""aio-pika's iterator and aiohttp; while one request is under way, the next one gathers."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import suppress
from typing import TYPE_CHECKING

import aio_pika
import aiohttp
import orjson

if TYPE_CHECKING:
    from aio_pika.abc import AbstractIncomingMessage

SIZE, AGE = int(os.environ["BENCH_SIZE"]), int(os.environ["BENCH_AGE_MS"]) / 1000
URL = f"{os.environ['BENCH_SINK']}/{os.environ['BENCH_INDEX']}/_bulk?filter_path=errors,items.*.error"


async def write(session: aiohttp.ClientSession, messages: list[AbstractIncomingMessage]) -> None:
    """Write all of them and ack them."""
    lines = []
    for message in messages:
        identity = orjson.dumps(orjson.loads(message.body)["id"])
        lines += (b'{"create":{"_id":%b}}' % identity, message.body)
    body = b"\n".join(lines) + b"\n"
    headers = {"Content-Type": "application/x-ndjson"}
    async with session.post(URL, data=body, headers=headers) as answer:
        answer.raise_for_status()
        if orjson.loads(await answer.read())["errors"]:
            raise RuntimeError(answer)
    await messages[-1].ack(multiple=True)


async def batches(queue: asyncio.Queue[AbstractIncomingMessage], session: aiohttp.ClientSession) -> None:
    """Gather messages until there are enough of them, or the first is old enough."""
    while True:
        held = [await queue.get()]
        with suppress(TimeoutError):
            async with asyncio.timeout(AGE):
                while len(held) < SIZE:
                    held.append(queue.get_nowait() if not queue.empty() else await queue.get())
        await write(session, held)


async def main() -> None:
    """Consume until SIGTERM."""
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    connection = await aio_pika.connect(os.environ["BENCH_BROKER"])
    async with connection, aiohttp.ClientSession() as session:
        channel = await connection.channel()
        await channel.set_qos(prefetch_count=2 * SIZE)
        source = await channel.get_queue(os.environ["BENCH_QUEUE"], ensure=False)
        held: asyncio.Queue[AbstractIncomingMessage] = asyncio.Queue()
        await source.consume(held.put)
        work = asyncio.ensure_future(batches(held, session))
        work.add_done_callback(lambda _: stopped.set())
        await stopped.wait()
        if work.done():
            work.result()


if __name__ == "__main__":
    asyncio.run(main())
