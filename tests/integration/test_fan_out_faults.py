"""Servers that die, stand still, or answer late during a campaign: nobody is missed."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from tests.conftest import missing
from tests.servers import Unavailable
from tests.servers.base import wait_for
from tests.shard import Consumers, Shard, restart, run_trial, user

pytestmark = pytest.mark.integration

USERS = 20_000
#: A baton that is given to the next server, whose answer does not come back.
LOSE_AN_ANSWER = """
    local tell, lost = peers.tell, false
    peers.tell = function(name, baton)
        local outcome = tell(name, baton)
        if baton ~= nil and baton.seq >= 4 and outcome == 'taken' and not lost then
            lost = true
            return 'unknown'
        end
        return outcome
    end
"""
#: Whoever got that baton is slow, so that the newer one is at the third server before.
DAWDLE = """
    local slow = true
    relay.probe = function(at, seq)
        if at == 'before pass' and seq >= 4 and slow then
            slow = false
            require('fiber').sleep(1)
        end
    end
"""
#: An answer that comes so late that the baton has been around the ring before.
LATE_ANSWERS = """
    local fiber, tell = require('fiber'), peers.tell
    peers.tell = function(name, baton)
        local outcome = tell(name, baton)
        if baton ~= nil then
            local deadline = fiber.clock() + 0.5
            repeat
                fiber.sleep(0.002)
                local known = box.space.batons:get(baton.campaign)
            until known.seq > baton.seq + 1 or known.finished or fiber.clock() > deadline
        end
        return outcome
    end
"""
#: Counts changes of a baton to an older one.
WATCH = """
    rawset(_G, 'older', 0)
    box.space.batons:on_replace(function(old, new)
        local both = old ~= nil and new ~= nil
        if both and (new.epoch < old.epoch or new.epoch == old.epoch and new.seq < old.seq) then
            older = older + 1
        end
    end)
"""


@pytest.fixture(scope="module")
def three():
    try:
        shard = Shard(3)
    except Unavailable as why:
        missing(why)
    shard.load(user(number) for number in range(USERS))
    for server in shard.servers:
        server.eval("rawset(_G, 'saved_tell', peers.tell)")
    yield shard
    shard.close()


@pytest.fixture
def shard(three):
    yield three
    for server in three.servers:
        if not server.host.running():
            restart(server)
        server.eval(
            "relay.probe = function() end; if rawget(_G, 'saved_tell') then peers.tell = saved_tell end"
        )


def everyone():
    return Counter({user(number)[0]: 1 for number in range(USERS)})


def test_a_late_answer_does_not_overwrite_a_newer_baton(shard):
    shard.servers[0].eval(LATE_ANSWERS)
    shard.servers[0].eval(WATCH)
    consumers = Consumers(shard.servers)
    with consumers.running():
        shard.start("late", at=0)
        shard.wait_state("late")
    assert shard.servers[0].eval("return older") == [0]
    assert consumers.sent == everyone()


def test_a_lost_answer_makes_a_newer_epoch_and_the_other_withdraws(shard):
    shard.servers[0].eval(LOSE_AN_ANSWER)
    shard.servers[1].eval(DAWDLE)
    consumers = Consumers(shard.servers)
    with consumers.running():
        shard.start("lost", at=0)
        shard.wait_state("lost", everywhere=True)
    assert consumers.sent == everyone()
    for each in shard.progress("lost").values():
        assert each["baton"]["epoch"] == "00000002.a"
        assert each["claims"]["rows"] == USERS
    assert any(each["claims"]["withdrawn"] for each in shard.progress("lost").values())


def test_a_late_copy_of_a_claim_that_is_done_changes_nothing(shard):
    consumers = Consumers(shard.servers)
    with consumers.running():
        shard.start("copy")
        shard.wait_state("copy", everywhere=True)  # nobody would tell this server again that it is done
        shard.servers[1].eval(
            """
            local id = ...
            local row = box.space.campaigns:get(id):tomap({names_only = true})
            row.state = 'running'
            ledger.put_campaign(row) -- as it was when the copy was sent
            local news = {campaigns = {}, batons = {}, claims = {}}
            for _, claim in box.space.claims:pairs({id}) do
                table.insert(news.claims, claim:update({{'=', 'state', 'open'}}))
            end
            ledger.merge(news, peers.me)
            row.state = 'done'
            ledger.put_campaign(row)
            """,
            "copy",
        )
        assert shard.servers[1].eval("return #ledger.open_claims('copy')") == [0]
        shard.wait_state("copy", everywhere=True)
    assert consumers.sent == everyone()


def test_what_was_taken_over_is_not_sent_by_the_one_that_returns(shard):
    victim, others = shard.servers[2], shard.servers[:2]
    shard.start("back")
    wait_for(lambda: shard.progress("back")["c"]["queued"] >= 2000, "a backlog")
    wait_for(lambda: shard.progress("back")["a"]["baton"]["finished"], "the end of the walk")
    backlog = shard.progress("back")["c"]["queued"]
    victim.kill()
    wait_for(lambda: sum(shard.progress("back")[each.name]["queued"] for each in others) == USERS, "takeover")
    consumers = Consumers(shard.servers)
    with consumers.running():
        restart(victim)
        shard.wait_state("back", everywhere=True)
    assert consumers.sent == everyone()
    assert backlog >= 2000
    assert not shard.progress("back")["c"]["pending"]


def test_who_starts_and_dies_at_once_has_started(shard):
    starter = shard.servers[1]
    starter.eval("require('ffi').cdef('int kill(int, int); int getpid(void);')")
    starter.eval(
        "relay.probe = function(at) if at == 'claim' then local ffi = require('ffi') "
        "ffi.C.kill(ffi.C.getpid(), 9) require('fiber').sleep(9) end end"
    )
    consumers = Consumers(shard.servers)
    with consumers.running():
        shard.start("brief", at=1)
        wait_for(lambda: not starter.host.running(), "its death")
        shard.wait_state("brief")
    assert consumers.sent == everyone()


@pytest.mark.parametrize("kind", ["kill-holder-before-pass", "kill-holder-after-pass", "kill-two", "stop-3s"])
def test_nobody_is_missed(shard, kind):
    outcome = run_trial(shard, f"trial-{kind}", kind, users=USERS, rng=random.Random(kind), pause=0.05)
    assert outcome.missed == 0
    # the tasks that a server's consumer held: 4 of 500 users at most
    assert outcome.repeated <= (2 if kind == "kill-two" else 1) * 2000


@pytest.fixture(scope="module")
def two():
    try:
        shard = Shard(2)
    except Unavailable as why:
        missing(why)
    # ids of two types, the numbers in lumps
    shard.load(
        [number**3 if number % 2 else f"device {number}", *user(number)[1:]] for number in range(USERS)
    )
    yield shard
    shard.close()


def test_two_servers_one_of_which_dies_for_good_and_ids_of_two_types(two):
    consumers = Consumers(two.servers, pause=0.02)
    with consumers.running():
        two.start("pair", at=0)
        wait_for(lambda: len(consumers.sent) > 3000, "some")
        two.servers[0].kill()
        two.wait_state("pair")
    assert len(consumers.sent) == USERS
    assert two.progress("pair")["b"]["claims"]["rows"] >= USERS
