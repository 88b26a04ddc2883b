"""What tubes do, told again in plain Python: the machine that drives a real server compares with this."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from math import inf

DEFAULT_TTR = 60


@dataclass
class Task:
    id: int
    tube: str
    data: object
    pri: int = 0
    ttr: float = DEFAULT_TTR
    expires: float = inf
    group: str = ""
    cost: float = 1
    state: str = "ready"
    due: float = 0
    attempts: int = 0
    owner: object = None


@dataclass
class Group:
    state: str = "running"
    rate: float = 0
    burst: float = 0
    tat: float = -inf

    def opens(self, now):
        """Say from when on a task may be taken; inf: not by waiting."""
        if self.state != "running":
            return inf
        return self.tat - self.burst / self.rate if self.rate else -inf


@dataclass
class Tubes:
    now: float
    tasks: dict[int, Task] = field(default_factory=dict)
    groups: dict[str, Group] = field(default_factory=dict)
    counts: dict[str, Counter[tuple[str, str]]] = field(default_factory=dict)
    names: dict[tuple[str, str], tuple[int, str]] = field(default_factory=dict)
    ended: list[tuple[str, int, str]] = field(default_factory=list)
    last_id: int = 0

    def count(self, group, tube, reason, n):
        self.counts.setdefault(group, Counter())[tube, reason] += n

    def put(self, id_, tube, data, *, delay=0, ttl=inf, unique="", **more):
        """``id_`` is what the server said."""
        if unique and (tube, unique) in self.names:
            assert id_ == self.names[tube, unique][0]
            return
        assert id_ > self.last_id, "an id was given twice"
        self.last_id = id_
        task = Task(id_, tube, data, expires=self.now + ttl, **more)
        if unique:
            self.names[tube, unique] = (id_, task.group)
        self.tasks[id_] = task
        self.give_back(task, self.now + delay)

    def end(self, task, how):
        del self.tasks[task.id]
        if how != "acked":
            self.count(task.group, task.tube, how, task.cost)
        if task.state != "buried":
            self.ended.append((task.tube, task.id, how))

    def give_back(self, task, due):
        if self.groups.get(task.group, Group()).state == "dropped":
            self.end(task, "dropped")
        elif task.expires <= self.now:
            self.end(task, "expired")
        else:
            task.owner, task.due = None, due
            task.state = "delayed" if due > self.now else "ready"

    def head(self, tube):
        open_ = (
            task
            for task in self.tasks.values()
            if task.tube == tube
            and task.state == "ready"
            and self.groups.get(task.group, Group()).opens(self.now) <= self.now
        )
        return min(open_, key=lambda task: (task.pri, task.id), default=None)

    def took(self, owner, tubes, limit, rows):
        """Check what the server gave against what it had to give, in its order."""
        given = Counter()
        for tube, id_, attempts, data in rows:
            task = self.head(tube)
            assert task is not None
            assert (task.id, task.attempts, task.data) == (id_, attempts, data)
            given[tube] += 1
            behind = [other for other in tubes if given[other] < given[tube] - 1 and self.head(other)]
            assert not behind, "a tube had its turn too often"
            group = self.groups.get(task.group)
            if group and group.rate:
                group.tat = max(group.tat, self.now) + task.cost / group.rate
            task.state, task.owner, task.due = "taken", owner, self.now + task.ttr
            task.attempts += 1
        assert len(rows) == limit or not any(self.head(tube) for tube in tubes)

    def mine(self, owner, tube, id_):
        task = self.tasks.get(id_)
        return task if task and task.tube == tube and task.owner is owner is not None else None

    def report(self, task, report):
        for reason, n in report.items():
            self.count(task.group, task.tube, reason, n)

    def ack(self, task, report):
        self.report(task, report)
        self.end(task, "acked")

    def ack_part(self, task, data, report):
        self.report(task, report)
        task.data, task.cost = data, max(task.cost - sum(report.values()), 0)

    def bury(self, task, reason, report):
        self.report(task, {reason: task.cost} if report is None else report)
        task.state, task.owner = "buried", None
        self.ended.append((task.tube, task.id, "buried"))

    def kick(self, tasks):
        for task in tasks:
            self.give_back(task, self.now)

    def group(self, name, state, rate, burst):
        group = self.groups.setdefault(name, Group())
        if rate is not None:
            if rate and group.rate and group.tat > self.now:
                group.tat = self.now + (group.tat - self.now) * group.rate / rate
            group.rate = rate
        group.burst = group.burst if burst is None else burst
        group.state = state or group.state
        if group.state == "dropped":
            for task in [t for t in self.tasks.values() if t.group == name]:
                if task.state in ("ready", "delayed"):
                    self.end(task, "dropped")

    def forget(self, name):
        for task in [task for task in self.tasks.values() if task.group == name]:
            assert task.state == "buried"
            self.end(task, "deleted")
        self.groups.pop(name, None)
        self.counts.pop(name, None)
        self.names = {key: seen for key, seen in self.names.items() if seen[1] != name}

    def lost(self, owner):
        for task in [task for task in self.tasks.values() if task.owner is owner is not None]:
            self.give_back(task, self.now)

    def restart(self):
        for group in self.groups.values():
            group.tat = -inf
        for task in [task for task in self.tasks.values() if task.state == "taken"]:
            self.give_back(task, self.now)

    def advance(self, seconds):
        self.now += seconds
        for task in list(self.tasks.values()):
            if task.state == "taken":
                if task.due <= self.now:
                    self.give_back(task, self.now)
            elif task.state != "buried" and (
                task.expires <= self.now or (task.state == "delayed" and task.due <= self.now)
            ):
                self.give_back(task, self.now)

    def pending(self, group):
        found = {}
        for task in self.tasks.values():
            if task.group == group:
                empty = {"ready": 0, "delayed": 0, "taken": 0, "buried": 0, "cost": 0}
                shown = found.setdefault(task.tube, empty)
                shown[task.state] += 1
                shown["cost"] += task.cost
        return found

    def counted(self, group):
        found = {}
        for (tube, reason), n in self.counts.get(group, {}).items():
            found.setdefault(tube, {})[reason] = n
        return found
