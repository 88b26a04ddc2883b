"""kombu's process mailbox, as commands need it: JSON alone, queues of their own, answers to nobody else."""

from __future__ import annotations

from fnmatch import fnmatchcase
from secrets import token_hex
from typing import TYPE_CHECKING, Any

import orjson
from kombu.entity import Queue
from kombu.pidbox import Mailbox

from aggregator.errors import ConfigurationError
from consumers.brokers import control_fault
from consumers.connecting import Broker
from consumers.delivery import undecoded

if TYPE_CHECKING:
    from aggregator.settings import Settings

#: Bytes of a command at most.
LONGEST = 1024 * 1024
#: Characters of an answer's address, and of a pattern, at most: AMQP's short string.
_SHORT = 255


class ControlMailbox(Mailbox):
    """A mailbox of which each link has a queue of its own name.

    A broker may hold the exclusive queue of a lost connection for a while; one of the same name would
    be refused until then.
    """

    def __init__(self, namespace: str) -> None:
        options: dict[str, Any] = {"type": "fanout", "accept": ["json"], "serializer": "json"}
        super().__init__(namespace, **options)  # type: ignore[no-untyped-call]
        self.answers: Any = self.reply_exchange

    def get_queue(self, hostname: str) -> Queue:
        """Return a new queue for a node."""
        name = f"{hostname}.{token_hex(4)}.{self.namespace}.pidbox"
        return Queue(name, exchange=self.exchange, durable=False, exclusive=True, auto_delete=True)


def control_place(settings: Settings) -> Broker:
    """Return the broker that commands come over: the one named for it, or the one of all routes.

    Raises ``ConfigurationError`` where there is no such broker, or no command can pass through it.
    """
    routes = list(settings.routes.values())
    urls = {route.broker.get_secret_value(): route for route in reversed(routes)}
    url: str
    if settings.control_broker is not None:
        url = settings.control_broker.get_secret_value()
    elif len(urls) == 1:
        (url,) = urls
    else:
        problem = f"the routes take from {len(urls)} brokers; name the one that commands come over"
        raise ConfigurationError("control_broker", problem)
    if fault := control_fault(url):
        raise ConfigurationError("control" if settings.control_broker is None else "control_broker", fault)
    own = urls.get(url, settings)
    encrypted = url.startswith("amqps")
    return Broker(
        url,
        heartbeat=settings.heartbeat,
        ca=str(own.broker_ca) if own.broker_ca and encrypted else None,
        server_hostname=own.server_hostname if encrypted else None,
        batched=False,
    )


def leave_undecoded(channel: Any, *, amqp: bool) -> None:
    """Have nothing inflated or decoded because a message's properties say so."""
    if amqp:
        channel.auto_decode = False
        read = channel.message_to_python

        def uncompressed(raw: Any) -> Any:
            headers = raw.properties.get("application_headers")
            if isinstance(headers, dict):
                headers.pop("compression", None)
            return read(raw)

        channel.message_to_python = uncompressed
    elif hasattr(channel, "message_to_python") and hasattr(channel, "qos"):
        channel.Message = undecoded(channel.Message)


class Letter:
    """A command as it came: ``ValueError`` where it is none."""

    def __init__(self, message: Any) -> None:
        body = message.body
        raw = body.encode() if isinstance(body, str) else bytes(body)
        if len(raw) > LONGEST:
            raise ValueError(f"{len(raw)} bytes; {LONGEST} at most are read")
        if message.content_type != "application/json":
            raise ValueError("its content type is not application/json")
        said = orjson.loads(raw)  # its error is a ValueError
        if not isinstance(said, dict) or not isinstance(said.get("method"), str):
            raise ValueError("it names no method")  # noqa: TRY004 - one error for whatever is wrong with it
        self.command: str = said["method"]
        arguments = said.get("arguments") or {}
        if not isinstance(arguments, dict):
            raise ValueError("its arguments are no table")  # noqa: TRY004
        self.arguments: dict[str, Any] = arguments
        self._destination = said.get("destination")
        self._pattern, self._matcher = said.get("pattern"), said.get("matcher")
        self.ticket = said.get("ticket")
        reply_to = said.get("reply_to")
        self._reply_to: dict[str, Any] = reply_to if isinstance(reply_to, dict) else {}

    def is_for(self, name: str) -> bool:
        """Whether it is addressed to a node: to all, by a list of names, or by a shell pattern."""
        if self._destination:
            return isinstance(self._destination, list) and name in self._destination
        if self._pattern is None and self._matcher is None:
            return True
        # kombu knows regular expressions too: one of a stranger may take for ever
        pattern = self._pattern
        if self._matcher != "glob" or not isinstance(pattern, str) or len(pattern) > _SHORT:
            return False
        return fnmatchcase(name, pattern)

    def reply_key(self, exchange: str) -> str | None:
        """Return where an answer goes; None for nowhere: elsewhere it would be a message of ours."""
        key = self._reply_to.get("routing_key")
        right = self._reply_to.get("exchange") == exchange and isinstance(key, str) and len(key) <= _SHORT
        return key if right else None
