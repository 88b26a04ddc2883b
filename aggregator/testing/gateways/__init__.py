"""Simulators of push gateways, for tests: as exact as is known, and failing as they are told to.

``Apns`` and ``Fcm`` listen on 127.0.0.1 in a thread of their own, in a ``with`` block; ``python -m
aggregator.testing.gateways`` runs one by itself. Needs the extra ``gateways``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aggregator.testing.gateways.apns import Apns
    from aggregator.testing.gateways.fcm import Fcm
    from aggregator.testing.gateways.journal import Entry, Journal
    from aggregator.testing.gateways.script import Rule, Script

__all__ = ["Apns", "Entry", "Fcm", "Journal", "Rule", "Script"]

_HOMES = {
    "Apns": "apns",
    "Entry": "journal",
    "Fcm": "fcm",
    "Journal": "journal",
    "Rule": "script",
    "Script": "script",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = import_module(f"{__name__}.{_HOMES[name]}")
    except ModuleNotFoundError as exc:
        missing = (exc.name or "").partition(".")[0]
        raise ModuleNotFoundError(
            f"{missing} is not installed: pip install 'kombu-aggregator[gateways]'", name=exc.name
        ) from exc
    return getattr(module, name)
