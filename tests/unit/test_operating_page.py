"""docs/operating.md: what its unit says fits the program, and it names each line that asks for somebody."""

from __future__ import annotations

import ast
import configparser
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from aggregator.options import ProcessOptions
from aggregator.units import parse_duration

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/operating.md").read_text()
UNIT = ROOT / "docs/examples/aggregator.service"
LOUD = {"warning", "error", "exception", "critical"}


def sources():
    return [path for package in ("aggregator", "consumers") for path in (ROOT / package).rglob("*.py")]


def loud_events():
    """Return the constant words that the service logs at warning or above, and where."""
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Call(func=ast.Attribute(attr=level), args=[ast.Constant(value=str(event)), *_]):
                    if level in LOUD and "log" in ast.unparse(node.func).lower():
                        yield event, path.name


def test_each_warning_is_told_what_to_do_about():
    loud = dict(loud_events())
    assert len(loud) > 30
    first = re.findall(r"^\| ([^|]+) \|", PAGE.partition("## Trouble, by message")[2], re.MULTILINE)
    told = set(re.findall(r"`([\w. ]+)`", " ".join(first)))
    assert {event: place for event, place in loud.items() if event not in told} == {}, "not on the page"
    texts = "".join(path.read_text() for path in sources())
    # a thread beside the routes says by its name that its broker is away
    words = [event.removesuffix("_away") if event not in loud else event for event in told]
    assert [word for word in words if f'"{word}"' not in texts] == [], "nobody says so"


def unit():
    found = configparser.ConfigParser(strict=False)
    found.optionxform = str
    found.read(UNIT)
    return found["Service"]


def test_the_unit_waits_longer_than_the_service():
    grace = parse_duration(str(ProcessOptions.model_fields["grace"].default))
    assert float(unit()["TimeoutStopSec"]) >= grace + 10
    assert unit()["RestartPreventExitStatus"] == "2"


def test_systemd_understands_the_unit():
    if not (analyze := shutil.which("systemd-analyze")):
        pytest.skip("there is no systemd-analyze")
    said = subprocess.run([analyze, "verify", "--man=no", UNIT], capture_output=True, text=True, check=False)
    complaints = [line for line in said.stderr.splitlines() if UNIT.name in line]
    assert [line for line in complaints if "is not executable" not in line] == []
