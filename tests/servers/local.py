"""A server as a process of this machine, under a guard."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from tests.servers import guard
from tests.servers.base import wait_for

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

STOP_TIMEOUT = 30.0
KEPT_LOGS = 20


def cache_folder() -> Path:
    """Return where what is slow to fetch stays between runs."""
    given = os.environ.get("TEST_CACHE")
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(given) if given else base / "kombu-aggregator-servers"


def new_folder(name: str) -> Path:
    """Make an empty folder for one server's data."""
    return Path(tempfile.mkdtemp(prefix=f"aggregator-{name}-"))


class LocalHost:
    """Runs ``command`` with nothing but ``environment``; owns ``folder`` and removes it at the end.

    ``beside`` is put before the commands of :meth:`run`.
    """

    origin = "installed"

    def __init__(
        self,
        name: str,
        folder: Path,
        command: Sequence[str],
        environment: Mapping[str, str],
        beside: Sequence[str] = (),
    ) -> None:
        self.name = name
        self.folder = folder
        self.command = list(command)
        self.environment = dict(environment)
        self.beside = list(beside)
        self.log = folder / "server.log"
        self._guard: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the command under a new guard; the log goes on."""
        if self.running():
            raise RuntimeError(f"{self.name} runs already")
        with self.log.open("ab") as log:
            self._guard = subprocess.Popen(
                [sys.executable, "-I", str(Path(guard.__file__)), *self.command],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env=self.environment,
                start_new_session=True,  # Ctrl-C is for the tests; they end their servers themselves
            )

    def running(self) -> bool:
        """Say whether the guard, and so its server, is there."""
        return self._guard is not None and self._guard.poll() is None

    def stop(self) -> None:
        """Send SIGTERM to the command; what has not ended after 30 s is killed."""
        if self._guard is None or not self.running():
            return
        for process in psutil.Process(self._guard.pid).children():
            with suppress(psutil.NoSuchProcess):
                process.terminate()
        try:
            self._guard.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            pass
        finally:
            self.kill()

    def kill(self) -> None:
        """Close the guard's input, whereupon it kills everything; wait until it has."""
        if self._guard is None:
            return
        if self._guard.stdin:
            self._guard.stdin.close()
        self._guard.wait(STOP_TIMEOUT)
        self._guard = None

    def pause(self) -> None:
        """Send SIGSTOP to every process of the server, and wait until all have stopped."""
        processes = self._processes()
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.suspend()
        stopped = {psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD}
        wait_for(
            lambda: all(not p.is_running() or p.status() in stopped for p in processes),
            f"{self.name} to freeze",
        )

    def resume(self) -> None:
        """Send SIGCONT to every process of the server."""
        for process in self._processes():
            with suppress(psutil.NoSuchProcess):
                process.resume()

    def run(self, *command: str) -> str:
        """Run a command in the server's environment and return its output."""
        done = subprocess.run(
            [*self.beside, *command],
            env=self.environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    def last_words(self) -> str:
        """Return the last lines of the log."""
        if not self.log.exists():
            return ""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])

    def cpu_seconds(self) -> float:
        """Return the CPU time of the server's living processes: what a benchmark charges it with."""
        total = 0.0
        for process in self._processes():
            with suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                total += times.user + times.system
        return total

    def close(self) -> None:
        """Kill it, keep its log for diagnosis, remove the rest."""
        self.kill()
        if self.log.exists():
            keep_log(self.log, self.name)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _processes(self) -> list[psutil.Process]:
        if self._guard is None:
            return []
        return psutil.Process(self._guard.pid).children(recursive=True)


def keep_log(log: Path, name: str) -> None:
    """Move a log into the cache's folder ``logs``; the oldest there make room."""
    folder = cache_folder() / "logs"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.move(log, folder / f"{name}-{os.getpid()}-{log.parent.name[-6:]}.log")
    by_age = sorted(folder.glob("*.log"), key=lambda path: path.stat().st_mtime)
    for path in by_age[:-KEPT_LOGS]:
        path.unlink(missing_ok=True)
