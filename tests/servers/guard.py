"""Runs one server and ends it, with all that it started, as soon as the guard's stdin is closed.

The kernel closes a pipe whatever its holder died of, so no server outlives its tests. The guard is
a subreaper: daemons that detach themselves (epmd) become its children and end with the rest.
Usage: ``python guard.py COMMAND [ARGUMENT…]``; exits with the command's own code.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import threading
from contextlib import suppress

import psutil

PR_SET_CHILD_SUBREAPER = 36


def kill_descendants() -> None:
    """Send SIGKILL to every process below this one."""
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            process.kill()


def kill_at_end_of_input() -> None:
    """Wait until the holder of the pipe has gone."""
    while sys.stdin.buffer.read(1):
        pass
    kill_descendants()


def main() -> int:
    """Run the command until it ends; return its exit code (128 + signal if one ended it)."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    child = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
    threading.Thread(target=kill_at_end_of_input, daemon=True).start()
    status = 0
    pid = 0
    while pid != child.pid:  # orphans that end meanwhile are reaped as well
        pid, status = os.waitpid(-1, 0)
    code = os.waitstatus_to_exitcode(status)
    with suppress(ChildProcessError):
        while True:
            kill_descendants()
            os.waitpid(-1, 0)
    sys.stdout.flush()
    os._exit(code if code >= 0 else 128 - code)


if __name__ == "__main__":
    main()
