"""Every block of code in docs/testing.md runs, in a folder with the files that it shows."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from aggregator.testing.script import ScriptedSink

TEXT = (Path(__file__).parents[2] / "docs" / "testing.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
PYTHON = [code for language, code in BLOCKS if language == "python"]


def defined_in(code):
    scope = {}
    exec(compile(code, "docs/testing.md", "exec"), scope)
    return {name: value for name, value in scope.items() if name.startswith("test_")}


TESTS = {name: test for code in PYTHON for name, test in defined_in(code).items()}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name in list(os.environ):
        if name.startswith("AGGREGATOR_"):
            monkeypatch.delenv(name)
    for language, code in BLOCKS:
        if language == "toml":
            (tmp_path / code.splitlines()[0].removeprefix("# ")).write_text(code)
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("name", TESTS)
def test_it_runs(name):
    TESTS[name]()


def test_there_is_one_for_each_kind_of_failure():
    asked_by_a_route = {"open", "write", "known", "close", "where"}
    own = {name for name in vars(ScriptedSink) if not name.startswith("_")} - asked_by_a_route
    told = {name for name in own if f"route.sink.{name}(" in TEXT}
    assert told == own
    assert len(TESTS) == len(re.findall(r"^def test_", TEXT, re.MULTILINE)) >= 15
    assert all(defined_in(code) for code in PYTHON)


def test_the_first_one_has_ten_lines():
    lines = PYTHON[0].strip().splitlines()
    assert len([line for line in lines if line]) <= 10
