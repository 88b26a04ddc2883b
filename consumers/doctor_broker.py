"""A broker of AMQP: reached, known, and its queues, exchanges and rights, for all its routes."""

from __future__ import annotations

import ssl
from contextlib import suppress
from dataclasses import replace
from http.client import HTTPException
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from amqp.exceptions import AMQPError, ChannelError, ConsumerCancelled

from aggregator.clock import SYSTEM_CLOCK
from aggregator.doctor.finding import WAIT_SECONDS, Level, error, note, ok, warning
from aggregator.doctor.network import certificate, unreachable
from aggregator.masking import masked
from aggregator.retrying import queue_name, read_steps
from aggregator.rules import size_text
from aggregator.units import format_duration
from consumers.connecting import is_not_found
from consumers.doctor_management import Management, unseen
from consumers.doctor_queue import judge_dead_letters, judge_source, seen
from consumers.doctor_rights import (
    OLDEST,
    harmless,
    may_configure,
    may_read,
    may_write,
    unasked,
    version_of,
)
from consumers.partitions import partition
from consumers.refusals import advice

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from aggregator.doctor.finding import Finding
    from aggregator.settings import Route
    from consumers.connecting import Broker
    from consumers.doctor_queue import QueueFacts

#: The first version that is maintained.
MAINTAINED = (4, 0)
#: What a message may have, unless the broker is told otherwise, from which version on.
MESSAGE_BYTES = (((4, 0), 16 * 1024 * 1024), ((3, 8), 128 * 1024 * 1024))
#: The broker's consumer_timeout, unless it is told otherwise.
TIMEOUT_SECONDS = 1800.0


