"""What a broker says when it refuses, in the settings' words: which argument, right, vhost."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

from aggregator.topology import IN_MS, settings_of
from aggregator.units import format_duration

if TYPE_CHECKING:
    from aggregator.topology import Exchange, Queue

#: AMQP's numbers of methods.
_EXCHANGE_BIND, _QUEUE_BIND = (40, 30), (50, 20)
_DECLARATIONS = ((40, 10), (50, 10))
_DIFFERS = re.compile(
    r"inequivalent arg '(?P<argument>[^']*)' for \w+ '.*' in vhost '.*':"
    r" received (?P<ours>.+) but current is (?P<theirs>.+)",
    re.DOTALL,
)
_VALUE = re.compile(r"(?:the value )?'(?P<value>.*?)'(?: of type '(?P<type>\w+)')?", re.DOTALL)
_NO_VHOST = re.compile(r"vhost (?P<vhost>.*) not found")
_CLOSED_VHOST = re.compile(r"access to vhost '(?P<vhost>.*)' refused for user '(?P<user>.*)'")
_NO_RIGHT = re.compile(
    r"(?:(?P<right>configure|write|read) )?access to (?P<kind>queue|exchange|topic) '(?P<name>.*)'"
    r"(?: in exchange '.*')? in vhost '(?P<vhost>.*)' refused for user '(?P<user>.*)'"
)


class Difference(NamedTuple):
    """One argument of a declaration that stands otherwise at the broker; None where it is not set."""

    argument: str
    ours: str | None
    theirs: str | None
    type: str
    """AMQP's word for the type of the broker's value; empty where it does not say."""


def difference(exc: BaseException) -> Difference | None:
    """Return which argument a refused declaration was refused for; None if for none."""
    found = _DIFFERS.search(_text(exc))
    if not found:
        return None
    (ours, kind), (theirs, other) = _value(found["ours"]), _value(found["theirs"])
    return Difference(found["argument"], ours, theirs, other or kind)


def told(entity: Exchange | Queue, differing: Difference) -> tuple[str, str]:
    """Return the setting that differs, and what would be right."""
    name = settings_of(entity).get(differing.argument, differing.argument.replace("-", "_"))
    field = name if name in type(entity).model_fields else f'arguments."{differing.argument}"'
    ours, theirs = (_written(field, value) for value in (differing.ours, differing.theirs))
    short = field.removeprefix("arguments.")
    right = f"remove {short}" if differing.theirs is None else f"write {short} = {theirs}"
    kind = "queue" if "max_length" in type(entity).model_fields else "exchange"
    return field, (
        f"{ours} is wanted, at the broker it is {theirs}; {right}, take it as it stands by"
        f' declare = "check", or delete that {kind} and have it made anew'
    )


def advice(exc: BaseException, declared: str = "") -> str | None:
    """Return what is wrong with a vhost or with rights, and what would be right; None if it is neither.

    ``declared``: the name of what was being declared.
    """
    text = _text(exc)
    if found := _NO_VHOST.search(text):
        vhost = found["vhost"]
        return f"vhost {vhost!r} is not there; make it (rabbitmqctl add_vhost {vhost}), or name another"
    if found := _CLOSED_VHOST.search(text):
        vhost, user = found["vhost"], found["user"]
        return (
            f"user {user!r} has no rights in vhost {vhost!r}; give them"
            f" (rabbitmqctl set_permissions -p {vhost} {user} CONFIGURE WRITE READ), or name another"
        )
    if found := _NO_RIGHT.search(text):
        right = found["right"] or _right(exc, found["kind"], found["name"], declared)
        return (
            f"user {found['user']!r} has not the right to {right} {found['kind']} {found['name']!r} in vhost"
            f" {found['vhost']!r}; its {right} pattern there has to match this name"
            " (rabbitmqctl set_permissions)"
        )
    return None


def _right(exc: BaseException, kind: str, name: str, declared: str) -> str:
    """Return the right that is missing, which RabbitMQ before 4 does not say."""
    method = tuple(getattr(exc, "method_sig", None) or ())
    if method in _DECLARATIONS:
        return "configure" if name == declared else "write"  # else its dead letters or its alternate exchange
    if method == _QUEUE_BIND:
        return "write" if kind == "queue" else "read"
    if method == _EXCHANGE_BIND:
        return "write" if name == declared else "read"
    return "use"


def _value(text: str) -> tuple[str | None, str]:
    found = _VALUE.fullmatch(text.strip())
    return (found["value"], found["type"] or "") if found else (None, "")


def _written(field: str, value: str | None) -> str:
    """Return a value as it is written in a file."""
    if value is None:
        return "not set"
    if field in IN_MS and value.isdigit():
        return f'"{format_duration(int(value) / 1000)}"'
    return value if value.isdigit() or value in {"true", "false"} else f'"{value}"'


def _text(exc: Any) -> str:
    return str(getattr(exc, "reply_text", None) or exc)
