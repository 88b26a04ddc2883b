"""A shard of real Tarantool servers with made-up users, and consumers that count instead of sending."""

from __future__ import annotations

import threading
import time
from collections import Counter
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from aggregator.errors import TarantoolError, TarantoolUnavailableError
from tests.servers.base import wait_for
from tests.servers.tarantool import PASSWORD, replica_set

if TYPE_CHECKING:
    import random
    from collections.abc import Iterable, Iterator, Sequence

    from tests.servers.tarantool import Tarantool

PATIENCE = 90.0
FAULTS = (TarantoolUnavailableError, TarantoolError)
ZONES = ("Europe/Berlin", "America/New_York", "Asia/Kolkata", "+03:00")
LANGUAGES = ("de", "en", "fr")
#: Quick enough for tests, slow enough for a busy machine.
TIMES = "peers.options.dead_after = 1.5; peers.options.tick = 0.1; peers.options.timeout = 0.7"
DIE = "require('ffi').cdef('int kill(int, int); int getpid(void);')"


def user(number: int, prefix: str = "u") -> list[Any]:
    """Return a row; what it holds follows from its number."""
    platform = "apns" if number % 2 else "fcm"
    return [
        f"{prefix}{number:07d}", f"{number:064x}", platform, 3_000_000 + number % 1000, LANGUAGES[number % 3],
        "1170x2532", ZONES[number % 4], None, None, 1_700_000_000,
    ]  # fmt: skip


def spec(**more: Any) -> dict[str, Any]:
    """Return a campaign with two variants for Apple's devices and one for Google's."""
    notifications = {
        "apns": {
            "default": {"payload": {"aps": {"alert": "hi"}}},
            "de": {"payload": {"aps": {"alert": "da"}}},
        },
        "fcm": {"default": {"payload": {"notification": {"title": "hi"}}}},
    }
    return {"notifications": notifications, "filter": {}, "batch": 1000, **more}


@dataclass
class Consumers:
    """A thread for each server: takes tasks, notes whom they are for, waits ``pause`` seconds, acks."""

    servers: Sequence[Tarantool]
    pause: float = 0.0
    limit: int = 4
    sent: Counter[Any] = field(default_factory=Counter)
    tasks: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def running(self) -> Iterator[Consumers]:
        """Consume until the end of the block."""
        threads = [threading.Thread(target=self._consume, args=(server,)) for server in self.servers]
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()

    def _consume(self, server: Tarantool) -> None:
        while not self._stop.is_set():
            with suppress(*FAULTS), closing(server.client("consumer", timeout=2)) as client:
                while not self._stop.is_set():
                    self._once(server.name, client)
            self._stop.wait(0.05)

    def _once(self, name: str, client: Any) -> None:
        (tasks,) = client.call("tubes.take", ["apns", "fcm"], 0.2, self.limit)
        with self._lock:
            for _, _, _, data in tasks:
                self.sent.update(device for device, *_ in data["recipients"])
                self.tasks.append((name, data))
        self._stop.wait(self.pause)
        for tube in ("apns", "fcm"):
            done = [[id_, {"sent": len(data["recipients"])}] for of, id_, _, data in tasks if of == tube]
            if done:
                client.call("tubes.ack", tube, done)


