"""A trial on three nodes: the service knows them all, and has to go on while one of them is hurt."""

from __future__ import annotations

import time
from contextlib import contextmanager, suppress
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import requests
from amqp.exceptions import NotFound

from tests.faults.publishing import PATIENCE, publish_all
from tests.faults.trial import Trial
from tests.servers.base import wait_for
from tests.service import channel_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from consumers.publisher import Outgoing
    from tests.faults.trial import Setting
    from tests.servers import Fleet
    from tests.servers.rabbitmq import RabbitMQ


class ClusterTrial(Trial):
    """``well``: the nodes that are not hurt now: through them is published and looked."""

    well: list[RabbitMQ]

    def _reach_broker(self) -> Any:
        self.well = self.broker.nodes
        self._went_on: list[float] = []
        return SimpleNamespace(url=self.broker.url)

    @property
    def url(self) -> str:
        """The URL of the nodes that are not hurt."""
        return ";".join(node.url for node in self.well)

    def declare(self) -> None:
        """Make the queue and that of its dead letters, with copies on each node; the first leads them."""
        with channel_of(self.url) as channel:
            for name in (self.queue, f"{self.queue}.dead"):
                arguments = {"x-queue-type": "quorum"}
                channel.queue_declare(queue=name, durable=True, auto_delete=False, arguments=arguments)

    def order(self, *nodes: RabbitMQ) -> None:
        """Have the service try the nodes in this order."""
        self.broker_leg.url = ";".join(node.url for node in nodes)

    def _publish(self, messages: Sequence[Outgoing]) -> None:
        self.published += len(messages)
        publish_all(lambda: self.url, messages, self.confirmed)

    def goes_on(self, count: int = 200) -> None:
        """What is published from now on is written, though the cluster is not whole; note how soon."""
        began = time.monotonic()
        self.publish(count)
        try:
            wait_for(self._all_there, "all to be written", timeout=PATIENCE, interval=0.1)
        except TimeoutError:
            self.account.complaints.append("it does not go on while the cluster is not whole")
        self._went_on.append(time.monotonic() - began)

    def heal(self) -> None:
        """Make the cluster whole again."""
        super().heal()
        self.well = self.broker.nodes

    def _all_there(self) -> bool:
        try:
            with channel_of(self.url) as channel:
                ready, dead = (
                    channel.queue_declare(queue=name, passive=True).message_count
                    for name in (self.queue, f"{self.queue}.dead")
                )
            return not ready and self.elasticsearch.count(self.index) + dead >= len(self.confirmed)
        except (OSError, requests.RequestException, NotFound):
            return False

    def _recovery(self) -> float | None:
        """The longest time from a fault until all that came after it was written, the fault still there."""
        return round(max(self._went_on), 2) if self._went_on else super()._recovery()


@contextmanager
def cluster_trial(
    fleet: Fleet, setting: Setting, *, seed: int = 0, recorded: bool = True
) -> Iterator[ClusterTrial]:
    """Yield a trial on a whole cluster; nothing of it is left afterwards."""
    made = ClusterTrial(fleet, setting, seed, recorded=recorded)
    made.heal()
    try:
        made.open()
        yield made
    finally:
        with suppress(TimeoutError):
            made.close()
