"""Tubes in memory, as the Lua module has them: for tests that have no server, and a worker on a leash."""

from __future__ import annotations

from itertools import count
from types import SimpleNamespace

from aggregator.errors import TarantoolError, TarantoolUnavailableError
from consumers.source import EPOCHS
from consumers.tube_link import TubeLink
from consumers.tubes import Burials, Memory, TubeWorker

ADDRESS = "127.0.0.1:3301"


class TubeServer:
    """``tasks``: by id, everything of a task. ``counts``: by reason. What the calls do is docs/tubes.md's."""

    def __init__(self, clock):
        self.clock = clock
        self.tasks = {}
        self.counts = {}
        self.calls = []
        self.up = True
        self._ids = count(2**32 + 1)

    def put(self, data, tube="apns", delay=0.0):
        task = SimpleNamespace(
            id=next(self._ids), tube=tube, data=data, state="ready", attempts=0, owner=None, reason="",
            due=self.clock.time() + delay, ttr=None,
        )  # fmt: skip
        task.state = "delayed" if delay else "ready"
        self.tasks[task.id] = task
        return task.id

    def connect(self, address=ADDRESS, *, timeout=None):
        if not self.up:
            raise TarantoolUnavailableError(f"{address}: refused")
        return Session(self)

    def give_back(self, task, delay=0.0):
        task.state, task.owner = ("delayed" if delay else "ready"), None
        task.due = self.clock.time() + delay

    def of(self, state):
        return [task for task in self.tasks.values() if task.state == state]

    def report(self, report):
        for reason, number in (report or {}).items():
            self.counts[reason] = self.counts.get(reason, 0) + number


class Session:
    """One connection; ``fail_at``: after how many further calls it breaks, ``after``: with the call done."""

    def __init__(self, server):
        self.server = server
        self.open = True
        self.fail_at = None
        self.after = False

    def call(self, function, *arguments, wait=0.0):
        if not self.open:
            raise TarantoolUnavailableError("closed")
        breaks = self.fail_at == 0
        self.fail_at = self.fail_at - 1 if self.fail_at else self.fail_at
        if breaks and not self.after:
            self.close()
            raise TarantoolUnavailableError("lost")
        self.server.calls.append(function)
        answer = getattr(self, function.replace(".", "_"))(*arguments)
        if breaks:
            self.close()
            raise TarantoolUnavailableError("lost")
        return [answer]

    def close(self):
        self.open = False
        for task in self.server.of("taken"):
            if task.owner is self:
                self.server.give_back(task)

    abort = close

    def tubes_take(self, tubes, timeout, limit):
        rows = []
        for task in self.server.of("delayed"):
            if task.due <= self.server.clock.time():
                task.state = "ready"
        for task in self.server.of("ready"):
            if task.tube in tubes and len(rows) < limit:
                task.state, task.owner = "taken", self
                rows.append((task.tube, task.id, task.attempts, task.data))
                task.attempts += 1
        return rows

    def tubes_ack(self, tube, entries):
        lost = []
        for task_id, report in entries:
            if self._mine(task_id):
                self.server.report(report)
                del self.server.tasks[task_id]
            else:
                lost.append(task_id)
        return lost

    def tubes_ack_part(self, tube, task_id, data, report):
        self._must(task_id).data = data
        self.server.report(report)

    def tubes_release(self, tube, ids, delay):
        for task_id in ids:
            if self._mine(task_id):
                self.server.give_back(self.server.tasks[task_id], delay)
        return []

    def tubes_touch(self, tube, ids, ttr):
        for task_id in ids:
            self._must(task_id).ttr = ttr
        return []

    def tubes_bury(self, tube, task_id, reason, report):
        task = self._must(task_id)
        task.state, task.reason, task.owner = "buried", reason, None
        self.server.report(report)

    def tubes_stats(self, tube):
        states = ("ready", "delayed", "taken", "buried")
        tasks = {state: sum(task.tube == tube for task in self.server.of(state)) for state in states}
        return {"tasks": {**tasks, "total": sum(tasks.values())}}

    def _mine(self, task_id):
        task = self.server.tasks.get(task_id)
        return task is not None and task.state == "taken" and task.owner is self

    def _must(self, task_id):
        if not self._mine(task_id):
            raise TarantoolError("not-taken", str(task_id))
        return self.server.tasks[task_id]


class LeashedWorker(TubeWorker):
    """A worker that does one thing at a time, when it is told to."""

    session = link = None

    def open(self):
        self.session = self._client = self._connect(self._address)
        epoch, buried = next(self._epochs), self._burials.buried
        self.link = TubeLink(self.session, epoch, wake=self.wake, on_buried=buried, clock=self._clock)
        self._quiet = False
        self._pipeline.link_opened(self.link, self.prefetch)

    def step(self):
        """One iteration, over a new session if there is none; a lost one is noticed."""
        if self.link is None:
            self.open()
        try:
            if not self._iterate(self.session, self.link):
                self.part()
        except (TarantoolError, TarantoolUnavailableError):
            self.lose()

    def part(self):
        """Leave in order."""
        try:
            self._part(self.link)
        finally:
            self.lose()

    def lose(self):
        self.session.close()
        self._lose(self.link)
        self.session = self.link = None

    def _await_answers(self):
        """Whoever writes is in this thread."""

    def _wait(self, link):
        self._awake.clear()


def leashed(server, pipeline, burials, metrics, clock, *, memory=None, prefetch=4, tubes=("apns",)):
    """Return a worker of a server in memory."""
    return LeashedWorker(
        ADDRESS, tubes, pipeline, prefetch=prefetch, name="r-1", epochs=EPOCHS,
        memory=memory or Memory(), burials=burials, metrics=metrics, clock=clock, connect=server.connect,
    )  # fmt: skip


def burials_of(holder):
    """Return a port that reports to ``holder["pipeline"]``, once that is there."""

    def report(refused):
        holder["pipeline"].dead_lettered(refused)

    return Burials(report)
