"""The commands of a page, run in one shell and one folder, in the order in which they stand there.

The folder holds the page's named files, ``docs`` and ``.venv``. Addresses of servers on the loopback
are those of the tests' servers. What a reader would do in several terminals is done one after the
other: a service starts when all else of its block is done, and ends once its queue is empty.
``make`` says only whether there is such a target, but for ``make run``. A command whose comment starts with
``# refused`` has to fail. Of a console block, what each command prints is compared, and so is text that
is said to be printed: numbers and spaces may differ, and … stands for anything.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.pages import ROOT, Block

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

MARK = "=== "
#: Seconds for the commands of one page, on a machine that has other things to do.
PATIENCE = 120
PRELUDE = """
set -euo pipefail
later=()
python() {
  case " $* " in
    *" --check "*) env -u AGGREGATOR_UNTIL_EMPTY python "$@" ;;
    *" --until-empty "*) command python "$@" ;;
    *" -m aggregator.consume "*) later+=("$(printf '%q ' "$@")") ;;
    *) command python "$@" ;;
  esac
}
make() {
  command make -C "$PROJECT" --no-print-directory --dry-run "$@" > targets
  if [ "$*" = run ]; then eval "$(sed -n 's#^[^ ]*/python -m#python -m#p' targets)"; fi
}
fails() {
  local code=0
  "$@" || code=$?
  if [ $code = 0 ] || [ $code -gt 125 ]; then echo "it was not refused: $*" >&2; exit 1; fi
}
services() {
  for each in ${later[@]+"${later[@]}"}; do eval "command python $each"; done
  later=()
}
"""
_REFUSED = re.compile(r"^(?!\s)(.*\S)\s+# refused", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Printed:
    """What a piece of the page printed: ``piece`` is its place in the page and its command."""

    piece: str
    output: str


def run_page(blocks: Sequence[Block], folder: Path, addresses: Mapping[str, str]) -> list[Printed]:
    """Run what is left to the shell; return what each piece printed. ``AssertionError`` if one fails."""
    for block in blocks:
        if block.file:
            (folder / block.file).write_text(replaced(block.whole, addresses))
    (folder / "docs").symlink_to(ROOT / "docs")
    (folder / ".venv").symlink_to(sys.prefix)
    script = PRELUDE + "\n".join(line for block in blocks for line in _lines(block))
    code, output, errors = _bash(replaced(script, addresses), folder)
    pieces = output.split(MARK)
    assert code == 0, f"{pieces[-1]}\n{errors[-3000:]}"
    return [Printed(*piece.split("\n", 1)) for piece in pieces[1:]]


def _bash(script: str, folder: Path) -> tuple[int, str, str]:
    """Run a script; nothing that it has started outlives it. Returns exit code and what it said."""
    own = str(Path(sys.executable).parent)
    environment = {
        "PATH": f"{own}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "PROJECT": str(ROOT),
        "HOME": str(folder),
        "AGGREGATOR_UNTIL_EMPTY": "true",
    }
    with subprocess.Popen(
        ["bash", "-c", script],
        cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    ) as running:  # fmt: skip
        try:
            output, errors = running.communicate(timeout=PATIENCE)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(running.pid, signal.SIGKILL)
    return running.returncode, output, errors


def replaced(text: str, addresses: Mapping[str, str]) -> str:
    """Return the text with the tests' servers in the place of those that a reader has."""
    for shown, real in addresses.items():
        text = text.replace(shown, real)
    return text


def _lines(block: Block) -> Iterator[str]:
    yield f"echo {shlex.quote(MARK + str(block))}"
    if block.language == "python":
        yield f"command python {block.file or _heredoc(block.whole)}"
    elif block.language == "sh":
        yield _REFUSED.sub(r"fails \1  # refused", block.whole)
        yield "services"
    else:
        for command, _ in commands(block):
            yield f"echo {shlex.quote(MARK + f'{block} $ {command}')}"
            yield f"{command} 2>&1"


def _heredoc(program: str) -> str:
    return f"- <<'END'\n{program}\nEND"


def commands(block: Block) -> list[tuple[str, str]]:
    """Return the commands of a console block, and what each prints."""
    return [
        (command, output)
        for example in ("\n" + block.code).split("\n$ ")[1:]
        for command, _, output in [example.partition("\n")]
    ]


def assert_printed(blocks: Sequence[Block], printed: Sequence[Printed]) -> None:
    """Compare the consoles of a page with what their commands printed."""
    outputs = {each.piece: each.output for each in printed}
    said = ""
    for block in blocks:
        if "printed by" in block.notes:
            assert re.search(_pattern(block.code), _bare(said)), f"{block}\n{said}"
        said = outputs.get(str(block)) or said
        for command, expected in commands(block) if block.language == "console" else ():
            output = outputs[f"{block} $ {command}"]
            assert re.fullmatch(_pattern(expected), _bare(output)), f"{block} $ {command}\n{output}"


def _bare(output: str) -> str:
    return " ".join(re.sub(r"\d+(\.\d+)?", "0", output).split())


def _pattern(expected: str) -> str:
    return re.escape(_bare(expected)).replace("…", ".*")
