"""Which places of a broker's kind there are to examine, and those that are no servers of AMQP."""

from __future__ import annotations

from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, parse_qs, urlsplit, urlunsplit

from aggregator.clock import SYSTEM_CLOCK
from aggregator.doctor.files import file_findings
from aggregator.doctor.finding import WAIT_SECONDS, Place, error, note, ok, warning
from aggregator.doctor.network import unreachable
from aggregator.doctor.stores import redis_findings
from aggregator.errors import ConfigurationError, TarantoolError, TarantoolUnavailableError
from aggregator.masking import masked
from aggregator.settings import is_amqp, with_vhost
from consumers.broker_source import broker_of
from consumers.connecting import Broker
from consumers.doctor_broker import BrokerExamination, connected, failed, publishing
from consumers.doctor_rights import harmless, may_configure, unasked
from consumers.mailbox import control_place
from consumers.transports import SQLITE_QUEUE
from consumers.transports.sqlite_settings import parse_url

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from aggregator.doctor.finding import Finding
    from aggregator.settings import Route, Settings

#: The policy under which Redis never throws away what waits in it.
FIT = "noeviction"


def broker_places(settings: Settings, management: str | None = None) -> Iterator[Place]:
    """Yield how each broker is examined, with all routes that take from it.

    ``management``: where the API of the one broker of AMQP is; raises ``ConfigurationError`` for several.
    """
    if management and len(hosts := _amqp_hosts(settings)) > 1:
        problem = (
            f"these settings name {len(hosts)} brokers of AMQP ({'; '.join(sorted(hosts))}), and one URL is "
            "the API of one; leave it away, or name a settings file with the routes of that broker alone"
        )
        raise ConfigurationError("--management", problem)
    together: dict[tuple[str, str | None, str | None], list[Route]] = {}
    for route in settings.routes.values():
        ca = str(route.broker_ca) if route.broker_ca else None
        together.setdefault((route.broker.get_secret_value(), ca, route.server_hostname), []).append(route)
    for (url, *_), routes in together.items():
        names = tuple(route.name for route in routes)
        yield Place(f"broker {masked(url)}", _examination(settings, url, routes, management), names)
    # of those that no route takes from
    named = {url for url, *_ in together}
    own, exchanges = _own(settings), _by_the_clock(settings)
    if settings.periodic and own.url not in named:
        named.add(own.url)
        title = f"broker of [periodic] {masked(own.url)}"
        yield Place(title, _by_kind(settings, own, (), exchanges, management))
    if settings.control and (place := control_place(settings)).url not in named:
        yield Place(f"control_broker {masked(place.url)}", _by_kind(settings, place, (), (), management))


def _amqp_hosts(settings: Settings) -> set[str]:
    """Return the brokers of AMQP that are asked, without users and virtual hosts: these share an API."""
    urls = {route.broker.get_secret_value() for route in settings.routes.values()}
    if settings.periodic:
        urls.add(_own(settings).url)
    if settings.control:
        urls.add(control_place(settings).url)
    return {";".join(_host(part) for part in url.split(";")) for url in urls if is_amqp(url)}


def _host(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.hostname or 'localhost'}:{parts.port or (5671 if parts.scheme == 'amqps' else 5672)}"


def _own(settings: Settings) -> Broker:
    """Return the process's own broker, which is published to by the clock."""
    url = with_vhost(settings.broker.get_secret_value(), settings.vhost)
    encrypted = url.startswith("amqps")
    return Broker(
        url,
        heartbeat=settings.heartbeat,
        ca=str(settings.broker_ca) if settings.broker_ca and encrypted else None,
        server_hostname=settings.server_hostname if encrypted else None,
        batched=False,
    )


def _by_the_clock(settings: Settings) -> list[str]:
    return sorted({each.exchange or "" for each in settings.periodic.values()})


def _examination(
    settings: Settings, url: str, routes: Sequence[Route], management: str | None
) -> Callable[[], Iterator[Finding]]:
    first = routes[0]
    broker = None if first.from_tubes else broker_of(first, heartbeat=settings.heartbeat)
    if broker is None:
        return lambda: _tubes(url, routes)
    exchanges = _by_the_clock(settings) if _own(settings).url == url else ()
    return _by_kind(settings, broker, routes, exchanges, management)


def _by_kind(
    settings: Settings,
    broker: Broker,
    routes: Sequence[Route],
    exchanges: Sequence[str],
    management: str | None,
) -> Callable[[], Iterator[Finding]]:
    """Return what examines a broker without making anything there, by its transport."""
    if broker.amqp:
        return BrokerExamination(
            broker, routes, heartbeat=settings.heartbeat, exchanges=exchanges, management=management
        )
    if broker.url.startswith(SQLITE_QUEUE):
        return lambda: file_findings("queue file", parse_url(broker.url).path, shared=True)
    if broker.redis:
        return lambda: _redis(broker, routes)
    return lambda: iter([note("broker", "nothing is known of this kind of broker")])


# ── Redis as a broker ──


