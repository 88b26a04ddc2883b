"""The partitions of a keyed route: queues behind a consistent-hash exchange, each with one active consumer.

Every instance consumes every partition, and RabbitMQ keeps all consumers of a queue but one waiting. Which
one is active is for the broker alone to say: no instance knows of another. Each offers a random priority
for each partition, so that they spread over the instances as they come and go. A waiting consumer with a
higher priority takes over once the active one has settled what it holds (RabbitMQ 4.0; before, the first
that came stays); a dead one's messages go back to their queue, and to the next consumer.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Final

from kombu.entity import Exchange, Queue

from aggregator.partitioning import EXCHANGE_TYPE, hash_arguments, partition_name

if TYPE_CHECKING:
    from aggregator.settings import Route

#: Priorities are drawn from below this, as wide as the broker takes them.
_PRIORITIES: Final = 2**31
#: How many buckets of the hash a queue has: all the same.
_WEIGHT: Final = "1"


def partition(route: Route, number: int) -> Queue:
    """Return the queue of a partition, ``number`` from 0, with its exchange and its binding."""
    exchange = Exchange(
        route.queue, EXCHANGE_TYPE, durable=True, arguments=dict(hash_arguments(route.correlate) or {})
    )
    return Queue(
        partition_name(route.queue, number),
        exchange,
        routing_key=_WEIGHT,
        durable=True,
        queue_arguments={"x-queue-type": "quorum", "x-single-active-consumer": True},
        consumer_arguments={"x-priority": random.randrange(_PRIORITIES)},  # noqa: S311  spreads, guards nothing
    )
