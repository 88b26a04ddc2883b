"""``python -m tests.fuzz SECONDS``: each target in turn, mutated by what it reaches in our code.

A finding stays in ``tests/fuzz/found``, is told with its traceback, and makes the exit code 1; give its
path with the target's name to see it again: ``python -m tests.fuzz message tests/fuzz/found/message-…``.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

FOUND = Path(__file__).parent / "found"
MEGABYTES, HANGS_AFTER, LONGEST = 1024, 10, 20_000
NAMES = ("stream", "properties", "message", "answer", "push")


def run_all(seconds: int) -> int:
    """Run each target in a process of its own; return how many found something."""
    faults = 0
    for name in NAMES:
        print(f"── {name}: {seconds} s ──", flush=True)
        command = [sys.executable, "-m", "tests.fuzz", name, f"-max_total_time={seconds}"]
        faults += subprocess.run(command, check=False).returncode != 0
    print(f"{len(NAMES) - faults} of {len(NAMES)} targets held" + (f"; see {FOUND}" if faults else ""))
    return faults


def fuzz(name: str, arguments: list[str]) -> None:
    """Run one target until its time is over or it finds something; never returns."""
    import atheris

    with atheris.instrument_imports(include=["aggregator", "consumers", "amqp"]):
        from tests.fuzz.targets import EXAMPLES, TARGETS, WORDS

    target = TARGETS[name]
    FOUND.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for number, example in enumerate(EXAMPLES[target]):
            Path(folder, f"example-{number}").write_bytes(example)
        words = Path(folder, "words.dict")
        words.write_text("".join('"' + "".join(f"\\x{c:02x}" for c in word) + '"\n' for word in WORDS))
        options = [
            f"-dict={words}", f"-artifact_prefix={FOUND}/{name}-", f"-rss_limit_mb={MEGABYTES}",
            f"-timeout={HANGS_AFTER}", f"-max_len={LONGEST}", "-print_final_stats=1", "-verbosity=0",
        ]  # fmt: skip
        given = any(not argument.startswith("-") for argument in arguments)
        atheris.Setup([sys.argv[0], *options, *arguments, *([] if given else [folder])], target)
        atheris.Fuzz()


if __name__ == "__main__":
    first, *rest = sys.argv[1:] or ["60"]
    if first.isdecimal():
        sys.exit(1 if run_all(int(first)) else 0)
    fuzz(first, rest)
