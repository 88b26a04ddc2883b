"""Records what RabbitMQ says to a consumer, for tests that replay it: ``python -m tests.record_amqp``.

Each version of the broker writes one file into ``tests/property/amqp_recorded``: what a connection with
two channels received after its opening. Deliveries of every kind stand in it (empty
bodies, bodies in several frames, headers of the broker's own), confirms, a return, heartbeats, and
a consumer that the broker cancels.
"""

from __future__ import annotations

import gzip
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amqp.basic_message import Message
from kombu import Connection

from tests.servers.rabbitmq import rabbitmq, rabbitmq4

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.servers import RabbitMQ

FOLDER = Path(__file__).parent / "property" / "amqp_recorded"
QUEUE, CONSUMER = "recorded", "recorded"
#: Small, so that a body in several frames makes no large file.
SETTINGS = {"frame_max": "8192"}
KINDS: list[dict[str, Any]] = [
    {"body": b""},
    {"body": b"\x00\xce\x01", "content_encoding": "binary"},
    {"body": '{"text": "\u00fc"}', "content_type": "application/json", "content_encoding": "utf-8"},
    {"body": b"x" * 20_000, "message_id": "m", "timestamp": 1_700_000_000, "priority": 9},
    {
        "body": b"h",
        "application_headers": {"nested": {"list": [1, 2.5, None, True, "text", b"\xff"]}, "n": -(2**40)},
        "correlation_id": "c",
        "reply_to": "r",
        "type": "t",
        "app_id": "a",
    },
]


def main() -> None:
    """Record both versions."""
    FOLDER.mkdir(exist_ok=True)
    for make in (rabbitmq, rabbitmq4):
        server = make(SETTINGS)
        try:
            server.start()
            said = record(server)
        finally:
            server.close()
        (FOLDER / f"rabbitmq-{server.version}.gz").write_bytes(gzip.compress(said, mtime=0))


def record(server: RabbitMQ) -> bytes:
    """Return what the broker said."""
    with Connection(server.url, heartbeat=2) as connection:
        driver = connection.connection
        said = tee(driver.transport)
        first, second = driver.channel(), driver.channel()
        second.confirm_select()
        dead = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": QUEUE, "x-queue-type": "quorum"}
        first.queue_declare(QUEUE, durable=True, auto_delete=False, arguments={"x-queue-type": "quorum"})
        first.queue_declare("rejected", durable=True, auto_delete=False, arguments=dead)
        for queue in (QUEUE, "rejected"):
            for kind in KINDS:
                message = Message(**kind)
                second.basic_publish_confirm(message, "", queue)
        lost = Message(b"nobody takes it")
        with suppress(Exception):
            second.basic_publish_confirm(lost, "", "absent", mandatory=True)
        seen: list[Any] = []
        # given back once, each comes again with a count; rejected, with its history
        first.basic_consume(
            "rejected", callback=lambda each: first.basic_reject(each.delivery_tag, requeue=False)
        )
        first.basic_consume(QUEUE, CONSUMER, callback=seen.append)
        drain(driver, lambda: len(seen) >= 2 * len(KINDS))
        for each in seen[:]:
            first.basic_reject(each.delivery_tag, requeue=True)
        drain(driver, lambda: len(seen) >= 4 * len(KINDS))
        for _ in range(2):
            assert not driver.blocking_read(timeout=5)  # a heartbeat
            driver.send_heartbeat()
        cancelled: list[Any] = []
        first.cancel_callbacks[CONSUMER] = cancelled.append
        second.queue_delete(QUEUE)
        drain(driver, lambda: bool(cancelled))
        return bytes(said)


def tee(transport: Any) -> bytearray:
    """Return what will have been received."""
    said = bytearray()
    receive = transport._quick_recv

    def both(size: int) -> bytes:
        data: bytes = receive(size)
        said.extend(data)
        return data

    transport._quick_recv = both
    return said


def drain(driver: Any, done: Callable[[], bool]) -> None:
    """Take what comes until then."""
    while not done():
        driver.drain_events(timeout=10)


if __name__ == "__main__":
    main()
