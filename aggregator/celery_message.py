"""A task message of Celery, protocol 1 or 2, strictly read. Pure; Celery itself is not needed.

Protocol 2 has its header ``task``, and the body ``[args, kwargs, embed]``. In protocol 1 all is in the
body: ``{"task": …, "id": …, "args": […], "kwargs": {…}, "eta": …, "expires": …}``. What is wrong is said
by the name of its field, never by its value.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from aggregator.content import UNREADABLE, Kind, decompress, form_of
from aggregator.errors import MessageRefusedError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aggregator.content import Form
    from aggregator.delivery import Delivery

#: What Celery would start after the task, or once its group is done. Nobody does here.
CANVAS = ("callbacks", "chain", "chord")
#: Unix seconds of the years 2001 and 5138: less is a span, and nothing says from when; more are milliseconds.
_FIRST, _LAST = 10**9, 10**11
#: How kombu writes what JSON has no word for: ``{"__type__": "datetime", "__value__": "…"}``.
_MARKED = frozenset({"__type__", "__value__"})
_MARK = b'"__type__"'
#: orjson writes at most so many levels.
_MOST_LEVELS = 250


class Task(NamedTuple):
    """``eta``, ``expires``: unix seconds, None where it has none."""

    name: str
    id: str
    args: list[Any]
    kwargs: dict[str, Any]
    eta: float | None
    expires: float | None

    def said(self) -> dict[str, Any]:
        """Return the document of the whole task."""
        return {"task": self.name, "id": self.id, "args": self.args, "kwargs": self.kwargs}


def read_task(delivery: Delivery, max_bytes: int) -> Task:
    """Return what a message says; its body is inflated to at most ``max_bytes``.

    Raises ``MessageRefusedError``: ``unsupported-serializer`` for what is not JSON, ``unsupported-canvas``
    for a task that others are to follow, ``bad-task`` for what is no task, and for the body
    ``empty-body``, ``too-large``, ``bad-json``, ``bad-charset``, ``compressed``.
    """
    name = delivery.header("task")
    content = _content(delivery, max_bytes)
    if name is None:
        if type(content) is not dict:
            raise _bad("there is neither a header task (protocol 2) nor an object in the body (protocol 1)")
        _refuse_canvas(content)
        return _task(content, content.get("args"), content.get("kwargs"))
    if type(content) is not list or len(content) != 3:  # noqa: PLR2004 - args, kwargs, embed
        raise _bad("the body is no list of args, kwargs and embed")
    args, kwargs, embed = content
    if type(embed) is dict:
        _refuse_canvas(embed)
    said = {field: delivery.header(field) for field in ("id", "eta", "expires")}
    return _task({"task": name, **said}, args, kwargs)


def expires_at(delivery: Delivery, max_bytes: int) -> float | None:
    """Return when a task that could be read expires (unix seconds); None: never."""
    if delivery.header("task") is None:
        return read_task(delivery, max_bytes).expires
    return _moment(delivery.header("expires"), "expires")


def _task(said: Mapping[str, Any], args: Any, kwargs: Any) -> Task:
    args, kwargs = [] if args is None else args, {} if kwargs is None else kwargs
    if type(args) is not list:
        raise _bad("args is no list")
    if type(kwargs) is not dict:
        raise _bad("kwargs is no object")
    name, task_id = _text(said, "task"), _text(said, "id")
    eta, expires = _moment(said.get("eta"), "eta"), _moment(said.get("expires"), "expires")
    return Task(name, task_id, args, kwargs, eta, expires)


def _content(delivery: Delivery, max_bytes: int) -> Any:
    """Return the parsed body."""
    body, form = delivery.body, _form(delivery)
    if not body:
        raise MessageRefusedError("empty-body")
    if len(body) <= max_bytes and (method := delivery.header("compression") or form.compression):
        body = decompress(body, method, max_bytes)
    if len(body) > max_bytes:
        raise MessageRefusedError("too-large", f"{len(body)} bytes, {max_bytes} are allowed")
    problem, reason = "", "bad-json"
    try:
        if form.charset != "utf_8":
            body = body.decode(form.charset).encode()
        content = orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        problem = str(exc)  # the exceptions carry the body
    except UnicodeError:
        problem, reason = f"not {form.charset}", "bad-charset"
    if problem:
        raise MessageRefusedError(reason, problem)
    return _unmarked(content, _MOST_LEVELS) if _MARK in body else content


def _form(delivery: Delivery) -> Form:
    declared = delivery.declared()
    try:
        form = form_of(*declared)
    except TypeError:
        form = UNREADABLE
    if form.kind is not Kind.JSON and (declared[0] or form.refusal):
        problem = f"{str(declared[0])[:60]!r}: of Celery's serializers json alone is read"
        raise MessageRefusedError("unsupported-serializer", problem)
    if form.refusal:
        raise MessageRefusedError(*form.refusal)
    return form


def _unmarked(value: Any, levels: int) -> Any:
    """Put texts in the place of what kombu marks: moments in ISO 8601, the digits of UUIDs and decimals."""
    if not levels:
        raise MessageRefusedError("bad-json", f"more than {_MOST_LEVELS} levels")
    if type(value) is dict:
        if value.keys() == _MARKED and type(value["__type__"]) is str:
            marked = value["__value__"]
            if value["__type__"] == "uuid" and type(marked) is dict:
                marked = marked.get("hex")
            return _unmarked(marked, levels - 1)
        return {name: _unmarked(each, levels - 1) for name, each in value.items()}
    if type(value) is list:
        return [_unmarked(each, levels - 1) for each in value]
    return value


def _refuse_canvas(embed: Mapping[str, Any]) -> None:
    following = [name for name in CANVAS if embed.get(name)]
    if following:
        problem = f"it has {' and '.join(following)}: what is to follow the task would never run"
        raise MessageRefusedError("unsupported-canvas", problem)


def _moment(value: Any, field: str) -> float | None:
    """Return a moment in ISO 8601 (without an offset: UTC) or unix seconds as the latter."""
    if value is None or value == "":
        return None
    if type(value) is str:
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            raise _bad(f"{field} is no moment in ISO 8601") from None
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
    if type(value) not in {int, float} or not _FIRST <= value < _LAST:
        raise _bad(f"{field} is neither a moment in ISO 8601 nor unix seconds")
    return float(value)


def _text(said: Mapping[str, Any], field: str) -> str:
    text = said.get(field)
    if type(text) is not str or not text:
        raise _bad(f"{field} is no text, or empty")
    return text


def _bad(detail: str) -> MessageRefusedError:
    return MessageRefusedError("bad-task", detail)
