"""URLs of Redis as a broker: ``redis://host/0?visibility_timeout=2h``, and what follows from them.

Redis knows no acks. kombu notes what it has handed out; what was not acked for ``visibility_timeout``
seconds any consumer of that database puts back into its queue, whether somebody still holds it or not.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl, quote_plus, urlsplit, urlunsplit

from aggregator.errors import ConfigurationError
from aggregator.units import parse_duration

#: kombu's default, in seconds.
VISIBILITY_TIMEOUT = 3600.0
#: Of kombu's schemes, those that speak to Redis.
SCHEMES = frozenset({"redis", "rediss", "sentinel"})
#: Those of kombu's transport options that a URL may hold; all others are the transport's own defaults.
OPTIONS = ("visibility_timeout", "global_keyprefix", "master_name")
_SHORTEST = 1.0


def is_redis(url: str) -> bool:
    """Return whether a broker's URL names Redis."""
    return url.partition("://")[0].lower() in SCHEMES


def split_url(url: str) -> tuple[str, dict[str, Any]]:
    """Return a URL as kombu takes it, and the transport options that stood behind its ``?``.

    Any other broker's is returned as it is. Several are joined by ``;`` and have one set of options.
    Raises ``ConfigurationError`` for the field ``broker``.
    """
    if not is_redis(url):
        return url, {}
    urls, found = [], []
    for one in url.split(";"):
        plain, options = _split_one(one)
        urls.append(plain)
        found.append(options)
    if any(options != found[0] for options in found):
        raise ConfigurationError("broker", "its servers have different options; give each the same")
    return ";".join(urls), found[0]


def visibility_timeout(url: str) -> float:
    """Return the seconds after which Redis hands out again what is not acked."""
    return float(split_url(url)[1].get("visibility_timeout", VISIBILITY_TIMEOUT))


def _split_one(url: str) -> tuple[str, dict[str, Any]]:
    parts = urlsplit(url)
    options: dict[str, Any] = {}
    kept = []
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if name not in OPTIONS:
            kept.append((name, value))
        elif name in options:
            raise ConfigurationError("broker", f"{name} stands in the URL twice")
        else:
            options[name] = _seconds(value) if name == "visibility_timeout" else value
    query = "&".join(f"{name}={quote_plus(value)}" for name, value in kept)
    return urlunsplit(parts._replace(query=query)), options


def _seconds(text: str) -> float:
    try:
        seconds = parse_duration(text)
    except ValueError as exc:
        raise ConfigurationError("broker", f"visibility_timeout: {exc}") from None
    if seconds < _SHORTEST:
        raise ConfigurationError("broker", f"visibility_timeout: {text} is too short; at least 1s is needed")
    return seconds
