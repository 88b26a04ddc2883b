"""The changelog and the fragments that the next part of it is made of."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
NEWS = PYPROJECT["tool"]["towncrier"]
KINDS = {kind["directory"] for kind in NEWS["type"]}
FRAGMENTS = sorted((ROOT / NEWS["directory"]).glob("[!.]*"))


def faults(name, text):
    """Return what is wrong with a fragment: its name leads to its place, its text is read in a list."""
    if not re.fullmatch(rf"\+[a-z0-9-]+\.({'|'.join(sorted(KINDS))})\.md", name):
        yield f"a name like +some-words.fixed.md is needed, of the kinds {sorted(KINDS)}"
    if not re.fullmatch(r"[A-Z`].*[.)]", text.strip(), re.DOTALL) or "\n\n" in text.strip():
        yield "one paragraph of whole sentences is needed"
    if len(text) > 500:
        yield "what users need of it fits into 500 characters; the rest belongs into docs"


def test_fragments_are_well_formed():
    assert {path.name: list(faults(path.name, path.read_text())) for path in FRAGMENTS} == {
        path.name: [] for path in FRAGMENTS
    }


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("12.fixed.md", "A group is whole."),
        ("+words.bug.md", "A group is whole."),
        ("+words.fixed.md", "- a group is whole"),
        ("+words.fixed.md", "A group.\n\nAnother."),
        ("+words.added.md", "A" * 600 + "."),
    ],
)
def test_what_is_no_fragment(name, text):
    assert len(list(faults(name, text))) == 1


def test_the_last_release_is_this_version():
    text = (ROOT / NEWS["filename"]).read_text()
    above, below = text.split(NEWS["start_string"])
    releases = re.findall(r"^## (\S+) \((\d{4}-\d\d-\d\d)\)$", below, re.MULTILINE)
    assert releases[0][0] == PYPROJECT["project"]["version"]
    assert releases == sorted(releases, key=lambda release: release[1], reverse=True)
    assert "##" not in above
    kinds = {kind["name"] for kind in NEWS["type"]}
    assert set(re.findall(r"^### (.+)$", below, re.MULTILINE)) <= kinds
