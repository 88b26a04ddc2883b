"""Faults: small objects that hurt a trial in one way, and undo it. They compose by :class:`Together`.

``start`` hurts, ``stop`` heals and returns once the server is there again; ``with fault.on(trial)``
does both.
"""

from __future__ import annotations

import signal
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import psutil

from tests.elasticsearch_proxy import UNKNOWN
from tests.faults.watch import tree
from tests.servers.toxiproxy import DOWN, UP

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.faults.trial import Trial


class Fault:
    """One way to hurt. ``takes``: whether the broker takes messages while it lasts."""

    takes = True

    def start(self, trial: Trial) -> None:
        """Begin."""

    def stop(self, trial: Trial) -> None:
        """Heal."""

    @contextmanager
    def on(self, trial: Trial) -> Iterator[None]:
        """Hurt for as long as the block lasts."""
        self.start(trial)
        try:
            yield
        finally:
            self.stop(trial)

    def __repr__(self) -> str:
        return type(self).__name__


class Together(Fault):
    """Several at once."""

    def __init__(self, *faults: Fault) -> None:
        self._faults = faults
        self.takes = all(fault.takes for fault in faults)

    def start(self, trial: Trial) -> None:
        for fault in self._faults:
            fault.start(trial)

    def stop(self, trial: Trial) -> None:
        for fault in reversed(self._faults):
            fault.stop(trial)

    def __repr__(self) -> str:
        return " and ".join(map(repr, self._faults))


# ── the service itself ──


class KillService(Fault):
    """SIGKILL for the whole tree; a new one is started."""

    def start(self, trial: Trial) -> None:
        trial.kill()

    def stop(self, trial: Trial) -> None:
        trial.start()


class KillChild(Fault):
    """SIGKILL for one of its processes; the parent starts another."""

    def start(self, trial: Trial) -> None:
        children = tree(trial.service.process.pid)[1:]
        with suppress(psutil.NoSuchProcess):
            trial.chance.choice(children).kill()
        trial.account.kills += 1


class StopService(Fault):
    """SIGTERM, and the end within the grace; a new one is started."""

    def start(self, trial: Trial) -> None:
        trial.stop()

    def stop(self, trial: Trial) -> None:
        trial.start()


class FreezeService(Fault):
    """SIGSTOP, and SIGCONT."""

    def start(self, trial: Trial) -> None:
        for process in tree(trial.service.process.pid):
            process.suspend()

    def stop(self, trial: Trial) -> None:
        for process in tree(trial.service.process.pid):
            process.send_signal(signal.SIGCONT)


# ── servers ──


class Hurt(Fault):
    """A method of a server's that ends or freezes it; ``heal`` undoes any of them."""

    def __init__(self, server: str, how: str) -> None:
        self._server, self._how = server, how
        self.takes = server != "broker"

    def start(self, trial: Trial) -> None:
        getattr(getattr(trial, self._server), self._how)()

    def stop(self, trial: Trial) -> None:
        getattr(trial, self._server).heal()

    def __repr__(self) -> str:
        return f"{self._how} {self._server}"


def kill_broker() -> Fault:
    """SIGKILL."""
    return Hurt("broker", "kill")


def stop_broker() -> Fault:
    """A clean end: a restart, once it is healed."""
    return Hurt("broker", "stop")


def freeze_broker() -> Fault:
    """SIGSTOP."""
    return Hurt("broker", "pause")


def kill_elasticsearch() -> Fault:
    """SIGKILL."""
    return Hurt("elasticsearch", "kill")


def stop_elasticsearch() -> Fault:
    """A clean end."""
    return Hurt("elasticsearch", "stop")


def freeze_elasticsearch() -> Fault:
    """SIGSTOP."""
    return Hurt("elasticsearch", "pause")


def freeze_both() -> Fault:
    """SIGSTOP for the broker and for Elasticsearch."""
    return Together(freeze_broker(), freeze_elasticsearch())


class CloseConnections(Fault):
    """The broker closes every connection."""

    def start(self, trial: Trial) -> None:
        trial.broker.close_all_connections()


class MemoryAlarm(Fault):
    """The broker blocks whoever publishes."""

    takes = False

    def start(self, trial: Trial) -> None:
        trial.broker.memory_alarm(on=True)

    def stop(self, trial: Trial) -> None:
        trial.broker.memory_alarm(on=False)


