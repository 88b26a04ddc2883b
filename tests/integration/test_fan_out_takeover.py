"""What a dead server has sent is not sent again by who takes over: only what workers held may be."""

from __future__ import annotations

import threading
from collections import Counter
from contextlib import closing

import pytest

from tests.conftest import missing
from tests.servers import Unavailable
from tests.servers.base import wait_for
from tests.shard import Consumers, Shard, restart, user

pytestmark = pytest.mark.integration

USERS = 12_000
#: Whoever asks for news hears of no settlement: what others know of them they were told before the answer.
SAY_NOTHING = """
    local pull = peers.pull
    rawset(_G, 'saved_pull', pull)
    peers.pull = function(...)
        local news = pull(...)
        news.parts, news.claims = {}, {}
        return news
    end
"""
#: Whether a server has put all of its claims into its tubes.
ALL_QUEUED = """
    for _, claim in ipairs(ledger.open_claims(..., peers.me)) do
        if not claim.queued then return false end
    end
    return true
"""
#: What a server tells of settlements, call by call, little at a time; and how many there are.
PIECES = """
    parts.options.most = 100
    local told, mark, calls, more = {}, 0, 0, true
    while more do
        local rows
        rows, mark, more = parts.news(mark)
        for _, row in ipairs(rows) do
            told[row.number] = true
        end
        calls = calls + 1
    end
    local count = 0
    for _ in pairs(told) do
        count = count + 1
    end
    return count, calls, box.space.claim_parts.index.rev:count({0}, {iterator = 'GT'}), mark == parts.mark()
"""
#: The claims of which settlements are kept that are not open any more.
CLOSED = """
    local found = 0
    for _, row in box.space.claim_parts:pairs() do
        local claim = box.space.claims:get({row.campaign, row.seq, row.epoch})
        found = found + (claim.state == 'open' and 0 or 1)
    end
    return found
"""
HEAL = """
    if rawget(_G, 'saved_pull') then peers.pull = saved_pull end
    parts.options.most = 2 ^ 19
"""


@pytest.fixture(scope="module")
def three():
    try:
        shard = Shard(3)
    except Unavailable as why:
        missing(why)
    shard.load(user(number) for number in range(USERS))
    yield shard
    shard.close()


@pytest.fixture
def shard(three):
    yield three
    for server in three.servers:
        server.host.resume()
        if not server.host.running():
            restart(server)
        server.eval(HEAL)
    wait_for(lambda: all_know_each_other(three), "all to live")


def all_know_each_other(shard):
    return all(
        peer["alive"] for server in shard.servers for peer in server.eval("return campaigns.peers()")[0]
    )


def everyone():
    return Counter({user(number)[0]: 1 for number in range(USERS)})


def walked(shard, name):
    """Start a campaign; wait until all its users are in the tubes of the three servers."""
    shard.start(name)
    wait_for(lambda: sum(each["queued"] for each in shard.progress(name).values()) == USERS, "the walk")


def drain(server, *tubes, most=1000):
    """Take and ack up to so many tasks; return who was in them."""
    sent = Counter()
    with closing(server.client("consumer")) as client:
        while most > 0 and (tasks := client.call("tubes.take", list(tubes), 0, min(4, most))[0]):
            most -= len(tasks)
            for tube, id_, _, data in tasks:
                sent.update(device for device, *_ in data["recipients"])
                assert client.call("tubes.ack", tube, [[id_, {"sent": 1}]]) == [[]]
    return sent


def finish(shard, name, sent):
    """Have what is left sent at the servers that live; return how often each user was sent to."""
    consumers = Consumers([server for server in shard.servers if server.host.running()])
    with consumers.running():
        shard.wait_state(name)
    return sent + consumers.sent


