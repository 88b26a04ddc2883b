"""The service as a process: started, watched by its log lines and metrics, stopped by signals.

``Stage`` is what one test plays on: a queue of a broker, an index of Elasticsearch, and services
between them.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import requests
from amqp.exceptions import NotFound
from kombu import Connection
from prometheus_client.parser import text_string_to_metric_families

from consumers.publisher import Outgoing, Publisher
from tests.servers.base import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from tests.servers import Elasticsearch, QueueCounts, RabbitMQ

ROOT = Path(__file__).parent.parent
#: Events of a fault in the program itself: no test expects one.
FAULTS = frozenset(
    {"dead_letters_failed", "flush_failed", "flush_thread_failed", "worker_died", "worker_failed"}
)
#: Long enough for a busy machine; a test that meets it has failed.
PATIENCE = 60.0


#: Keys of batches are told to those alone who ask for details.
LOGS = ("--log-format", "json", "--log-level", "debug")


def amqp_input() -> list[str]:
    """Return the flags for the transport that is tested: ``TEST_AMQP=standard`` is the other one."""
    chosen = os.environ.get("TEST_AMQP", "")
    return ["--amqp-input", chosen] if chosen else []


class Service:
    """``python -m aggregator.consume`` with these flags, its log read line by line as it comes.

    ``module`` is another program that runs it, with the first of its own arguments.
    """

    def __init__(
        self,
        *flags: str,
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
        session: bool = False,
        module: Sequence[str] = ("aggregator.consume",),
    ) -> None:
        # a service must not outlive tests that are killed themselves
        leash = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
        self.process = subprocess.Popen(
            [*leash, sys.executable, "-m", *module, *LOGS, *flags],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **(environment or {})},
            cwd=folder or ROOT,
            start_new_session=session,  # with a group of its own
        )
        self.log: list[dict[str, Any]] = []
        self.noise: list[str] = []
        self._changed = threading.Condition()
        self._ended = False
        self._output = b""
        self._threads = [threading.Thread(target=read) for read in (self._read_log, self._read_output)]
        for thread in self._threads:
            thread.start()

    # ── what it says ──

    def events(self, event: str, **fields: Any) -> list[dict[str, Any]]:
        """Return the log's lines of this event with these values."""
        with self._changed:
            return self._find(event, fields)

    def wait_event(
        self, event: str, count: int = 1, *, timeout: float = PATIENCE, **fields: Any
    ) -> list[dict[str, Any]]:
        """Wait until the log holds so many of these lines; fail at once if the process ends before."""
        with self._changed:
            self._changed.wait_for(lambda: self._ended or len(self._find(event, fields)) >= count, timeout)
            found = self._find(event, fields)
        if len(found) < count:
            raise TimeoutError(f"{len(found)} of {count} {event} {fields}\n{self.last_words()}")
        return found

    @property
    def output(self) -> str:
        """What it printed; complete once it has ended."""
        return self._output.decode()

    def batches(self) -> list[tuple[str, int]]:
        """Return the trigger and the number of messages of each batch, in the order of their end."""
        return [(line["trigger"], line["messages"]) for line in self.events("batch")]

    def last_words(self) -> str:
        """Return the end of the log, for whoever has to find out."""
        return "\n".join([*(str(line) for line in self.log[-25:]), *self.noise[-25:]])

    def faults(self) -> list[Any]:
        """Return what must never be seen: events of faults, and tracebacks."""
        return [line for line in self.log if line["event"] in FAULTS or "exception" in line] + [
            line for line in self.noise if "Traceback" in line
        ]

    # ── what it counts ──

    @property
    def address(self) -> str:
        """Return the URL of its metrics, without the path; it has to be started with --metrics-port."""
        url: str = self.wait_event("metrics")[0]["url"]
        return url.removesuffix("/metrics")

    def samples(self) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        """Scrape once; return each value by its name and labels."""
        text = requests.get(f"{self.address}/metrics", timeout=30).text
        return {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def metric(self, name: str, **labels: str) -> float:
        """Return the sum of all values of this name with these labels."""
        wanted = set(labels.items())
        return sum(
            value for (found, given), value in self.samples().items() if found == name and wanted <= given
        )

    def wait_metric(self, name: str, holds: Callable[[float], bool], **labels: str) -> None:
        """Wait until the metric's value is as wanted."""
        wait_for(
            lambda: holds(self.metric(name, **labels)),
            f"{name} {labels}",
            timeout=PATIENCE,
            detail=self.last_words,
        )

    def ready(self) -> tuple[int, str]:
        """Ask ``/readyz``; return status and text."""
        answer = requests.get(f"{self.address}/readyz", timeout=30)
        return answer.status_code, answer.text

    # ── its end ──

    def send(self, number: int = signal.SIGTERM) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    def wait(self, timeout: float = PATIENCE) -> int:
        """Wait for the end; return the exit code."""
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"it did not end\n{self.last_words()}") from None
        self._join()
        return code

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and wait for the end; return the exit code."""
        self.send(number)
        return self.wait()

    def kill(self) -> None:
        """End it without warning."""
        self.process.kill()
        self.process.wait()
        self._join()

    def _join(self) -> None:
        for thread in self._threads:
            thread.join()
        for stream in (self.process.stdout, self.process.stderr):
            if stream:
                stream.close()

    def _find(self, event: str, fields: Mapping[str, Any]) -> list[dict[str, Any]]:
        wanted = fields.items()
        return [line for line in self.log if line["event"] == event and wanted <= line.items()]

    def _read_log(self) -> None:
        assert self.process.stderr
        for line in self.process.stderr:
            try:
                entry = orjson.loads(line)
            except orjson.JSONDecodeError:
                entry = None
            with self._changed:
                if isinstance(entry, dict) and "event" in entry:
                    # lists and objects as text: a line can be compared as a set of items
                    simple = {
                        k: v if isinstance(v, str | int | float | None) else str(v) for k, v in entry.items()
                    }
                    self.log.append(simple)
                else:
                    self.noise.append(line.decode(errors="replace").rstrip())
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _read_output(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self._output += line


class Stage:
    """A queue, an index, and the services between them."""

    def __init__(
        self,
        rabbitmq: RabbitMQ,
        queue: str,
        elasticsearch: Elasticsearch,
        index: str,
        start: Callable[..., Service],
    ) -> None:
        self.rabbitmq = rabbitmq
        self.queue = queue
        self.elasticsearch = elasticsearch
        self.index = index
        self._start = start

    def sink(self, address: str | None = None, options: str = "") -> str:
        """Return the sink's URL; ``address`` is where a proxy stands in for Elasticsearch."""
        return f"elasticsearch+{address or self.elasticsearch.url}/{self.index}{options}"

    def start(
        self, *flags: str, sink: str | None = None, broker: str | None = None, **options: Any
    ) -> Service:
        """Start a service with these flags from the queue to the index."""
        address = broker or self.rabbitmq.url
        ends = ("--broker", address, "--queue", self.queue, "--sink", sink or self.sink())
        return self._start(*ends, *amqp_input(), *flags, **options)

    def declare(self, kind: str = "classic", **arguments: Any) -> None:
        """Make the queue."""
        if kind != "classic":
            arguments["x-queue-type"] = kind
        with channel_of(self.rabbitmq.url) as channel:
            channel.queue_declare(queue=self.queue, durable=True, auto_delete=False, arguments=arguments)

    def publish(self, messages: Iterable[Outgoing]) -> int:
        """Publish with confirms and mandatory; return how many. Each must be taken."""
        return publish(self.rabbitmq.url, self.queue, list(messages))

    def numbered(self, numbers: Iterable[int], **more: Any) -> list[Outgoing]:
        """Return a message for each number: JSON, with an id that nobody else has."""
        return [outgoing(self.queue, number, **more) for number in numbers]

    def numbers(self) -> Counter[int]:
        """Return how often each number stands in the index, pages of 10,000 at a time."""
        name = self.index
        if not self.elasticsearch.count(name):
            return Counter()
        found: Counter[int] = Counter()
        query = {"size": 10_000, "_source": ["number"], "sort": ["_doc"]}
        total = self.elasticsearch.count(name)
        for start in range(0, 10**9, 8_000):
            page = {**query, "query": {"range": {"number": {"gte": start, "lt": start + 8_000}}}}
            hits = self.elasticsearch.call("POST", f"/{name}/_search", page)["hits"]["hits"]
            found.update(int(hit["_source"]["number"]) for hit in hits)
            if found.total() >= total or (not hits and start > 100_000):
                break
        return found

    def documents(self) -> list[Any]:
        """Return all documents."""
        return list(self.elasticsearch.documents(self.index).values())

    def dead(self, *, decode: bool = True) -> list[Any]:
        """Take and return all dead letters; without ``decode`` each body as the bytes that it is."""
        return taken(self.rabbitmq.url, f"{self.queue}.dead", decode=decode)

    def counts(self) -> QueueCounts:
        """Return what the broker counts in the queue."""
        return self.rabbitmq.counts(self.queue)

    def wait_counts(self, what: str, holds: Callable[[QueueCounts], bool], timeout: float = PATIENCE) -> None:
        """Wait until the broker's counts are as wanted."""
        seen: list[QueueCounts] = []

        def ask() -> bool:
            try:
                seen.append(self.counts())
            except (KeyError, RuntimeError):  # no such queue, or the node is not up yet
                return False
            return holds(seen[-1])

        wait_for(ask, what, timeout=timeout, interval=0.2, detail=lambda: str(seen[-3:]))

    def wait_empty(self) -> None:
        """Wait until the queue holds nothing, neither ready nor unacked."""
        self.wait_counts("an empty queue", lambda counts: not (counts.ready or counts.unacked))

    def wait_written(self, count: int, timeout: float = PATIENCE) -> None:
        """Wait until the index holds so many documents."""
        seen: list[int] = []

        def ask() -> bool:
            try:
                seen.append(self.elasticsearch.count(self.index))
            except (requests.HTTPError, requests.ConnectionError):  # its shards are not up yet
                return False
            return seen[-1] >= count

        wait_for(
            ask, f"{count} documents", timeout=timeout, interval=0.2, detail=lambda: f"there are {seen[-1:]}"
        )


