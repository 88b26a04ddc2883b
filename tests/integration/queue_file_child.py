"""The processes that the tests of the queue file kill: ``python -m … ROLE URL``.

They print what the test waits for, line by line.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

import structlog
from kombu import Connection, Consumer, Producer, Queue

from consumers.transports import register
from consumers.transports.sqlite_errors import LeaseLostError

PATIENCE = 60.0
QUEUE = Queue("kills", durable=True)


def hold(url):
    """Take everything, say so, and hold it."""
    taken = []
    with Connection(url) as connection, Consumer(connection, [QUEUE], on_message=taken.append):
        while True:
            with suppress(TimeoutError):
                connection.drain_events(timeout=0.1)
                print(len(taken), flush=True)


def fork(url):
    """Take everything, fork a child that lives until the input ends, say so, and hold it."""
    taken = []
    with Connection(url) as connection, Consumer(connection, [QUEUE], on_message=taken.append):
        connection.drain_events(timeout=PATIENCE)
        if os.fork() == 0:
            sys.stdin.readline()
            os._exit(0)
        print(len(taken), flush=True)
        signal.pause()


def hang(url):
    """Take everything, say so; after having been stopped, try to ack."""
    taken = []
    with Connection(url) as connection, Consumer(connection, [QUEUE], on_message=taken.append):
        connection.drain_events(timeout=PATIENCE)
        print(len(taken), flush=True)
        sys.stdin.readline()
        try:
            taken[-1].ack(multiple=True)
        except LeaseLostError:
            print("lease lost", flush=True)


def produce(url):
    """Publish number after number; say each one once it is confirmed."""
    with Connection(url) as connection:
        producer = Producer(connection)
        for number in range(1_000_000):
            producer.publish(b"%d" % number, routing_key=QUEUE.name, content_type="application/octet-stream")
            print(number, flush=True)


def write(url, journal):
    """Write each message to the journal, then ack it."""
    with Connection(url) as connection, Path(journal).open("ab", buffering=0) as file:

        def take(message):
            file.write(message.body + b"\n")
            # so that there is time to kill it between the two
            time.sleep(0.001)
            message.ack()

        with Consumer(connection, [QUEUE], on_message=take, prefetch_count=50):
            while True:
                connection.drain_events()


if __name__ == "__main__":
    register()
    # the test reads what is printed
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    {"hold": hold, "hang": hang, "fork": fork, "produce": produce, "write": write}[sys.argv[1]](*sys.argv[2:])
