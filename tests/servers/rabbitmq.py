"""RabbitMQ 3.10 and 4.0: one is this Debian's own, the other stands in a folder with another Debian."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kombu.connection import Connection

from producers.network import free_port
from tests.servers.base import Remote, Server, Unavailable, program
from tests.servers.local import LocalHost, cache_folder, new_folder

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.servers.base import Host

SCRIPTS = "/usr/lib/rabbitmq/bin"
NODE = "aggregator@localhost"
SUITES = {"3.10": "bookworm", "4.0": "trixie"}
"""The Debian that each version is part of."""
SETTINGS = {"log.console.level": "warning"}
# How often, in ms, channels look for deliveries past consumer_timeout: a minute by default.
ADVANCED = "[{rabbit, [{channel_tick_interval, 1000}]}].\n"
PLUGINS = ("rabbitmq_consistent_hash_exchange",)

# What list_queues says of a quorum queue is what its leader wrote down up to 5 s ago.
COUNT = """
case rabbit_amqqueue:lookup(rabbit_misc:r(<<"/">>, queue, <<"{queue}">>)) of
  {{ok, Queue}} ->
    case amqqueue:get_type(Queue) of
      rabbit_quorum_queue ->
        Count = fun(Fifo) -> {{
          rabbit_fifo:query_messages_ready(Fifo),
          rabbit_fifo:query_messages_checked_out(Fifo),
          rabbit_fifo:query_consumer_count(Fifo)}} end,
        {{ok, {{_, Counted}}, _}} = ra:leader_query(amqqueue:get_pid(Queue), Count),
        Counted;
      _ ->
        Asked = [messages_ready, messages_unacknowledged, consumers],
        list_to_tuple([Number || {{_, Number}} <- rabbit_amqqueue:info(Queue, Asked)])
    end;
  _ -> absent
end.
"""
CLOSE = 'rabbit_networking:close_connections(rabbit_networking:connections(), <<"asked for by a test">>).'
# erl_call answers in milliseconds; rabbitmqctl starts a virtual machine for it, half a second of CPU.
EVALUATE = """
if command -v erl_call >/dev/null; then printf '%s\\n' "$1" | exec erl_call -sname "$2" -e
else printf '{ok, %s}' "$("$3" --quiet -n "$2" eval "$1")"; fi
"""

# A mount namespace of its own: what is mounted here disappears with the last process in it.
ENTER = (
    'mount -t proc proc "$1/proc" && mount --rbind /dev "$1/dev" && mount --bind "$2" "$1/mnt" '
    '&& root=$1 && shift 2 && exec chroot "$root" "$@"'
)


@dataclass(frozen=True, slots=True)
class QueueCounts:
    """A queue as its own process counts it at this moment."""

    ready: int
    unacked: int
    consumers: int


class RabbitMQ(Server):
    """A broker; ``url`` is ``amqp://guest:guest@127.0.0.1:PORT//``, ``node`` what Erlang calls it."""

    def __init__(self, name: str, version: str, url: str, host: Host, node: str = NODE) -> None:
        super().__init__(name, url, host)
        self.version = version
        self.node = node

    def ready(self) -> bool:
        """Log in; with the transport's own means, as a connection would wait 2 s before its second try."""
        with _connection(self.url) as connection:
            transport = connection.transport
            try:
                transport.close_connection(transport.establish_connection())
            except connection.connection_errors as exc:
                raise ConnectionError(str(exc)) from exc
        return True

    def kill(self) -> None:
        """Kill it once it has stored which queues there are.

        It writes that down up to 2 s after the declaration (Mnesia's log); what was confirmed is
        safe, but a queue that nobody knows of any more has no messages.
        """
        self.evaluate("mnesia:sync_log().")
        super().kill()

    def ctl(self, *arguments: str) -> str:
        """Run ``rabbitmqctl`` and return its output; takes a third of a second."""
        return self.host.run(f"{SCRIPTS}/rabbitmqctl", "--quiet", "-n", self.node, *arguments)

    def evaluate(self, erlang: str) -> str:
        """Return what an expression of Erlang has for a value, as text; raise where it has none."""
        command = ("sh", "-c", EVALUATE, "sh", erlang, self.node, f"{SCRIPTS}/rabbitmqctl")
        said = self.host.run(*command).strip()
        if not said.startswith("{ok, "):
            raise RuntimeError(f"{erlang}: {said}")
        return said.removeprefix("{ok, ").removesuffix("}").strip()

    def set_env(self, key: str, erlang: str) -> None:
        """Set a value of the application ``rabbit``: ``set_env("consumer_timeout", "5000")``.

        ``erlang`` is a term. Channels read most values when they are opened.
        """
        self.evaluate(f"application:set_env(rabbit, {key}, {erlang}).")

    def counts(self, queue: str) -> QueueCounts:
        """Ask the queue itself; ``KeyError`` if there is no such queue."""
        counted = self.evaluate(COUNT.format(queue=queue))
        if counted == "absent":
            raise KeyError(queue)
        return QueueCounts(*map(int, counted.strip("{}").split(",")))

    def delete_queues(self, *names: str) -> None:
        """Delete these queues; it is no error if there are none."""
        with _connection(self.url, 20.0) as connection:
            for name in names:
                connection.default_channel.queue_delete(name)

    def close_all_connections(self) -> None:
        """Let the broker close every client's connection."""
        self.evaluate(CLOSE)

    def memory_alarm(self, *, on: bool) -> None:
        """Raise or clear the memory alarm: publishers are blocked while it is on."""
        self.ctl("set_vm_memory_high_watermark", "0.00001" if on else "0.4")

    def policy(self, name: str, pattern: str, definition: Mapping[str, Any]) -> None:
        """Set a policy for queues, such as ``{"delivery-limit": 3}``; ``clear_policy`` removes it."""
        self.ctl("set_policy", "--apply-to", "queues", name, pattern, json.dumps(definition))


