"""Where items are written. A sink is named by a URL; its scheme chooses the module.

Code may give a sink itself, or a function. Each module has a function
``from_url(url: urllib.parse.SplitResult) -> Sink`` that checks the settings, imports its service's
client, and connects to nothing.
"""

from __future__ import annotations

from difflib import get_close_matches
from importlib import import_module
from typing import TYPE_CHECKING, cast

from aggregator.errors import ConfigurationError
from aggregator.importing import name_of
from aggregator.masking import SecretUrl
from aggregator.sinks.base import Sink
from aggregator.urls import url_parts

if TYPE_CHECKING:
    from aggregator.sinks.function import WriteFunction

SCHEMES = {
    "elasticsearch+http": "elasticsearch",
    "elasticsearch+https": "elasticsearch",
    "opensearch+http": "opensearch",
    "opensearch+https": "opensearch",
    "webhook+http": "webhook",
    "webhook+https": "webhook",
    "exchange+amqp": "exchange",
    "exchange+amqps": "exchange",
    "sqlite": "sqlite",
    "jsonl": "jsonl",
    "function": "function",
    "apns+https": "apns",
    "fcm+https": "fcm",
    "push": "push",
}


def from_url(url: str) -> Sink:
    """Return the sink that ``url`` names. Raises ``ConfigurationError`` for the field ``sink``."""
    scheme = url.partition(":")[0].lower()
    if scheme not in SCHEMES:
        near = get_close_matches(scheme, SCHEMES, n=1)
        needed = f"did you mean {near[0]}?" if near else f"one of {', '.join(SCHEMES)} is needed"
        raise ConfigurationError("sink", f"unknown scheme {scheme!r}; {needed}")
    module = import_module(f"aggregator.sinks.{SCHEMES[scheme]}")
    try:
        return cast("Sink", module.from_url(url_parts(url)))
    except ValueError as exc:  # urlsplit's own words: an invalid port or IPv6 host
        raise ConfigurationError("sink", str(exc)) from None


def make_sink(setting: SecretUrl | Sink | WriteFunction, concurrency: int = 1) -> Sink:
    """Return the sink that a route's setting stands for; ``concurrency`` holds for an own function.

    Raises ``ConfigurationError`` for the field ``sink``.
    """
    if isinstance(setting, SecretUrl):
        return from_url(setting.get_secret_value())
    if isinstance(setting, Sink) and not isinstance(setting, type):
        return setting
    # as each sink, once it is asked for
    from aggregator.sinks.function import MOST_THREADS, FunctionSink  # noqa: PLC0415

    return FunctionSink(setting, name=name_of(setting), concurrency=min(concurrency, MOST_THREADS))