class DiskAlarm(Fault):
    """The same for want of disk."""

    takes = False

    def start(self, trial: Trial) -> None:
        trial.broker.ctl("set_disk_free_limit", "1000000GB")

    def stop(self, trial: Trial) -> None:
        trial.broker.ctl("set_disk_free_limit", "50MB")


class ConsumerTimeout(Fault):
    """The broker closes channels on which something was unacked for a second: 406, and all comes again.

    The service does not know of it (its ``--ack-deadline`` is the default of 30 minutes).
    """

    def start(self, trial: Trial) -> None:
        trial.broker.set_env("consumer_timeout", "1000")
        trial.broker.close_all_connections()  # channels read it when they are opened

    def stop(self, trial: Trial) -> None:
        trial.broker.set_env("consumer_timeout", "1800000")
        trial.broker.close_all_connections()


class Block(Fault):
    """The index takes no writes: ``write`` (403), or ``read_only_allow_delete``, the flood stage's (429)."""

    def __init__(self, name: str) -> None:
        self._name = f"index.blocks.{name}"

    def start(self, trial: Trial) -> None:
        trial.elasticsearch.call("PUT", f"/{trial.index}/_settings", {self._name: True})

    def stop(self, trial: Trial) -> None:
        trial.elasticsearch.call("PUT", f"/{trial.index}/_settings", {self._name: None})

    def __repr__(self) -> str:
        return self._name


# ── the network ──


class Toxic(Fault):
    """A toxic on the leg to the ``broker`` or to the ``sink``, in one direction or (``""``) in both."""

    def __init__(self, leg: str, kind: str, stream: str = "", **attributes: int) -> None:
        self._leg, self._kind, self._attributes = leg, kind, attributes
        self._streams = [stream] if stream else [UP, DOWN]

    def start(self, trial: Trial) -> None:
        leg = getattr(trial, f"{self._leg}_leg")
        self._names = [leg.add(self._kind, stream, **self._attributes) for stream in self._streams]

    def stop(self, trial: Trial) -> None:
        for name in self._names:
            getattr(trial, f"{self._leg}_leg").remove(name)

    def __repr__(self) -> str:
        return f"{self._kind} to the {self._leg}"


class Shut(Fault):
    """Connections end, and new ones are refused."""

    def __init__(self, leg: str) -> None:
        self._leg = leg

    def start(self, trial: Trial) -> None:
        getattr(trial, f"{self._leg}_leg").shut()

    def stop(self, trial: Trial) -> None:
        getattr(trial, f"{self._leg}_leg").open()

    def __repr__(self) -> str:
        return f"no way to the {self._leg}"


def black_hole(leg: str, stream: str = "") -> Toxic:
    """Nothing comes through, and nothing ends; in one direction: half open."""
    return Toxic(leg, "timeout", stream, timeout=0)


# ── answers ──


class Answers(Fault):
    """A share of Elasticsearch's answers is changed by one of ``UNKNOWN``: what was written is written."""

    def __init__(self, name: str, share: float = 0.5) -> None:
        self._name, self._share = name, share

    def start(self, trial: Trial) -> None:
        trial.recorder.change, trial.recorder.share = UNKNOWN[self._name], self._share

    def stop(self, trial: Trial) -> None:
        trial.recorder.change = None

    def __repr__(self) -> str:
        return f"answers: {self._name}"


class Slow(Fault):
    """Each answer takes so many seconds longer."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def start(self, trial: Trial) -> None:
        trial.recorder.slow = self._seconds

    def stop(self, trial: Trial) -> None:
        trial.recorder.slow = 0.0


class Mixed(Fault):
    """In each request some items are written, some rejected for now (429), and a few for ever (400)."""

    def start(self, trial: Trial) -> None:
        chance = trial.recorder.chance
        trial.recorder.fate = lambda name: self._fate(name, chance.random())

    def stop(self, trial: Trial) -> None:
        trial.recorder.fate = None

    @staticmethod
    def _fate(name: str, chance: float) -> int:
        if int(name.rpartition("-")[2]) % 10 == 0:
            return 400
        return 429 if chance < 1 / 3 else 201


def hold(trial: Trial, seconds: float) -> None:
    """Let so many seconds pass, or until the service has ended."""
    with suppress(psutil.TimeoutExpired, psutil.NoSuchProcess):
        psutil.Process(trial.service.process.pid).wait(seconds)
