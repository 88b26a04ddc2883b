"""Tubes on a real server: sessions that die, servers that are killed or frozen, many that wait."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any

import pytest

from aggregator.errors import TarantoolError, TarantoolUnavailableError
from tests.servers.base import wait_for
from tests.servers.tarantool import Tarantool, replica_set
from tests.servers.tarantool import tarantool as make_tarantool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from consumers.tarantool import Tarantool as Client

pytestmark = pytest.mark.integration

TAKER = """
import sys
from consumers.tarantool import Tarantool
client = Tarantool(sys.argv[1])
print(len(client.call("tubes.take", [sys.argv[2]], 5, 100, wait=5)[0]), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def connect(tarantool: Tarantool) -> Iterator[Callable[..., Client]]:
    """A factory of connections that are closed after the test."""
    made: list[Client] = []

    def client(user: str = "admin", *, timeout: float = 10) -> Client:
        made.append(tarantool.client(user, timeout=timeout))
        return made[-1]

    yield client
    for each in made:
        each.close()


@pytest.fixture
def admin(connect: Callable[..., Client]) -> Client:
    return connect()


@pytest.fixture
def tube(tarantool: Tarantool, admin: Client, request: pytest.FixtureRequest) -> str:
    name = f"t{abs(hash((request.node.name, os.getpid(), id(request))))}"
    admin.call("tubes.create", name)
    return name


def states(client: Client, tube: str) -> dict[str, int]:
    tasks = client.call("tubes.stats", tube)[0]["tasks"]
    return {state: n for state, n in tasks.items() if n and state != "total"}


def put(client: Client, tube: str, n: int, **options: Any) -> list[int]:
    return client.call("tubes.put_many", tube, [[i, options] for i in range(n)])[0]  # type: ignore[no-any-return]


def take(client: Client, tube: str, limit: int, timeout: float = 0) -> list[list[Any]]:
    return client.call("tubes.take", [tube], timeout, limit, wait=timeout)[0]  # type: ignore[no-any-return]


# ── sessions ──


def test_a_killed_clients_tasks_are_ready_at_once(tarantool: Tarantool, admin: Client, tube: str) -> None:
    put(admin, tube, 2500)
    with subprocess.Popen(
        [sys.executable, "-c", TAKER.replace("100", "2000"), tarantool.url_of("consumer"), tube],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as taker:
        assert taker.stdout
        assert taker.stdout.readline() == b"2000\n"
        assert states(admin, tube) == {"taken": 2000, "ready": 500}
        taker.send_signal(signal.SIGKILL)
    # its ttr is a minute: nothing but the disconnect brings them back in time
    rows = take(admin, tube, 1, timeout=30)
    assert rows[0][2] in (0, 1)
    wait_for(lambda: states(admin, tube) == {"ready": 2499, "taken": 1}, "the tasks to be ready")
    assert sorted(row[2] for row in take(admin, tube, 2499)) == sorted(
        [1] * (2000 - rows[0][2]) + [0] * (499 + rows[0][2])
    )


def test_a_task_is_never_given_to_a_waiting_take_whose_session_is_gone(
    connect: Callable[..., Client], admin: Client, tube: str
) -> None:
    dead = [connect("consumer") for _ in range(5)]
    threads = [threading.Thread(target=lambda client=client: _ignoring(client, tube)) for client in dead]
    for thread in threads:
        thread.start()
    wait_for(lambda: admin.call("tubes.stats", tube)[0]["waiting"] == 5, "all to wait")
    for client in dead:
        client.abort()
    for thread in threads:
        thread.join()
    put(admin, tube, 1)
    assert len(take(admin, tube, 1, timeout=30)) == 1
    wait_for(lambda: admin.call("tubes.stats", tube)[0]["waiting"] == 0, "the dead to be forgotten")


def _ignoring(client: Client, tube: str) -> None:
    with suppress(TarantoolUnavailableError):
        take(client, tube, 1, timeout=60)


def test_many_waiting_takes_share_what_comes(
    connect: Callable[..., Client], admin: Client, tube: str
) -> None:
    waiters = [connect("consumer") for _ in range(40)]
    with ThreadPoolExecutor(len(waiters)) as pool:
        # they wait longer than this test: nothing but being woken helps
        taken = [pool.submit(take, client, tube, 1, 600) for client in waiters]
        wait_for(lambda: admin.call("tubes.stats", tube)[0]["waiting"] == 40, "all to wait")
        ids = put(admin, tube, 30) + [admin.call("tubes.put", tube, n)[0] for n in range(10)]
        try:
            rows = [row for future in taken for row in future.result(timeout=20)]
        finally:
            for client in waiters:
                client.abort()
    assert sorted(row[1] for row in rows) == sorted(ids)


def test_only_the_session_that_took_a_task_settles_it(
    connect: Callable[..., Client], admin: Client, tube: str
) -> None:
    (id_,) = put(admin, tube, 1, group="own")
    owner, other = connect("consumer"), connect("consumer")
    take(owner, tube, 1)
    assert other.call("tubes.ack", tube, [[id_, {"sent": 1}]]) == [[id_]]
    assert other.call("tubes.release", tube, [id_]) == [[id_]]
    assert other.call("tubes.touch", tube, [id_], 5) == [[id_]]
    with pytest.raises(TarantoolError, match=r"^not-taken: task"):
        other.call("tubes.ack_part", tube, id_, "rest", {})
    assert owner.call("tubes.ack", tube, [[id_, {"sent": 1}]]) == [[]]
    assert owner.call("tubes.ack", tube, [id_]) == [[id_]]
    assert admin.call("tubes.counts", "own") == [{tube: {"sent": 1}}]


def test_a_task_whose_time_to_run_is_over_is_ready_for_others(
    connect: Callable[..., Client], admin: Client, tube: str
) -> None:
    (id_,) = put(admin, tube, 1, ttr=0.05)
    slow = connect("consumer")
    take(slow, tube, 1)
    assert take(admin, tube, 1, timeout=30) == [[tube, id_, 1, 0]]
    assert slow.call("tubes.ack", tube, [id_]) == [[id_]]
    assert states(admin, tube) == {"taken": 1}


def test_delayed_tasks_wake_a_take(admin: Client, tube: str) -> None:
    ids = put(admin, tube, 3, delay=0.05)
    assert take(admin, tube, 3) == []
    found = [row[1] for _ in range(3) for row in take(admin, tube, 1, timeout=30)]
    assert sorted(found) == ids


# ── servers ──


@pytest.mark.parametrize("how", ["kill", "restart"])
def test_taken_tasks_are_ready_again_when_the_server_is_back(
    tarantool: Tarantool, admin: Client, tube: str, how: str
) -> None:
    ids = put(admin, tube, 1500, group=tube)
    rows = take(admin, tube, 1200)
    assert admin.call("tubes.ack", tube, [[row[1], {"sent": 1}] for row in rows[:100]]) == [[]]
    getattr(tarantool, how)()
    tarantool.heal()
    with pytest.raises(TarantoolUnavailableError):
        admin.call("tubes.stats", tube)
    client = tarantool.client()
    assert states(client, tube) == {"ready": 1400}
    assert [row[1:3] for row in take(client, tube, 2000)] == [
        [id_, int(id_ < ids[1200])] for id_ in ids[100:]
    ]
    assert client.call("tubes.counts", tube) == [{tube: {"sent": 100}}]
    assert put(client, tube, 1)[0] > ids[-1]
    client.close()


def test_nothing_is_lost_or_done_twice_when_the_server_is_killed_at_work(
    tarantool: Tarantool, tube: str
) -> None:
    stop = threading.Event()
    there: set[int] = set()
    acked: list[int] = []
    unsure: set[int] = set()

    def produce() -> None:
        with suppress(TarantoolUnavailableError):
            client = tarantool.client()
            while not stop.is_set():
                there.update(put(client, tube, 20))

    def consume() -> None:
        pending: list[int] = []
        with suppress(TarantoolUnavailableError):
            client = tarantool.client("consumer")
            while not stop.is_set():
                pending = [row[1] for row in take(client, tube, 10, timeout=0.1)]
                lost = client.call("tubes.ack", tube, pending)[0]
                acked.extend(set(pending) - set(lost))
                pending = []
        unsure.update(pending)  # the answer to the ack did not come

    for _ in range(3):
        threads = [threading.Thread(target=job) for job in (produce, consume, consume)]
        for thread in threads:
            thread.start()
        goal = len(acked) + 300
        wait_for(lambda goal=goal: len(acked) > goal, "some work to be done")  # type: ignore[misc]
        tarantool.kill()
        for thread in threads:
            thread.join()
        tarantool.heal()
    stop.set()
    client = tarantool.client()
    left = [row[1] for row in take(client, tube, 10000)]
    client.close()
    assert len(set(acked)) == len(acked)
    assert not set(left) & set(acked)
    assert there <= set(acked) | set(left) | unsure


def test_a_frozen_server_costs_the_timeout_and_the_session(
    tarantool: Tarantool, connect: Callable[..., Client], tube: str, admin: Client
) -> None:
    put(admin, tube, 3)
    client = connect("consumer", timeout=0.2)
    take(client, tube, 2)
    tarantool.pause()
    with pytest.raises(TarantoolUnavailableError):
        client.call("tubes.stats", tube)
    assert client.closed
    with pytest.raises(TarantoolUnavailableError):
        tarantool.client(timeout=0.2)
    tarantool.resume()
    with pytest.raises(TarantoolUnavailableError):  # never a new session behind the user's back
        client.call("tubes.stats", tube)
    wait_for(lambda: states(admin, tube) == {"ready": 3}, "the lost session's tasks to be ready")


def test_replicas_have_tubes_of_their_own(tarantool: Tarantool) -> None:
    servers = replica_set(1)
    try:
        for number, server in enumerate(servers):
            assert server.eval("tubes.create('x') return tubes.put('x', ...)", number)
        servers[0].kill()
        servers[1].kill()
        servers[1].start()  # its leader is dead: it serves its own all the same
        assert servers[1].eval("return box.info.ro, tubes.take({'x'}, 0, 9)[1][4]") == [True, 1]
    finally:
        for server in servers:
            server.close()


# ── groups ──


@pytest.fixture
def clock(admin: Client) -> Iterator[Callable[[float], None]]:
    """The server's clock stands still; a call of this moves it on."""
    admin.eval(
        "rawset(_G, 'test_now', require('clock').time()) "
        "tubes.clock = function() return test_now end tubes.monotonic = tubes.clock"
    )
    yield lambda seconds: admin.eval("rawset(_G, 'test_now', test_now + ...) tubes.tick()", seconds) and None
    admin.eval("tubes.clock, tubes.monotonic = require('clock').time, require('clock').monotonic")


def test_a_rate_spaces_tasks_by_what_they_cost(
    admin: Client, tube: str, clock: Callable[[float], None]
) -> None:
    put(admin, tube, 10, group=tube, cost=2)
    other = put(admin, tube, 1)[0]
    admin.call("tubes.group", tube, {"rate": 1, "burst": 3})
    # two at once by the burst; the task without a group passes the others
    assert [row[1] for row in take(admin, tube, 9)][2:] == [other]
    taken = []
    for _ in range(8):
        clock(1)
        taken.append(len(take(admin, tube, 9)))
    assert taken == [1, 0, 1, 0, 1, 0, 1, 0]
    admin.call("tubes.group", tube, {"rate": 8})  # the wait shrinks at once
    clock(0.25)
    assert len(take(admin, tube, 9)) == 1
    clock(0.25)
    assert len(take(admin, tube, 9)) == 1


def test_a_take_waits_for_the_slot_of_a_rate(admin: Client, tube: str) -> None:
    admin.call("tubes.group", tube, {"rate": 50})
    ids = put(admin, tube, 4, group=tube, cost=5)
    assert [row[1] for _ in ids for row in take(admin, tube, 4, timeout=30)] == ids


def test_a_paused_group_is_passed_and_wakes_who_waits_when_it_runs(
    connect: Callable[..., Client], admin: Client, tube: str
) -> None:
    admin.call("tubes.group", tube, {"state": "paused"})
    ids = put(admin, tube, 3, group=tube)
    other = put(admin, tube, 1)
    assert [row[1] for row in take(admin, tube, 9)] == other
    with ThreadPoolExecutor(1) as pool:
        waiter = connect("consumer")
        waiting = pool.submit(take, waiter, tube, 9, 600)
        wait_for(lambda: admin.call("tubes.stats", tube)[0]["waiting"] == 1, "it to wait")
        admin.call("tubes.group", tube, {"state": "running"})
        try:
            assert [row[1] for row in waiting.result(timeout=20)] == ids
        finally:
            waiter.abort()


def test_a_dropped_group_loses_all_but_what_is_taken(admin: Client, tube: str) -> None:
    put(admin, tube, 2300, group=tube, cost=2)
    put(admin, tube, 1, group=tube, delay=60)
    rows = take(admin, tube, 2)
    admin.call("tubes.group", tube, {"state": "dropped"})
    put(admin, tube, 1, group=tube, cost=7)
    assert states(admin, tube) == {"taken": 2}
    with pytest.raises(TarantoolError, match=r"^busy"):
        admin.call("tubes.forget", tube)
    admin.call("tubes.release", tube, [rows[0][1]])
    admin.call("tubes.ack", tube, [[rows[1][1], {"sent": 2}]])
    assert admin.call("tubes.counts", tube) == [{tube: {"dropped": 2298 * 2 + 1 + 7 + 2, "sent": 2}}]
    admin.call("tubes.forget", tube)
    assert admin.call("tubes.counts", tube) == [{}]
    assert admin.call("tubes.group", tube)[0]["state"] == "running"


@pytest.fixture
def small() -> Iterator[Tarantool]:
    """A server with little memory."""
    server = make_tarantool("small", memory="128")
    server.start()
    yield server
    server.close()


def test_puts_are_refused_before_the_memory_is_full_and_what_is_there_is_worked_off(
    tarantool: Tarantool, small: Tarantool
) -> None:
    ids: list[int] = []

    def fill() -> None:
        while True:
            ids.extend(client.call("tubes.put_many", "x", [["." * 100_000, None]] * 10)[0])

    with closing(small.client()) as client:
        client.call("tubes.create", "x")
        with pytest.raises(TarantoolError, match="memtx_memory") as caught:
            fill()
        assert caught.value.code == "full"
        done = 0
        while rows := take(client, "x", 20):
            assert client.call("tubes.ack", "x", [row[1] for row in rows]) == [[]]
            done += len(rows)
        assert done == len(ids)
        assert client.call("tubes.put", "x", "again")


# ── Lua callers ──


def test_a_transaction_that_is_rolled_back_leaves_no_trace(admin: Client, tube: str) -> None:
    put(admin, tube, 3)
    admin.eval(
        """
        local tube = ...
        local taken = tubes.take({tube}, 0, 2)
        box.begin()
        tubes.put_many(tube, {{1, {group = 'r'}}, {2}})
        tubes.ack(tube, {{taken[1][2], {sent = 5}}})
        pcall(tubes.put_many, tube, {{3}, {4, {ttl = 'soon'}}})  -- the first of them is not put either
        box.rollback()
        assert(#tubes.ack(tube, {taken[1][2]}) == 0)
        box.begin()
        pcall(tubes.put_many, tube, {{3}, {4, {ttl = 'soon'}}})
        tubes.put(tube, 5)
        box.commit()
        """,
        tube,
    )
    assert states(admin, tube) == {"ready": 2, "taken": 1}  # of three one was acked, and one is new
    assert tube not in admin.call("tubes.counts", "")[0]


def test_the_hook_is_part_of_the_transaction(admin: Client, tube: str) -> None:
    ids = put(admin, tube, 3, note={"claim": 7})
    admin.eval(
        """
        local tube = ...
        rawset(_G, 'test_done', {})
        tubes.on_done(function(name, id, data, group, note, how)
            if name ~= tube then return end
            if how == 'acked' and data == 1 then error('hook-failed: not this one') end
            table.insert(test_done, {id, data, note.claim, how, box.is_in_txn()})
        end, {name = 'test'})
        """,
        tube,
    )
    try:
        take(admin, tube, 3)
        with pytest.raises(TarantoolError, match="not this one"):
            admin.call("tubes.ack", tube, ids)
        assert states(admin, tube) == {"taken": 3}
        admin.call("tubes.bury", tube, ids[1], "bad")
        assert admin.call("tubes.ack", tube, [ids[0]]) == [[]]
        assert admin.call("tubes.delete", tube, ids[2]) == [True]
        done = admin.eval("return test_done")[0]
        assert done[1:] == [
            [ids[1], 1, 7, "buried", True],
            [ids[0], 0, 7, "acked", True],
            [ids[2], 2, 7, "deleted", True],
        ]
    finally:
        admin.eval("tubes.on_done(function() end, {name = 'test', data = false})")


def test_nothing_remains_of_what_is_done(connect: Callable[..., Client], admin: Client, tube: str) -> None:
    def used() -> int:
        size: int = admin.eval(
            "collectgarbage() collectgarbage() "
            "return box.slab.info().items_used + collectgarbage('count') * 1024"
        )[0]
        return size

    def rounds(n: int) -> None:
        for _ in range(n):
            client = connect("consumer")
            put(admin, tube, 200, group="flat", cost=3)
            rows = take(client, tube, 200)
            client.call("tubes.ack", tube, [[row[1], {"sent": 3}] for row in rows[:150]])
            client.close()  # fifty return
            wait_for(lambda: states(admin, tube) == {"ready": 50}, "the rest to be ready", interval=0.002)
            rest = take(admin, tube, 50)
            admin.call("tubes.ack", tube, [row[1] for row in rest])

    rounds(5)
    before = used()
    rounds(30)
    assert used() - before < 64 * 1024  # 7,000 tasks and 30 sessions later
    assert admin.eval("return next(tubes_store.lanes[tubes_store.by_name[...].number]) == nil", tube) == [
        True
    ]


# ── rights ──


@pytest.mark.parametrize(
    ("user", "function"),
    [
        ("consumer", "put"),
        ("consumer", "group"),
        ("producer", "take"),
        ("producer", "ack"),
        ("operator", "take"),
    ],
)
def test_users_may_do_no_more_than_they_must(
    connect: Callable[..., Client], tube: str, user: str, function: str
) -> None:
    client = connect(user)
    for call in (
        lambda: client.call(f"tubes.{function}", tube, 1),
        lambda: client.eval("return 1"),
        lambda: client.call("box.space.tubes_tasks:select"),
        lambda: client.call("aggregator.load", {}),
    ):
        with pytest.raises(TarantoolError, match=r"^(access-denied|box-)"):
            call()
    assert client.call("tubes.stats", tube)


@pytest.mark.parametrize(
    ("call", "code"),
    [
        (("tubes.put", "nowhere", 1), "no-tube"),
        (("tubes.put", "TUBE", None), "bad-data"),
        (("tubes.put", "TUBE", 1, {"ttl": -1}), "bad-option"),
        (("tubes.put", "TUBE", 1, {"ttr": 0}), "bad-option"),
        (("tubes.put", "TUBE", 1, {"tll": 1}), "bad-option"),
        (("tubes.put", "TUBE", 1, {"group": 7}), "bad-option"),
        (("tubes.put", "TUBE", 1, {"unique": "u"}), "bad-option"),
        (("tubes.put", "TUBE", 1, {"delay": float("nan")}), "bad-option"),
        (("tubes.take", [], 0, 1), "no-tube"),
        (("tubes.take", ["TUBE"], "soon", 1), "bad-option"),
        (("tubes.create", "a b"), "bad-name"),
        (("tubes.group", "", {}), "bad-option"),
        (("tubes.group", "g", {"state": "asleep"}), "bad-option"),
        (("tubes.bury", "TUBE", 1, "bad"), "not-taken"),
    ],
)
def test_wrong_calls_are_refused_with_a_word(
    admin: Client, tube: str, call: tuple[Any, ...], code: str
) -> None:
    function, *arguments = call
    given = [tube if a == "TUBE" else [tube] if a == ["TUBE"] else a for a in arguments]
    with pytest.raises(TarantoolError) as caught:
        admin.call(function, *given)
    assert caught.value.code == code
    assert states(admin, tube) == {}
