"""Exchanges, queues and bindings of a file at a broker: made, looked for, or left alone; and what differs."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from amqp import spec
from amqp.exceptions import AMQPNotImplementedError
from kombu import entity
from kombu.connection import Connection
from kombu.transport.virtual.base import NotEquivalentError
from kombu.transport.virtual.exchange import STANDARD_EXCHANGE_TYPES

from aggregator.errors import UnrecoverableError
from aggregator.topology import Exchange, Queue
from consumers.connecting import is_contradiction, is_not_found, is_refusal
from consumers.refusals import advice, difference, told
from consumers.transports import SQLITE_QUEUE, register

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from aggregator.topology import Plan
    from consumers.refusals import Difference

    Step = tuple[str, Exchange | Queue, Callable[[Any], object]]

#: No declaration has more arguments than this; each refusal names one.
MOST_DIFFERENCES = 20
#: What a queue file honours of a queue's arguments.
QUEUE_FILE = frozenset({"x-message-ttl", "x-dead-letter-exchange", "x-dead-letter-routing-key"})


def kombu_exchange(exchange: Exchange) -> entity.Exchange:
    """Return kombu's exchange; ``internal`` has no word there."""
    return entity.Exchange(
        exchange.name,
        exchange.type,
        durable=exchange.durable,
        auto_delete=exchange.auto_delete,
        arguments=exchange.amqp_arguments() or None,
    )


def kombu_queue(queue: Queue) -> entity.Queue:
    """Return kombu's queue, without its bindings."""
    return entity.Queue(
        queue.name,
        durable=queue.durable,
        auto_delete=queue.auto_delete,
        queue_arguments=queue.amqp_arguments() or None,
    )


def declare_plan(connection: Any, plan: Plan, *, insist: bool) -> None:
    """Declare, bind and look for what the plan says, in this order; all of it may be there already.

    Raises ``UnrecoverableError`` with all that the broker refuses; ``insist=False``: only with what can
    never come right, all else as the broker's own error. What has to do with the connection is raised
    as it is.
    """
    problems: list[str] = []
    channel = None
    try:
        for place, described, action in _steps(plan):
            channel = channel or connection.channel()
            try:
                action(channel)
            except (*connection.channel_errors, *connection.connection_errors, NotEquivalentError) as exc:
                other = is_contradiction(exc) or isinstance(exc, NotEquivalentError)
                if not (other or (insist and is_refusal(exc))):
                    raise
                _closed(connection, channel)
                channel = None
                problems += explained(connection, place, described, exc)
                if not connection.connected:
                    break  # RabbitMQ before 4 hangs up for a type of exchange that it does not know
    finally:
        _closed(connection, channel)
    if problems:
        raise UnrecoverableError("\n".join(problems))


def explained(connection: Any, place: str, described: Exchange | Queue, exc: BaseException) -> list[str]:
    """Return a line for each thing that a broker does not like, and what would be right."""
    if first := difference(exc):
        # a declaration names one of them; the others show as each is taken over
        found = [first]
        with suppress(*connection.channel_errors):
            found = differences(connection, described) or found
        lines = [told(described, differing) for differing in found]
        return [f"{place}.{field}: {problem}" for field, problem in lines]
    if is_not_found(exc):
        return [f"{place}: {_absent(described, exc)}"]
    text = str(getattr(exc, "reply_text", None) or exc)
    return [f"{place}: {advice(exc, described.name) or f'the broker refuses it: {text}'}"]


def differences(connection: Any, described: Exchange | Queue) -> list[Difference]:
    """Return in what the broker's own differs; it has to be there.

    What is declared as it is changes nothing, and each refusal names one argument: it is taken over, and
    the declaration tried again. Any other refusal is raised.
    """
    values: dict[str, Any] = {"durable": described.durable, "auto_delete": described.auto_delete}
    arguments = described.amqp_arguments()
    if isinstance(described, Exchange):
        values["type"] = described.type
        values["internal"] = described.internal
    found: list[Difference] = []
    while len(found) < MOST_DIFFERENCES:
        channel = connection.channel()
        try:
            _declare_raw(channel, described, values, arguments)
        except connection.channel_errors as exc:
            differing = difference(exc)
            if differing is None:
                raise
            if differing in found:
                return found
            found.append(differing)
            name = differing.argument
            target = values if name in values else arguments
            if differing.theirs is None:
                target.pop(name, None)
            else:
                target[name] = _typed(differing, target.get(name))
        else:
            return found
        finally:
            _closed(connection, channel)
    return found


def unsupported(url: str, plan: Plan) -> Iterator[tuple[str, str]]:
    """Yield (setting, problem) for what the broker behind this URL cannot do. Nothing is connected."""
    scheme = url.partition("://")[0].partition("+")[0]
    everything: tuple[Exchange | Queue, ...] = (*plan.exchanges, *plan.queues)
    if not plan or "amqp" in scheme:
        return
    if scheme == "tarantool":
        for each in everything:
            yield (
                where(each),
                "tubes are made by tubes.create at the server, and know no exchanges; remove it",
            )
        return
    register()
    types = set(Connection(url).transport.implements.exchange_type) & set(STANDARD_EXCHANGE_TYPES)
    for exchange in plan.exchanges:
        yield from _unsupported_exchange(exchange, scheme, types)
    for queue in plan.queues:
        yield from _unsupported_queue(queue, scheme)
    if scheme != SQLITE_QUEUE:
        for each in everything:
            if each.declare != "declare":
                known = "each process knows only what it has declared itself"
                yield f"{where(each)}.declare", f'by {scheme} {known}; "declare" is needed'


