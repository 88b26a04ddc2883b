"""One trial: a queue, an index and ids of its own, a service between them, and the account at the end.

Both of the service's legs go through Toxiproxy, and the one to the sink through a recorder as well:

    service ── leg ── broker          service ── leg ── recorder ── Elasticsearch
"""

from __future__ import annotations

import os
import random
import signal
import time
import uuid
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import requests
from amqp.exceptions import NotFound

from consumers.publisher import Publisher
from tests.elasticsearch_proxy import proxy
from tests.faults.account import Account
from tests.faults.recorder import Recorder
from tests.faults.watch import Use, Watch, tree, use_of
from tests.servers.base import wait_for
from tests.service import Service, channel_of, outgoing, taken

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from consumers.publisher import Outgoing
    from tests.servers import Fleet, QueueCounts

#: Short times, so that all moments of the service's life come by within seconds.
FLAGS = ("--size", "20", "--age", "200ms", "--workers", "2", "--prefetch", "40",
         "--heartbeat", "4s", "--metrics-port", "0")  # fmt: skip
#: How long a trial may take to come to its end after the fault is over.
DRAIN_SECONDS = 60.0
GRACE_SECONDS = 10.0
#: A little more than the time between two looks of a quorum queue at itself.
TICK_SECONDS = 7.0
#: So often in a row, a second apart, the broker has to say that it has nothing.
EMPTY_LOOKS = 6


@dataclass(frozen=True, slots=True)
class Setting:
    """Where a trial is played: the broker (3.10 or 4.0), the type of its queue, and how it is read."""

    broker: str = "4.0"
    kind: str = "quorum"
    amqp: str = "batched"

    def __str__(self) -> str:
        return f"{self.broker}-{self.kind}-{self.amqp}"


