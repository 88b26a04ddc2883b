"""How the commands of a page are run: in one shell, services last, refusals expected, output compared."""

from __future__ import annotations

import shutil

import pytest

from tests.page_run import assert_printed, run_page
from tests.pages import blocks_of

pytestmark = pytest.mark.skipif(not shutil.which("bash"), reason="a shell is needed")

SERVICE = "import pathlib, sys; print('served', sys.argv[1:], pathlib.Path('made').read_text())"


@pytest.fixture
def page(tmp_path, monkeypatch):
    """Return a function that runs a page's text and returns what it printed."""
    monkeypatch.setattr("tests.pages.ROOT", tmp_path)

    def run(text, addresses=None):
        (tmp_path / "page.md").write_text(text)
        folder = tmp_path / "folder"
        folder.mkdir()
        # a stand-in for the service, which is found before it
        (folder / "aggregator").mkdir()
        (folder / "aggregator/__init__.py").touch()
        (folder / "aggregator/consume.py").write_text(SERVICE)
        blocks = list(blocks_of(tmp_path / "page.md"))
        printed = run_page(blocks, folder, addresses or {})
        assert_printed(blocks, printed)
        return "".join(each.output for each in printed)

    return run


def test_a_service_starts_when_all_else_of_its_block_is_done(page):
    text = """
```sh
export WORD=kept
python -m aggregator.consume --size "1 0" \\
    --age 2s
echo -n words > made
```

```sh
echo $WORD
```
"""
    assert page(text) == "served ['--size', '1 0', '--age', '2s'] words\nkept\n"


def test_addresses_are_those_of_the_tests(page):
    assert (
        page("```sh\necho amqp://localhost:5672//\n```", {"localhost:5672": "10.1.1.1:7"})
        == "amqp://10.1.1.1:7//\n"
    )


def test_files_and_programs(page):
    text = """
```python
from shop import name

print(name)
```

```python
# shop.py
name = "tea"
```
"""
    assert page(text) == "tea\n"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("```sh\nfalse\n```", "page.md:1"),
        ("```sh\necho x | false\n```", "page.md:1"),
        ("```sh\nno-such-command   # refused\n```", "was not refused: no-such"),
        ("```sh\necho $NOT_SET\n```", "NOT_SET"),
        ("```sh\ntrue   # refused, as it should be\n```", "was not refused: true"),
        ("```sh\nmake no-such-target\n```", "no-such-target"),
        ("```python\n1 / 0\n```", "ZeroDivisionError"),
        ("```console\n$ echo 3 words\n3 word\n```", "echo 3 words"),
        ("```sh\necho 40 written\n```\n<!-- printed by: it -->\n```text\n40 read\n```", "40 written"),
        ("```console\n$ echo two words; false\ntwo words\n```", "two words"),
    ],
)
def test_what_fails_fails_the_page(page, text, why):
    with pytest.raises(AssertionError, match=why):
        page(text)


def test_what_is_right_passes(page):
    text = """
```sh
false   # refused, with a word
make run-push   # there is such a target
echo "words, and 40 written, as told"
```

<!-- printed by: the commands above -->
```text
41 written
```

```console
$ echo "took 12.5   seconds, of /tmp/x"; echo 'twice $ 3'
took 3 seconds, of …
twice $ 4
$ exit 2>&1 | cat
```
"""
    page(text)