def _unsupported_exchange(exchange: Exchange, scheme: str, types: set[str]) -> Iterator[tuple[str, str]]:
    place = where(exchange)
    if exchange.type == "fanout" and scheme.startswith("redis"):
        problem = "Redis keeps nothing of it for who is away (PUBLISH); a topic exchange and # does"
        yield f"{place}.type", problem
    elif exchange.type not in types:
        yield (
            f"{place}.type",
            f"by {scheme} there are {', '.join(sorted(types))}; a broker that speaks AMQP has it",
        )
    for field in ("internal", "alternate_exchange", "arguments", "bindings"):
        if getattr(exchange, field):
            yield (
                f"{place}.{field}",
                f"{scheme} has no such thing; remove it, or name a broker that speaks AMQP",
            )


def _unsupported_queue(queue: Queue, scheme: str) -> Iterator[tuple[str, str]]:
    honoured = QUEUE_FILE if scheme == SQLITE_QUEUE else frozenset()
    if unknown := sorted(set(queue.amqp_arguments()) - honoured):
        problem = (
            f"{scheme} would read over {', '.join(unknown)}; remove it, or name a broker that speaks AMQP"
        )
        yield where(queue), problem


# ── steps ──


def _steps(plan: Plan) -> Iterator[Step]:
    """Yield (setting, entity, action): exchanges and queues first, so that bindings find both ends."""
    entities: tuple[Exchange | Queue, ...] = (*plan.exchanges, *plan.queues)
    for each in entities:
        # the route's own queue, of which nothing is said, is taken as it stands: by ensure_queue
        taken = (
            plan.taken and plan.queue is not None and each.name == plan.queue.name and isinstance(each, Queue)
        )
        if each.declare != "leave" and not taken:
            yield where(each), each, _action(each)
    for each in entities:
        if each.declare == "declare":
            for index, binding in enumerate(each.bindings):
                yield f"{where(each)}.bindings[{index}]", each, _binder(each, binding)
    if plan.queue is not None:
        for exchange, pattern in plan.stale:
            yield "route-map", plan.queue, _unbinder(plan.queue, exchange, pattern)


def _action(each: Exchange | Queue) -> Callable[[Any], object]:
    passive = each.declare == "check"

    def act(channel: Any) -> object:
        if isinstance(each, Queue):
            return kombu_queue(each).queue_declare(passive=passive, channel=channel)
        if each.internal and not passive:
            values = {
                "durable": each.durable,
                "auto_delete": each.auto_delete,
                "type": each.type,
                "internal": True,
            }
            return _declare_raw(channel, each, values, each.amqp_arguments())
        return kombu_exchange(each).declare(passive=passive, channel=channel)

    return act


def _binder(each: Exchange | Queue, binding: Any) -> Callable[[Any], object]:
    made: Any = kombu_queue(each) if isinstance(each, Queue) else kombu_exchange(each)
    arguments = binding.amqp_arguments() or None

    def bind(channel: Any) -> object:
        return made.bind_to(binding.exchange, binding.pattern, arguments, channel=channel)

    return bind


def _unbinder(queue: Queue, exchange: str, pattern: str) -> Callable[[Any], object]:
    def unbind(channel: Any) -> None:
        with suppress(AMQPNotImplementedError):
            channel.queue_unbind(queue.name, exchange, pattern)

    return unbind


def _declare_raw(
    channel: Any, described: Exchange | Queue, values: dict[str, Any], arguments: dict[str, Any]
) -> object:
    """Declare with just these values; kombu and py-amqp always say that an exchange is not internal."""
    if isinstance(described, Queue):
        return channel.queue_declare(described.name, arguments=arguments, **values)
    fields = (values["durable"], values["auto_delete"], values["internal"], False, arguments)
    return channel.send_method(
        spec.Exchange.Declare,
        "BssbbbbbF",
        (0, described.name, values["type"], False, *fields),
        wait=spec.Exchange.DeclareOk,
    )


def _typed(differing: Difference, ours: Any) -> Any:
    """Return the broker's value as what it is there."""
    theirs = differing.theirs or ""
    if theirs in {"true", "false"} and (differing.type in {"", "bool"} and not isinstance(ours, str)):
        return theirs == "true"
    numeric = differing.type in {"long", "signedint", "short", "byte", "unsignedint"} or isinstance(ours, int)
    return int(theirs) if numeric and theirs.lstrip("-").isdigit() else theirs


def _absent(described: Exchange | Queue, exc: BaseException) -> str:
    if described.declare == "check":
        return 'it is not there; make it first, or let it be made: declare = "declare"'
    text = str(getattr(exc, "reply_text", None) or exc)
    return f'{text}; make it first, or let it be made: declare = "declare"'


def where(each: Exchange | Queue) -> str:
    """Return where in the file it is described."""
    return f"{'queues' if isinstance(each, Queue) else 'exchanges'}.{each.name}"


def _closed(connection: Any, channel: Any) -> None:
    if channel is not None:
        with suppress(*connection.channel_errors, *connection.connection_errors):
            channel.close()
