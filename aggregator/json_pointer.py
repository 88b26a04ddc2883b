"""JSON pointers (RFC 6901) into parsed values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


def steps_of(text: str) -> list[str]:
    """Return the names that ``text`` (``/user/id``) leads through."""
    return [step.replace("~1", "/").replace("~0", "~") for step in text[1:].split("/")]


def compile_pointer(text: str) -> Callable[[Any], Any]:
    """Return the function that reads ``text`` (``/user/id``) from a value: None where nothing is."""
    steps = steps_of(text)

    def read(value: Any) -> Any:
        for step in steps:
            if isinstance(value, dict):
                value = value.get(step)
            elif isinstance(value, list) and step.isdecimal() and int(step) < len(value):
                value = value[int(step)]
            else:
                return None
        return value

    return read
