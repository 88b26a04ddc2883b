"""What each message costs where: the way from the socket's bytes to the ack, stage by stage.

    python -m benchmarks.stages
    python -m benchmarks.stages --plain             # ids made here, JSON trusted
    python -m benchmarks.stages --keys 50           # groups of 20 by correlation id
    python -m benchmarks.stages --headers 4         # so many headers in each message

One thread, no broker and no store: the frames of RabbitMQ come from memory, the request ends where the
client would send it, and the answer is a store's bytes. What is left out is the operating system's part
and that of elasticsearch-py, urllib3 and http.client (for each request, not each message). Prints a table
in microseconds a message, which are CPU seconds for a million: the median of the rounds.
"""

from __future__ import annotations

import argparse
import gc
import logging
import statistics
import time
from collections import Counter, defaultdict
from functools import partial
from typing import TYPE_CHECKING, Any

import orjson
import structlog
from amqp.basic_message import Message

from aggregator import Aggregator, age, property_, size
from aggregator.assembly import make_pipeline
from aggregator.clock import SYSTEM_CLOCK
from aggregator.consume import OBJECTS_BEFORE_COLLECTION
from aggregator.entrance import Entrance
from aggregator.intake import Intake
from aggregator.making import Maker
from aggregator.metrics import Metrics
from aggregator.outbox import Outbox
from aggregator.settlement import Settler
from aggregator.sinks.elasticsearch_answer import Rules
from aggregator.sinks.elasticsearch_bulk import Actions
from aggregator.testing.dead_letters import MemoryDeadLetters
from benchmarks.open_groups import NullSink
from consumers.delivery import BatchedDelivery
from consumers.link import ChannelLink
from consumers.transports.amqp_frames import FrameBuffer
from tests.amqp_streams import deliver

if TYPE_CHECKING:
    from collections.abc import Callable

COUNT, READ, REQUEST = 100_000, 256 * 1024, 1_000
STAGES = (
    "frames to deliveries", "id, key, check of the JSON", "ledger and buffer", "batch to request",
    "documents", "bulk body", "answer parsed", "items matched", "outcome", "settlement", "ack",
)  # fmt: skip


class Stages:
    """CPU seconds by stage; what one stage calls of another is the other's."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = defaultdict(float)
        self._inner = [0.0]

    def timed(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function, timed."""

        def call(*args: Any, **kwargs: Any) -> Any:
            self._inner.append(0.0)
            began = time.process_time()
            try:
                return function(*args, **kwargs)
            finally:
                whole = time.process_time() - began
                self.spent[stage] += whole - self._inner.pop()
                self._inner[-1] += whole

        return call

    def watch(self, owner: type, name: str, stage: str) -> None:
        """Time a method."""
        setattr(owner, name, self.timed(stage, getattr(owner, name)))


class Sink(NullSink):
    """The Elasticsearch sink without the client: the store's answer is ready."""

    def __init__(self, stages: Stages) -> None:
        self._actions, self._rules = Actions("create"), Rules()
        self._parse = stages.timed("answer parsed", orjson.loads)
        self._answers: dict[int, bytes] = {}

    def write(self, items: Any) -> Any:
        """Make the body, and match the answer with the items."""
        request = self._actions.request(items)
        ids = [item.id for item in items]
        return self._rules.verdicts(self._parse(self._answer(len(request.items))), ids)

    def _answer(self, count: int) -> bytes:
        if count not in self._answers:
            item = {"create": {"_id": "0123456789abcdef01234567", "status": 201}}
            self._answers[count] = orjson.dumps({"errors": False, "items": [item] * count})
        return self._answers[count]


class Channel:
    """Counts the acks."""

    def __init__(self) -> None:
        self.acks: Counter[bool] = Counter()

    def basic_ack(self, _tag: int, *, multiple: bool = False) -> None:
        """Count one."""
        self.acks[multiple] += 1


