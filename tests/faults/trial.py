"""One trial: a queue, an index and ids of its own, a service between them, and the account at the end.

Both of the service's legs go through Toxiproxy, and the one to the sink through a recorder as well:

    service ── leg ── broker          service ── leg ── recorder ── Elasticsearch
"""

from __future__ import annotations

import random
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import requests
from amqp.exceptions import NotFound

from tests.elasticsearch_proxy import proxy
from tests.faults.played import Played
from tests.faults.recorder import Recorder
from tests.faults.sending import Sending
from tests.servers.base import wait_for
from tests.service import channel_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.faults.account import Account
    from tests.servers import Fleet, QueueCounts

#: How long a trial may take to come to its end after the fault is over.
DRAIN_SECONDS = 60.0
#: How long after the end of a fault a worker may take to consume again.
CONSUME_SECONDS = 20.0
#: The servers of the settings.
BROKERS = {
    "3.10": "rabbitmq",
    "4.0": "rabbitmq4",
    "3.10 cluster": "rabbitmq_cluster",
    "4.0 cluster": "rabbitmq4_cluster",
}
#: So often in a row, a second apart, the broker has to say that it has nothing.
EMPTY_LOOKS = 3
#: How long the broker may take to have back what a service held that has ended.
RETURN_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Setting:
    """Where a trial is played: the broker (3.10 or 4.0), the type of its queue, and how it is read."""

    broker: str = "4.0"
    kind: str = "quorum"
    amqp: str = "batched"

    def __str__(self) -> str:
        return f"{self.broker}-{self.kind}-{self.amqp}"


