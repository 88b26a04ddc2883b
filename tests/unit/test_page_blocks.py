"""Every block of code in README.md and docs is right, and is run: here, by another test, or not for a reason.

What needs a shell or a server is run by tests/integration/test_page_commands.py. How a block says what
differs from the rule of its language: tests/pages.py.
"""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest

from aggregator.consume import load_settings
from tests.pages import NOTES, ROOT, Block, all_blocks, blocks_of

BLOCKS = all_blocks()
#: Diagrams, and what a program prints where that differs from run to run.
TEXT = {"text"}
#: Run by their page's test, in a shell and in the order of the page.
IN_A_SHELL = {"sh", "console", "python"}


def is_settings(block: Block, folder: Path) -> None:
    """A TOML block is a file of settings: complete but for what has a default, and nothing unknown.

    The page's own modules are beside it.
    """
    programs = [
        each for each in BLOCKS if each.page == block.page and each.language == "python" and each.file
    ]
    for each in programs:
        (folder / each.file).write_text(each.whole)
    (folder / "settings.toml").write_text(block.whole)
    try:
        load_settings(["--config", "settings.toml", "--check"])
    finally:
        for each in programs:
            sys.modules.pop(each.file.removesuffix(".py"), None)


def is_shell(block: Block) -> None:
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("there is no bash to look at it")
    script = block.code if block.language == "sh" else "\n".join(commands_of(block))
    said = subprocess.run([bash, "-n"], input=script, capture_output=True, text=True, check=False)
    assert not said.stderr


def commands_of(block: Block) -> list[str]:
    return [line.removeprefix("$ ") for line in block.code.splitlines() if line.startswith("$ ")]


def is_written_right(block: Block) -> None:
    """What can be said of a block without running it."""
    if block.language == "python":
        compile(block.whole, str(block), "exec")
    elif block.language == "json":
        json.loads(block.code)
    elif block.language == "toml":
        tomllib.loads(block.code)
    elif block.language in {"sh", "console"}:
        is_shell(block)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name in list(os.environ):
        if name.upper().startswith("AGGREGATOR_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_it_is_right(block, folder):
    assert block.language, "a block says its language; text is for diagrams"
    assert set(block.notes) <= set(NOTES), "no such note; tests/pages.py has them all"
    is_written_right(block)
    if not block.runs_here:
        shown_by_tests_that_exist(block)
    elif block.language == "toml":
        is_settings(block, folder)
    else:
        assert block.language in TEXT | IN_A_SHELL | {"json"}, "nothing runs this language: say what does"
    if reason := block.notes.get("not run"):
        pytest.skip(reason)


def shown_by_tests_that_exist(block):
    if "not run" in block.notes:
        assert len(block.notes["not run"]) > 10, "a reason says what is missing"
        return
    assert block.tests
    for path, function in block.tests:
        assert path.is_file(), path
        assert function in functions_of(path), f"{path.name} has no {function}"
    if block.language == "python":
        texts = [path.read_text() for path, _ in block.tests]
        assert any(Path(block.page).name in text for text in texts), "none of them reads this page"


@cache
def functions_of(path):
    tree = ast.parse(path.read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_no_page_is_missing():
    assert len({block.page for block in BLOCKS}) >= 25
    assert len(BLOCKS) > 80


PAGE = """
Words.

<!-- with:
given = 1
-->
<!-- not run: because -->
```toml
# a.toml
own = 2
```

Words between a note and a block end the note.

<!-- not run: of nothing -->

Words.

!!! note "A box of mkdocs"

    Words in it.

    ```sh
    ls
    ```

* a list

  <!-- shown by: tests/pages.py::pages, tests/unit/test_page_blocks.py::folder -->
  ```python
  pass
  ```

Words.

    indented
"""


def test_what_is_read_of_a_page(tmp_path, monkeypatch):
    monkeypatch.setattr("tests.pages.ROOT", tmp_path)
    (tmp_path / "page.md").write_text(PAGE)
    toml, shell, python, bare = blocks_of(tmp_path / "page.md")
    assert (str(toml), toml.file, toml.notes["not run"]) == ("page.md:8", "a.toml", "because")
    assert toml.whole == "given = 1\n\n# a.toml\nown = 2\n"
    assert (shell.language, shell.code, shell.line, shell.notes) == ("sh", "ls\n", 23, {})
    assert [path.name for path, _ in python.tests] == ["pages.py", "test_page_blocks.py"]
    assert not python.runs_here
    assert bare.language == ""


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        ("```\nx\n```", "says its language"),
        ("```toml\nsizze = 3\n```", "sizze"),
        ("```toml\nsize = 5000\nprefetch = 10\n```", "prefetch"),
        ("```json\n{\n```", "property name"),
        ("```python\nx =\n```", "invalid syntax"),
        ("```sh\necho 'x\n```", "unexpected EOF"),
        ("```ruby\nx\n```", "nothing runs this language"),
        ("<!-- not run: no -->\n```ruby\nx\n```", "a reason says"),
        ("<!-- shown by: tests/unit/test_nowhere.py::test_x -->\n```ruby\nx\n```", "test_nowhere"),
        ("<!-- shown by: tests/pages.py::no_such -->\n```ruby\nx\n```", "has no no_such"),
        ("<!-- shown by: tests/pages.py::pages -->\n```python\nx = 1\n```", "none of them reads"),
        ("<!-- skip: because -->\n```sh\nls\n```", "no such note"),
    ],
)
def test_what_is_wrong_is_seen(wrong, problem, folder, monkeypatch):
    (folder / "wrong.md").write_text(wrong)
    with monkeypatch.context() as context:
        context.setattr("tests.pages.ROOT", folder)
        (block,) = blocks_of(folder / "wrong.md")
        context.undo()
        with pytest.raises(Exception, match=problem):
            test_it_is_right(block, folder)


def test_the_notes_are_told():
    told = (ROOT / "tests/pages.py").read_text()
    assert all(f"<!-- {note}: " in told for note in NOTES)
