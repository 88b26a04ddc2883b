"""Three nodes of RabbitMQ on loopback, with a proxy on each way between two of them."""

from __future__ import annotations

import secrets
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from subprocess import SubprocessError
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import psutil

from producers.network import free_port
from tests.servers.base import wait_for
from tests.servers.epmd import PortMappers
from tests.servers.rabbitmq import RabbitMQ, broker
from tests.servers.toxiproxy import DOWN, UP, Leg, toxiproxy

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from tests.servers.rabbitmq import QueueCounts

NODES = ("a", "b", "c")
#: Seconds of silence after which a node counts as gone; a connection that ends tells at once.
TICK_SECONDS = 4
SETTINGS = {
    "cluster_formation.peer_discovery_backend": "classic_config",
    **{f"cluster_formation.classic_config.nodes.{n}": f"{name}@localhost" for n, name in enumerate(NODES, 1)},
    "cluster_formation.discovery_retry_interval": "300",
    "cluster_formation.discovery_retry_limit": "200",
    "cluster_partition_handling": "pause_minority",
    "net_ticktime": str(TICK_SECONDS),
    # one that starts before the others looks for them again soon
    "mnesia_table_loading_retry_timeout": "5000",
    "mnesia_table_loading_retry_limit": "24",
}
RUNNING = """
case rabbit:is_running() of true -> length(mnesia:system_info(running_db_nodes)); _ -> 0 end.
"""
LEADER = """
begin
  {{ok, Queue}} = rabbit_amqqueue:lookup(rabbit_misc:r(<<"/">>, queue, <<"{queue}">>)),
  [{{leader, Leader}}] = rabbit_amqqueue:info(Queue, [leader]),
  Leader
end.
"""
HEAL_SECONDS = 60.0
#: By then nodes that were frozen or cut off have joined the others, or never will without a new start.
JOIN_SECONDS = 10.0


