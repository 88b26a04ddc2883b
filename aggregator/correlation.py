"""Expressions over a message: which group it belongs to, which id its document gets.

An expression is a name of AMQP's basic properties (``correlation_id``), ``routing_key``,
``exchange``, ``header:NAME``, ``property:NAME``, a JSON pointer into the body (``/user/id``,
RFC 6901), ``constant:TEXT``, or ``function:package.module:name``, which is called with the delivery
and returns a text, a number or None. It is compiled once, at the start. Code may give such a
function itself in the place of its name.
"""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, Any

import orjson

from aggregator.errors import ConfigurationError, MessageRefusedError
from aggregator.importing import check_function, load_function, name_of
from aggregator.json_pointer import compile_pointer

if TYPE_CHECKING:
    from collections.abc import Callable

    from aggregator.delivery import Delivery, Item

    Expression = Callable[[Item], str | None]
    #: An expression before it is compiled.
    Source = str | Callable[[Delivery], object]

PROPERTIES = frozenset({
    "app_id",
    "content_encoding",
    "content_type",
    "correlation_id",
    "delivery_mode",
    "expiration",
    "message_id",
    "priority",
    "reply_to",
    "timestamp",
    "type",
    "user_id",
})  # fmt: skip

HELP = (
    "a property (correlation_id, message_id, …), routing_key, header:NAME, or a JSON pointer such as /user/id"
)


def compile_expression(text: Source, field: str = "correlate") -> Expression:
    """Return the function that reads ``text`` from a message: a string, or None where it is absent.

    Numbers and booleans become their JSON text. The function raises ``MessageRefusedError`` where
    the body has to be JSON and is not (``bad-json``), or the value is a list or an object
    (``bad-value``). A text that is no expression raises ``ConfigurationError`` for ``field``.
    """
    if not isinstance(text, str):
        check_function(text, name_of(text), field=field, takes="one delivery", example=(None,))
        return _calling(text, name_of(text))
    kind, colon, name = text.partition(":")
    if kind == "function" and colon:
        return _function(name, field)
    if text.startswith("/"):
        return _pointer(text)
    if text in PROPERTIES:
        return _property(text)
    if text in {"routing_key", "exchange"}:
        return attrgetter(text)
    if colon and name and kind in {"header", "property", "constant"}:
        return {"header": _header, "property": _property, "constant": _constant}[kind](name)
    raise ConfigurationError(field, f"{text!r} is no expression; {HELP} is needed")


def compile_key(text: Source | tuple[Source, ...], field: str = "correlate") -> Expression:
    """Return the function that reads a key: one expression, or several joined by ``' + '``.

    A tuple holds the several as they are. A key of several is None where any of them is. Raises as
    :func:`compile_expression`.
    """
    if isinstance(text, str):
        text = tuple(part.strip() for part in text.split(" + "))
    reads = [compile_expression(part, field) for part in (text if isinstance(text, tuple) else (text,))]
    if len(reads) == 1:
        return reads[0]

    def read(item: Item) -> str | None:
        values = [one(item) for one in reads]
        if any(value is None for value in values):
            return None
        # unambiguous, whatever the values hold
        return orjson.dumps(values).decode()

    return read


def _text(value: Any, where: str) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise MessageRefusedError("bad-value", f"{where} is not UTF-8") from None
    if hasattr(value, "isoformat"):  # AMQP's timestamp arrives as a datetime
        return str(value.isoformat())
    raise MessageRefusedError("bad-value", f"{where} is a {type(value).__name__}, not a string or number")


def _property(name: str) -> Expression:
    def read(item: Item) -> str | None:
        return _text(item.basic_property(name), name)

    return read


def _header(name: str) -> Expression:
    where = f"header {name}"

    def read(item: Item) -> str | None:
        return _text(item.header(name), where)

    return read


def _function(reference: str, field: str) -> Expression:
    module, _, name = reference.partition(":")
    function = load_function(module, name, field=field, takes="one delivery", example=(None,))
    return _calling(function, reference)


def _calling(function: Callable[[Any], object], reference: str) -> Expression:
    def read(item: Item) -> str | None:
        try:
            return _text(function(item), reference)
        except MessageRefusedError:
            raise
        except Exception as exc:  # noqa: BLE001 - the user's own; its words may hold the body
            problem = f"{reference} raised {type(exc).__name__}"
        raise MessageRefusedError("function-failed", problem)

    return read


def _constant(value: str) -> Expression:
    def read(_item: Item) -> str:
        return value

    return read


def _pointer(text: str) -> Expression:
    look = compile_pointer(text)

    def read(item: Item) -> str | None:
        return _text(look(item.json()), text)

    return read


def compile_match(text: str | tuple[Source, str], field: str = "sentinel") -> Callable[[Item], bool]:
    """Return the test that ``EXPRESSION=VALUE`` stands for; raises as :func:`compile_expression`.

    A tuple holds the two as they are.
    """
    expression: Source
    if isinstance(text, tuple):
        expression, value = text
    else:
        expression, equals, value = text.partition("=")
        if not equals:
            raise ConfigurationError(field, f"{text!r} names no value; EXPRESSION=VALUE is needed")
    read = compile_expression(expression, field)
    return lambda item: read(item) == value


def shown(source: Source | tuple[Source, ...]) -> str:
    """Return an expression or a key as a setting would have it."""
    if isinstance(source, tuple):
        return " + ".join(map(shown, source))
    return source if isinstance(source, str) else f"function:{name_of(source)}"
