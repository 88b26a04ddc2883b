"""CONTRIBUTING.md: the map names each module where it stands, and what it says to run is there."""

from __future__ import annotations

import re
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "CONTRIBUTING.md").read_text()
ROOMS = ("aggregator", "consumers", "producers")


def named(room):
    section = re.search(rf"^### {room}\n(.*?)(?=^### |\Z)", TEXT, re.MULTILINE | re.DOTALL).group(1)
    cells = [line.rsplit("|", 2)[1] for line in section.splitlines() if line.startswith("|")]
    return re.findall(r"`([\w*]+)`", " ".join(cells))


def modules(room):
    files = {path.stem for path in (ROOT / room).glob("*.py")} - {"__init__"}
    folders = {path.name for path in (ROOT / room).iterdir() if any(path.glob("*.py"))}
    return files | folders


@pytest.mark.parametrize("room", ROOMS)
def test_each_module_has_its_place_on_the_map(room):
    there = modules(room)
    absent = {name for name in there if not any(fnmatch(name, pattern) for pattern in named(room))}
    assert not absent, f"CONTRIBUTING.md, section {room}: which row do they belong to?"


@pytest.mark.parametrize("room", ROOMS)
def test_the_map_names_only_what_is_there_and_once(room):
    patterns = named(room)
    assert [name for name in patterns if not any(fnmatch(module, name) for module in modules(room))] == []
    assert len(patterns) == len(set(patterns))


def test_what_is_to_be_run_is_there():
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    told = set(re.findall(r"(?:`|^)make ([a-z-]+)", TEXT, re.MULTILINE))
    assert {"unit", "test", "faults", "bench", "dist", "versions", "lock"} <= told
    assert told - targets == set()


def test_what_it_links_and_names_is_there():
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", TEXT) if "://" not in link]
    paths = re.findall(r"`((?:aggregator|tests|docs|docker|benchmarks|\.ci)[\w./]*)`", TEXT)
    assert [name for name in (*links, *paths) if not (ROOT / name).exists()] == []


def test_hooks_run_what_is_installed_for_the_checks():
    """Their versions are those of constraints.txt: nothing is pinned a second time."""
    yaml = pytest.importorskip("yaml")
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert repository["repo"] == "local"
    for hook in repository["hooks"]:
        assert hook["language"] == "system"
        assert re.match(r"\.venv/bin/\w+|bash -c '\.venv/bin/python -m ", hook["entry"]), hook["id"]
