"""A queue of a broker that kombu speaks to, as a source."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aggregator.errors import PublisherUnavailableError, UnrecoverableError
from aggregator.retrying import Retries, read_steps, words
from consumers.connecting import Broker
from consumers.dead_letters import DeadLetters
from consumers.declaring import ensure
from consumers.inspector import BrokerInspector
from consumers.partitions import partition
from consumers.refusals import advice
from consumers.source import EPOCHS
from consumers.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kombu.connection import Connection

    from aggregator.clock import Clock
    from aggregator.metrics import RouteMetrics
    from aggregator.pipeline import Pipeline
    from aggregator.ports import Refused
    from aggregator.settings import Route


def broker_of(route: Route, *, heartbeat: float) -> Broker:
    """Return how a route's broker is reached."""
    return Broker(
        route.broker.get_secret_value(),
        heartbeat=heartbeat,
        ca=str(route.broker_ca) if route.broker_ca else None,
        server_hostname=route.server_hostname,
        batched=route.amqp_input == "batched",
    )


def connect(connection: Connection, broker: Broker) -> None:
    """Connect to the first host that answers, each asked once; raises the client's own error."""
    connection.ensure_connection(
        max_retries=broker.hosts - 1, interval_start=0, interval_step=0, reraise_as_library_errors=False
    )


def _retries(route: Route) -> Retries | None:
    if route.retry is None:
        return None
    return Retries(route.queue, read_steps(route.retry), words(route.retry_reasons))


class BrokerSource:
    """A queue, declared as ``route.entity`` says or taken as it stands, or the partitions of one.

    Refused messages are published.
    """

    def __init__(
        self,
        route: Route,
        *,
        heartbeat: float,
        on_dead_lettered: Callable[[Sequence[Refused]], None],
        on_retried: Callable[[Sequence[Refused]], None],
    ) -> None:
        broker = broker_of(route, heartbeat=heartbeat)
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
            retries=_retries(route),
            on_retried=on_retried,
        )
        self._broker = broker
        self._entity = route.entity
        self._plan = route.topology

    def prepare(self) -> None:
        """Declare and look for what the file describes; connects to nothing where it describes nothing."""
        if not self._plan:
            return
        with self._broker.connection() as connection:
            try:
                connect(connection, self._broker)
                entity = self._partitions[0] if self._partitions else self._entity
                ensure(connection, self.queue, entity, self._plan, insist=True)
            except (*connection.connection_errors, *connection.channel_errors) as exc:
                connection.collect()
                what = advice(exc)
                if what is not None:
                    raise UnrecoverableError(what) from exc
                raise PublisherUnavailableError(f"{connection.as_uri()}: {exc}") from exc

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
            plan=self._plan,
            clock=clock,
        )
