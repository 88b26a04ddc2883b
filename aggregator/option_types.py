"""The types of settings: how a value is written, read, and refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, StringConstraints

from aggregator import own
from aggregator.aggregation import compile_aggregation
from aggregator.completion import load_predicate
from aggregator.correlation import compile_expression, compile_key, compile_match
from aggregator.errors import ConfigurationError
from aggregator.masking import SecretUrl
from aggregator.quiet_hours import QuietHours
from aggregator.retrying import read_steps, words
from aggregator.schedule import crontab
from aggregator.sinks import make_sink

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aggregator.aggregation import Function as AggregateFunction
    from aggregator.correlation import Source
    from aggregator.delivery import Delivery
    from aggregator.sinks.base import Sink
    from aggregator.sinks.function import WriteFunction

MAX_PREFETCH = 65_535
"""Prefetch is 16 bits on the wire."""
MAX_PARTITIONS = 256
"""Each is a queue, and a thread and a connection of each instance."""
_TASK_PART = re.compile(r"task|/args/\d+(/.*)?|/kwargs(/.*)?", re.DOTALL)
_NAMESPACE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
LEAST_TOKEN = 16
"""Characters: less could be tried out."""
MAX_NAME_BYTES = 255
"""AMQP's limit on the name of a queue or an exchange, in bytes of UTF-8."""


def option(default: Any, description: str, metavar: str = "", *, unset: str = "", **limits: Any) -> Any:
    """Return a pydantic field; ``unset`` says what None means, ``metavar`` what a value looks like."""
    return Field(
        default,
        description=description,
        validate_default=True,
        json_schema_extra={"metavar": metavar, "unset": unset},
        **limits,
    )


def _unset(value: Any) -> Any:
    """TOML and the command line have no null: a word stands for it."""
    return None if isinstance(value, str) and value.strip().lower() in {"none", "off", "auto"} else value


def _number(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("a number is needed, not true or false")  # noqa: TRY004 - pydantic's way
    return value


def lower(value: Any) -> Any:
    """Return a word in small letters: capitals mean the same."""
    return value.lower() if isinstance(value, str) else value


def _expression(text: str) -> str:
    try:
        compile_expression(text)
    except ConfigurationError as exc:
        raise ValueError(exc.problem) from None
    if " + " in text and _reads(text):  # else it is a name that has this in it
        raise ValueError(f"{text!r}: correlate alone joins several; one expression is needed")
    return text


def _reads(text: str) -> bool:
    """Whether each part of a text is an expression by itself."""
    try:
        compile_key(text)
    except ConfigurationError:
        return False
    return True


def _key(text: str) -> str:
    try:
        compile_key(text)
    except ConfigurationError as exc:
        raise ValueError(exc.problem) from None
    return text


def _expires(text: str) -> str:
    if text.startswith("/"):
        problem = f"{text!r} is in the body, which is not read for this; header:NAME or a property is needed"
        raise ValueError(problem)
    if text in {"expiration", "property:expiration"}:
        problem = f"{text!r} is a stretch of time that the broker keeps; a moment is needed, like header:NAME"
        raise ValueError(problem)
    return text


def joined(value: Any) -> Any:
    """TOML may name several as a list: as text they are separated by commas."""
    if isinstance(value, list | tuple) and all(isinstance(each, str | int) for each in value):
        return ",".join(map(str, value))
    return value


def _steps(text: str) -> str:
    read_steps(text)
    return text


def _reasons(text: str) -> str:
    if not words(text):
        raise ValueError("no reason is named; words separated by commas are needed, or * for all")
    return text


def _crontab(text: str) -> str:
    try:
        crontab(text)
    except ConfigurationError as exc:
        raise ValueError(exc.problem) from None
    return text


def _quiet(text: str) -> str:
    try:
        QuietHours(text)
    except ConfigurationError as exc:
        raise ValueError(exc.problem) from None
    return text


def _zone(text: str) -> str:
    try:
        crontab("* * * * *", text)
    except ConfigurationError as exc:
        raise ValueError(exc.problem) from None
    return text


def _triggers(text: str) -> str:
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in {"age", "idle", "interval", "crontab"}]
    if unknown:
        raise ValueError(f"{unknown[0]!r} is none of age, idle, interval, crontab")
    return ",".join(names)