def _connection(url: str, timeout: float = 2.0) -> Any:
    return Connection(url, connect_timeout=timeout)


def rabbitmq(settings: Mapping[str, str] | None = None) -> RabbitMQ:
    """Return RabbitMQ 3.10, not started. ``settings`` are further lines of ``rabbitmq.conf``."""
    return broker("rabbitmq", "3.10", settings or {})


def rabbitmq4(settings: Mapping[str, str] | None = None) -> RabbitMQ:
    """Return RabbitMQ 4.0, not started. ``settings`` are further lines of ``rabbitmq.conf``."""
    return broker("rabbitmq4", "4.0", settings or {})


def broker(
    name: str, version: str, settings: Mapping[str, str], environment: Mapping[str, str] | None = None
) -> RabbitMQ:
    """Return a broker, not started; with an ``environment`` of its own it is one that is installed here."""
    if not (settings or environment) and (url := os.environ.get(f"TEST_{name.upper()}_URL")):
        return RabbitMQ(name, version, url, Remote())
    root = cache_folder() / SUITES[version]
    if _installed(Path("/"), version):
        inside, enter = None, []
    elif not _installed(root, version):
        if environment:
            raise Unavailable(
                f"RabbitMQ {version} is not installed: `make servers` does it, as root on Debian"
            )
        return _container(name, version, settings)
    elif os.geteuid() != 0:
        raise Unavailable(f"RabbitMQ {version} stands in a folder that only root can enter (chroot)")
    else:
        inside, enter = "/mnt", [program("unshare"), "-m", program("sh"), "-c", ENTER, "enter", str(root)]
    folder = new_folder(name)
    if enter:
        enter.append(str(folder))
    url, surroundings = _configure(folder, inside or str(folder), settings)
    surroundings.update(environment or {})
    host = LocalHost(name, folder, [*enter, f"{SCRIPTS}/rabbitmq-server"], surroundings, enter)
    return RabbitMQ(name, version, url, host, surroundings["RABBITMQ_NODENAME"])


def _installed(root: Path, version: str) -> bool:
    return any(root.glob(f"usr/lib/rabbitmq/lib/rabbitmq_server-{version}.*"))


def _configure(folder: Path, inside: str, settings: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    """Write the node's files to ``folder``, which it sees as ``inside``; return URL and environment."""
    port = free_port()
    lines = {"listeners.tcp.local": f"127.0.0.1:{port}", **SETTINGS, **settings}
    Path(folder, "rabbitmq.conf").write_text("".join(f"{k} = {v}\n" for k, v in lines.items()))
    Path(folder, "advanced.config").write_text(ADVANCED)
    more = ("rabbitmq_management",) if any(key.startswith("management.") for key in settings) else ()
    Path(folder, "plugins").write_text(f"[{','.join((*PLUGINS, *more))}].\n")
    environment = {
        "HOME": inside,
        "LANG": "C.UTF-8",
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "ERL_EPMD_PORT": str(free_port()),
        "RABBITMQ_ADVANCED_CONFIG_FILE": f"{inside}/advanced.config",
        "RABBITMQ_CONFIG_FILE": f"{inside}/rabbitmq.conf",
        "RABBITMQ_CONF_ENV_FILE": "/dev/null",
        "RABBITMQ_DIST_PORT": str(free_port()),
        "RABBITMQ_ENABLED_PLUGINS_FILE": f"{inside}/plugins",
        "RABBITMQ_GENERATED_CONFIG_DIR": f"{inside}/generated",
        "RABBITMQ_LOG_BASE": f"{inside}/log",
        "RABBITMQ_LOGS": "-",
        "RABBITMQ_MNESIA_BASE": f"{inside}/data",
        "RABBITMQ_NODENAME": NODE,
        "RABBITMQ_PID_FILE": f"{inside}/pid",
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
    }
    return f"amqp://guest:guest@127.0.0.1:{port}//", environment


def _container(name: str, version: str, settings: Mapping[str, str]) -> RabbitMQ:
    from tests.servers.container import ContainerHost

    port = free_port()
    lines = "".join(f"{k} = {v}\n" for k, v in {**SETTINGS, **settings}.items())
    host = ContainerHost(
        f"rabbitmq:{version}",
        {5672: port},
        {"RABBITMQ_NODENAME": NODE},
        files={"/etc/rabbitmq/conf.d/90-test.conf": lines, "/etc/rabbitmq/advanced.config": ADVANCED},
    )
    return RabbitMQ(name, version, f"amqp://guest:guest@127.0.0.1:{port}//", host)
