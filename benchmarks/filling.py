"""What the consumers find in the queue: the load producer's messages, the same each time.

JSON of 200 bytes with an id and a number; persistent, with content type, message id and a correlation
id that 20 messages share, 50 of them taking turns. Celery's workers take none but Celery's tasks:
for them the same document is the only argument of one.
"""

from __future__ import annotations

import time
from itertools import islice
from typing import TYPE_CHECKING, Any

from kombu import Connection

from consumers.publisher import Outgoing, Publisher
from producers.shapes import Shape, messages

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.servers import RabbitMQ

QUEUE = "bench"
MEMBERS, OPEN = 20, 50
_CALL = 1_000


def outgoing(count: int, *, tasks: bool = False) -> Iterator[Outgoing]:
    """Make so many messages."""
    shape = Shape(QUEUE, count, "bench", keys=max(1, count // MEMBERS), open_keys=OPEN)
    made = (one.message for one in messages(shape, 0, count))
    return map(as_task, made) if tasks else made


def as_task(message: Outgoing) -> Outgoing:
    """Wrap a message as a task of Celery's protocol 2, as ``apply_async`` would publish it."""
    name = message.properties["message_id"]
    headers: dict[str, Any] = {
        "lang": "py", "task": "bench.write", "id": name, "root_id": name, "parent_id": None, "group": None,
        "argsrepr": "", "kwargsrepr": "", "origin": "bench", "ignore_result": True, "retries": 0, "eta": None,
        "expires": None, "timelimit": [None, None],
    }  # fmt: skip
    properties = {
        **message.properties,
        "content_encoding": "utf-8",
        "correlation_id": name,
        "headers": headers,
    }
    embedded = b'{"callbacks":null,"errbacks":null,"chain":null,"chord":null}'
    return Outgoing("", message.routing_key, b"[[%b],{},%b]" % (message.body, embedded), properties)


def declare(rabbit: RabbitMQ) -> None:
    """Make the queue anew: durable, quorum, empty."""
    rabbit.delete_queues(QUEUE, f"{QUEUE}.dead")
    with Connection(rabbit.url) as connection:
        arguments = {"x-queue-type": "quorum"}
        connection.default_channel.queue_declare(QUEUE, durable=True, auto_delete=False, arguments=arguments)


class Filler:
    """Publishes with confirms; notes for each call when it began, when it was confirmed, how many so far."""

    def __init__(self, rabbit: RabbitMQ, count: int, *, tasks: bool = False) -> None:
        self._publisher = Publisher(rabbit.url, window=2_000)
        self._source = outgoing(count, tasks=tasks)
        self.calls: list[tuple[float, float, int]] = []
        self._sent = 0

    def publish(self, count: int, *, rate: float = 0.0, call: int = _CALL) -> None:
        """Publish the next ``count``, ``call`` at a time; ``rate`` a second, 0 for as fast as can be."""
        began, sent = time.monotonic(), 0
        while batch := list(islice(self._source, min(call, count - sent))):
            if rate:
                time.sleep(max(0.0, began + sent / rate - time.monotonic()))
            start = time.time()
            refused = [outcome for outcome in self._publisher.publish(batch) if outcome]
            if refused:
                raise RuntimeError(f"the broker refused messages: {refused[0]}")
            sent += len(batch)
            self._sent += len(batch)
            self.calls.append((start, time.time(), self._sent))

    def close(self) -> None:
        """Close the connection."""
        self._publisher.close()
