"""What every trial has: a service that is started and ended, what it uses, and the account."""

from __future__ import annotations

import os
import random
import signal
import time
import uuid
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, TypeVar

from tests.faults.account import Account
from tests.faults.watch import Use, Watch, tree, use_of
from tests.servers.base import wait_for
from tests.service import PATIENCE, Service

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

T = TypeVar("T")

#: Short times, so that all moments of the service's life come by within seconds.
FLAGS = ("--size", "20", "--age", "200ms", "--workers", "2", "--prefetch", "40",
         "--heartbeat", "4s", "--metrics-port", "0")  # fmt: skip
GRACE_SECONDS = 10.0


class Played:
    """A trial without its ends. ``chance`` is all that is random in it."""

    #: of the service, beside its ends
    flags: Sequence[str] = FLAGS

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.chance = random.Random(seed)
        self.name = f"faults-{uuid.uuid4().hex[:12]}"
        self.services: list[Service] = []
        #: the build that is tried: a module that runs the service, or none for the honest one
        self.module = ""
        self.healed: datetime | None = None
        self.account = Account()
        self._watches: list[Watch] = []
        self._consumers = 0
        self._stack = ExitStack()
        self._began = time.monotonic()

    def _ends(self) -> Sequence[str]:
        """Return the flags that say where messages come from and go to."""
        raise NotImplementedError

    def end(self) -> None:
        """End what still runs."""
        for service in self.services:
            kill_tree(service)
        for watch in self._watches:
            watch.stop()

    def entered(self, context: AbstractContextManager[T]) -> T:
        """Enter a context that the trial leaves at its end."""
        return self._stack.enter_context(context)

    def later(self, undo: Callable[[], object]) -> None:
        """Have something undone at the end, once the servers are well."""
        self._stack.callback(undo)

    @cached_property
    def folder(self) -> Path:
        """A folder of the trial's own."""
        return Path(self.entered(TemporaryDirectory()))

    # ── the service ──

    def start(
        self, *flags: str, points: Sequence[str] = (), freeze: bool = False, module: str = ""
    ) -> Service:
        """Start the service; ``points``: lives that end there, see :mod:`tests.faults.points`.

        ``module`` is another program that runs it, with its own arguments behind it.
        """
        program = module.split() if module else ["aggregator.consume"]
        if points:
            program = ["tests.faults.points", *(word for at in points for word in ("--at", at))]
            program += ["--freeze", "--"] if freeze else ["--"]
        service = Service(
            *self._ends(), *self.flags, "--grace", f"{GRACE_SECONDS:g}s", *flags,
            module=program, session=True,
        )  # fmt: skip
        self.services.append(service)
        given = [*self.flags, *flags]
        self._consumers = _last(given, "--workers", 1) * _last(given, "--processes", 1)
        self._watches.append(Watch(service.process.pid, children=bool(points)))
        return service

    @property
    def service(self) -> Service:
        """The one that was started last."""
        return self.services[-1]

    def kill(self) -> None:
        """End the whole tree of the service by SIGKILL."""
        kill_tree(self.service)
        self.account.kills += 1

    def stop(self, service: Service | None = None) -> float:
        """End a service, the last one unless said, by SIGTERM; return the seconds that it took."""
        service = service or self.service
        if service.process.returncode is not None:
            return 0.0
        service.wait_event("metrics")  # before that a signal ends it as it ends any program
        began = time.monotonic()
        service.send(signal.SIGTERM)
        try:
            code = service.wait(GRACE_SECONDS + 30)
        except TimeoutError:
            self.account.complaints.append("it did not end after SIGTERM")
            kill_tree(service)
            return time.monotonic() - began
        took = time.monotonic() - began
        # before its handler stands, a signal ends it as it ends any program
        if code and (code != -signal.SIGTERM or service.events("stopping")):
            self.account.complaints.append(f"exit code {code} after SIGTERM")
        if took > GRACE_SECONDS + 10:
            self.account.complaints.append(f"SIGTERM took {took:.1f} s")
        return took

    def wait_consumers(self) -> None:
        """Wait until each worker consumes, as the service sees it."""
        everyone = self._consumers
        self.service.wait_metric("aggregator_workers", lambda number: number == everyone, state="consuming")

    def wait_writes(self, batches: int = 1) -> None:
        """Wait until the service has concluded some batches more."""
        self.service.wait_event("batch", len(self.service.events("batch")) + batches)

    def wait_for(self, condition: Callable[[], bool], what: str) -> None:
        """Wait until it holds; a failure tells the service's last words."""
        wait_for(condition, what, timeout=PATIENCE, detail=self.service.last_words)

    @property
    def most_memory(self) -> float:
        """The most that any service of this trial has had so far, in MB."""
        return max((use.memory for watch in self._watches for use in watch.seen), default=0.0)

    @property
    def looks(self) -> int:
        """How often it was looked what the service uses that was started last."""
        return len(self._watches[-1].seen)

    def least_memory(self, begin: int) -> float:
        """The least that it had from that look on, in MB."""
        return min((use.memory for use in self._watches[-1].seen[begin:]), default=0.0)

    def use(self) -> Use:
        """What the service uses now."""
        found = use_of(self.service.process.pid)
        assert found, self.service.last_words()
        return found

    def note_healed(self) -> None:
        """The fault is over now: from here on the recovery counts."""
        self.healed = datetime.now(UTC)

    # ── the account ──

    def add_up(self) -> Account:
        """Account for what the service did and used; it has ended."""
        account = self.account
        account.recovery = self._recovery()
        self._add_up_use()
        account.complaints += [str(fault)[:300] for service in self.services for fault in service.faults()]
        account.kills += sum(len(service.events("life_ended", code=-9)) for service in self.services)
        account.seconds = round(time.monotonic() - self._began, 1)
        return account

    def _duplicates(self) -> int:
        batches = (line for service in self.services for line in service.events("batch"))
        return sum(line.get("duplicate", 0) for line in batches)

    def _recovery(self) -> float | None:
        if self.healed is None:
            return None
        writes = sorted(
            datetime.fromisoformat(line["timestamp"])
            for service in self.services
            for line in service.events("batch")
            if line.get("written") or line.get("duplicate")
        )
        after = next((moment for moment in writes if moment > self.healed), None)
        return round((after - self.healed).total_seconds(), 2) if after else None

    def _add_up_use(self) -> None:
        seen = [use for watch in self._watches for use in watch.seen]
        for name in ("memory", "descriptors", "threads"):
            setattr(self.account, name, max((getattr(use, name) for use in seen), default=0))


def _last(flags: Sequence[str], name: str, otherwise: int) -> int:
    """Return the number behind the last flag of this name."""
    found = [value for flag, value in pairwise(flags) if flag == name]
    return int(found[-1]) if found else otherwise


def kill_tree(service: Service) -> None:
    """End a service and all its processes by SIGKILL, the group first that it leads."""
    if service.process.returncode is None and service.process.poll() is None:
        others = tree(service.process.pid)
        with suppress(ProcessLookupError):
            os.killpg(service.process.pid, signal.SIGKILL)
        for process in others:
            with suppress(Exception):
                process.kill()
    service.kill()
