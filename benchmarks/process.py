"""A consumer as processes of its own: started, its CPU time followed, stopped."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import psutil

from benchmarks.main_job import peak_kb

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from benchmarks.watch import Curve

LOOK_SECONDS, FAMILY_SECONDS = 0.02, 0.5


class Running:
    """A command and all its children, from the construction until :meth:`stop`.

    ``cpu``: CPU seconds (user and system) of all of them, followed over the wall clock's time.
    """

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], folder: Path, log: Path
    ) -> None:
        with log.open("ab") as lines:
            self.process = subprocess.Popen(
                [*leash(), *command],
                env=dict(environment),
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=lines,
                stderr=lines,
                start_new_session=True,
            )
        self.cpu: Curve = []
        self.peaks_kb: dict[int, int] = {}
        self._spent: dict[int, float] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def alive(self) -> bool:
        """Say whether the command has not ended."""
        return self.process.poll() is None

    @property
    def peak_mb(self) -> float:
        """The most memory that each process had at once, added up."""
        return sum(self.peaks_kb.values()) / 1024

    def stop(self, patience: float = 15.0) -> None:
        """Send SIGTERM, and SIGKILL to what has not ended then."""
        self._ended.set()
        self._thread.join()
        self._family()
        with suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(patience)
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def _follow(self) -> None:
        looked = 0.0
        while not self._ended.wait(LOOK_SECONDS):
            now = time.time()
            if now - looked > FAMILY_SECONDS:
                self._family()
                looked = now
            for pid in self.peaks_kb:
                with suppress(OSError):  # what has ended keeps what it had
                    self._spent[pid] = time.clock_gettime(cpu_clock(pid))
            self.cpu.append((time.time(), sum(self._spent.values())))

    def _family(self) -> None:
        """Find all processes, and the most memory that each has had."""
        with suppress(psutil.NoSuchProcess):
            first = psutil.Process(self.process.pid)
            for one in (first, *first.children(recursive=True)):
                self.peaks_kb[one.pid] = max(self.peaks_kb.get(one.pid, 0), peak_kb(one.pid))


def leash() -> list[str]:
    """Return what to put before a command that must not outlive a benchmark that is killed itself."""
    return ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []


def cpu_clock(pid: int) -> int:
    """Return Linux's clock that counts a process's CPU time in ns, ended threads included.

    It is what clock_getcpuclockid(3) gives: the process id's complement, shifted, and 2 for the scheduler's.
    """
    return (~pid << 3) | 2
