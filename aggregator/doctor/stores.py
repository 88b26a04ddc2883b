"""Redis beside the sink: where ids are seen, and results told."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any

from aggregator.clock import SYSTEM_CLOCK
from aggregator.doctor.finding import Place, amount, clock_finding, error, note, ok, warning
from aggregator.errors import StoreUnavailableError, UnrecoverableError
from aggregator.masking import masked

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aggregator.doctor.finding import Finding
    from aggregator.settings import Route

#: Milliseconds of an answer from which on it is worth a warning: each request waits for it.
SLOW_MS = 20.0
#: The share of maxmemory from which on it is worth a warning.
FULL_SHARE = 0.8
_KEPT = ("allkeys",)
_NEEDED = "noeviction, or volatile-ttl,"


def store_places(route: Route) -> Iterator[Place]:
    """Yield how the stores of a route are examined."""
    for setting in ("seen", "results"):
        url = getattr(route, setting)
        if url is not None:
            text: str = url.get_secret_value()
            title = f"{setting} {masked(text)}"
            yield Place(title, lambda text=text, setting=setting: _redis(text, setting), (route.name,))  # type: ignore[misc]


def _redis(url: str, setting: str) -> Iterator[Finding]:
    from aggregator.stores.redis_client import connect, look, refusing  # noqa: PLC0415
    from aggregator.stores.redis_url import ResultOptions, SeenOptions, read_url  # noqa: PLC0415

    server, options = read_url(url, SeenOptions if setting == "seen" else ResultOptions, setting)
    then = "duplicates are written" if setting == "seen" else "nobody learns what became of a job"
    try:
        with closing(connect(server, options)) as client, refusing(server, setting):
            yield from _answers(client, server.address)
            unseen = look(client, f"{setting}: Redis at {server.address}", _KEPT, _NEEDED)
            if unseen:
                yield note("server", f"what could not be looked at: {unseen}")
            else:
                yield from redis_findings({**client.info("server"), **client.info("memory")})
    except StoreUnavailableError as exc:
        yield error("server", str(exc), f"while it is away {then}", "start it, or correct the URL")
    except UnrecoverableError as exc:
        says, _, do = str(exc).partition("; ")
        yield error("server", says, "the service ends at its start", do or "name another server")


def _answers(client: Any, where: str) -> Iterator[Finding]:
    client.ping()
    began, wall = SYSTEM_CLOCK.monotonic(), SYSTEM_CLOCK.time()
    seconds, micros = client.time()
    took = SYSTEM_CLOCK.monotonic() - began
    if took * 1000 > SLOW_MS:
        then = "each request to the sink waits for it"
        yield warning("server", f"{where} answers in {took * 1000:.0f} ms", then, "have it run nearer")
    else:
        yield ok("server", f"{where} answers in {took * 1000:.1f} ms")
    yield clock_finding("server's clock", seconds + micros / 1e6 - wall - took / 2, took)


def redis_findings(info: dict[str, Any]) -> Iterator[Finding]:
    """Judge what a server says of itself."""
    used, most = int(info.get("used_memory", 0)), int(info.get("maxmemory", 0))
    policy = info.get("maxmemory_policy", "unknown")
    says = f"Redis {info.get('redis_version', '?')}, maxmemory-policy {policy}"
    yield ok("server", f"{says}, {amount(used)} used")
    if most and used > most * FULL_SHARE:
        says = f"{amount(used)} of maxmemory {amount(most)} are used"
        then = "when it is full, it refuses to write, or throws keys away by its policy"
        yield warning("server", says, then, "raise maxmemory, or lower ttl or most in the URL")
