"""docs/security.md: each claim names a test that is there, and what it says of rights is what is tested."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from aggregator.options import ProcessOptions
from producers.campaigns.settings import CampaignSettings

PAGE = Path(__file__).parents[2] / "docs" / "security.md"
TEXT = PAGE.read_text()
LINK = re.compile(r"\[(test_\w+)\]\(([^)]+)\)")
TESTS = PAGE.parents[1] / "tests"


def functions_of(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def rows() -> list[list[str]]:
    """Return the rows of the tables that show something, in cells."""
    blocks = re.findall(r"^\| What holds \| Shown by \|\n\|---\|---\|\n((?:\|.*\n)+)", TEXT, re.MULTILINE)
    lines = [line for block in blocks for line in block.splitlines()]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def test_the_tests_are_there() -> None:
    links = LINK.findall(TEXT)
    assert len(links) > 50
    known = {path: functions_of(PAGE.parent / path) for path in {path for _, path in links}}
    assert [name for name, path in links if name not in known[path]] == []
    assert len(links) == TEXT.count("](../tests/")


def test_each_claim_is_shown() -> None:
    assert len(rows()) > 25
    for claim, shown in rows():
        assert LINK.search(shown), claim


def test_no_test_of_security_is_left_out() -> None:
    """Whoever adds one says on the page what it shows."""
    files = [*TESTS.glob("integration/test_security_*.py"), *TESTS.glob("unit/test_private_files.py")]
    tests = {name for path in files for name in functions_of(path) if name.startswith("test_")}
    assert tests - {name for name, _ in LINK.findall(TEXT)} == set()


def test_defaults_listen_on_loopback() -> None:
    assert ProcessOptions.model_fields["metrics_host"].default == "127.0.0.1"
    assert CampaignSettings.model_fields["host"].default == "127.0.0.1"