class Shard:
    """Servers ``a``, ``b``, ``c``… with the same users; the first is their writer."""

    def __init__(self, count: int, **settings: Any) -> None:
        self.servers = replica_set(count - 1, **settings)
        for server, name in zip(self.servers, "abcdefgh", strict=False):
            server.name = name
        peers = [[server.name, f"producer:{PASSWORD}@{server.uri}"] for server in self.servers]
        for server in self.servers:
            server.eval(f"{TIMES}; campaigns.peers(...)", peers, server.name)

    @property
    def writer(self) -> Tarantool:
        """The one that users are loaded into."""
        return self.servers[0]

    def load(self, rows: Iterable[list[Any]]) -> int:
        """Load users and wait until all servers have them; how many there are now."""
        rows = list(rows)
        with closing(self.writer.client(timeout=60)) as client:
            for begin in range(0, len(rows), 5000):
                client.call("users.load", rows[begin : begin + 5000])
            (count,) = client.eval("return box.space.users:len()")
        for server in self.servers:
            wait_for(
                lambda server=server: server.eval("return box.space.users:len()") == [count], "replication"
            )
        return int(count)

    def start(self, name: str, at: int = 0, zones: Any = None, **more: Any) -> None:
        """Create and start a campaign; where a server does not answer, at the next one."""
        for server in (*self.servers[at:], *self.servers[:at]):
            with suppress(TarantoolUnavailableError), closing(server.client("producer")) as client:
                client.call("campaigns.create", name, spec(**more))
                client.call("campaigns.start", name, zones or {})
                return
        raise AssertionError("no server answers")

    def progress(self, name: str) -> dict[str, dict[str, Any]]:
        """Return what each server that answers says."""
        found = {}
        for server in self.servers:
            with suppress(*FAULTS), closing(server.client("operator", timeout=1)) as client:
                (found[server.name],) = client.call("campaigns.progress", name)
        return found

    def wait_state(self, name: str, state: str = "done", *, everywhere: bool = False) -> None:
        """Wait until a server (or all that answer) says so."""

        def reached() -> bool:
            states = [each["state"] for each in self.progress(name).values()]
            return bool(states) and (all if everywhere else any)(each == state for each in states)

        wait_for(reached, f"{name} {state}", timeout=PATIENCE, detail=lambda: str(self.progress(name)))

    def close(self) -> None:
        """End all servers."""
        for server in self.servers:
            server.close()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a trial. ``seconds``: from the start to the end of the campaign."""

    kind: str
    users: int
    missed: int
    repeated: int
    seconds: float
    claims: dict[str, int]


#: What happens to whom in a trial.
KINDS = (
    "kill-holder-before-pass", "kill-holder-after-pass", "kill-restart", "kill-for-good", "kill-two",
    "stop-3s",
    "kill-restart-quick",
)  # fmt: skip


def die_at(server: Tarantool, point: str, seq: int) -> None:
    """Have the server kill itself (SIGKILL) at a point of the protocol, from this turn on."""
    server.eval(
        f"{DIE} local ffi, point, from = require('ffi'), ... "
        "relay.probe = function(at, seq) if at == point and seq >= from then "
        "ffi.C.kill(ffi.C.getpid(), 9) require('fiber').sleep(100) end end",
        point,
        seq,
    )


def arm(victim: Tarantool, kind: str, rng: random.Random, turns: int) -> None:
    """Prepare what happens within the protocol: afterwards a short walk may be over."""
    if kind.startswith("kill-holder"):
        point = "before pass" if kind.endswith("before-pass") else "passed"
        die_at(victim, point, rng.randrange(2, max(3, turns // 2)))


def hurt(shard: Shard, victim: Tarantool, kind: str, rng: random.Random) -> None:
    """Do it, and heal what is to be healed."""
    if kind.startswith("kill-holder"):
        wait_for(lambda: not victim.host.running(), "its death", timeout=PATIENCE)
        if rng.random() < 0.5:
            restart(victim)
        return
    time.sleep(rng.uniform(0.1, 1.5))
    if kind == "kill-two":
        for each in rng.sample(shard.servers, 2):
            each.kill()
            time.sleep(rng.uniform(0, 0.3))
    elif kind == "stop-3s":
        victim.host.pause()
        time.sleep(3)
        victim.host.resume()
    else:
        victim.kill()
        if kind == "kill-restart":
            time.sleep(rng.uniform(0, 4))
        if kind != "kill-for-good":
            restart(victim)


def restart(server: Tarantool) -> None:
    """Start it again on its data."""
    server.kill()
    server.start()
    server.eval(TIMES)


def run_trial(shard: Shard, name: str, kind: str, *, users: int, rng: random.Random, pause: float) -> Outcome:
    """Run a campaign over all users while ``kind`` happens; the shard is whole again afterwards."""
    consumers = Consumers(shard.servers, pause=pause)
    victim = rng.choice(shard.servers)
    arm(victim, kind, rng, users // 1000)
    began = time.monotonic()
    with consumers.running():
        shard.start(name, at=rng.randrange(len(shard.servers)))
        hurt(shard, victim, kind, rng)
        shard.wait_state(name)
    seconds = time.monotonic() - began
    claims = next(each["claims"] for each in shard.progress(name).values() if each["state"] == "done")
    for server in shard.servers:
        if not server.host.running():
            restart(server)
    repeated = sum(consumers.sent.values()) - len(consumers.sent)
    return Outcome(kind, users, users - len(consumers.sent), repeated, round(seconds, 2), claims)
