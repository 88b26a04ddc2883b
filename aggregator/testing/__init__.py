"""Doubles of a broker and a sink that behave, for this project's tests and its users' own.

:class:`Harness` runs a whole route in memory. Nothing of this is imported by the service, and what a
test does not use is not imported by this.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aggregator.testing.clock import VirtualClock
    from aggregator.testing.harness import Harness
    from aggregator.testing.memory import MemoryDelivery
    from aggregator.testing.message import Message
    from aggregator.testing.record import CompletedBatch
    from aggregator.testing.script import ScriptedSink
    from aggregator.testing.sink import MemorySink

__all__ = [
    "CompletedBatch",
    "Harness",
    "MemoryDelivery",
    "MemorySink",
    "Message",
    "ScriptedSink",
    "VirtualClock",
]

_HOMES = {
    "CompletedBatch": "record",
    "Harness": "harness",
    "MemoryDelivery": "memory",
    "MemorySink": "sink",
    "Message": "message",
    "ScriptedSink": "script",
    "VirtualClock": "clock",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
