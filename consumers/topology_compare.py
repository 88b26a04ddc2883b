"""What of a topology stands at its brokers already, what would be declared, and what differs."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from aggregator.masking import masked
from aggregator.topology import Queue
from consumers.broker_source import broker_of, connect
from consumers.connecting import is_not_found
from consumers.refusals import advice, told
from consumers.topology import differences, kombu_exchange, kombu_queue, where

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aggregator.settings import Route, Settings
    from aggregator.topology import Exchange


class Found(NamedTuple):
    """One thing at one broker. ``right``: the service could start with it."""

    broker: str
    setting: str
    text: str
    right: bool = True

    def __str__(self) -> str:
        """Return it in one line."""
        return f"{self.setting}: {self.text}"


def compare(settings: Settings) -> Iterator[Found]:
    """Ask each broker about all that its routes need. Nothing is declared and nothing bound.

    Of queues and exchanges that are there the declaration is repeated, which changes nothing and tells
    what differs. Bindings cannot be asked for by AMQP.
    """
    seen: set[tuple[str, str]] = set()
    for route in settings.routes.values():
        if not route.topology:
            continue
        url = route.broker.get_secret_value()
        try:
            broker = broker_of(route, heartbeat=settings.heartbeat)
            with broker.connection() as connection:
                connect(connection, broker)
                yield from _of_route(connection, route, seen)
        except Exception as exc:  # noqa: BLE001 - whatever a client raises, the broker gives no answer
            yield Found(
                masked(url), f"routes.{route.name}.broker", advice(exc) or f"no answer: {exc}", right=False
            )


def _of_route(connection: Any, route: Route, seen: set[tuple[str, str]]) -> Iterator[Found]:
    url = route.broker.get_secret_value()
    plan = route.topology
    entities: tuple[Exchange | Queue, ...] = (*plan.exchanges, *plan.queues)
    for each in entities:
        if (url, where(each)) not in seen:
            seen.add((url, where(each)))
            taken = plan.taken and each is plan.queue
            yield from (Found(masked(url), *found) for found in _of(connection, each, taken=taken))


def _of(connection: Any, each: Exchange | Queue, *, taken: bool) -> Iterator[tuple[str, str, bool]]:
    name = where(each)
    bindings = f"; {len(each.bindings)} binding{'s' * (len(each.bindings) > 1)} to be made" * bool(
        each.bindings
    )
    if not _is_there(connection, each):
        text = {"declare": f"would be declared{bindings}", "leave": "is not there, and left alone"}
        yield (
            name,
            text.get(each.declare, 'is not there; make it first, or declare = "declare"'),
            each.declare != "check",
        )
        return
    if each.declare != "declare" or taken:
        yield name, "is there" + bindings * taken, True
        return
    try:
        found = differences(connection, each)
    except connection.channel_errors as exc:
        yield name, f"is there, and cannot be compared: {advice(exc, each.name) or exc}", False
        return
    for differing in found:
        field, problem = told(each, differing)
        yield f"{name}.{field}", problem, False
    if not found:
        yield name, f"is there, as it is written{bindings}", True


def _is_there(connection: Any, each: Exchange | Queue) -> bool:
    channel = connection.channel()
    try:
        if isinstance(each, Queue):
            kombu_queue(each).queue_declare(passive=True, channel=channel)
        else:
            kombu_exchange(each).declare(passive=True, channel=channel)
    except connection.channel_errors as exc:
        if not is_not_found(exc):
            raise
        return False
    finally:
        with suppress(*connection.channel_errors, *connection.connection_errors):
            channel.close()
    return True
