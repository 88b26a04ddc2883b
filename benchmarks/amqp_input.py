"""Consumption alone: what a message costs until the program has it, by each way of receiving it.

    python -m benchmarks.amqp_input --count 100000 --rounds 5

One queue on a broker of its own on loopback is filled again for each run; each run is a process of
its own that takes all messages (200 bytes of JSON with an id) with prefetch 5,000 and acks every
1,000th for all before it. The ways take turns, round by round. Prints one JSON object for each run,
and a last one with the medians: CPU seconds of the process for 100,000 messages, and their ratios
to the batched transport.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from typing import Any

from kombu import Connection, Consumer, Queue

from consumers.publisher import Outgoing, Publisher
from consumers.transports import register
from tests.servers import Fleet

QUEUE = "amqp-input"
ACK_EVERY, PREFETCH = 1_000, 5_000
WAYS = ("batched", "batched callbacks", "kombu on_message", "kombu callbacks", "py-amqp", "pika")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--broker", default="rabbitmq4", choices=["rabbitmq", "rabbitmq4"])
    parser.add_argument("--queue-type", default="quorum", choices=["classic", "quorum"])
    parser.add_argument("--ways", nargs="+", default=WAYS, choices=WAYS)
    parser.add_argument("--consume", nargs=2, metavar=("WAY", "URL"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.consume:
        print(json.dumps(consume(*args.consume, args.count)))
        return
    fleet = Fleet(full_speed=True)
    try:
        compare(fleet.get(args.broker), args)
    finally:
        fleet.close()


def compare(rabbit: Any, args: argparse.Namespace) -> None:
    """Run every way in turn; print each result and the medians."""
    spent: dict[str, list[float]] = {way: [] for way in args.ways}
    command = [sys.executable, "-m", "benchmarks.amqp_input", "--count", str(args.count), "--consume"]
    for _ in range(args.rounds):
        for way in args.ways:
            fill(rabbit, args.queue_type, args.count)
            done = subprocess.run([*command, way, rabbit.url], check=True, stdout=subprocess.PIPE)
            result = json.loads(done.stdout)
            assert result["messages"] == args.count, result
            spent[way].append(result["cpu_100k"])
            print(json.dumps(result), flush=True)
    medians = {way: statistics.median(times) for way, times in spent.items()}
    least = medians[args.ways[0]]
    summary = {
        way: {"cpu_100k": median, "from": min(spent[way]), "to": max(spent[way]), "ratio": median / least}
        for way, median in medians.items()
    }
    print(json.dumps(summary, indent=1))


def fill(rabbit: Any, queue_type: str, count: int) -> None:
    """Make the queue anew, with so many messages."""
    rabbit.delete_queues(QUEUE)
    with Connection(rabbit.url) as connection:
        arguments = {"x-queue-type": queue_type}
        connection.default_channel.queue_declare(QUEUE, durable=True, auto_delete=False, arguments=arguments)
    publisher = Publisher(rabbit.url)
    for start in range(0, count, 1_000):
        batch = [message(number) for number in range(start, min(start + 1_000, count))]
        assert not any(publisher.publish(batch))
    publisher.close()


def message(number: int) -> Outgoing:
    """A message of 200 bytes."""
    body = b'{"number": %d, "text": "' % number
    properties = {
        "content_type": "application/json",
        "delivery_mode": 2,
        "message_id": f"message-{number:08d}",
    }
    return Outgoing("", QUEUE, body + b"x" * (198 - len(body)) + b'"}', properties)


class Tally:
    """Counts and acks; the first message starts the clock, so that connecting is not measured."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.seen = self.bytes = 0
        self.started = self.cpu = 0.0

    def take(self, body: Any) -> bool:
        """Count one; tell whether it is time to ack."""
        if not self.seen:
            self.started, self.cpu = time.monotonic(), time.process_time()
        self.seen += 1
        self.bytes += len(body)
        return self.seen % ACK_EVERY == 0 or self.seen == self.count

    def result(self, way: str) -> dict[str, Any]:
        cpu, seconds = time.process_time() - self.cpu, time.monotonic() - self.started
        return {
            "way": way,
            "messages": self.seen,
            "cpu_100k": round(cpu / self.seen * 100_000, 3),
            "messages_a_second": round(self.seen / seconds),
        }


def consume(way: str, url: str, count: int) -> dict[str, Any]:
    """Take so many messages in one of the ways."""
    tally = Tally(count)
    if way == "pika":
        _pika(url, tally)
    elif way == "py-amqp":
        _py_amqp(url, tally)
    else:
        register()
        if way.startswith("batched"):
            url = url.replace("amqp://", "amqp-batched://")
        _kombu(url, tally, callbacks=way.endswith("callbacks"))
    return tally.result(way)


def _kombu(url: str, tally: Tally, *, callbacks: bool) -> None:
    def on_message(message: Any) -> None:
        if tally.take(message.body):
            message.ack(multiple=True)

    def callback(_body: Any, message: Any) -> None:  # the body has been decoded
        tally.take(message.body)
        message.ack()

    take: dict[str, Any] = {"callbacks": [callback]} if callbacks else {"on_message": on_message}
    with Connection(url) as connection:
        queue = Queue(QUEUE, no_declare=True)
        with Consumer(connection.default_channel, [queue], prefetch_count=PREFETCH, auto_declare=False,
                      accept=["json"], **take):  # fmt: skip
            while tally.seen < tally.count:
                connection.drain_events(timeout=30)


def _py_amqp(url: str, tally: Tally) -> None:
    with Connection(url) as connection:
        driver = connection.connection
        channel = driver.channel()

        def on_message(message: Any) -> None:
            if tally.take(message.body):
                channel.basic_ack(message.delivery_tag, multiple=True)

        channel.auto_decode = False
        channel.basic_qos(0, PREFETCH, False)
        channel.basic_consume(QUEUE, callback=on_message)
        while tally.seen < tally.count:
            driver.drain_events(timeout=30)


def _pika(url: str, tally: Tally) -> None:
    import pika  # noqa: PLC0415 - one way of several

    connection = pika.BlockingConnection(pika.URLParameters(url.removesuffix("//") + "/%2F"))
    channel = connection.channel()

    def on_message(_channel: Any, method: Any, _properties: Any, body: bytes) -> None:
        if tally.take(body):
            channel.basic_ack(method.delivery_tag, multiple=True)
            if tally.seen == tally.count:
                channel.stop_consuming()

    channel.basic_qos(prefetch_count=PREFETCH)
    channel.basic_consume(QUEUE, on_message)
    channel.start_consuming()
    connection.close()


if __name__ == "__main__":
    main()
