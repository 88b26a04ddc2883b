"""A queue of a broker that kombu speaks to, as a source."""

from __future__ import annotations

from typing import TYPE_CHECKING

from consumers.connecting import Broker
from consumers.dead_letters import DeadLetters
from consumers.inspector import BrokerInspector
from consumers.partitions import partition
from consumers.source import EPOCHS
from consumers.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aggregator.clock import Clock
    from aggregator.config import Route
    from aggregator.metrics import RouteMetrics
    from aggregator.pipeline import Pipeline
    from aggregator.ports import Refused


class BrokerSource:
    """A queue, declared as ``route.entity`` says or taken as it stands, or the partitions of one.

    Refused messages are published.
    """

    def __init__(
        self, route: Route, *, heartbeat: float, on_dead_lettered: Callable[[Sequence[Refused]], None]
    ) -> None:
        broker = Broker(
            route.broker.get_secret_value(),
            heartbeat=heartbeat,
            ca=str(route.broker_ca) if route.broker_ca else None,
            server_hostname=route.server_hostname,
            batched=route.amqp_input == "batched",
        )
        self.queue = route.queue
        self.heartbeat = heartbeat
        self.watched = broker.amqp
        self._partitions = [partition(route, number) for number in range(route.partitions or 0)]
        queues = [queue.name for queue in self._partitions] or [route.queue]
        self.inspector = BrokerInspector(broker, *queues)
        self.dead_letters = DeadLetters(
            broker.url,
            route.queue,
            on_published=on_dead_lettered,
            tls=broker.tls,
            exchange=route.dead_letter_exchange or None,
            routing_key=route.dead_letter_queue,
        )
        self._broker = broker
        self._entity = route.entity

    def worker(
        self, number: int, pipeline: Pipeline, *, prefetch: int, metrics: RouteMetrics, clock: Clock
    ) -> Worker:
        """Return a worker with a connection of its own; of partitions each has one."""
        entity = self._partitions[number - 1] if self._partitions else self._entity
        return Worker(
            self._broker,
            entity.name if self._partitions else self.queue,
            pipeline,
            prefetch=prefetch,
            name=f"{pipeline.name}-{number}",
            epochs=EPOCHS,
            metrics=metrics,
            entity=entity,
            clock=clock,
        )
