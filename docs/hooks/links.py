"""Links that leave ``docs``: the file of the repository that is meant becomes a page of the site.

So the pages are written with relative links that hold in a checkout, and the site needs no other place to
send its readers to. A link to a file that is not there is left as it is, which fails the strict build.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from mkdocs.structure.files import File

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
#: Pages of the repository's root that are pages of the site too, once they are there: by their address.
AT_THE_ROOT = {"changelog.md": "CHANGELOG.md", "contributing.md": "CONTRIBUTING.md"}
#: What a browser shows by itself.
SHOWN = {".md", ".svg", ".png", ".jpg", ".webp"}
#: By suffix; the suffix itself names the others, or nobody knows one.
LANGUAGES = {".py": "python", ".sh": "bash", ".yml": "yaml", ".toml": "toml", ".lua": "lua", ".json": "json"}
#: Code is left alone: fences, then spans; then what is between the parentheses of a link, without its anchor.
LINK = re.compile(r"^```.*?^```|`[^`\n]+`|\]\((?![a-z]+:|[#/])(?P<path>[^)#\s]+)", re.DOTALL | re.MULTILINE)
PAGE = """\
---
title: {path}
search: {{exclude: true}}
hide: [navigation, toc]
---
# `{path}`

~~~~~~~~ {language}
{text}
~~~~~~~~
"""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of the root, and a page for each file that a page links to."""
    for uri, name in AT_THE_ROOT.items():
        if (ROOT / name).is_file():
            files.append(File.generated(config, uri, content=(ROOT / name).read_text()))
    wanted: set[str] = set()
    for file in list(files.documentation_pages()):
        found = LINK.finditer(file.content_string)
        wanted.update(_meant(link["path"], file.src_uri) for link in found if link["path"])
    for path in sorted(wanted):
        if (uri := _address(path)) != path and (ROOT / path).exists() and uri not in AT_THE_ROOT:
            files.append(File.generated(config, uri, content=_page(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Have links lead to those pages."""
    del config, files
    here = page.file.src_uri

    def lead(link: re.Match[str]) -> str:
        if not link["path"]:
            return link[0]
        path = _meant(link["path"], here)
        if not (ROOT / path).exists():
            return link[0]
        uri = _address(path)
        uri = uri.removeprefix("docs/") if uri == path else uri
        return f"]({posixpath.relpath(uri, posixpath.dirname(here))}"

    return LINK.sub(lead, markdown)


def _meant(link: str, uri: str) -> str:
    """Return the path in the repository that a link means on the page with this address."""
    page = AT_THE_ROOT.get(uri, f"docs/{uri}")
    return posixpath.normpath(posixpath.join(posixpath.dirname(page), link))


def _address(path: str) -> str:
    """Return the address of a page that is made of this path, or the path itself if none is."""
    for uri, name in AT_THE_ROOT.items():
        if path == name:
            return uri
    if path.startswith("docs/") and PurePosixPath(path).suffix in SHOWN:
        return path
    return f"source/{path}.md"


def _page(path: str) -> str:
    place = ROOT / path
    suffix = place.suffix
    text = "\n".join(_names(place)) if place.is_dir() else place.read_text()
    language = "text" if place.is_dir() else LANGUAGES.get(suffix, "text")
    return PAGE.format(path=path, language=language, text=text.rstrip("\n"))


def _names(folder: Path) -> Iterator[str]:
    for path in sorted(folder.iterdir()):
        if not path.name.startswith((".", "__pycache__")):
            yield f"{path.name}/" if path.is_dir() else path.name
