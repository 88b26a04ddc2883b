"""Keys spread over several queues by the broker, so that each key has one home among all instances.

RabbitMQ's consistent-hash exchange puts all messages of a key into one queue; a single active consumer
for each queue makes one instance its home. What the exchange can hash is a header, some properties and
the routing key: nothing in the body.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aggregator.correlation import Source

EXCHANGE_TYPE: Final = "x-consistent-hash"
#: The properties that the exchange can hash.
PROPERTIES: Final = frozenset({"correlation_id", "message_id", "timestamp"})
HELP: Final = "header:NAME, correlation_id, message_id or routing_key"


def hash_arguments(correlate: Source | tuple[Source, ...] | None) -> Mapping[str, str] | None:
    """Return the exchange's arguments that have it hash by this key; None where it cannot."""
    if not isinstance(correlate, str):
        return None
    if correlate == "routing_key":
        return {}
    kind, colon, name = correlate.partition(":")
    if kind == "header" and colon and " + " not in name:
        return {"hash-header": name}
    name = name if kind == "property" else correlate
    return {"hash-property": name} if name in PROPERTIES else None


def partition_name(queue: str, number: int) -> str:
    """Return the name of the queue of a partition; ``number`` from 0."""
    return f"{queue}.{number}"
