"""Where in a file of TOML a setting stands: line and columns of its value, its name, or its table.

The parser that reads settings knows no positions. This one keeps a file's format: with a value replaced by
a mark, all that stands before it is as it was, so the mark shows where the value is.
"""

from __future__ import annotations

import re
import tomllib
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_MARK = "\ue000a mark that no file holds\ue000"
_PART = re.compile(r'"(?P<quoted>[^"]*)"|\[(?P<index>\d+)\]|(?P<plain>[^.\["]+)')
_WHERE = re.compile(r"\(at line (\d+), column (\d+)\)")


class Span(NamedTuple):
    """A piece of one line: its number and columns from 1; ``end`` is behind its last character."""

    line: int
    start: int
    end: int


def find(text: str, label: str, *, name: bool = False) -> Span | None:
    """Return where the setting ``label`` (``routes.logs.size``) stands, or the table that it belongs into.

    ``name``: its name is wanted, not its value. None where the file cannot be read so, or holds neither.
    """
    import tomlkit  # noqa: PLC0415 - only who has made a mistake needs it
    from tomlkit.exceptions import TOMLKitError  # noqa: PLC0415

    try:
        document = tomlkit.parse(text)
        path = list(_path(document.unwrap(), label))
    except TOMLKitError:
        return None
    whole, found = _split(label), None
    if len(path) == len(whole) or _joined(path) == _joined(whole):
        found = _value(text, document, path, name=name)
    while found is None and path:
        found = _header(text, path)
        path = path[:-1]
    return found


def broken(text: str, problem: str) -> Span | None:
    """Return where the parser gave up, from its own words."""
    found = _WHERE.search(problem)
    if not found:
        return None
    line, column = int(found[1]), int(found[2])
    rows = text.splitlines()
    length = len(rows[line - 1]) if line <= len(rows) else 0
    return Span(line, min(column, length + 1), min(column, length + 1) + 1)


def _split(label: str) -> list[str | int]:
    return [
        int(part["index"]) if part["index"] is not None else part["quoted"] or part["plain"]
        for part in _PART.finditer(label)
    ]


def _joined(path: Sequence[str | int]) -> str:
    return ".".join(map(str, path))


def _path(data: Any, label: str) -> Iterator[str | int]:
    """Yield the keys that lead to the setting, as far as there are any; a route's name may hold dots."""
    parts = _split(label)
    while parts:
        if isinstance(parts[0], int):
            if not isinstance(data, list) or parts[0] >= len(data):
                return
            data = data[parts[0]]
            yield parts.pop(0)
            continue
        names = {key.replace("_", "-"): key for key in data} if isinstance(data, dict) else {}
        for length in range(len(parts), 0, -1):
            key = names.get(_joined(parts[:length]).replace("_", "-"))
            if key is not None:
                yield key
                data, parts = data[key], parts[length:]
                break
        else:
            return


def _value(text: str, document: Any, path: Sequence[str | int], *, name: bool) -> Span | None:
    import tomlkit  # noqa: PLC0415 - as above

    holder: Any = document
    for part in path[:-1]:
        holder = holder[part]
    container = holder.value if isinstance(holder, tomlkit.items.AbstractTable) else holder
    if isinstance(container, tomlkit.container.Container):
        item = container.item(str(path[-1]))  # by [] true and false are handed out without their text
    else:
        item = holder[path[-1]]
    if not isinstance(item, tomlkit.items.Item) or isinstance(item, tomlkit.items.Table | tomlkit.items.AoT):
        return None
    written = item.as_string()
    holder[path[-1]] = _MARK
    start = tomlkit.dumps(document).find(f'"{_MARK}"')
    if start < 0 or not text.startswith(written, start):
        return None
    line = text.count("\n", 0, start) + 1
    begin = text.rfind("\n", 0, start) + 1
    if name:
        left = text[begin:start].rstrip().removesuffix("=").rstrip()
        key = str(path[-1])
        at = left.rfind(key)
        return Span(line, at + 1, at + 1 + len(key)) if at >= 0 else None
    first = written.split("\n", 1)[0].rstrip()
    return Span(line, start - begin + 1, start - begin + 1 + len(first))


def _header(text: str, path: Sequence[str | int]) -> Span | None:
    """Return the line ``[routes.logs]`` of a table."""
    for number, line in enumerate(text.split("\n"), 1):
        shown = line.rstrip()
        if not shown.lstrip().startswith("["):
            continue
        try:
            data: Any = tomllib.loads(shown)
        except tomllib.TOMLDecodeError:
            continue
        keys = []
        while isinstance(data, dict) and data:
            ((key, data),) = data.items()
            keys.append(key)
            data = data[0] if isinstance(data, list) else data
        if keys == [part for part in path if isinstance(part, str)]:
            start = len(shown) - len(shown.lstrip()) + 1
            end = shown.rindex("]", 0, shown.find("#") if "#" in shown else None)
            return Span(number, start, end + 2)
    return None