class Cluster:
    """A cluster; ``url`` names every node, joined by ``;``, in their order."""

    def __init__(self, version: str) -> None:
        self.version = version
        self.name = f"cluster of RabbitMQ {version}"
        self._toxiproxy = toxiproxy()
        self._apart: list[RabbitMQ] = []
        self._ignores = False
        self._ports = {name: free_port() for name in NODES}
        self._legs: dict[tuple[str, str], Leg] = {}
        self._mappers = PortMappers(list(NODES), self._way)
        cookie = secrets.token_hex(10)
        self.nodes: list[RabbitMQ] = [self._node(name, cookie) for name in NODES]
        self.url = ";".join(node.url for node in self.nodes)

    def _node(self, name: str, cookie: str) -> RabbitMQ:
        environment = {
            "RABBITMQ_NODENAME": f"{name}@localhost",
            "RABBITMQ_DIST_PORT": str(self._ports[name]),
            "ERL_EPMD_PORT": str(self._mappers.port(name)),
        }
        node = broker(f"rabbitmq-{name}", self.version, SETTINGS, environment)
        _write_cookie(node.host.folder, cookie)  # type: ignore[attr-defined]  # it is a process of this machine
        return node

    def _way(self, viewer: str, name: str, port: int) -> int:
        """Return by which port a node comes to another: its own and ours (tools) go straight."""
        leg = self._legs.get((viewer, name))
        return port if leg is None else urlsplit(leg.url).port or port

    # ── life ──

    def start(self) -> None:
        """Start all nodes side by side, and wait until they are one."""
        self._toxiproxy.start()
        for one in NODES:
            for other in NODES:
                if one != other:
                    url = f"tcp://127.0.0.1:{self._ports[other]}"
                    self._legs[one, other] = self._toxiproxy.leg(f"{one}-{other}", url)
        with ThreadPoolExecutor(len(NODES)) as pool:
            list(pool.map(lambda node: node.start(), self.nodes))
        self.wait_whole()

    def close(self) -> None:
        """End all for good."""
        for each in (*self.nodes, self._toxiproxy):
            each.close()
        self._mappers.close()

    def wait_whole(self, timeout: float = HEAL_SECONDS) -> None:
        """Wait until each node knows that all run."""
        wait_for(self._is_whole, f"the {self.name}", timeout=timeout, interval=0.3, detail=self._words)

    def heal(self) -> None:
        """Undo what a test did: open every way, let frozen nodes go on, start those that have ended."""
        for leg in self._legs.values():
            for kind in (UP, DOWN):
                leg.remove(f"timeout-{kind}")
            leg.open()
        with ThreadPoolExecutor(len(NODES)) as pool:
            list(pool.map(lambda node: node.heal(), self.nodes))
        if self._ignores:
            self.handling("pause_minority")
        try:
            self.wait_whole(JOIN_SECONDS if self._apart else HEAL_SECONDS)
        except TimeoutError:
            self._start_again()
        self._apart.clear()

    def _start_again(self) -> None:
        """Do what RabbitMQ asks of its operators: who was apart, and has missed it, is started again."""
        for node in self._apart:
            node.host.kill()
            node.start()
        self.wait_whole()

    # ── what can be asked ──

    @property
    def alive(self) -> list[RabbitMQ]:
        """The nodes that run and are not frozen; one that has paused itself is among them."""
        return [node for node in self.nodes if node.host.running() and not node.paused]

    def counts(self, queue: str) -> QueueCounts:
        """Ask the queue's leader; ``KeyError`` if there is none."""
        counted: QueueCounts = self._first(lambda node: node.counts(queue))
        return counted

    def ctl(self, *arguments: str) -> str:
        """Run ``rabbitmqctl`` at the first node that answers."""
        return str(self._first(lambda node: node.ctl(*arguments)))

    def leader(self, queue: str) -> RabbitMQ:
        """Return the node that leads a quorum queue."""
        found: list[RabbitMQ] = []

        def ask() -> bool:
            with suppress(RuntimeError):
                name = self._first(lambda node: node.evaluate(LEADER.format(queue=queue))).strip("'")
                found[:] = [node for node in self.alive if name == node.node]
            return bool(found)

        wait_for(ask, f"a leader of {queue}", interval=0.2)
        return found[0]

    def used_by(self, pid: int) -> RabbitMQ:
        """Return the node that most connections of a process lead to."""
        ports = {urlsplit(node.url).port: node for node in self.nodes}
        counted: dict[str, int] = {}
        for connection in _connections(pid):
            if connection.raddr and (node := ports.get(connection.raddr.port)):
                counted[node.name] = counted.get(node.name, 0) + 1
        most = max(counted, key=lambda name: counted[name])
        return next(node for node in self.nodes if node.name == most)

    def others(self, node: RabbitMQ) -> list[RabbitMQ]:
        """Return all but one."""
        return [each for each in self.nodes if each is not node]

    # ── how it is hurt ──

    def handling(self, mode: str) -> None:
        """Say what nodes do that see too few others: ``pause_minority`` or ``ignore``."""
        self._ignores = mode == "ignore"
        for node in self.alive:
            node.set_env("cluster_partition_handling", mode)

    def part(self, node: RabbitMQ) -> None:
        """Cut a node off from the others; its clients reach it.

        Silently first: while one way is shut and another one still carries words, both nodes hear that
        somebody sees whom they have lost. That is a partial partition, and then more than one pauses.
        """
        self.silence(node)
        for leg in self._around(node):
            leg.shut()

    def freeze(self, node: RabbitMQ) -> None:
        """SIGSTOP for a node."""
        self._apart.append(node)
        node.pause()

    def silence(self, node: RabbitMQ) -> None:
        """The same, and nobody is told: connections stay, and carry nothing."""
        self._apart.append(node)
        for leg in self._around(node):
            for stream in (UP, DOWN):
                leg.add("timeout", stream, timeout=0)

    def _around(self, node: RabbitMQ) -> Iterator[Leg]:
        name = node.node.partition("@")[0]
        return (leg for pair, leg in self._legs.items() if name in pair)

    def delete_queues(self, *names: str) -> None:
        """Delete these queues; it is no error if there are none."""
        self._first(lambda node: node.delete_queues(*names))

    def policy(self, name: str, pattern: str, definition: Mapping[str, Any]) -> None:
        """Set a policy for queues."""
        self._first(lambda node: node.policy(name, pattern, definition))

    def _first(self, ask: Any) -> Any:
        problem: Exception = RuntimeError("no node runs")
        for node in self.alive:
            try:
                return ask(node)
            except (RuntimeError, OSError, SubprocessError) as exc:
                problem = exc
        raise problem

    def _is_whole(self) -> bool:
        with suppress(RuntimeError, SubprocessError):
            return all(_running(node) == len(NODES) for node in self.nodes)
        return False

    def _words(self) -> str:
        return "\n".join(node.host.last_words() for node in self.nodes)


def _running(node: RabbitMQ) -> int:
    """Return how many nodes run as one, as this one sees it."""
    return int(node.evaluate(RUNNING))


def _write_cookie(folder: Path, cookie: str) -> None:
    """By it nodes trust each other; each looks into its own home."""
    path = folder / ".erlang.cookie"
    path.write_text(cookie)
    path.chmod(0o400)


def _connections(pid: int) -> Iterator[Any]:
    for process in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True)):
        with suppress(psutil.Error):
            yield from process.net_connections("tcp")


def cluster(version: str = "4.0") -> Cluster:
    """Return three nodes, not started."""
    return Cluster(version)
