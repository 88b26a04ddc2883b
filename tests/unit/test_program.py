"""``aggregator COMMAND``, and ``--version`` of every program."""

from __future__ import annotations

import re
import sys
import tomllib
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import pytest

import aggregator
from aggregator.__main__ import COMMANDS, main
from aggregator.consume import main as consume
from aggregator.control import main as control
from aggregator.version import version, version_line

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_version_is_the_project_s():
    assert version() == PROJECT["version"]
    assert aggregator.__version__ == PROJECT["version"]
    assert re.fullmatch(r"kombu-aggregator \S+ \(Python 3\.\d+\.\S+, kombu \S+, amqp \S+\)", version_line())


def test_sources_alone_have_no_version(monkeypatch):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    assert version_line().startswith("kombu-aggregator unknown (Python ")


@pytest.mark.parametrize("program", [consume, control])
def test_programs_tell_their_version(program, capsys, monkeypatch):
    monkeypatch.setenv("AGGREGATOR_SIZE", "wrong, and it does not matter")
    with pytest.raises(SystemExit) as ended:
        program(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"{version_line()}\n"


#: Run by others or by who works on the project; parts of a command; ``cli.py`` stands for them.
INNER = {
    "aggregator.__main__", "aggregator.processes.child", "aggregator.reference",
    "producers.campaigns.__main__", "producers.campaigns.demo",
    "producers.replay.__main__",
}  # fmt: skip


def test_every_program_of_the_project_is_a_command():
    programs = set()
    for path in (
        path for room in ("aggregator", "consumers", "producers") for path in ROOT.glob(f"{room}/**/*.py")
    ):
        if '\nif __name__ == "__main__":\n' in path.read_text():
            programs.add(".".join(path.relative_to(ROOT).with_suffix("").parts))
    assert programs >= INNER
    named = {command.module for command in COMMANDS.values()}
    assert programs - INNER == {name for name in named if not name.endswith(".cli")}
    assert all(find_spec(module) for module in named)


def test_the_list_of_commands(capsys):
    assert main([]) == main(["--help"]) == 0
    text = capsys.readouterr().out
    assert set(re.findall(r"^  (\w+)  ", text, re.MULTILINE)) == COMMANDS.keys()
    assert not [line for line in text.splitlines() if len(line) > 100]


def test_a_command_gets_its_words_and_gives_its_code(capsys):
    assert main(["consume", "--sizes", "20"]) == 2
    assert capsys.readouterr().err.startswith("error: --sizes: no such flag")
    assert main(["consume", "--check"]) == 0


@pytest.mark.parametrize(("word", "hint"), [("repaly", "did you mean replay?"), ("xyz", "one of consume, ")])
def test_what_is_no_command(word, hint, capsys):
    assert main([word]) == 2
    assert hint in capsys.readouterr().err


def test_a_missing_library_is_told_by_the_extra(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "consumers.install", None)
    assert main(["tarantool", "--help"]) == 2
    assert "pip install 'kombu-aggregator[tarantool]'" in capsys.readouterr().err


def test_the_scripts_lead_to_programs():
    modules = {command.module for command in COMMANDS.values()} | {"aggregator.__main__"}
    for name, target in PROJECT["scripts"].items():
        module, _, function = target.partition(":")
        assert module in modules
        assert function == "main"
        assert name == "aggregator" or COMMANDS[name.removeprefix("aggregator-")].module == module
