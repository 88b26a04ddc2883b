"""The blocks of code in README.md and docs, and what each says of how it is run.

The language of a block says what is done with it (tests/unit/test_page_blocks.py has the list). A
comment right above it, which readers of the page do not see, says what differs:

* ``<!-- shown by: tests/unit/test_api_page.py::test_clicks -->``: these tests run it, or what it says;
* ``<!-- not run: it needs a key of Apple's -->``: nobody runs it, for this reason;
* ``<!-- printed by: the commands above -->``: text that the last commands before it have printed;
* ``<!-- with: … -->``: what it takes for granted. The comment's lines stand before it when it is run
  (tables of a TOML file: behind it).

Settings that a fragment leaves out have their defaults, which is a whole configuration. A block whose
first line is a comment with a file's name (``# clicks.py``) is that file, beside the page's others.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from markdown_it import MarkdownIt

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ROOT = Path(__file__).parent.parent
NOTES = ("shown by", "not run", "printed by", "with")
_COMMENT = re.compile(r"<!--\s*([\w ]+?):\s*(.*?)\s*-->", re.DOTALL)
_FILE = re.compile(r"(?:#|//|--) ([\w-]+\.\w+)\n")
_INDENTING = re.compile(r"(!!!|\?\?\?|===) ?")  # admonitions and tabs of mkdocs


@dataclass(frozen=True, slots=True)
class Block:
    """``page`` is its path below the project, ``line`` that of the fence; ``notes`` by their kind."""

    page: str
    line: int
    language: str
    code: str
    notes: Mapping[str, str]

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def file(self) -> str | None:
        """The name of the file that it is; None: it is a piece of something."""
        named = _FILE.match(self.code)
        return named[1] if named else None

    @property
    def whole(self) -> str:
        """The code with what it takes for granted."""
        given = self.notes.get("with", "")
        if self.language != "toml":
            return f"{given}\n{self.code}" if given else self.code
        keys, table, tables = f"\n{given}\n".partition("\n[")
        return f"{keys}\n{self.code}{table}{tables}".lstrip()

    @property
    def runs_here(self) -> bool:
        """Whether it is left to the general rule of its language."""
        return not {"shown by", "not run"} & set(self.notes)

    @property
    def tests(self) -> list[tuple[Path, str]]:
        """The tests that are said to run it: file and function."""
        named = [name.strip().partition("::") for name in self.notes.get("shown by", "").split(",")]
        return [(ROOT / path, function) for path, _, function in named if path]


def pages() -> list[Path]:
    """Return README.md and every page of docs."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks_of(path: Path) -> Iterator[Block]:
    """Yield the blocks of a page in their order; an indented one has no language."""
    notes: dict[str, str] = {}
    for token in MarkdownIt().parse(_flat(path.read_text())):
        if token.type in {"fence", "code_block"}:
            line = (token.map or [0])[0] + 1
            language = token.info.split()[0] if token.info.strip() else ""
            yield Block(str(path.relative_to(ROOT)), line, language, token.content, notes)
        said = _COMMENT.findall(token.content) if token.type == "html_block" else None
        notes = {} if said is None else {**notes, **dict(said)}


def _flat(text: str) -> str:
    """Return the text with what stands in admonitions and tabs at the left, line by line."""
    lines, inside = [], False
    for line in text.splitlines():
        indented = line.startswith("    ") or not line
        if inside and indented:
            lines.append(line[4:])
            continue
        inside = bool(_INDENTING.match(line))
        lines.append("" if inside else line)
    return "\n".join(lines)


def all_blocks() -> list[Block]:
    """Return the blocks of all pages."""
    return [block for path in pages() for block in blocks_of(path)]
