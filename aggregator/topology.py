"""Exchanges, queues and bindings as a file describes them, by plain names; AMQP's own come out.

The core knows no broker: what is declared, and how, is :mod:`consumers.topology`'s.
"""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003 - settings hold these dataclasses, and look at their types
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from aggregator.option_types import MAX_NAME_BYTES, Count, Unset, option
from aggregator.route_map import RouteMap  # noqa: TC001 - as above
from aggregator.units import Duration, Size

EXCHANGE_TYPES = ("direct", "topic", "fanout", "headers")
#: What every RabbitMQ has without being asked.
BUILT_IN = {
    "": "direct",
    "amq.direct": "direct",
    "amq.topic": "topic",
    "amq.fanout": "fanout",
    "amq.headers": "headers",
    "amq.match": "headers",
    "amq.rabbitmq.trace": "topic",
}
STREAM = (
    "a stream takes nothing back and keeps what is acked, so nothing of it is settled here;"
    " quorum or classic is needed"
)


def name_problem(text: str) -> str | None:
    """Return what keeps ``text`` from being the name of a queue or an exchange, or None."""
    if not text.strip():
        return "the name is empty; give it one"
    size = len(text.encode("utf-8", "surrogateescape"))
    if size > MAX_NAME_BYTES:
        return f"the name has {size} bytes; AMQP allows {MAX_NAME_BYTES}"
    return None


def _exchange_type(text: str) -> str:
    if text not in EXCHANGE_TYPES and not (text.startswith("x-") and len(text) > len("x-")):
        near = next((kind for kind in EXCHANGE_TYPES if kind[:3] == text[:3].lower()), "")
        hint = f"did you mean {near}? There are" if near else "there are"
        raise ValueError(
            f"{text!r} is no type of exchange; {hint} {', '.join(EXCHANGE_TYPES)}, and plugins' x-…"
        )
    return text


def _queue_type(text: str | None) -> str | None:
    if text == "stream":
        raise ValueError(STREAM)
    if text is not None and text not in {"quorum", "classic"}:
        raise ValueError(f"{text!r} is no type of queue; quorum or classic is needed")
    return text


def _exchange_name(text: str) -> str:
    # empty: the default exchange
    if text and (problem := name_problem(text)):
        raise ValueError(problem)
    return text


def _value(value: Any) -> Any:
    if not isinstance(value, bool | int | float | str):
        raise ValueError("a text, a number, true or false is needed")  # noqa: TRY004 - pydantic's way
    return value


Value = Annotated[Any, AfterValidator(_value)]
Arguments = dict[str, Value]
Declare = Annotated[Literal["declare", "check", "leave"], BeforeValidator(lambda value: value)]
ExchangeName = Annotated[str, AfterValidator(_exchange_name)]
DECLARE = "declare it at the start, check that it is there (nothing is made or compared), or leave it alone"


class Entity(BaseModel):
    """The ground of all that stands at a broker."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, defer_build=True)


class Binding(Entity):
    """Bindings, `bindings = [{…}, …]`: where the messages of a queue or an exchange come from"""

    exchange: ExchangeName = Field(
        description="the exchange that they come from", json_schema_extra={"metavar": "NAME"}
    )
    pattern: str = option(
        "", "the routing key; for a topic exchange with * (a word) and # (any words)", "PATTERN"
    )
    headers: Arguments | None = option(
        None, "of a headers exchange: what a message's headers have to be", "{NAME = VALUE}", unset="none"
    )
    match: Literal["all", "any", "all-with-x", "any-with-x"] = option(
        "all", "of a headers exchange: how many of them"
    )
    arguments: Arguments | None = option(
        None, "further arguments, as the broker names them", "{NAME = VALUE}", unset="none"
    )

    def amqp_arguments(self) -> dict[str, Any]:
        """Return the arguments of the binding in AMQP's words."""
        headers = {"x-match": self.match, **self.headers} if self.headers else {}
        return headers | (self.arguments or {})


class Exchange(Entity):
    """Exchanges, `[exchanges.NAME]`"""

    name: str = Field(exclude=True)
    declare: Declare = option("declare", DECLARE)
    type: Annotated[str, AfterValidator(_exchange_type)] = option(
        "direct", "direct, topic, fanout, headers, or what a plugin brings: x-consistent-hash", "TYPE"
    )
    durable: bool = option(True, "it is there after a restart of the broker")
    auto_delete: bool = option(False, "it goes with the last thing that is bound to it")
    internal: bool = option(False, "nobody publishes to it, only other exchanges do")
    alternate_exchange: Annotated[ExchangeName | None, Unset] = option(
        None, "the exchange that gets what no binding takes", "NAME", unset="none"
    )
    arguments: Arguments | None = option(
        None, "further arguments, as the broker names them", "{NAME = VALUE}", unset="none"
    )
    bindings: tuple[Binding, ...] = option((), "other exchanges whose messages it gets", "[{…}]")

    def amqp_arguments(self) -> dict[str, Any]:
        """Return the arguments of the declaration in AMQP's words."""
        named = {} if self.alternate_exchange is None else {"alternate-exchange": self.alternate_exchange}
        return named | (self.arguments or {})


