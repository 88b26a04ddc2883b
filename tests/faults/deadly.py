"""The service, killed by any request that holds a deadly document, and started again each time."""

from __future__ import annotations

import os
import signal
import sys

from aggregator.flush import Flush
from tests.faults.points import live, report

#: Deliveries that a message is given, and some more for those that the broker counts late.
MOST_LIVES = 30


def install() -> None:
    """Die where a deadly document would be written."""
    write = Flush._write

    def _write(self, request):
        if any(b'"deadly"' in item.document for item in request.items):
            os.kill(os.getpid(), signal.SIGKILL)
        return write(self, request)

    Flush._write = _write


if __name__ == "__main__":
    code = -signal.SIGKILL
    for _ in range(MOST_LIVES):
        if code == -signal.SIGKILL:
            code = live(install, sys.argv[1:])
            report("deadly", code)
    sys.exit(code if code >= 0 else 1)
