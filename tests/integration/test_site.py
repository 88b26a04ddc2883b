"""The documentation as a site: built strictly, its links followed, read in a browser at two widths."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote, urlsplit

import pytest

import aggregator
from tests.browser import browser
from tests.conftest import missing
from tests.servers.base import Unavailable

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
DESKTOP, PHONE = 1280, 375


def build(configuration, folder):
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--config-file", configuration, "--site-dir", folder],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        timeout=200,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    built = build(ROOT / "mkdocs.yml", folder)
    assert built.returncode == 0, built.stderr
    return folder


class Page(HTMLParser):
    """``links`` lead somewhere, ``fetched`` is loaded with the page, ``anchors`` can be led to."""

    def __init__(self, path):
        super().__init__()
        self.links, self.fetched, self.anchors = set(), set(), set()
        self.feed(path.read_text())

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.anchors |= {given.get("id"), given.get("name")} - {None}
        if tag == "a" and given.get("href"):
            self.links.add(given["href"])
        elif tag in {"img", "script", "iframe", "source"} and given.get("src"):
            self.fetched.add(given["src"])
        elif tag == "link" and given.get("rel") not in {"canonical", "prev", "next"}:
            self.fetched.add(given["href"])


@pytest.fixture(scope="module")
def pages(site):
    return {path: Page(path) for path in site.rglob("*.html")}


def test_each_link_leads_to_a_page_and_an_anchor(site, pages):
    lost = []
    for path, page in pages.items():
        for link in page.links | page.fetched:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            to = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            to = to / "index.html" if to.is_dir() else to
            if path.name == "404.html":  # served from anywhere: its links begin at the root
                to = site / parts.path.lstrip("/")
            there = pages[to].anchors if to in pages else {parts.fragment}
            if not to.exists() or (parts.fragment and unquote(parts.fragment) not in there):
                lost.append(f"{path.relative_to(site)}: {link}")
    assert lost == []
    assert sum(len(page.links) for page in pages.values()) > 3000


@pytest.mark.parametrize("page", sorted(ROOT.glob("*.md")), ids=lambda page: page.name)
def test_links_of_the_repository_lead_somewhere(page, site, pages):
    """``README.md`` is no page of the site; what it links to is."""
    lost = []
    for path, anchor in re.findall(r"\]\((?![a-z]+:)([^)#]+)#?([^)]*)\)", page.read_text()):
        there = pages.get((site / path.removeprefix("docs/")).with_suffix(".html"))
        if not (ROOT / path).exists() or (anchor and there and anchor not in there.anchors):
            lost.append(f"{path}#{anchor}")
    assert lost == []


def test_each_page_of_docs_is_there(site):
    written = {page.relative_to(ROOT / "docs") for page in (ROOT / "docs").rglob("*.md")}
    assert [page for page in written if not (site / page.with_suffix(".html")).is_file()] == []
    assert not list(site.rglob("*.py"))


def test_each_name_of_the_api_is_in_the_reference(site, pages):
    anchors = {anchor.rpartition(".")[2] for anchor in pages[site / "reference.html"].anchors}
    assert set(aggregator.__all__) <= anchors


def test_nothing_is_fetched_from_elsewhere(site, pages):
    fetched = {link for page in pages.values() for link in page.fetched}
    assert [link for link in fetched if urlsplit(link).netloc] == []
    styles = "".join(path.read_text() for path in site.rglob("*.css"))
    assert re.findall(r"(?:url\(|@import )[\"']?(?:https?:)?//[^)\"']+", styles) == []


def test_a_file_that_is_linked_to_is_a_page(site):
    text = (site / "source/tests/unit/test_completing.py.html").read_text()
    assert "def" in text
    assert 'href="source/tests/unit/test_completing.py.html"' in (site / "comparison.html").read_text()


SETTINGS = """\
INHERIT: {root}/mkdocs.yml
docs_dir: docs
nav: [index.md]
hooks: ["{root}/docs/hooks/links.py"]
plugins: []
theme: {{name: mkdocs}}
watch: []
"""
BROKEN = """\
# A
[1](none.md), [2](#none), [3](../tests/none.py), [4](../none/), right: [5](../Makefile), `[6](none.md)`
"""


def test_what_is_broken_fails_the_build(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/index.md").write_text(BROKEN)
    (tmp_path / "docs/left.md").write_text("# Left out")
    (tmp_path / "mkdocs.yml").write_text(SETTINGS.format(root=ROOT))
    built = build(tmp_path / "mkdocs.yml", tmp_path / "site")
    assert built.returncode != 0
    for name in ("none.md", "#none", "../tests/none.py", "../none/"):
        assert built.stderr.count(f" link '{name}'") == 1, built.stderr
    assert "left.md" in built.stderr
    assert "Makefile" not in built.stderr


# ── in a browser ──


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        """Nobody reads it."""


@pytest.fixture(scope="module")
def reader(site):
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site)))
    Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        with browser(f"http://127.0.0.1:{server.server_port}") as page:
            yield page
    except Unavailable as why:
        missing(why)
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("width", [DESKTOP, PHONE])
@pytest.mark.parametrize("page", ["index", "timelines", "configuration", "reference"])
def test_it_fits(reader, page, width):
    """Tables and code scroll by themselves; the page never does sideways."""
    reader.size(width)
    reader.open(f"{page}.html")
    assert reader.run("return document.documentElement.scrollWidth") <= width
    assert reader.all("article img") == [
        image for image in reader.all("article img") if image.size["width"] > 200
    ]
    assert reader.complaints() == []


def test_it_finds_what_is_looked_for(reader):
    reader.size(DESKTOP)
    reader.open("index.html")
    reader.press("input.md-search__input")
    reader.fill("input.md-search__input", "consumer_timeout")
    reader.text(".md-search-result__item", "Running it")
