"""Tarantool with the project's Lua modules in it: one server, or a writer and its replicas."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from consumers.tarantool import Tarantool as Client
from producers.network import free_port
from tests.servers.base import Remote, Server, program
from tests.servers.local import LocalHost, new_folder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.servers.base import Host

ROOT = Path(__file__).parents[2]
INSTANCE = ROOT / "docker" / "tarantool" / "instance.lua"
MODULES = (ROOT / "consumers" / "lua", ROOT / "producers" / "campaigns" / "lua")
PASSWORD = "secret"
"""Of the users admin, consumer, producer, operator and replicator."""


class Tarantool(Server):
    """A server; ``url`` is ``tarantool://admin:secret@127.0.0.1:PORT``. Its data outlives kill and start."""

    def __init__(self, name: str, url: str, host: Host) -> None:
        super().__init__(name, url, host)
        self.port = urlsplit(url).port or 3301

    @property
    def uri(self) -> str:
        """``host:port``."""
        return f"127.0.0.1:{self.port}"

    def url_of(self, user: str) -> str:
        """Return the URL of another user: ``consumer``, ``producer``, ``operator``."""
        return f"tarantool://{user}:{PASSWORD}@{self.uri}"

    def client(self, user: str = "admin", *, timeout: float = 10) -> Client:
        """Return a new connection; the caller closes it."""
        return Client(self.url_of(user), timeout=timeout)

    def eval(self, lua: str, *arguments: Any) -> list[Any]:
        """Run Lua as admin, on a connection of its own."""
        with closing(self.client()) as client:
            return client.eval(lua, *arguments)

    def ready(self) -> bool:
        """Say whether its modules run: it listens no earlier."""
        try:
            return self.eval("return 1") == [1]
        except Exception as exc:
            raise OSError(str(exc)) from exc


def tarantool(
    name: str = "tarantool",
    *,
    modules: Sequence[Path] = MODULES,
    leader: Tarantool | None = None,
    port: int = 0,
    **settings: str,
) -> Tarantool:
    """Return a server, not started.

    ``leader``: it becomes its read-only replica; the leader has to be up at its first start. Further
    settings are those of ``docker/tarantool/instance.lua``: ``memory="1024"``.
    """
    if leader is None and not settings and (url := os.environ.get("TEST_TARANTOOL_URL")):
        return Tarantool(name, url, Remote())
    port = port or free_port()
    folder = new_folder("tarantool")
    environment = _environment(port, folder, modules, leader) | {
        f"INSTANCE_{key.upper()}": value for key, value in settings.items()
    }
    command = [program("tarantool"), str(INSTANCE)]
    url = f"tarantool://admin:{PASSWORD}@127.0.0.1:{port}"
    return Tarantool(name, url, LocalHost(name, folder, command, environment))


def replica_set(followers: int, **settings: Any) -> list[Tarantool]:
    """Start a leader and its followers; the leader is the first."""
    leader = tarantool("leader", **settings)
    leader.start()
    servers = [leader]
    for number in range(1, followers + 1):
        servers.append(tarantool(f"follower{number}", leader=leader, **settings))
        servers[-1].start()
    return servers


def _environment(
    port: int, folder: Path, modules: Sequence[Path], leader: Tarantool | None
) -> dict[str, str]:
    users = {f"INSTANCE_{user}_PASSWORD": PASSWORD for user in ("CONSUMER", "PRODUCER", "OPERATOR")}
    return {
        **users,
        "INSTANCE_ADMIN_PASSWORD": PASSWORD,
        "INSTANCE_REPLICATION_PASSWORD": PASSWORD,
        "INSTANCE_LISTEN": f"127.0.0.1:{port}",
        "INSTANCE_DIR": str(folder),
        "INSTANCE_MODULES": ":".join(str(folder) for folder in modules if folder.is_dir()),
        "INSTANCE_CHECKPOINT": "0",
        "INSTANCE_REPLICATION": f"replicator:{PASSWORD}@{leader.uri}" if leader else "",
        "INSTANCE_READ_ONLY": "yes" if leader else "",
    }
