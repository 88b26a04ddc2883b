"""What happens to the process itself: signals, its clock, its descriptors, a message that kills it."""

from __future__ import annotations

import resource
import signal
import time
from typing import TYPE_CHECKING

import psutil

from tests.faults import faults
from tests.faults.faults import Fault
from tests.faults.played import kill_tree
from tests.faults.plays import MESSAGES
from tests.faults.watch import tree
from tests.servers.toxiproxy import DOWN

if TYPE_CHECKING:
    from tests.faults.plays import Play
    from tests.faults.trial import Trial

#: From a second signal to the end.
AT_ONCE_SECONDS = 3.0
STEPS = (3_600.0, -7_200.0, 86_400.0, -86_400.0 * 400)


def signalled_twice(number: signal.Signals, *flags: str) -> Play:
    """A second signal while requests are under way: it ends at once; what was held comes again."""

    def play(trial: Trial) -> None:
        assert trial.recorder
        trial.publish(MESSAGES)
        trial.start(*flags)
        trial.wait_writes()
        trial.recorder.slow = 30.0
        sent = trial.recorder.attempted.total()
        trial.wait_for(lambda: trial.recorder.attempted.total() > sent, "requests under way")
        trial.service.send(number)
        trial.service.wait_event("stopping")
        began = time.monotonic()
        trial.service.send(number)
        try:
            code = trial.service.wait(10.0)
        except TimeoutError:
            code = None
            kill_tree(trial.service)
        took = time.monotonic() - began
        if code != 1 or took > AT_ONCE_SECONDS:
            trial.account.complaints.append(f"exit code {code} {took:.1f} s after the second signal")
        trial.recorder.slow = 0.0
        trial.note_healed()
        trial.start(*flags)

    return play


def stopped_idle(trial: Trial) -> None:
    """SIGTERM with nothing to do."""
    trial.start()
    trial.wait_consumers()
    trial.stop()
    trial.note_healed()
    trial.publish(MESSAGES // 2)
    trial.start()


def clock_steps(*flags: str) -> Play:
    """The wall clock steps to and fro; ids are made by the service; groups go in time all the same."""

    def play(trial: Trial) -> None:
        trial.nameless = True
        words = " ".join(f"--step {seconds}" for seconds in STEPS)
        trial.sink_leg.add("latency", DOWN, name="pace", latency=20)
        trial.publish(MESSAGES // 2)
        trial.start("--ack-deadline", "60s", *flags, module=f"tests.faults.clock {words} --")
        trial.wait_writes()
        for _ in STEPS:
            trial.service.send(signal.SIGUSR2)
            trial.publish(30)
            trial.wait_for(lambda: trial.all_there, "all documents")
        trial.note_healed()
        trial.publish(20)
        for event in ("route_waits", "link_lost", "worker_lifeless", "sink_refuses"):
            if found := trial.service.events(event):
                trial.account.complaints.append(str(found[0]))

    return play


class FewDescriptors(Fault):
    """No process of the service may open anything more; what is open stays."""

    def start(self, trial: Trial) -> None:
        self._before = {
            process.pid: process.rlimit(resource.RLIMIT_NOFILE) for process in tree(trial.service.process.pid)
        }
        for pid, (_, most) in self._before.items():
            psutil.Process(pid).rlimit(resource.RLIMIT_NOFILE, (3, most))

    def stop(self, trial: Trial) -> None:
        for process in tree(trial.service.process.pid):
            process.rlimit(resource.RLIMIT_NOFILE, self._before[process.pid])


def few_descriptors(trial: Trial) -> None:
    """Every connection is lost, and none can be opened: too many open files."""
    trial.sink_leg.add("latency", DOWN, name="pace", latency=20)
    trial.publish(MESSAGES // 2)
    trial.start()
    trial.wait_writes()
    both = [getattr(trial, f"{leg}_leg") for leg in ("broker", "sink")]
    with FewDescriptors().on(trial):
        for leg in both:
            leg.shut()
            leg.open()
        trial.publish(MESSAGES // 2)
        told = lambda: any("open files" in line["problem"] for line in trial.service.events("link_lost"))  # noqa: E731
        trial.wait_for(told, "a link that is lost for want of descriptors")
        faults.hold(trial, 2.0)
    trial.note_healed()
    trial.publish(20)


def crashes(trial: Trial) -> None:
    """A message that kills the process before its verdict, each time: it is found, and dead-lettered."""
    trial.publish(MESSAGES // 4)
    trial.publish_bodies([b'{"number": -1, "deadly": true}'])
    trial.publish(MESSAGES // 4)
    trial.start(module="tests.faults.deadly")
    trial.wait_for(lambda: trial.all_there, "all documents")
    trial.note_healed()