class Trial:
    """What one trial plays on; made by :func:`trial`. ``chance`` is all that is random in it."""

    def __init__(self, fleet: Fleet, setting: Setting, seed: int, *, recorded: bool) -> None:
        self.setting = setting
        self.seed = seed
        self.chance = random.Random(seed)
        self.broker: Any = fleet.get("rabbitmq" if setting.broker == "3.10" else "rabbitmq4")
        self.elasticsearch: Any = fleet.get("elasticsearch")
        self._toxiproxy: Any = fleet.get("toxiproxy")
        self.name = f"faults-{uuid.uuid4().hex[:12]}"
        self.queue = self.index = self.name
        self.confirmed: set[str] = set()
        self.published = 0
        self.services: list[Service] = []
        #: the build that is tried: a module that runs the service, or none for the honest one
        self.module = ""
        self._watches: list[Watch] = []
        self._recorded = recorded
        self._stack = ExitStack()
        self._began = time.monotonic()
        self.healed: datetime | None = None
        self.account = Account()

    # ── its beginning and its end ──

    def open(self) -> None:
        """Make the legs and the queue."""
        self.recorder: Recorder | None = None
        address = self.elasticsearch.url
        if self._recorded:
            self.recorder = self._stack.enter_context(proxy(address, kind=Recorder))
            self.recorder.chance = random.Random(self.seed)  # its threads draw too
            address = self.recorder.url
        self.broker_leg = self._toxiproxy.leg(f"{self.name}-broker", self.broker.url)
        self._stack.callback(self.broker_leg.close)
        self.sink_leg = self._toxiproxy.leg(f"{self.name}-sink", address)
        self._stack.callback(self.sink_leg.close)
        self.declare()

    def declare(self) -> None:
        """Make the queue, if there is none."""
        arguments = {} if self.setting.kind == "classic" else {"x-queue-type": self.setting.kind}
        with channel_of(self.broker.url) as channel:
            channel.queue_declare(queue=self.queue, durable=True, auto_delete=False, arguments=arguments)

    def close(self) -> None:
        """End what still runs, heal the servers, remove everything."""
        for service in self.services:
            kill_tree(service)
        for watch in self._watches:
            watch.stop()
        self.heal()
        self._stack.close()
        self.broker.delete_queues(self.queue, f"{self.queue}.dead")
        with suppress(requests.HTTPError):
            self.elasticsearch.call("DELETE", f"/{self.index}?ignore_unavailable=true")

    def heal(self) -> None:
        """Let both servers be well again."""
        self.broker.heal()
        self.elasticsearch.heal()

    # ── messages ──

    def publish(self, count: int, key: Callable[[int], str] | None = None) -> None:
        """Publish messages that nobody published before, with confirms and mandatory.

        ``key`` gives each the header of that name.
        """
        messages = []
        for number in range(self.published, self.published + count):
            more = {"headers": {"key": key(number)}} if key else {}
            messages.append(outgoing(self.queue, number, **more))
        self._publish(messages)

    def publish_bodies(self, bodies: Sequence[bytes]) -> None:
        """Publish these, with ids of their own."""
        numbered = enumerate(bodies, self.published)
        self._publish([outgoing(self.queue, number, body=body) for number, body in numbered])

    def _publish(self, messages: Sequence[Outgoing]) -> None:
        self.published += len(messages)
        publisher = Publisher(self.broker.url)
        try:
            outcomes = publisher.publish(messages)
        finally:
            publisher.close()
        self.confirmed.update(
            message.properties["message_id"]
            for message, outcome in zip(messages, outcomes, strict=True)
            if outcome is None
        )

    # ── the service ──

    def start(
        self, *flags: str, points: Sequence[str] = (), freeze: bool = False, module: str = ""
    ) -> Service:
        """Start the service; ``points``: lives that end there, see :mod:`tests.faults.points`."""
        program = [module] if module else ["aggregator.consume"]
        if points:
            program = ["tests.faults.points", *(word for at in points for word in ("--at", at))]
            program += ["--freeze", "--"] if freeze else ["--"]
        sink = f"elasticsearch+{self.sink_leg.url}/{self.index}?timeout=3s"
        ends = ("--broker", self.broker_leg.url, "--queue", self.queue, "--sink", sink)
        service = Service(
            *ends, "--amqp-input", self.setting.amqp, *FLAGS, "--grace", f"{GRACE_SECONDS:g}s", *flags,
            module=program, session=True,
        )  # fmt: skip
        self.services.append(service)
        self._watches.append(Watch(service.process.pid, children=bool(points)))
        return service

    @property
    def service(self) -> Service:
        """The one that was started last."""
        return self.services[-1]

    def kill(self) -> None:
        """End the whole tree of the service by SIGKILL."""
        kill_tree(self.service)
        self.account.kills += 1

    def stop(self) -> float:
        """End the service by SIGTERM; return the seconds that it took."""
        if self.service.process.returncode is not None:
            return 0.0
        self.service.wait_event("metrics")  # before that a signal ends it as it ends any program
        began = time.monotonic()
        self.service.send(signal.SIGTERM)
        try:
            code = self.service.wait(GRACE_SECONDS + 30)
        except TimeoutError:
            self.account.complaints.append("it did not end after SIGTERM")
            kill_tree(self.service)
            return time.monotonic() - began
        took = time.monotonic() - began
        # before its handler stands, a signal ends it as it ends any program
        if code and (code != -signal.SIGTERM or self.service.events("stopping")):
            self.account.complaints.append(f"exit code {code} after SIGTERM")
        if took > GRACE_SECONDS + 10:
            self.account.complaints.append(f"SIGTERM took {took:.1f} s")
        return took

    def wait_writes(self, batches: int = 1) -> None:
        """Wait until the service has concluded some batches more."""
        self.service.wait_event("batch", len(self.service.events("batch")) + batches)

    def use(self) -> Use:
        """What the service uses now."""
        found = use_of(self.service.process.pid)
        assert found, self.service.last_words()
        return found

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

    def _all_there(self) -> bool:
        """Cheap to ask: the broker says what is ready, the index what it has."""
        try:
            with channel_of(self.broker.url) as channel:
                if channel.queue_declare(queue=self.queue, passive=True).message_count:
                    return False
                dead = 0
                with suppress(NotFound):
                    dead = channel.queue_declare(queue=f"{self.queue}.dead", passive=True).message_count
            return self.elasticsearch.count(self.index) + dead >= len(self.confirmed)
        except (OSError, requests.RequestException, NotFound):
            return False

    def finish(self) -> Account:
        """Drain, stop the service, and add up."""
        self.drain()
        self.stop()
        account = self.account
        with suppress(TimeoutError):  # of a quorum queue the broker tells what it was up to 5 s ago
            wait_for(self._is_empty, "an empty queue", timeout=TICK_SECONDS, interval=0.5)
        counts = self.counts()
        account.left = counts.ready + counts.unacked if counts else len(self.confirmed)
        documents = self.elasticsearch.documents(self.index) if self.confirmed else {}
        dead = {letter.properties["message_id"] for letter in taken(self.broker.url, f"{self.queue}.dead")}
        account.confirmed = len(self.confirmed)
        account.written = len(documents)
        account.dead_lettered = len(dead)
        account.lost = len(self.confirmed - documents.keys() - dead)
        # of poison, what is a document after all has no number
        numbers = [document["number"] for document in documents.values() if "number" in document]
        account.duplicated = len(numbers) - len(set(numbers))
        sent = self.recorder.attempted.keys() if self.recorder else self._names()
        account.unexpected = len(documents.keys() - sent)
        account.repeats = self.recorder.repeats if self.recorder else self._duplicates()
        account.recovery = self._recovery()
        self._add_up_use()
        account.complaints += [str(fault)[:300] for service in self.services for fault in service.faults()]
        account.kills += sum(len(service.events("life_ended", code=-9)) for service in self.services)
        account.seconds = round(time.monotonic() - self._began, 1)
        return account

    def _names(self) -> set[str]:
        return {f"{self.queue}-{number}" for number in range(self.published)}

    def _duplicates(self) -> int:
        batches = (line for service in self.services for line in service.events("batch"))
        return sum(line.get("duplicate", 0) for line in batches)

    def _recovery(self) -> float | None:
        if self.healed is None:
            return None
        writes = sorted(
            datetime.fromisoformat(line["timestamp"])
            for service in self.services
            for line in service.events("batch")
            if line.get("written") or line.get("duplicate")
        )
        after = next((moment for moment in writes if moment > self.healed), None)
        return round((after - self.healed).total_seconds(), 2) if after else None

    def _add_up_use(self) -> None:
        seen = [use for watch in self._watches for use in watch.seen]
        for name in ("memory", "descriptors", "threads"):
            setattr(self.account, name, max((getattr(use, name) for use in seen), default=0))

    def note_healed(self) -> None:
        """The fault is over now: from here on the recovery counts."""
        self.healed = datetime.now(UTC)


def kill_tree(service: Service) -> None:
    """End a service and all its processes by SIGKILL, the group first that it leads."""
    if service.process.returncode is None and service.process.poll() is None:
        others = tree(service.process.pid)
        with suppress(ProcessLookupError):
            os.killpg(service.process.pid, signal.SIGKILL)
        for process in others:
            with suppress(Exception):
                process.kill()
    service.kill()


@contextmanager
def trial(fleet: Fleet, setting: Setting, *, seed: int = 0, recorded: bool = True) -> Iterator[Trial]:
    """Yield a trial with everything in place; nothing of it is left afterwards."""
    made = Trial(fleet, setting, seed, recorded=recorded)
    try:
        made.open()
        yield made
    finally:
        made.close()
