"""What settings that name Redis contradict: a broker's visibility timeout, stores of ids and results."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from aggregator.errors import ConfigurationError
from aggregator.masking import SecretUrl
from aggregator.redis_transport import is_redis, split_url, visibility_timeout
from aggregator.sinks.seen import seen_options
from aggregator.stores.redis_url import ResultOptions, read_url
from aggregator.units import format_duration
from aggregator.urls import url_parts

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aggregator.settings import Route


def broken_options(url: str) -> str | None:
    """Return what is wrong with the options that a broker's URL holds."""
    try:
        split_url(url)
    except ConfigurationError as exc:
        return exc.problem
    except ValueError:  # no URL at all: that is said elsewhere
        return None
    return None


def visible(route: Route) -> Iterator[tuple[str, str]]:
    """Yield where a message may be held for longer than Redis keeps it from others."""
    url = route.broker.get_secret_value()
    try:
        seconds = visibility_timeout(url) if is_redis(url) else route.ack_deadline
    except (ConfigurationError, ValueError):
        return  # it is said of the broker
    if route.ack_deadline > seconds:
        deadline, most = format_duration(route.ack_deadline), format_duration(seconds)
        problem = f"{deadline} is longer than the visibility_timeout of {most}"
        follows = "Redis would hand out a second time what is still held"
        right = f"{most} at most, or ?visibility_timeout={deadline} in the broker's URL"
        yield "ack_deadline", f"{problem}: {follows}; {right}"


def results(route: Route) -> Iterator[tuple[str, str]]:
    """Yield what keeps a message from having one result."""
    if route.results is None:
        return
    try:
        read_url(route.results.get_secret_value(), ResultOptions, "results")
    except ConfigurationError as exc:
        yield "results", exc.problem
    if route.aggregate == "push":
        problem = "a push message has a word for each recipient, not one"
        yield "results", f"{problem}; remove it: feedback tells each of them (docs/push.md)"


def seen(route: Route) -> Iterator[tuple[str, str]]:
    """Yield what keeps ids from telling that a message was written before."""
    if route.seen is None:
        return
    try:
        seen_options(route.seen.get_secret_value(), route.name)
    except ConfigurationError as exc:
        yield "seen", exc.problem
    if route.id is None:
        yield "id", "ids made at receipt are never seen twice; with seen, name where the publisher's id is"
    if route.aggregate != "documents":
        problem = "it knows ids of messages, and with this aggregate no document has them"
        yield "seen", f"{problem}; remove one of both"
    url = route.sink.get_secret_value() if isinstance(route.sink, SecretUrl) else ""
    operation = dict(parse_qsl(url_parts(url).query)).get("op", "create")
    if operation != "create":
        problem = f"with op={operation} a later message of the same id is an update, and would be left out"
        yield "seen", f"{problem}; op=create is needed, or remove seen"
