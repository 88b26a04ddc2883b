"""What all servers have in common: where they run, and how they are started, hurt and healed."""

from __future__ import annotations

import shutil
import time
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

START_TIMEOUT = 120.0
"""Seconds: an idle machine needs 3 to 12, a busy one has been seen to need 60."""


class Unavailable(Exception):  # noqa: N818 - a state of the machine, not a fault of the caller
    """There is no such server here, or this one cannot do what was asked; the text says why."""


class Host(Protocol):
    """Where a server runs. All methods block until done."""

    origin: str
    """For people: ``environment``, ``installed`` or ``container``."""

    def start(self) -> None:
        """Start it, or start it again on the same data and the same ports."""
        ...

    def stop(self) -> None:
        """End it gracefully."""
        ...

    def kill(self) -> None:
        """End it as SIGKILL does."""
        ...

    def pause(self) -> None:
        """Freeze it: it answers nothing, its connections stay open."""
        ...

    def resume(self) -> None:
        """Let it go on after a pause."""
        ...

    def running(self) -> bool:
        """Say whether it has not ended."""
        ...

    def run(self, *command: str) -> str:
        """Run a command beside the server and return what it printed; raise if it fails."""
        ...

    def last_words(self) -> str:
        """Return the end of its log."""
        ...

    def close(self) -> None:
        """End it for good and remove its data."""
        ...


class Remote:
    """A server that somebody else runs; only its URL is known."""

    origin = "environment"

    def _refuse(self, *_: str) -> str:
        raise Unavailable("a server given by its URL can be used, but not started, ended or administered")

    def start(self) -> None:
        """It runs already."""

    def close(self) -> None:
        """It stays as it is."""

    def running(self) -> bool:
        """Assume so: the ready check tells."""
        return True

    def last_words(self) -> str:
        """Its log is elsewhere."""
        return ""

    run = _refuse

    def stop(self) -> None:
        """Refuse."""
        self._refuse()

    kill = pause = resume = stop


class Server:
    """A server with a URL. Subclasses say when it is ready and what else can be asked of it."""

    def __init__(self, name: str, url: str, host: Host) -> None:
        self.name = name
        self.url = url
        self.host = host
        self.paused = False

    def ready(self) -> bool:
        """Say whether it answers as it should; an ``OSError`` counts as no."""
        raise NotImplementedError

    def start(self) -> None:
        """Start it and wait until it is ready."""
        self.host.start()
        wait_for(self._is_up, f"{self.name} to be ready", timeout=START_TIMEOUT, detail=self.host.last_words)

    def stop(self) -> None:
        """End it gracefully; its data stays for the next :meth:`start`."""
        self.host.stop()

    def kill(self) -> None:
        """End it without warning; its data stays for the next :meth:`start`."""
        self.host.kill()

    def restart(self) -> None:
        """End it gracefully and start it again."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """Freeze it: connections stay open and nothing is answered."""
        self.host.pause()
        self.paused = True

    def resume(self) -> None:
        """Let it go on after :meth:`pause`."""
        self.host.resume()
        self.paused = False

    def heal(self) -> None:
        """Undo what a test did to it: go on if it is frozen, start if it has ended."""
        if self.paused:
            self.resume()
        if not self.host.running():
            self.start()

    def close(self) -> None:
        """End it for good."""
        self.host.close()

    def _is_up(self) -> bool:
        if not self.host.running():
            raise RuntimeError(f"{self.name} ended while starting:\n{self.host.last_words()}")
        try:
            return self.ready()
        except OSError:
            return False


def wait_for(
    condition: Callable[[], bool],
    what: str,
    *,
    timeout: float = 60.0,
    interval: float = 0.05,
    detail: Callable[[], str] = str,
) -> None:
    """Ask ``condition`` every ``interval`` seconds until it holds; ``TimeoutError`` if it never does."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout:g} s for {what}\n{detail()}".rstrip())
        time.sleep(interval)


def program(*names: str) -> str:
    """Return the path of the first program that is installed; ``Unavailable`` if none is."""
    places = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    for name in names:
        if path := shutil.which(name) or shutil.which(name, path=places):
            return path
    raise Unavailable(f"{names[0]} is not installed")