class Trial(Played, Sending):
    """What one trial plays on; made by :func:`trial`."""

    def __init__(self, fleet: Fleet, setting: Setting, seed: int, *, recorded: bool) -> None:
        Played.__init__(self, seed)
        Sending.__init__(self)
        self.setting = setting
        self.broker: Any = fleet.get(BROKERS[setting.broker])
        self.elasticsearch: Any = fleet.get("elasticsearch")
        self._toxiproxy: Any = fleet.get("toxiproxy")
        self.queue = self.index = self.name
        self._recorded = recorded
        #: the service's own ways to the broker and to the sink, where they are not the legs
        self.broker_url = self.sink_url = self.sink_options = ""

    # ── its beginning and its end ──

    def open(self) -> None:
        """Make the legs and the queue."""
        self.recorder: Recorder | None = None
        address = self.elasticsearch.url
        if self._recorded:
            self.recorder = self._stack.enter_context(proxy(address, kind=Recorder))
            self.recorder.chance = random.Random(self.seed)  # its threads draw too
            address = self.recorder.url
        self.broker_leg = self._reach_broker()
        self.sink_leg = self._toxiproxy.leg(f"{self.name}-sink", address)
        self._stack.callback(self.sink_leg.close)
        self.declare()

    def _reach_broker(self) -> Any:
        leg = self._toxiproxy.leg(f"{self.name}-broker", self.broker.url)
        self._stack.callback(leg.close)
        return leg

    def declare(self) -> None:
        """Make the queue, if there is none."""
        arguments = {} if self.setting.kind == "classic" else {"x-queue-type": self.setting.kind}
        with channel_of(self.broker.url) as channel:
            channel.queue_declare(queue=self.queue, durable=True, auto_delete=False, arguments=arguments)

    def close(self) -> None:
        """End what still runs, heal the servers, remove everything."""
        self.end()
        self.heal()
        self._stack.close()
        self.broker.delete_queues(self.queue, f"{self.queue}.dead")
        with suppress(requests.HTTPError):
            self.elasticsearch.call("DELETE", f"/{self.index}?ignore_unavailable=true")

    def heal(self) -> None:
        """Let both servers be well again."""
        self.broker.heal()
        self.elasticsearch.heal()

    def _ends(self) -> Sequence[str]:
        address = self.sink_url or self.sink_leg.url
        return (
            "--broker", self.broker_url or self.broker_leg.url, "--queue", self.queue,
            "--sink", f"elasticsearch+{address}/{self.index}?timeout=3s{self.sink_options}",
            "--amqp-input", self.setting.amqp,
        )  # fmt: skip

    # ── the end ──

    def counts(self) -> QueueCounts | None:
        """Return what the broker counts; None while it cannot be asked."""
        try:
            return self.broker.counts(self.queue)
        except (KeyError, RuntimeError):
            return None

    def drain(self, patience: float = DRAIN_SECONDS) -> None:
        """Wait until the queue is empty; what is not is accounted for as left."""
        look_at, empty = time.monotonic() + 2.0, 0

        def over() -> bool:
            nonlocal look_at, empty
            if self._all_there():
                return True
            if time.monotonic() < look_at:
                return False
            # nothing more can come: what is missing now is lost, or in the hands of a build that acked it
            counts = self.counts()
            empty = empty + 1 if counts is not None and not (counts.ready or counts.unacked) else 0
            look_at = time.monotonic() + 1.0
            return empty == EMPTY_LOOKS

        with suppress(TimeoutError):
            wait_for(over, "all documents", timeout=patience, interval=0.1)
        with suppress(TimeoutError):
            wait_for(self._is_empty, "an empty queue", timeout=30.0, interval=0.2)

    def _is_empty(self) -> bool:
        counts = self.counts()
        return counts is not None and not (counts.ready or counts.unacked)

    @property
    def all_there(self) -> bool:
        """Whether each message is a document or a dead letter."""
        return self._all_there()

    def _all_there(self) -> bool:
        """Cheap to ask: the broker says what is ready, the index what it has."""
        try:
            with channel_of(self.broker.url) as channel:
                if channel.queue_declare(queue=self.queue, passive=True).message_count:
                    return False
                dead = 0
                with suppress(NotFound):
                    dead = channel.queue_declare(queue=f"{self.queue}.dead", passive=True).message_count
            return self.elasticsearch.count(self.index) + dead + len(self._kept) >= len(self.confirmed)
        except (OSError, requests.RequestException, NotFound):
            return False

    def finish(self) -> Account:
        """Drain, stop the service, and add up."""
        self.drain()
        self._see_all_consume()
        self.stop()
        account = self.account
        with suppress(TimeoutError):
            wait_for(self._is_empty, "an empty queue", timeout=RETURN_SECONDS, interval=0.5)
        counts = self.counts()
        account.left = counts.ready + counts.unacked if counts else len(self.confirmed)
        documents = self.elasticsearch.documents(self.index) if self.confirmed else {}
        account.written = len(documents)
        dead = self._kept | self._letters()
        account.confirmed = len(self.confirmed)
        account.dead_lettered = len(dead)
        written = self._written(documents)
        account.lost = len(self.confirmed - written - dead)
        # of poison, what is a document after all has no number
        numbers = [document["number"] for document in documents.values() if "number" in document]
        account.duplicated = len(numbers) - len(set(numbers))
        if self.recorder:
            account.unexpected = len(documents.keys() - self.recorder.attempted.keys())
        else:
            account.unexpected = len(written - self._names())
        account.repeats = self.recorder.repeats if self.recorder else self._duplicates()
        return self.add_up()

    def _see_all_consume(self) -> None:
        """Whatever broke: in the end each worker consumes, as the broker counts them."""
        found = 0

        def all_consume() -> bool:
            nonlocal found
            counts = self.counts()
            found = counts.consumers if counts else 0
            return found >= self._consumers

        try:
            wait_for(all_consume, "all workers", timeout=CONSUME_SECONDS, interval=0.5)
        except TimeoutError:
            self.account.complaints.append(f"{found} of {self._consumers} workers consume")


@contextmanager
def trial(fleet: Fleet, setting: Setting, *, seed: int = 0, recorded: bool = True) -> Iterator[Trial]:
    """Yield a trial with everything in place; nothing of it is left afterwards."""
    made = Trial(fleet, setting, seed, recorded=recorded)
    try:
        made.open()
        yield made
    finally:
        made.close()
