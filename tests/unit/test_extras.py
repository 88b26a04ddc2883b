"""What is installed with each extra: all that its modules import, and nothing that none of them does."""

from __future__ import annotations

import ast
import functools
import re
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
OWN = {"aggregator", "consumers", "producers"}
#: Extra → its modules: everything else has to do with what is always there.
ROOMS = {
    "elasticsearch": ["aggregator/sinks/elasticsearch*.py"],
    "opensearch": ["aggregator/sinks/opensearch*.py"],
    "webhook": ["aggregator/sinks/webhook*.py"],
    "redis": ["aggregator/stores/*.py", "consumers/transports/redis_noted.py", "consumers/redis_broker.py"],
    "tarantool": ["consumers/tarantool.py"],
    "push": ["aggregator/sinks/apns*.py", "aggregator/sinks/fcm*.py", "aggregator/sinks/push*.py",
             "aggregator/templates.py"],
    "producers": ["producers/tasks.py"],
    "campaigns": ["producers/campaigns/*.py"],
    "gateways": ["aggregator/testing/gateways/*.py"],
}  # fmt: skip
#: Needed without an import of ours: zones by name, and what a transport of kombu imports.
UNSEEN = {"tzdata", "kombu[redis]"}
_NAME = re.compile(r"[\w.-]+(?:\[[\w,-]+\])?")


def asked(requirements):
    """Return the distributions that these name, those of other extras with them."""
    found = set()
    for line in requirements:
        name = _NAME.match(line).group()
        if inner := re.fullmatch(r"kombu-aggregator\[(.+)\]", name):
            for extra in inner.group(1).split(","):
                found |= asked(EXTRAS[extra])
        else:
            found.add(name)
    return found


@functools.cache
def imports(path):
    """Return the top names of other projects that a file imports, at whatever time; not for types alone."""
    found = set()
    todo = [ast.parse(path.read_text())]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            todo += node.orelse
            continue
        if isinstance(node, ast.ImportFrom):
            found.add(node.module.partition(".")[0])
        elif isinstance(node, ast.Import):
            found.update(alias.name.partition(".")[0] for alias in node.names)
        todo += ast.iter_child_nodes(node)
    return found - OWN - sys.stdlib_module_names


@functools.cache
def homes():
    """Return the distributions of each top name, as they are written in requirements."""
    return {
        name: {re.sub(r"[-_.]+", "-", home).lower() for home in found}
        for name, found in metadata.packages_distributions().items()
    }


def bare(requirements):
    return {re.sub(r"[-_.]+", "-", name.partition("[")[0]).lower() for name in requirements}


def members(extra):
    return {path for pattern in ROOMS[extra] for path in ROOT.glob(pattern)}


ALWAYS = asked(PROJECT["dependencies"])
OPTIONAL = set().union(*(members(extra) for extra in ROOMS))
FILES = {path for room in OWN for path in (ROOT / room).rglob("*.py")}


def test_what_is_always_there_is_enough_for_all_else():
    used = set().union(*(imports(path) for path in FILES - OPTIONAL))
    assert {name for name in used if not homes()[name] & bare(ALWAYS)} == set()
    assert bare(ALWAYS - UNSEEN) == {home for name in used for home in homes()[name]} & bare(ALWAYS)


@pytest.mark.parametrize("extra", ROOMS)
def test_an_extra_is_all_that_its_modules_import(extra):
    used = set().union(*(imports(path) for path in members(extra)))
    assert used
    assert {name for name in used if not homes()[name] & bare(ALWAYS | asked(EXTRAS[extra]))} == set()


@pytest.mark.parametrize("extra", ROOMS)
def test_an_extra_is_no_more_than_that(extra):
    used = set().union(*(imports(path) for path in members(extra)))
    own = {line for line in EXTRAS[extra] if not line.startswith("kombu-aggregator[")}
    assert bare(asked(own) - UNSEEN) <= {home for name in used for home in homes()[name]}


def test_all_is_all_of_them():
    assert EXTRAS.keys() == ROOMS.keys() | {"all"}
    assert asked(EXTRAS["all"]) == set().union(*(asked(EXTRAS[extra]) for extra in ROOMS))


def test_what_is_installed_is_pinned():
    """constraints.txt: one version for each Python that is supported, of all that make installs."""
    pins = dict(
        line.partition(";")[0].strip().split("==")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
    )
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]
    locked = groups.keys() - {"audit", "fuzz"}  # each run of these takes the newest
    lines = [line for name in locked for line in groups[name] if isinstance(line, str)]
    wanted = ALWAYS | asked(EXTRAS["all"]) | asked(lines)
    assert bare(wanted) - pins.keys() == set()
