"""A wall clock that steps: ``python -m tests.faults.clock --step 3600 --step -7200 -- FLAGS``.

It runs the service.

SIGUSR2 makes the next step, in seconds; what counts time monotonically does not notice. The clock is
exchanged before anything of the program, or of its libraries, is imported.
"""

from __future__ import annotations

import signal
import sys
import time
from argparse import ArgumentParser
from datetime import UTC, datetime, timedelta

_offset = 0.0
_time, _time_ns = time.time, time.time_ns


def _stepped() -> float:
    return _time() + _offset


def _stepped_ns() -> int:
    return _time_ns() + int(_offset * 1e9)


def run(argv: list[str]) -> int:
    """Run the service with the flags behind ``--``."""
    cut = argv.index("--")
    parser = ArgumentParser(prog="python -m tests.faults.clock")
    parser.add_argument("--step", type=float, action="append", default=[], metavar="SECONDS")
    steps = iter(parser.parse_args(argv[:cut]).step)

    def step(_number: int, _frame: object) -> None:
        global _offset  # noqa: PLW0603 - there is one clock
        _offset += next(steps, 0.0)

    time.time, time.time_ns = _stepped, _stepped_ns
    signal.signal(signal.SIGUSR2, step)
    from aggregator import clock

    clock.SystemClock.time = staticmethod(_stepped)  # type: ignore[method-assign]  # it has the old one
    clock.utc_now = lambda: datetime.now(UTC) + timedelta(seconds=_offset)
    from aggregator.consume import main

    return main(argv[cut + 1 :])


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