def _predicate(text: str) -> str:
    try:
        load_predicate(text)
    except ConfigurationError as exc:
        raise ValueError(exc.problem) from None
    return text


def _missing(text: str) -> str:
    if text != "dead-letter" and not (text.startswith("key:") and text != "key:"):
        raise ValueError(f"{text!r} says nothing; dead-letter or key:TEXT is needed")
    return text


def _sentinel(text: str) -> str:
    expression, equals, value = text.partition("=")
    if not (equals and value):
        raise ValueError(f"{text!r} names no value; EXPRESSION=VALUE is needed, like type=sentinel")
    _expression(expression)
    return text


def _name(text: str) -> str:
    if not text.strip():
        raise ValueError("the name is empty; give the name of a queue")
    size = len(text.encode("utf-8", "surrogateescape"))
    if size > MAX_NAME_BYTES:
        raise ValueError(f"the name has {size} bytes; AMQP allows {MAX_NAME_BYTES}")
    if text.startswith("amq."):
        raise ValueError(f"{text!r} starts with amq., which brokers keep for themselves; choose another name")
    return text


def _namespace(text: str) -> str:
    if not _NAMESPACE.fullmatch(text):
        problem = (
            f"{text[:60]!r}: up to 64 letters, digits, ., _ and - are needed, the first a letter or digit"
        )
        raise ValueError(problem)
    return text


def _task_part(text: str) -> str:
    if not _TASK_PART.fullmatch(text):
        raise ValueError(f"{text[:60]!r} is no part of a task; task, /kwargs or one of /args/0 is needed")
    return text


def _token(value: SecretStr) -> SecretStr:
    text = value.get_secret_value()
    if len(text) < LEAST_TOKEN or not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError(f"{LEAST_TOKEN} printable characters at least are needed, without blanks")
    return value


def _file(path: Path) -> Path:
    if not path.is_file():
        raise ValueError(f"no file at {str(path)!r}; a file of certificates in PEM is needed")
    return path


Text = Annotated[str, StringConstraints(min_length=1)]
Name = Annotated[str, AfterValidator(_name)]
Namespace = Annotated[str, AfterValidator(_namespace)]
Crontab = Annotated[str, AfterValidator(_crontab)]
Token = Annotated[SecretStr, AfterValidator(_token)]
Zone = Annotated[str, AfterValidator(_zone)]
Quiet = Annotated[str, AfterValidator(_quiet), BeforeValidator(joined)]
Triggers = Annotated[str, AfterValidator(_triggers)]
Steps = Annotated[str, AfterValidator(_steps), BeforeValidator(joined)]
Reasons = Annotated[str, AfterValidator(_reasons), BeforeValidator(joined)]
Missing = Annotated[str, AfterValidator(_missing)]
TaskPart = Annotated[str, AfterValidator(_task_part)]
Count = Annotated[int, BeforeValidator(_number)]
Share = Annotated[float, BeforeValidator(_number), Field(allow_inf_nan=False)]
File = Annotated[Path, AfterValidator(_file)]
Unset = BeforeValidator(_unset)
if TYPE_CHECKING:
    # what a text names, code may give itself
    Expression = Source
    Moment = Source
    Key = Source | tuple[Source, ...]
    Function = str | Callable[[Sequence[Delivery], Delivery], bool]
    Sentinel = str | tuple[Source, str]
    Target = SecretUrl | Sink | WriteFunction
    Form = str | AggregateFunction
else:
    Expression = Annotated[str, AfterValidator(_expression), own.allowed(compile_expression)]
    Moment = Annotated[
        str, AfterValidator(_expression), AfterValidator(_expires), own.allowed(compile_expression)
    ]
    Key = Annotated[str, AfterValidator(_key), own.allowed(compile_key)]
    Function = Annotated[str, AfterValidator(_predicate), own.allowed(load_predicate)]
    Sentinel = Annotated[str, AfterValidator(_sentinel), own.allowed(compile_match)]
    Target = Annotated[SecretUrl, own.allowed(make_sink)]
    Form = Annotated[Text, own.allowed(compile_aggregation)]
#: none, off and 0 mean the same: the condition is not used
OrOff = AfterValidator(lambda value: value or None)