class BrokerExamination:
    """One broker's URL, with the routes that take from it.

    ``exchanges``: what else is published to there; ``management``: where its API is.
    """

    def __init__(
        self,
        broker: Broker,
        routes: Sequence[Route],
        *,
        heartbeat: float,
        exchanges: Sequence[str] = (),
        management: str | None = None,
    ) -> None:
        self._broker = broker
        self._routes = routes
        self._exchanges = exchanges
        self._heartbeat = heartbeat
        self._named = management
        self._management: Management | None = None
        self._connection: Any = None
        self._version: tuple[int, ...] = ()
        self._asks = False

    def __call__(self) -> Iterator[Finding]:
        """Examine it. Where no host answers, that is all that is told."""
        yield from self._hosts()
        if self._connection is None:
            return
        try:
            yield from self._server()
            yield from self._api()
            for route in self._routes:
                yield from self._route(route)
            yield from self._publishing()
        except (OSError, AMQPError) as exc:
            yield failed(exc, "the broker", self._broker.url)
        finally:
            with suppress(Exception):
                self._connection.collect()

    # ── the server ──

    def _hosts(self) -> Iterator[Finding]:
        """Try each host. Of several, one that fails is a warning; an error tells that none is left."""
        urls = self._broker.url.split(";")
        for url in urls:
            place = urlsplit(url)
            where = f"{place.hostname or 'localhost'}:{place.port or (5671 if self._broker.tls else 5672)}"
            broker = replace(self._broker, url=url, batched=False, heartbeat=self._heartbeat)
            began = SYSTEM_CLOCK.monotonic()
            try:
                connection = connected(broker)
            except Exception as exc:  # noqa: BLE001 - whatever a client raises, this host is of no use
                found = failed(exc, where, url)
                then = "the service takes another host, if one answers"
                yield replace(found, level=Level.WARNING, then=then) if len(urls) > 1 else found
                continue
            took = (SYSTEM_CLOCK.monotonic() - began) * 1000
            encrypted = ", TLS verified" if broker.tls else ""
            yield ok("connection", f"{where} lets us in after {took:.0f} ms{encrypted}")
            link = connection.sock
            if isinstance(link, ssl.SSLSocket):
                yield from certificate("connection", link)
            if self._connection is None:
                self._connection = connection
            else:
                connection.collect()
        if self._connection is None and len(urls) > 1:
            says = f"none of the {len(urls)} hosts lets us in"
            yield error("connection", says, "nothing is taken until one does", "see what each of them says")

    def _server(self) -> Iterator[Finding]:
        told = self._connection.server_properties
        text = str(told.get("version", ""))
        self._version = version_of(self._connection)
        self._asks = harmless(self._connection)
        product, beats = told.get("product", "an unknown broker"), self._connection.heartbeat
        says = f"{product} {text}, heartbeat {beats:g} s, frame_max {self._connection.frame_max}"
        if told.get("product") != "RabbitMQ" or not self._version:
            yield note("server", says, "it was tried with RabbitMQ alone")
        elif self._version < OLDEST:
            yield warning(
                "server", says, "it was never tried with one so old", "upgrade to 4.x, by way of 3.13"
            )
        elif self._version < MAINTAINED:
            yield note(
                "server",
                says,
                "series 3 gets no updates from its community",
                "upgrade to 4.x, by way of 3.13",
            )
        else:
            yield ok("server", says)
        if not self._connection.heartbeat:
            then = "a connection that a firewall forgets is never noticed"
            yield warning("server", "it has switched heartbeats off", then, "heartbeat = 60 in rabbitmq.conf")
        if not self._asks:
            yield unasked()

    def _api(self) -> Iterator[Finding]:
        management = Management(self._broker.url, self._named, self._broker.ca)
        try:
            yield from management.findings()
        except (OSError, HTTPException) as exc:
            why = getattr(exc, "strerror", None) or type(exc).__name__
            yield unseen(f"{management.where}: {why}")
            return
        self._management = management

    # ── a route ──

    def _route(self, route: Route) -> Iterator[Finding]:
        names = [route.queue]
        if route.partitions:
            names = [partition(route, number).name for number in range(route.partitions)]
        for name in names:
            yield from self._source(route, name)
        yield from self._dead_letters(route)
        for seconds in read_steps(route.retry) if route.retry else ():
            yield from self._waiting(queue_name(route.queue, seconds))
        yield from self._limits(route)

    def _source(self, route: Route, name: str) -> Iterator[Finding]:
        about = f"queue {name!r}"
        try:
            facts = self._facts(name)
            if facts is None:
                yield self._makeable(about, name)
                return
            yield from judge_source(facts, route, self._version)
            if self._asks and not may_read(self._channel(), name):
                yield _no_right("read", about, "nothing can be taken from it", name, self._user)
        except ChannelError as exc:
            yield _refusal(about, exc)

    def _waiting(self, name: str) -> Iterator[Finding]:
        about = f"queue {name!r}"
        try:
            facts = self._facts(name)
            if facts is None:
                yield self._makeable(about, name)
            else:
                yield ok(about, f"{facts.messages} messages wait for their retry")
        except ChannelError as exc:
            yield _refusal(about, exc)

    def _dead_letters(self, route: Route) -> Iterator[Finding]:
        queue = route.dead_letter_queue
        if queue is None:
            return  # an exchange takes them, which is looked at with all that is published to
        about = f"queue {queue!r}"
        try:
            facts = self._facts(queue)
            yield from judge_dead_letters(facts, route) if facts else (self._makeable(about, queue),)
        except ChannelError as exc:
            yield _refusal(about, exc)

    def _publishing(self) -> Iterator[Finding]:
        """Look at all that is published to, last of all: under an alarm the broker reads nothing after it."""
        refused = {route.dead_letter_exchange for route in self._routes}
        for exchange in sorted(refused.union(self._exchanges)):
            if self._asks:
                yield from publishing(self._channel(), exchange, self._user, refused=exchange in refused)

    def _makeable(self, about: str, name: str) -> Finding:
        if not self._asks or may_configure(self._channel(), name):
            return ok(about, "is not there; it is declared at the start")
        return _no_right(
            "configure", about, "it is not there, and the service may not declare it", name, self._user
        )

    def _limits(self, route: Route) -> Iterator[Finding]:
        about = f"route {route.name}"
        mine = f"ack_deadline is {format_duration(route.ack_deadline)}"
        see = "rabbitmqctl eval 'application:get_env(rabbit, consumer_timeout).' tells it in ms"
        if route.ack_deadline > TIMEOUT_SECONDS:
            says = f"{mine}, and consumer_timeout is {format_duration(TIMEOUT_SECONDS)} unless it was raised"
            then = "the broker closes the channel and hands everything out again while it is held here"
            yield warning(
                about, says, then, f'ack_deadline = "30m", or consumer_timeout in rabbitmq.conf; {see}'
            )
        else:
            yield ok(about, f"{mine}, no longer than the broker's consumer_timeout unless that was lowered")
        most = next((size for version, size in MESSAGE_BYTES if self._version >= version), None)
        if most is not None and route.max_message > most:
            mine, theirs = size_text(route.max_message), size_text(most)
            says = f"max_message is {mine}, the broker's max_message_size {theirs}"
            then = "nobody can publish so large a message unless the broker is told otherwise"
            yield note(about, says, then, f"max_message_size = {route.max_message} in rabbitmq.conf")

    # ── asking ──

    @property
    def _user(self) -> tuple[str, str]:
        """The user and the virtual host that we are in."""
        place = urlsplit(self._broker.url.partition(";")[0])
        return place.username or "guest", str(self._connection.virtual_host)

    def _channel(self) -> Any:
        return self._connection.channel()

    def _facts(self, name: str) -> QueueFacts | None:
        facts = seen(self._channel, name, ask=self._asks)
        if facts is None or self._management is None:
            return facts
        with suppress(OSError, HTTPException):
            told = self._management.queue(self._user[1], name)
            if told:
                facts = replace(
                    facts,
                    arguments=told.get("arguments") or facts.arguments or {},
                    policy=told.get("effective_policy_definition") or {},
                    durable=told.get("durable", facts.durable),
                    auto_delete=told.get("auto_delete", facts.auto_delete),
                    exclusive=told.get("exclusive", facts.exclusive),
                )
        return facts


