"""The validator's errors in the words of this project: what is wrong, and what would be right."""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from aggregator.masking import SecretUrl, masked

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo
    from pydantic_core import ErrorDetails

_URL = re.compile(r"[\w+.-]+://\S+")
_BOUNDS = {
    "greater_than_equal": ("ge", "too small; at least"),
    "greater_than": ("gt", "too small; more than"),
    "less_than_equal": ("le", "too large; at most"),
    "less_than": ("lt", "too large; less than"),
}
_NEEDED = {
    "int": "a whole number is needed",
    "float": "a number is needed",
    "finite": "a number is needed",
    "bool": "true or false is needed",
    "string": "a text is needed",
    "path": "a path is needed",
    "dict": 'a table of names and values is needed, like {"total": "sum"}',
}


def problem_of(error: ErrorDetails, field: FieldInfo) -> str:
    """Return one line for one of pydantic's errors; a secret is never part of it.

    A URL may stand where another value belongs: its password is masked there too.
    """
    return mask_urls(_problem_of(error, field))


def mask_urls(text: str) -> str:
    """Return ``text`` with the passwords of all URLs in it masked."""
    return _URL.sub(lambda found: masked(found[0]), text)


def _problem_of(error: ErrorDetails, field: FieldInfo) -> str:
    kind, context = error["type"], error.get("ctx", {})
    shown = "" if _is_secret(field) else _shown(error["input"])
    if kind == "value_error":
        return str(context["error"])
    if kind in _BOUNDS:
        key, words = _BOUNDS[kind]
        return f"{shown} is {words} {context[key]:g}{_unit(field)} is needed"
    if kind == "literal_error":
        return f"{shown} is unknown; {context['expected']} is needed{_nearest(error['input'], context)}"
    if kind == "string_too_short":
        return "it is empty; a text is needed"
    needed = _NEEDED.get(kind.split("_")[0])
    if needed is None:
        return error["msg"]
    return f"{shown} is something else; {needed}" if shown else needed


def _is_secret(field: FieldInfo) -> bool:
    extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
    return field.annotation is SecretUrl or extra.get("metavar") == "TOKEN"


def _shown(value: Any) -> str:
    text = repr(value) if isinstance(value, str) else str(value)
    text = mask_urls(text)  # whole: what is cut off may be what shows a password to be one
    return text if len(text) < 60 else f"{text[:57]}…"  # noqa: PLR2004 - one line stays one line


def _unit(field: FieldInfo) -> str:
    extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
    return {"DURATION": "s", "SIZE": " bytes"}.get(str(extra.get("metavar")), "")


def _nearest(value: Any, context: dict[str, Any]) -> str:
    choices = [word.strip("' ") for word in context["expected"].replace(" or ", ", ").split(",")]
    found = get_close_matches(str(value), choices, n=1)
    return f"; did you mean {found[0]}?" if found else ""
