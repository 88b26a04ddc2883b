"""What each kind of sink has to be asked, by the scheme of its URL."""

from __future__ import annotations

import tomllib
from contextlib import closing
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, unquote, urlsplit

from aggregator.clock import SYSTEM_CLOCK
from aggregator.doctor import search
from aggregator.doctor.files import file_findings, folder_findings
from aggregator.doctor.finding import Level, Place, error, note, ok
from aggregator.doctor.network import Server, clock_of, reach, valid_for
from aggregator.errors import ConfigurationError, SinkError
from aggregator.importing import name_of
from aggregator.masking import SecretUrl, masked
from aggregator.sinks import SCHEMES, from_url
from aggregator.sinks.base import Sink
from aggregator.sinks.local import read_path

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from aggregator.doctor.finding import Finding
    from aggregator.settings import Route

    #: Looks at an exchange, which takes the broker's client.
    Exchanges = Callable[[str, Route], Iterator[Finding]]

_DAY = 86_400.0
_PORTS = {"http": 80, "https": 443}


def sink_place(route: Route, exchanges: Exchanges) -> Place:
    """Return how a route's sink is examined."""
    sink = route.sink
    if not isinstance(sink, SecretUrl):
        own = sink.where() if isinstance(sink, Sink) else f"function {name_of(sink)}"
        return Place(f"sink {own}", _own, (route.name,))
    url = sink.get_secret_value()
    kind = SCHEMES[url.partition(":")[0].lower()]
    by_kind: dict[str, Callable[[], Iterator[Finding]]] = {
        "elasticsearch": lambda: search.examine(url, route),
        "opensearch": lambda: search.examine(url, route),
        "webhook": lambda: _webhook(url),
        "exchange": lambda: exchanges(url, route),
        "sqlite": lambda: file_findings("file", read_path(urlsplit(url)).absolute(), shared=True),
        "jsonl": lambda: folder_findings("folder", read_path(urlsplit(url)).absolute()),
        "apns": lambda: _gateway(url, Path()),
        "fcm": lambda: _gateway(url, Path()),
        "push": lambda: _apps(url),
        "function": _own,
    }
    return Place(f"sink {masked(url)}", by_kind[kind], (route.name,))


def _own() -> Iterator[Finding]:
    yield note("sink", "one of your own: it is opened by the service alone, and was not looked into")


def _server(url: str) -> Server:
    parts = urlsplit(url)
    scheme = parts.scheme.partition("+")[2]
    ca = parse_qs(parts.query).get("ca")
    return Server(
        parts.hostname or "", parts.port or _PORTS[scheme], scheme == "https", Path(ca[0]) if ca else None
    )


def _webhook(url: str) -> Iterator[Finding]:
    server = _server(url)
    for finding in reach("connection", server):
        yield finding
        if finding.level is Level.ERROR:
            return
    yield from _opened("webhook", from_url(url), "correct the URL, the user or the token")
    yield from clock_of("webhook's clock", server, urlsplit(url).path)


def _opened(about: str, sink: Sink, do: str) -> Iterator[Finding]:
    """Open a sink that does nothing by it but ask."""
    try:
        with closing(sink):
            sink.open()
    except SinkError as exc:
        yield error(about, str(exc), "the route waits, and takes nothing", do)
    else:
        yield ok(about, "answers as it does to the service before its first request")


# ── gateways of pushes ──


def _gateway(url: str, base: Path, app: str = "") -> Iterator[Finding]:
    server = _server(url)
    parts = urlsplit(url)
    about = f"{parts.scheme.partition('+')[0]}{f' of {app}' if app else ''}"
    yield from reach(about, server._replace(ca=base / server.ca if server.ca else None))
    options = parse_qs(parts.query)
    if certificate := options.get("certificate"):
        from aggregator.sinks.apns_credentials import certificate_ends  # noqa: PLC0415

        days = (certificate_ends(base / certificate[0]) - SYSTEM_CLOCK.time()) / _DAY
        yield valid_for(about, f"the push certificate {certificate[0]}", days)
    elif key := options.get("key"):
        yield ok(about, f"the key {key[0]} does not end by itself; it holds until it is revoked")
    # tokens are signed with the time: it has to be right
    yield from clock_of(f"clock of {about}", server)
    if "credentials" in options:
        # files in it are relative to the folder of the apps' file
        kind = import_module(f"aggregator.sinks.{parts.scheme.partition('+')[0]}")
        sink: Sink = kind.from_url(parts, base, app)
        yield from _opened(about, sink, "see whether the service account is there, and enabled")


def _apps(url: str) -> Iterator[Finding]:
    file = Path(unquote(urlsplit(url).path))
    for app, table in tomllib.loads(file.read_text(encoding="utf-8"))["apps"].items():
        urls = [table["url"]] if isinstance(table["url"], str) else table["url"]
        for each in urls:
            try:
                yield from _gateway(each, file.parent, app)
            except (ConfigurationError, OSError, ValueError) as exc:
                about = f"{each.partition('+')[0]} of {app}"
                yield error(about, str(exc), "the service does not start", f"correct apps.{app} in {file}")