def frames(number: int, args: argparse.Namespace) -> bytes:
    """Return the three frames of a delivery as RabbitMQ sends them."""
    body = b'{"id":"id-%09d","number":%d,"text":"%s"}' % (number, number, b"x" * 150)
    headers = {f"header-{n}": "value" for n in range(args.headers)}
    message = Message(
        body,
        content_type="application/json",
        delivery_mode=2,
        message_id=f"id-{number:09d}",
        correlation_id=f"key-{number % max(1, args.keys)}",
        **({"application_headers": headers} if headers else {}),
    )
    properties = message._serialize_properties()  # type: ignore[no-untyped-call]  # noqa: SLF001
    return b"".join(
        deliver(tag=number, body=body, properties=properties, consumer="amq.ctag-abcdef", route=("", "tasks"))
    )


def run(args: argparse.Namespace, stages: Stages) -> int:
    """Send all messages through; return how many acks it took."""
    complete = size(20) if args.keys else size(REQUEST)
    app = Aggregator(environment=False)
    app.route(
        "r",
        complete=complete | age("10s"),
        correlate=property_("correlation_id") if args.keys else None,
        id=None if args.plain else "/id",
        trust_json=args.plain,
        request_items=REQUEST,
        prefetch=5_000,
        workers=1,
    )
    pipeline = make_pipeline(
        app.settings().routes["r"],
        sink=Sink(stages),
        dead_letters=MemoryDeadLetters(SYSTEM_CLOCK),
        metrics=Metrics().route("r"),
    )
    pipeline.step()
    channel = Channel()
    link = ChannelLink(channel, 1, multiple=True, wake=lambda: None, clock=SYSTEM_CLOCK)
    pipeline.link_opened(link, 5_000)
    stream = b"".join(frames(number, args) for number in range(1, COUNT + 1))

    def receive(data: bytes) -> list[BatchedDelivery]:
        arrivals: list[Any] = []
        buffer.feed(data)
        buffer.scan(1 << 20, (), arrivals.append)
        deliveries = [*map(partial(BatchedDelivery, link), arrivals)]
        link.delivered([delivery.tag for delivery in deliveries])
        return deliveries

    buffer = FrameBuffer()
    take = stages.timed("frames to deliveries", receive)
    perform = stages.timed("ack", link.perform)
    for at in range(0, len(stream), READ):
        pipeline.accept(take(stream[at : at + READ]))
        while pipeline.step():
            pass
        perform(lambda _: None)
    pipeline.drain()
    while pipeline.step():
        pass
    perform(lambda _: None)
    assert not link.unsettled
    return sum(channel.acks.values())


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("--keys", type=int, default=0)
    parser.add_argument("--headers", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    gc.freeze()
    gc.set_threshold(OBJECTS_BEFORE_COLLECTION)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    stages = Stages()
    for owner, name, stage in (
        (Intake, "sort", "id, key, check of the JSON"),
        (Entrance, "enter", "ledger and buffer"),
        (Entrance, "dispatch", "batch to request"),
        (Outbox, "take", "batch to request"),
        (Maker, "make", "documents"),
        (Actions, "request", "bulk body"),
        (Rules, "verdicts", "items matched"),
        (Outbox, "resolve", "outcome"),
        (Settler, "conclude", "settlement"),
    ):
        stages.watch(owner, name, stage)
    rounds: list[dict[str, float]] = []
    acks = 0
    for _ in range(args.rounds):
        stages.spent.clear()
        acks = run(args, stages)
        rounds.append(dict(stages.spent))
    print("| stage | us |\n|---|---|")
    total = statistics.median(sum(spent.values()) for spent in rounds)
    for stage in STAGES:
        seconds = statistics.median(spent.get(stage, 0.0) for spent in rounds)
        print(f"| {stage} | {seconds / COUNT * 1e6:.2f} |")
    print(f"| all | {total / COUNT * 1e6:.2f} |\n\n{acks} acks for {COUNT} messages")


if __name__ == "__main__":
    main()