class Queue(Entity):
    """Queues, `[queues.NAME]`"""

    name: str = Field(exclude=True)
    declare: Declare = option("declare", DECLARE)
    type: Annotated[str | None, Unset, AfterValidator(_queue_type)] = option(
        None, "quorum or classic", "TYPE", unset="the broker's default"
    )
    durable: bool = option(True, "it is there after a restart of the broker")
    auto_delete: bool = option(False, "it goes with its last consumer")
    message_ttl: Annotated[Duration | None, Unset] = option(
        None, "a message that waited so long is dead-lettered, or dropped", "DURATION", unset="off"
    )
    expires: Annotated[Duration | None, Unset] = option(
        None, "nobody asked for it for so long: it goes, with its messages", "DURATION", unset="off", gt=0
    )
    max_length: Annotated[Count | None, Unset] = option(
        None, "messages that may wait", "N", unset="off", ge=1
    )
    max_length_bytes: Annotated[Size | None, Unset] = option(
        None, "bytes of messages that may wait", "SIZE", unset="off", gt=0
    )
    overflow: Annotated[Literal["drop-head", "reject-publish", "reject-publish-dlx"] | None, Unset] = option(
        None, "what becomes of more: the oldest goes, or the new one is refused to its publisher",
        unset="the broker's default: drop-head",
    )  # fmt: skip
    max_priority: Annotated[Count | None, Unset] = option(
        None, "messages have priorities up to this; classic queues only", "N", unset="off", ge=1, le=255
    )
    single_active_consumer: bool = option(False, "one consumer at a time gets all messages")
    dead_letter_exchange: Annotated[ExchangeName | None, Unset] = option(
        None, "where what expires, is dropped, or came too often goes; empty = the default exchange", "NAME",
        unset="off",
    )  # fmt: skip
    dead_letter_routing_key: Annotated[str | None, Unset] = option(
        None,
        "and by which routing key; with the default exchange: the queue",
        "KEY",
        unset="the message's own",
    )
    delivery_limit: Annotated[Count | None, Unset] = option(
        None, "delivered more often, the broker drops or dead-letters a message; quorum queues only", "N",
        unset="the broker's default", ge=1,
    )  # fmt: skip
    arguments: Arguments | None = option(
        None, "further arguments, as the broker names them", "{NAME = VALUE}", unset="none"
    )
    bindings: tuple[Binding, ...] = option((), "the exchanges whose messages it gets", "[{…}]")

    def amqp_arguments(self) -> dict[str, Any]:
        """Return the arguments of the declaration in AMQP's words: times in ms, nothing that is not set."""
        named: dict[str, Any] = {}
        for name, argument in QUEUE_ARGUMENTS.items():
            value = getattr(self, name)
            if value is None or (name == "single_active_consumer" and not value):
                continue
            named[argument] = round(value * 1000) if name in IN_MS else value
        return named | (self.arguments or {})


#: AMQP's words for settings of a queue, and of an exchange.
QUEUE_ARGUMENTS = {
    "type": "x-queue-type",
    "message_ttl": "x-message-ttl",
    "expires": "x-expires",
    "max_length": "x-max-length",
    "max_length_bytes": "x-max-length-bytes",
    "overflow": "x-overflow",
    "max_priority": "x-max-priority",
    "single_active_consumer": "x-single-active-consumer",
    "dead_letter_exchange": "x-dead-letter-exchange",
    "dead_letter_routing_key": "x-dead-letter-routing-key",
    "delivery_limit": "x-delivery-limit",
}
EXCHANGE_ARGUMENTS = {"alternate_exchange": "alternate-exchange"}
IN_MS = frozenset({"message_ttl", "expires"})


def settings_of(entity: Exchange | Queue) -> dict[str, str]:
    """Return the settings by AMQP's words: ``x-message-ttl`` is ``message_ttl``."""
    names = QUEUE_ARGUMENTS if isinstance(entity, Queue) else EXCHANGE_ARGUMENTS
    return {argument: name for name, argument in names.items()}


@dataclass(frozen=True, slots=True)
class Topology:
    """All that a file describes, by name."""

    exchanges: Mapping[str, Exchange] = field(default_factory=dict)
    queues: Mapping[str, Queue] = field(default_factory=dict)
    route_map: RouteMap | None = None
    unread: frozenset[str] = frozenset()
    """Exchanges whose description is wrong: what names them is not."""

    def __bool__(self) -> bool:
        """Whether anything is described."""
        return bool(self.exchanges or self.queues)

    def type_of(self, exchange: str) -> str | None:
        """Return the type of an exchange; None where it is unknown."""
        found = self.exchanges.get(exchange)
        return found.type if found else BUILT_IN.get(exchange)


@dataclass(frozen=True, slots=True)
class Plan:
    """What one route needs at its broker, in the order of its declaration.

    ``queue``: the route's own, if anything is said of it. ``taken``: it is taken as it stands, and
    declared only where it is absent. ``stale``: bindings (exchange, pattern) that its queue may still
    have from an earlier route map, and has not any more.
    """

    exchanges: tuple[Exchange, ...] = ()
    queues: tuple[Queue, ...] = ()
    queue: Queue | None = None
    taken: bool = True
    stale: tuple[tuple[str, str], ...] = ()

    def __bool__(self) -> bool:
        """Whether there is anything to declare or check."""
        return bool(self.exchanges or self.queues)


NOTHING = Plan()

TABLES: tuple[type[Entity], ...] = (Exchange, Queue, Binding)
"""In the order of docs/configuration.md; the docstring of each is its title."""
