"""Random histories of a real server's tubes, with kills of it and of clients, agree with a model."""

from __future__ import annotations

import time

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from aggregator.errors import TarantoolError
from consumers.lua import sources
from tests.servers.base import wait_for
from tests.servers.tarantool import tarantool as make_tarantool
from tests.tube_model import Tubes

pytestmark = pytest.mark.integration

TUBES = ["apns", "fcm"]
GROUPS = ["c1", "c2"]
# a clock of the test's own, and a record of what ended
CLOCK = """
local now = ...
rawset(_G, 'test_now', now)
rawset(_G, 'test_ended', {})
tubes.clock = function() return test_now end
tubes.monotonic = tubes.clock
tubes.on_done(function(tube, id, data, group, note, how)
    table.insert(test_ended, {tube, id, how})
end, {name = 'test', data = false})
"""
WIPE = """
for name, space in pairs(box.space) do
    if type(name) == 'string' and name:match('^tubes_') and name ~= 'tubes_meta' then space:truncate() end
end
aggregator.load(...)
"""
LOOK = """
local ended = test_ended
rawset(_G, 'test_ended', {})
local groups = {}
for _, name in ipairs({'', 'c1', 'c2'}) do
    groups[name] = {tubes.pending(name), tubes.counts(name)}
end
return groups, ended
"""
SECONDS = st.sampled_from([0.25, 1, 2, 10])
REPORTS = st.dictionaries(st.sampled_from(["sent", "dead"]), st.integers(1, 5), max_size=2)


@st.composite
def options(draw):
    found = draw(
        st.fixed_dictionaries(
            {},
            optional={
                "pri": st.integers(-1, 1),
                "delay": SECONDS,
                "ttl": SECONDS,
                "ttr": SECONDS,
                "group": st.sampled_from(GROUPS),
                "cost": st.integers(0, 5),
            },
        )
    )
    if "group" in found and draw(st.booleans()):
        found["unique"] = draw(st.sampled_from(["u1", "u2", "u3"]))
    return found


def modules():
    found = sources()
    del found["aggregator"]
    return found


