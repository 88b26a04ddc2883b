"""Single messages off a queue, written in bulk, acked only after the write.

The core: it knows no broker and no service. The way of one message is
``delivery`` → ``correlation`` → ``buffer`` → ``flush`` → ``sinks`` → ``ledger`` → ack.

The names of the Python API (docs/api.md) are found here; each is imported once it is asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aggregator.application import Aggregator
    from aggregator.conditions import (
        Completion,
        age,
        crontab,
        deadline_share,
        idle,
        interval,
        max_bytes,
        predicate,
        sentinel,
        sequence,
        size,
    )
    from aggregator.delivery import Delivery
    from aggregator.errors import ConfigurationError, ConfigurationErrors, MessageRefusedError
    from aggregator.keys import (
        Key,
        constant,
        exchange,
        function,
        header,
        pointer,
        property_,
        routing_key,
    )
    from aggregator.settings import Route, Settings
    from aggregator.sinks.base import Sink
    from aggregator.sinks.function import BulkRequest

_HOMES = {
    "aggregator.application": ("Aggregator",),
    "aggregator.conditions": (
        "Completion", "age", "crontab", "deadline_share", "idle", "interval", "max_bytes", "predicate",
        "sentinel", "sequence", "size",
    ),
    "aggregator.config": ("Route", "Settings"),
    "aggregator.delivery": ("Delivery",),
    "aggregator.errors": ("ConfigurationError", "ConfigurationErrors", "MessageRefusedError"),
    "aggregator.keys": (
        "Key", "constant", "exchange", "function", "header", "pointer", "property_", "routing_key",
    ),
    "aggregator.sinks.base": ("Sink",),
    "aggregator.sinks.function": ("BulkRequest",),
}  # fmt: skip
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "Aggregator",
    "BulkRequest",
    "Completion",
    "ConfigurationError",
    "ConfigurationErrors",
    "Delivery",
    "Key",
    "MessageRefusedError",
    "Route",
    "Settings",
    "Sink",
    "age",
    "constant",
    "crontab",
    "deadline_share",
    "exchange",
    "function",
    "header",
    "idle",
    "interval",
    "max_bytes",
    "pointer",
    "predicate",
    "property_",
    "routing_key",
    "sentinel",
    "sequence",
    "size",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("aggregator.version").version()
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