def publishing(
    channel: Any, exchange: str, who: tuple[str, str], *, refused: bool = False
) -> Iterator[Finding]:
    """Look whether an exchange is there, and may be published to by this user in this virtual host.

    ``refused``: by it goes what is refused.
    """
    name = exchange or "amq.default"
    about = f"exchange {name!r}"
    then = "nothing can be published to it"
    if refused:
        then = "what is refused finds no place: the route pauses with the first bad message"
    try:
        writable = may_write(channel, exchange)
    except TimeoutError:
        says = "the broker does not read what is published: an alarm for memory or disk is on, probably"
        yield error(about, says, then, "rabbitmq-diagnostics alarms; free some memory or disk space there")
        return
    if writable is None:
        yield error(about, "is not there", then, "declare it, or name another")
    elif writable:
        yield ok(about, "may be published to")
    else:
        yield _no_right("write", about, then, name, who)


def connected(broker: Broker) -> Any:
    """Return a connection of py-amqp itself: kombu would try a second time. Raises the client's errors."""
    connection = broker.connection()
    connection.connect_timeout = int(WAIT_SECONDS)
    made = connection.transport.establish_connection()
    made.sock.settimeout(WAIT_SECONDS)
    return made


def failed(exc: Exception, where: str, url: str) -> Finding:
    """Return what a connection that was refused means."""
    text = str(getattr(exc, "reply_text", None) or exc)
    user = urlsplit(url).username or "guest"
    then = "nothing is taken until it lets us in"
    if "ACCESS_REFUSED" in text and "vhost" not in text:
        do = f"put the right password into the URL, or: rabbitmqctl change_password {user} PASSWORD"
        if user == "guest":
            do += "; guest may come from the broker's own machine alone"
        return error(
            "connection", f"{where} refuses user {user!r}: the name or the password is wrong", then, do
        )
    if isinstance(exc, AMQPError) and not isinstance(exc, ConsumerCancelled):
        words = advice(exc) or masked(text)
        says, _, do = words.partition("; ")
        return error("connection", f"{where}: {says}", then, do)
    return unreachable("connection", exc, where, tls="broker_ca")


def _no_right(right: str, about: str, then: str, name: str, who: tuple[str, str]) -> Finding:
    user, vhost = who
    what = {"read": "take from it", "write": "publish to it", "configure": "declare it"}[right]
    says = f"user {user!r} may not {what}"
    command = f"rabbitmqctl set_permissions -p {vhost} {user} CONFIGURE WRITE READ"
    return error(about, says, then, f"let its {right} pattern match {name!r}: {command}")


def _refusal(about: str, exc: ChannelError) -> Finding:
    words = advice(exc)
    says, _, do = (words or str(getattr(exc, "reply_text", None) or exc)).partition("; ")
    if is_not_found(exc):
        do = do or "have it declared"
    return error(about, says, "the route would not start", do)