class TubesMachine(RuleBasedStateMachine):
    server = None

    @initialize()
    def begin(self):
        self.sessions = []
        self.admin = self.server.client()
        self.admin.eval(WIPE, modules())
        # ahead of the machine's clock, by which a restarted server judges until it gets ours
        self.model = Tubes(float(int(time.time()) + 100_000))
        self.admin.eval(CLOCK, self.model.now)
        for tube in TUBES:
            self.admin.call("tubes.create", tube)
        self.sessions = [self.server.client("consumer") for _ in range(2)]
        self.kills = 0
        self.number = 0

    def teardown(self):
        for client in [*self.sessions, self.admin]:
            client.close()

    def compare(self):
        groups, ended = self.admin.eval(LOOK)
        for name, (pending, counts) in groups.items():
            assert pending == self.model.pending(name)
            assert counts == self.model.counted(name)
        assert sorted(map(tuple, ended)) == sorted(self.model.ended)
        self.model.ended.clear()

    def some_task(self, data, state=None):
        ids = [id_ for id_, task in self.model.tasks.items() if state in (None, task.state)]
        id_ = data.draw(st.sampled_from(ids), label="task")
        return self.model.tasks[id_]

    @rule(tube=st.sampled_from(TUBES), many=st.lists(options(), min_size=1, max_size=5), single=st.booleans())
    def put(self, tube, many, single):
        rows = []
        for each in many:
            self.number += 1
            rows.append([{"n": self.number}, each])
        if single:
            ids = [self.admin.call("tubes.put", tube, *row)[0] for row in rows]
        else:
            ids = self.admin.call("tubes.put_many", tube, rows)[0]
        for id_, (data, each) in zip(ids, rows, strict=True):
            self.model.put(id_, tube, data, **each)
        self.compare()

    @rule(
        who=st.integers(0, 1),
        tubes=st.lists(st.sampled_from(TUBES), min_size=1, unique=True),
        limit=st.integers(1, 6),
    )
    def take(self, who, tubes, limit):
        rows = self.sessions[who].call("tubes.take", tubes, 0, limit)[0]
        self.model.took(self.sessions[who], tubes, limit, rows)
        self.compare()

    @precondition(lambda self: self.model.tasks)
    @rule(
        who=st.integers(0, 1),
        data=st.data(),
        report=REPORTS,
        how=st.sampled_from(["ack", "release", "touch"]),
    )
    def settle(self, who, data, report, how):
        client = self.sessions[who]
        first = self.some_task(data)
        chosen = [t for t in self.model.tasks.values() if t.tube == first.tube and t.id >= first.id][:3]
        seconds = data.draw(SECONDS, label="seconds")
        ids = [task.id for task in chosen]
        given = [[id_, report] for id_ in ids] if how == "ack" else ids
        arguments = [given] if how == "ack" else [given, seconds]
        lost = client.call(f"tubes.{how}", first.tube, *arguments)[0]
        mine = [task for task in chosen if self.model.mine(client, first.tube, task.id)]
        assert lost == [task.id for task in chosen if task not in mine]
        for task in mine:
            if how == "ack":
                self.model.ack(task, report)
            elif how == "release":
                self.model.give_back(task, self.model.now + seconds)
            else:
                task.due = self.model.now + seconds
        self.compare()

    @precondition(lambda self: self.model.tasks)
    @rule(who=st.integers(0, 1), data=st.data(), report=REPORTS)
    def ack_part(self, who, data, report):
        task = self.some_task(data)
        left = {"left": task.id}
        if self.model.mine(self.sessions[who], task.tube, task.id):
            self.sessions[who].call("tubes.ack_part", task.tube, task.id, left, report)
            self.model.ack_part(task, left, report)
        else:
            with pytest.raises(TarantoolError, match=r"^not-taken"):
                self.sessions[who].call("tubes.ack_part", task.tube, task.id, left, report)
        self.compare()

    @precondition(lambda self: self.model.tasks)
    @rule(who=st.integers(0, 1), data=st.data(), report=st.none() | REPORTS)
    def bury(self, who, data, report):
        task = self.some_task(data)
        free = task.state in ("ready", "delayed")
        if free or self.model.mine(self.sessions[who], task.tube, task.id):
            self.sessions[who].call("tubes.bury", task.tube, task.id, "bad", report)
            self.model.bury(task, "bad", report)
        else:
            with pytest.raises(TarantoolError, match=r"^not-taken"):
                self.sessions[who].call("tubes.bury", task.tube, task.id, "bad", report)
        self.compare()

    @precondition(lambda self: self.model.tasks)
    @rule(data=st.data())
    def delete(self, data):
        task = self.some_task(data)
        assert self.admin.call("tubes.delete", task.tube, task.id) == [True]
        assert self.admin.call("tubes.delete", task.tube, task.id) == [False]
        self.model.end(task, "deleted")
        self.compare()

    @rule(tube=st.sampled_from(TUBES))
    def kick(self, tube):
        buried = [t for t in self.model.tasks.values() if t.tube == tube and t.state == "buried"]
        assert self.admin.call("tubes.kick", tube, 100) == [len(buried)]
        self.model.kick(buried)
        self.compare()

    @rule(
        name=st.sampled_from(GROUPS),
        state=st.sampled_from([None, "running", "paused", "dropped"]),
        rate=st.sampled_from([None, 0, 1, 4]),
        burst=st.sampled_from([None, 0, 3]),
    )
    def group(self, name, state, rate, burst):
        self.admin.call("tubes.group", name, {"state": state, "rate": rate, "burst": burst})
        self.model.group(name, state, rate, burst)
        self.compare()

    @rule(name=st.sampled_from(GROUPS))
    def forget(self, name):
        if any(task.group == name and task.state != "buried" for task in self.model.tasks.values()):
            with pytest.raises(TarantoolError, match=r"^busy"):
                self.admin.call("tubes.forget", name)
        else:
            self.admin.call("tubes.forget", name)
            self.model.forget(name)
        self.compare()

    @rule(seconds=SECONDS)
    def advance(self, seconds):
        self.admin.eval("rawset(_G, 'test_now', test_now + ...) tubes.tick()", seconds)
        self.model.advance(seconds)
        self.compare()

    @rule(who=st.integers(0, 1))
    def disconnect(self, who):
        client = self.sessions[who]
        client.close()
        self.model.lost(client)
        self.sessions[who] = self.server.client("consumer")
        taken = sum(task.state == "taken" for task in self.model.tasks.values())
        every = "return tubes.stats('apns').tasks.taken + tubes.stats('fcm').tasks.taken"
        wait_for(
            lambda: self.admin.eval(every) == [taken], "the session's tasks to be given back", interval=0.002
        )
        self.compare()

    @precondition(lambda self: self.kills < 1 and len(self.model.tasks) > 2)
    @rule(how=st.sampled_from(["kill", "stop", "reload"]))
    def restart(self, how):
        self.kills += 1
        if how == "reload":
            self.reload()
            return
        getattr(self.server, how)()
        self.teardown()
        self.server.start()
        self.admin = self.server.client()
        self.sessions = [self.server.client("consumer") for _ in range(2)]
        self.admin.eval(CLOCK, self.model.now)
        self.model.restart()
        self.model.ended.clear()  # no hook was there yet
        self.compare()

    def reload(self):
        """The code is replaced: who has taken tasks keeps them, hooks stay."""
        self.admin.eval("aggregator.load(...)", modules())
        for group in self.model.groups.values():
            group.tat = float("-inf")
        self.compare()


@pytest.fixture
def own(tarantool):
    """Give a server of its own: this test stops its clock."""
    server = make_tarantool("machine", memory="64")
    server.start()
    yield server
    server.close()


def test_tubes_agree_with_the_model(own):
    TubesMachine.server = own
    run_state_machine_as_test(
        TubesMachine,
        settings=settings(
            max_examples=settings.default.max_examples // 2,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
