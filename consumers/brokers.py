"""What can be said of a broker's URL without connecting to it."""

from __future__ import annotations

from difflib import get_close_matches

from kombu.connection import Connection
from kombu.transport import TRANSPORT_ALIASES

from aggregator.errors import ConfigurationError
from aggregator.redis_transport import split_url
from consumers.transports import SQLITE_QUEUE, register
from consumers.transports.sqlite_settings import parse_url

TARANTOOL = "tarantool"


def broker_fault(url: str) -> str | None:
    """Return what is wrong with ``url`` (several are joined by ``;``) and what would be right, or None.

    Nothing is connected; the transport's client is imported.
    """
    register()
    return next((fault for part in url.split(";") if (fault := _fault(part))), None)


def control_fault(url: str) -> str | None:
    """Return why commands cannot come over ``url``, and what would be right, or None."""
    scheme = url.partition("://")[0].partition("+")[0]
    if scheme == TARANTOOL:
        return "commands cannot come over tubes; name a broker of kombu's as control_broker"
    if scheme == "memory":
        return "what is in memory is seen by one process alone, nobody could send it a command; name a broker"
    if problem := broker_fault(url):
        return problem
    implements = Connection(url.partition(";")[0]).transport.implements
    if "fanout" not in implements.exchange_type:
        return f"{scheme} has no fanout exchanges, commands need one; name another broker as control_broker"
    return None


def _fault(url: str) -> str | None:
    scheme = url.partition("://")[0].partition("+")[0]
    if scheme == TARANTOOL:
        return _tarantool_fault(url)
    if scheme not in TRANSPORT_ALIASES:
        near = get_close_matches(scheme, [*TRANSPORT_ALIASES, TARANTOOL], n=1)
        hint = (
            f"did you mean {near[0]}?"
            if near
            else "amqp, amqps, sqlite-queue, tarantool or another of kombu's is needed"
        )
        return f"unknown scheme {scheme!r}; {hint}"
    if scheme == SQLITE_QUEUE:
        try:
            parse_url(url)
        except ConfigurationError as exc:
            return exc.problem
        return None
    try:
        plain, options = split_url(url)
        _ = Connection(plain, transport_options=options).transport
    except Exception as exc:  # noqa: BLE001 - a missing client shows as an ImportError, or an AttributeError on None
        return f"the client for {scheme} cannot be used ({exc}); install it: pip install 'kombu[{scheme}]'"
    return None


def _tarantool_fault(url: str) -> str | None:
    try:
        from consumers.tarantool import parse_url  # noqa: PLC0415 - only who has Tarantool needs its client
    except ImportError:
        return "the client for tarantool is missing; install it: pip install 'kombu-aggregator[tarantool]'"
    try:
        parse_url(url)
    except ConfigurationError as exc:
        return exc.problem
    return None
