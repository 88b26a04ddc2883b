"""kombu's ``on_message`` and elasticsearch-py's ``bulk``: nothing in between.

One thread, one list; the id is read from each body; an ack for all of a request once it was
answered without errors.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from typing import Any

import orjson
from elasticsearch import Elasticsearch
from kombu import Connection, Consumer, Queue

SIZE, AGE = int(os.environ["BENCH_SIZE"]), int(os.environ["BENCH_AGE_MS"]) / 1000


class Batches:
    """Messages until there are enough of them, or the first is old enough."""

    def __init__(self, client: Elasticsearch, index: str) -> None:
        self.client, self.index = client, index
        self.lines: list[bytes] = []
        self.due = 0.0

    def add(self, message: Any) -> None:
        """Take one; the request goes with the last."""
        if not self.lines:
            self.due = time.monotonic() + AGE
        body = message.body.encode() if isinstance(message.body, str) else bytes(message.body)
        self.lines += (b'{"create":{"_id":%b}}' % orjson.dumps(orjson.loads(body)["id"]), body)
        self.last = message
        if len(self.lines) == 2 * SIZE:
            self.flush()

    def flush(self) -> None:
        """Write what is there and ack it."""
        body = b"\n".join(self.lines) + b"\n"
        answer = self.client.bulk(index=self.index, operations=body, filter_path="errors,items.*.error")
        if answer["errors"]:
            raise RuntimeError(answer)
        self.last.ack(multiple=True)
        self.lines = []


def main() -> None:
    """Consume until SIGTERM."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    client = Elasticsearch(os.environ["BENCH_SINK"])
    batches = Batches(client, os.environ["BENCH_INDEX"])
    queue = Queue(os.environ["BENCH_QUEUE"], no_declare=True)
    with Connection(os.environ["BENCH_BROKER"]) as connection:
        consumer = Consumer(connection.default_channel, [queue], on_message=batches.add, auto_declare=False)
        consumer.qos(prefetch_count=2 * SIZE)
        consumer.consume()
        while True:
            left = batches.due - time.monotonic() if batches.lines else None
            if left is None or left > 0:
                with suppress(TimeoutError):
                    connection.drain_events(timeout=left)
            if batches.lines and time.monotonic() >= batches.due:
                batches.flush()


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main()
