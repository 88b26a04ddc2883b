"""A script of the kind one writes in an hour: pika, http.client, one list, one thread."""

from __future__ import annotations

import http.client
import os
import signal
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import orjson
import pika

SIZE, AGE = int(os.environ["BENCH_SIZE"]), int(os.environ["BENCH_AGE_MS"]) / 1000
PATH = f"/{os.environ['BENCH_INDEX']}/_bulk?filter_path=errors,items.*.error"


class Batches:
    """Messages until there are enough of them, or the first is old enough."""

    def __init__(self, connection: pika.BlockingConnection) -> None:
        self.connection = connection
        self.sink = http.client.HTTPConnection(urlsplit(os.environ["BENCH_SINK"]).netloc)
        self.lines: list[bytes] = []
        self.timer: Any = None

    def add(self, channel: Any, method: Any, _properties: Any, body: bytes) -> None:
        """Take one; the request goes with the last."""
        if not self.lines:
            self.timer = self.connection.call_later(AGE, self.flush)
        self.lines += (b'{"create":{"_id":%b}}' % orjson.dumps(orjson.loads(body)["id"]), body)
        self.channel, self.last = channel, method.delivery_tag
        if len(self.lines) == 2 * SIZE:
            self.flush()

    def flush(self) -> None:
        """Write what is there and ack it."""
        self.connection.remove_timeout(self.timer)
        body = b"\n".join(self.lines) + b"\n"
        self.sink.request("POST", PATH, body, {"Content-Type": "application/x-ndjson"})
        answer = self.sink.getresponse()
        text = answer.read()
        if answer.status != http.HTTPStatus.OK or orjson.loads(text)["errors"]:
            raise RuntimeError(text)
        self.channel.basic_ack(self.last, multiple=True)
        self.lines = []


def main() -> None:
    """Consume until SIGTERM."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    connection = pika.BlockingConnection(pika.URLParameters(os.environ["BENCH_BROKER"]))
    channel = connection.channel()
    channel.basic_qos(prefetch_count=2 * SIZE)
    channel.basic_consume(os.environ["BENCH_QUEUE"], Batches(connection).add)
    channel.start_consuming()


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main()