def test_tubes_out_of_step_and_users_who_come_and_go(shard):
    writer, victim = shard.servers[0], shard.servers[2]
    walked(shard, "step")
    sent = sum((drain(server, "apns") for server in shard.servers), Counter())
    assert len(sent) == USERS / 2
    # one who was sent to leaves, another comes: all others move to another place in their claim
    (begin,) = victim.eval("return ledger.open_claims('step', peers.me)[1].from")
    gone, new = f"u{int(begin[1:]) + 2:07d}", f"{begin}a"
    assert sent[gone]
    with closing(writer.client()) as client:
        client.call("box.space.users:delete", gone)
        client.call("users.load", [[new, *user(1)[1:]]])
        wait_for(
            lambda: shard.servers[1].eval("return box.space.users:get(...) ~= nil", new) == [True],
            "replication",
        )
        victim.kill()
        found = finish(shard, "step", sent)
        client.call("box.space.users:delete", new)
        client.call("users.load", [user(int(gone[1:]))])
    assert found.pop(new, 1) == 1
    assert found == everyone()


def test_one_after_the_other_dies_and_much_is_told_in_small_pieces(shard):
    first, last, victim = shard.servers
    for server in shard.servers:
        server.eval("parts.options.most = 100")
    walked(shard, "chain")
    sent = drain(victim, "apns") + drain(first, "fcm", most=2)
    told, calls, there, whole = victim.eval(PIECES)
    assert (told, whole) == (there, True)
    assert calls >= there >= 8
    queued = shard.progress("chain")["a"]["queued"]
    victim.kill()
    wait_for(lambda: shard.progress("chain")["a"]["queued"] > queued, "the first takeover")
    wait_for(lambda: first.eval(ALL_QUEUED, "chain") == [True], "all of it")
    sent += drain(first, "fcm", most=6)
    first.kill()
    assert finish(shard, "chain", sent) == everyone()
    # nothing of it remains once the campaign has ended
    assert last.eval("return box.space.claim_parts:len()") == [0]


def test_a_part_of_a_task(shard):
    victim = shard.servers[2]
    walked(shard, "part")
    with closing(victim.client("consumer")) as client:
        (((tube, id_, _, data),),) = client.call("tubes.take", ["apns"], 0, 1)
        done, rest = data["recipients"][:50], data["recipients"][50:]
        client.call("tubes.ack_part", tube, id_, {**data, "recipients": rest}, {"sent": 50})
        client.call("tubes.release", tube, [id_], 600)
    victim.kill()
    assert finish(shard, "part", Counter(device for device, *_ in done)) == everyone()


def test_who_sees_an_ack_answered_has_a_witness(shard):
    victim = shard.servers[2]
    walked(shard, "witness")
    victim.eval(SAY_NOTHING)
    sent = drain(victim, "apns", "fcm", most=7)
    assert victim.eval(CLOSED) == [0]
    victim.kill()
    assert finish(shard, "witness", sent) == everyone()


def test_a_witness_that_stands_still_is_passed_over(shard):
    frozen, _, victim = shard.servers
    walked(shard, "frozen")
    victim.eval(SAY_NOTHING)
    frozen.pause()
    sent = drain(victim, "apns", "fcm", most=7)
    victim.kill()
    wait_for(lambda: shard.progress("frozen")["b"]["claims"]["mine"] > USERS / 1000 / 2, "the takeover")
    frozen.resume()
    assert finish(shard, "frozen", sent) == everyone()


def test_who_stood_still_hands_nothing_out_before_it_has_asked(shard):
    victim, rows = shard.servers[2], []
    walked(shard, "still")
    with closing(victim.client("consumer", timeout=30)) as client:
        victim.pause()
        take = threading.Thread(
            target=lambda: rows.extend(client.call("tubes.take", ["apns", "fcm"], 0, 100)[0])
        )
        take.start()
        wait_for(lambda: shard.progress("still")["a"]["claims"]["mine"] > USERS / 1000 / 2, "the takeover")
        victim.resume()
        take.join()
    assert rows == []
    assert finish(shard, "still", Counter()) == everyone()


def test_large_numbers_and_texts_that_look_like_them(shard):
    found = shard.servers[0].eval(
        """
        local large, set = 2ULL ^ 62, parts.set()
        set.add(large)
        set.add('a')
        set.add(1.5)
        local twin = require('msgpack').decode(require('msgpack').encode(large))
        return set.has(twin), set.has(tostring(large)), set.has('a'), set.has(1.5), set.has(2)
        """
    )
    assert found == [True, False, True, True, False]
