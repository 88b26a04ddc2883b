"""Where items are written. A sink is named by a URL; its scheme chooses the module.

Each module has a function ``from_url(url: urllib.parse.SplitResult) -> Sink`` that checks the
settings, imports its service's client, and connects to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, cast
from urllib.parse import urlsplit

from aggregator.errors import ConfigurationError

if TYPE_CHECKING:
    from aggregator.sinks.base import Sink

SCHEMES = {
    "elasticsearch+http": "elasticsearch",
    "elasticsearch+https": "elasticsearch",
    "sqlite": "sqlite",
    "jsonl": "jsonl",
    "function": "function",
}


def from_url(url: str) -> Sink:
    """Return the sink that ``url`` names. Raises ``ConfigurationError`` for the field ``sink``."""
    scheme = url.partition(":")[0].lower()
    if scheme not in SCHEMES:
        raise ConfigurationError("sink", f"unknown scheme {scheme!r}; one of {', '.join(SCHEMES)} is needed")
    module = import_module(f"aggregator.sinks.{SCHEMES[scheme]}")
    try:
        return cast("Sink", module.from_url(urlsplit(url)))
    except ValueError as exc:  # urlsplit's own words: an invalid port or IPv6 host
        raise ConfigurationError("sink", str(exc)) from None