def _redis(broker: Broker, routes: Sequence[Route]) -> Iterator[Finding]:
    connection = broker.connection()
    connection.transport_options = {
        **(connection.transport_options or {}),
        "socket_timeout": WAIT_SECONDS,
        "socket_connect_timeout": WAIT_SECONDS,
        "max_retries": 0,  # kombu would try for longer than a place may be silent
    }
    try:
        with connection:
            channel: Any = connection.default_channel
            yield from _kept(channel.client)
            for route in routes:
                for name in (route.queue, route.dead_letter_queue):
                    if name is not None:
                        yield ok(f"queue {name!r}", f"{channel.client.llen(name)} messages wait")
    except Exception as exc:  # noqa: BLE001 - whatever the client raises, it is of no use
        yield unreachable("server", _root(exc), masked(broker.url), tls="broker_ca")


def _root(exc: BaseException) -> BaseException:
    """Return what the system said, which kombu's error and the client's are wrapped around; else theirs."""
    inner: BaseException | None = exc
    while inner is not None and not isinstance(inner, OSError):
        inner = inner.__cause__ or inner.__context__
    return inner or exc.__cause__ or exc


def _kept(client: Any) -> Iterator[Finding]:
    began = SYSTEM_CLOCK.monotonic()
    client.ping()
    yield ok("server", f"answers in {(SYSTEM_CLOCK.monotonic() - began) * 1000:.1f} ms")
    info = {**client.info("server"), **client.info("memory"), **client.info("persistence")}
    yield from redis_findings(info)
    policy = info.get("maxmemory_policy")
    if policy not in {None, FIT}:
        then = "full, it may throw away what waits in it; the service ends at its start"
        yield error("server", f"maxmemory-policy {policy}", then, f"CONFIG SET maxmemory-policy {FIT}")
    if not info.get("aof_enabled"):
        then = "a crash of Redis forgets what came since its last snapshot, acked or not"
        yield warning("server", "appendonly is off", then, "CONFIG SET appendonly yes")


# ── tubes ──


def _tubes(url: str, routes: Sequence[Route]) -> Iterator[Finding]:
    from consumers.tarantool import Tarantool  # noqa: PLC0415 - only who has Tarantool needs its client
    from consumers.tarantool import parse_url as addresses  # noqa: PLC0415

    for address in addresses(url):
        about = f"server {address}"
        began = SYSTEM_CLOCK.monotonic()
        try:
            with closing(Tarantool(address, timeout=WAIT_SECONDS)) as client:
                took = (SYSTEM_CLOCK.monotonic() - began) * 1000
                client.require({"tubes": 1})
                yield ok(about, f"lets us in after {took:.0f} ms, its modules are there")
                for route in routes:
                    for tube in route.tubes:
                        yield from _tube(client, address, tube)
        except TarantoolUnavailableError as exc:
            yield error(
                about, str(exc), "its tasks wait, those of the others go on", "start it, or correct the URL"
            )
        except TarantoolError as exc:
            yield error(about, str(exc), "nothing is taken from it", "python -m consumers.install URL")


def _tube(client: Any, address: Any, tube: str) -> Iterator[Finding]:
    about = f"tube {tube!r} at {address}"
    try:
        (stats,) = client.call("tubes.stats", tube)
    except TarantoolError as exc:
        yield error(about, str(exc), "workers find nothing to take", f"tubes.create('{tube}') at the server")
        return
    tasks = {state: number for state, number in stats["tasks"].items() if state != "total"}
    yield ok(about, ", ".join(f"{number} {state}" for state, number in tasks.items() if number) or "empty")
    if tasks.get("buried"):
        then = "what was refused stays there until somebody kicks it back or deletes it"
        yield warning(
            about, f"{tasks['buried']} tasks are buried", then, f"tubes.kick('{tube}', 100) gives some back"
        )


# ── an exchange as a sink ──


def exchange_findings(url: str, route: Route, *, heartbeat: float) -> Iterator[Finding]:
    """Look at the exchange, or queue, that a sink publishes to."""
    del route
    parts = urlsplit(url)
    options = {name: values[0] for name, values in parse_qs(parts.query).items()}
    place = urlunsplit(SplitResult(parts.scheme.partition("+")[2], parts.netloc, parts.path, "", ""))
    where = f"{parts.hostname}:{parts.port or 5672}"
    try:
        connection = connected(Broker(place, heartbeat=heartbeat, ca=options.get("ca"), batched=False))
    except Exception as exc:  # noqa: BLE001 - whatever the client raises, it is of no use
        yield failed(exc, where, place)
        return
    try:
        yield ok("connection", f"{where} lets us in")
        if not harmless(connection):
            yield unasked()
            return
        if (queue := options.get("queue")) and not may_configure(connection.channel(), queue):
            do = "let its configure pattern match: rabbitmqctl set_permissions"
            yield error(f"queue {queue!r}", "the user may not declare it", "the route waits", do)
        user = parts.username or "guest", str(connection.virtual_host)
        yield from publishing(connection.channel(), options.get("exchange", ""), user)
    finally:
        with suppress(Exception):
            connection.collect()