def outgoing(
    queue: str, number: int, *, body: bytes | None = None, name: str | None = "", **properties: Any
) -> Outgoing:
    """Return a persistent message; ``name`` is its id; None: it has none."""
    text = body if body is not None else orjson.dumps({"number": number, "text": "some words"})
    given: dict[str, Any] = {"delivery_mode": 2, "content_type": "application/json", **properties}
    if name is not None:
        given["message_id"] = name or f"{queue}-{number}"
    return Outgoing("", queue, text, given)


def publish(broker: str, queue: str, messages: Sequence[Outgoing]) -> int:
    """Publish with confirms and mandatory, to a queue that is declared if absent."""
    publisher = Publisher(broker)
    try:
        publisher.declare_queue(queue)
        outcomes = publisher.publish(messages)
    finally:
        publisher.close()
    assert not any(outcomes), Counter(outcomes)
    return len(messages)


@contextmanager
def channel_of(broker: str) -> Iterator[Any]:
    """A channel over a connection of its own."""
    with Connection(broker) as connection, connection.channel() as channel:
        yield channel


def taken(broker: str, queue: str, *, decode: bool = True) -> list[Any]:
    """Take everything that is in a queue; nothing if there is none: a killed broker may forget it."""
    found: list[Any] = []
    with channel_of(broker) as channel, suppress(NotFound):
        channel.auto_decode = decode
        while message := channel.basic_get(queue, no_ack=True):
            found.append(message)
    return found
