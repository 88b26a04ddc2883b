"""HTML that cannot be broken out of: every text that is not made here is escaped."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    #: False and None: the attribute, or the child, is left out.
    Value = str | int | float | bool | None

#: Elements without an end.
_VOID = frozenset({"br", "input", "link", "meta"})


class Html(str):
    """Markup; any other text is escaped when it is put into one."""

    __slots__ = ()


NOTHING = Html()


def el(tag: str, /, *children: Value | Iterable[Value], **attributes: Value) -> Html:
    """Return an element. ``class_`` is ``class``; ``data_key`` is ``data-key``."""
    said = "".join(_attribute(word, value) for word, value in attributes.items())
    if tag in _VOID:
        return Html(f"<{tag}{said}>")
    return Html(f"<{tag}{said}>{join(*children)}</{tag}>")


def join(*children: Value | Iterable[Value]) -> Html:
    """Return children one after the other."""
    return Html("".join(map(_child, children)))


def _child(child: Value | Iterable[Value]) -> str:
    if isinstance(child, Html):
        return child
    if child is None or child is False:
        return ""
    if isinstance(child, str | int | float):
        return escape(clean(str(child)))
    return "".join(map(_child, child))


def _attribute(word: str, value: Value) -> str:
    if value is None or value is False:
        return ""
    name = word.rstrip("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{escape(clean(str(value)))}"'


def clean(text: str) -> str:
    """Return a text without what moves other texts about: control characters, and changes of direction."""
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)
