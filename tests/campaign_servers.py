"""Servers with users and campaigns in memory, behind the port of the campaign service; they can be hurt."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from producers.campaigns.ports import ServerRefusedError, ServerUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable

#: id, token, platform, app_version, language, resolution, tz, hour_from, hour_to, registered
ROWS = [
    ["a1", "token-a1", "apns", 3_002_001, "de", "1170x2532", "Europe/Berlin", None, None, 1000.0],
    ["a2", "token-a2", "apns", 4_000_000, "en", "1170x2532", "America/New_York", 9, 18, 1000.0],
    [7, "token-7", "fcm", 3_000_000, "en", "1080x2400", "+05:30", None, None, 2000.0],
]


def matches(wanted_filter, row):
    def one_of(name, value):
        wanted = wanted_filter.get(name)
        return wanted is None or value in (wanted if isinstance(wanted, list) else [wanted])

    return (
        one_of("platform", row[2])
        and wanted_filter.get("version_from", 0) <= row[3] <= wanted_filter.get("version_to", 10**12)
        and one_of("language", row[4])
        and one_of("resolution", row[5])
        and one_of("tz", row[6])
    )


@dataclass
class FakeServer:
    """One replica. ``mode``: ``up``, ``down`` (refuses connections), ``silent`` (every call times out)."""

    replicas: dict[str, Any]
    writer: bool
    mode: str = "up"
    state: str = "created"
    calls: list[tuple[str, tuple[Any, ...]]] = field(default_factory=list)
    progress: dict[str, dict[str, Any]] = field(default_factory=dict)
    answering: threading.Event = field(default_factory=threading.Event)

    def answer(self, function, arguments):
        self.calls.append((function, arguments))
        if self.mode != "up":
            raise ServerUnavailableError(f"it is {self.mode}")
        return getattr(self, "_" + function.replace(".", "_"))(*arguments)

    def _write(self):
        if not self.writer:
            raise ServerRefusedError("read-only", "read-only: this is no writer")

    def _known(self, name):
        if name not in self.replicas["campaigns"]:
            raise ServerRefusedError("no-campaign", f"no-campaign: {name}")

    def _users_count(self, wanted_filter=None):
        return sum(matches(wanted_filter or {}, row) for row in self.replicas["users"].values())

    def _users_zones(self):
        zones = {}
        for row in self.replicas["users"].values():
            zones[row[6]] = zones.get(row[6], 0) + 1
        return zones

    def _users_forget(self, dead):
        self._write()
        users, gone = self.replicas["users"], 0
        for name, token, epoch in dead:
            if name in users and users[name][1] == token and epoch > users[name][9]:
                del users[name]
                gone += 1
        return gone

    def _campaigns_create(self, name, spec):
        self._write()
        stored = self.replicas["campaigns"].setdefault(name, spec)
        if stored != spec:
            raise ServerRefusedError("conflict", f"conflict: {name} is another one")
        return {"id": name, "state": "created"}

    def _campaigns_get(self, name):
        spec = self.replicas["campaigns"].get(name)
        return None if spec is None else {"id": name, "spec": spec, "state": self._state(name)}

    def _campaigns_list(self):
        return [self._campaigns_get(name) for name in self.replicas["campaigns"]]

    def _campaigns_start(self, name, zones):
        self._known(name)
        assert all(rows[0][0] == 0 for rows in zones.values())
        # told to the others at once: here replication takes no time
        for server in self.replicas["servers"]:
            said = server.progress.setdefault(name, {"state": "created"})
            if said["state"] == "created":
                said.update(state="running", started=1_800_000_000.0, walked=0, matched=0, queued=0)
        return self._campaigns_progress(name)

    def _state(self, name):
        return self.progress.get(name, {}).get("state", "created")

    def _campaigns_progress(self, name):
        self._known(name)
        return {"state": "created", **self.progress.get(name, {})}

    def _act(self, name, state):
        self._known(name)
        self.progress.setdefault(name, {})["state"] = state
        return {"state": state}

    def _campaigns_pause(self, name):
        return self._act(name, "paused")

    def _campaigns_resume(self, name):
        return self._act(name, "running")

    def _campaigns_cancel(self, name):
        return self._act(name, "cancelled")

    def _campaigns_revoke(self, name):
        return self._act(name, "revoked")


class FakeConnection:
    """Finds its server at each call: another may have taken its place."""

    def __init__(self, find: Callable[[], FakeServer]) -> None:
        self._find = find

    def call(self, function, *arguments):
        return self._find().answer(function, arguments)

    def close(self):
        pass


class FakeServers:
    """Shards of replicas: ``FakeServers(a=2, b=1)``; the first of each shard is its writer."""

    def __init__(self, **shards: int) -> None:
        self.by_address: dict[str, FakeServer] = {}
        self.shards: dict[str, str] = {}
        self.names: dict[str, FakeServer] = {}
        port = 3301
        for shard, count in shards.items():
            replicas = {"users": {row[0]: row for row in ROWS}, "campaigns": {}, "servers": []}
            addresses = []
            for number in range(count):
                server = FakeServer(replicas, writer=number == 0)
                replicas["servers"].append(server)
                address = f"127.0.0.1:{port}"
                addresses.append(address)
                self.by_address[address] = self.names[f"{shard}{number}"] = server
                port += 1
            self.shards[shard] = f"tarantool://campaigns:secret@{','.join(addresses)}/"

    def __getitem__(self, name: str) -> FakeServer:
        return self.names[name]

    def connect(self, server, timeout: float) -> FakeConnection:
        del timeout
        address = str(server)
        if self.by_address[address].mode == "down":
            raise ServerUnavailableError("connection refused")
        return FakeConnection(lambda: self.by_address[address])

    def renew(self) -> None:
        """Put fresh servers in the place of all."""
        self.__init__(**{shard: url.count(",") + 1 for shard, url in self.shards.items()})

    def calls(self, function: str) -> int:
        """Return how often all servers together were asked for a function."""
        return sum(called == function for server in self.names.values() for called, _ in server.calls)
