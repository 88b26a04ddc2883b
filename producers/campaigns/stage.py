"""All that a campaign needs, on this machine and for as long as a block lasts: for a look, and for figures.

Tarantool servers with the project's modules, gateways, the API and the sending side: each a process of
its own, with passwords and a folder of their own, on free ports of 127.0.0.1.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import urlencode

import orjson
import requests

from aggregator.clock import SYSTEM_CLOCK, sleep
from aggregator.errors import UnrecoverableError
from producers.network import free_port

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType
    from typing import Self

ROOT = Path(__file__).parents[2]
INSTANCE = ROOT / "docker" / "tarantool" / "instance.lua"
MODULES = (ROOT / "consumers" / "lua", Path(__file__).parent / "lua")
_PATIENCE = 30.0
_GRACE = 10.0


class Stage:
    """Starts what it is asked for; ends all of it, the last first. ``folder``: where the logs are."""

    def __init__(self, shown: IO[str] | None = None) -> None:
        self.token = secrets.token_urlsafe(32)
        self.password = secrets.token_urlsafe(16)
        self.servers: list[str] = []
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._commands: dict[str, tuple[Sequence[str], Mapping[str, str] | None]] = {}
        self._shown = shown
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        # told to end, it ends what it has started
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        self.folder = Path(tempfile.mkdtemp(prefix="aggregator-campaign-"))
        self._stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def url(self, user: str, *servers: str) -> str:
        """Return the URL of these servers, of all if none is named, for one of Tarantool's users."""
        return f"tarantool://{user}:{self.password}@{','.join(servers or self.servers)}/"

    # ── the parts ──

    def tarantool(self, *, memory: int = 512) -> str:
        """Start a server, the first as the one that is written to; return ``host:port``."""
        program = shutil.which("tarantool")
        if program is None:
            raise UnrecoverableError("no program tarantool; install it (Debian: apt-get install tarantool)")
        if not INSTANCE.exists():
            raise UnrecoverableError(f"{INSTANCE} is missing: run it in a checkout of the project")
        place = f"127.0.0.1:{free_port()}"
        name = f"tarantool{len(self.servers) + 1}"
        users = {
            f"INSTANCE_{user}_PASSWORD": self.password
            for user in ("ADMIN", "CONSUMER", "PRODUCER", "OPERATOR", "REPLICATION")
        }
        leader = self.servers[0] if self.servers else ""
        ready = self.folder / f"{name}.ready"
        environment = {
            **users,
            "INSTANCE_LISTEN": place,
            "INSTANCE_DIR": str(self.folder / name),
            "INSTANCE_MODULES": ":".join(map(str, MODULES)),
            "INSTANCE_MEMORY": str(memory),
            "INSTANCE_CHECKPOINT": "0",
            "INSTANCE_READY": str(ready),
            "INSTANCE_REPLICATION": f"replicator:{self.password}@{leader}" if leader else "",
            "INSTANCE_READ_ONLY": "yes" if leader else "",
        }
        self.start(name, [program, str(INSTANCE)], environment)
        self._wait(name, ready.exists)
        self.servers.append(place)
        return place

    def join(self) -> None:
        """Have the servers know one another: each takes its turn in a campaign."""
        url = self.url("admin")
        self.run("install", ["-m", "producers.campaigns", "install"], {"CAMPAIGNS_SHARDS__MAIN": url})

    def gateway(self, kind: str, *options: str) -> str:
        """Start a simulator, ``apns`` or ``fcm``; return the URL of the sink that sends to it."""
        told = self.told(kind, [sys.executable, "-m", "aggregator.testing.gateways", kind, *options])
        wanted = ("key", "key_id", "team_id", "topic") if kind == "apns" else ("credentials", "project")
        query = {name: told[name] for name in (*wanted, "ca")}
        return f"{kind}+{told['url']}/?{urlencode(query)}"

    def users(self, count: int, *, seed: int = 0) -> None:
        """Load made-up users into the first server."""
        self.run(
            "load",
            ["-m", "producers.campaigns", "load", "--generate", str(count), "--seed", str(seed), "--server",
             self.url("producer", self.servers[0])],
        )  # fmt: skip

    def api(self) -> Api:
        """Start the campaign service."""
        port = free_port()
        settings = {"CAMPAIGNS_SHARDS__MAIN": self.url("producer"), "CAMPAIGNS_TOKEN": self.token}
        self.start(
            "api", [sys.executable, "-m", "producers.campaigns", "serve", "--port", str(port)], settings
        )
        api = Api(f"http://127.0.0.1:{port}", self.token)
        self._wait("api", api.answers)
        return api

    def consume(self, sinks: Mapping[str, str], **settings: Any) -> str:
        """Start the sending side: a route for each tube; return the URL of its metrics."""
        port = free_port()
        lines = [f"metrics_port = {port}", f"aggregate = {_quoted('push')}"]
        lines += [
            f"{name} = {value if isinstance(value, int) else _quoted(value)}"
            for name, value in settings.items()
        ]
        for tube, sink in sinks.items():
            lines += [f"[routes.{tube}]", f"queue = {_quoted(tube)}", f"sink = {_quoted(sink)}"]
            lines += [f"broker = {_quoted(self.url('consumer'))}"]
        path = self.folder / "push.toml"
        path.write_text("\n".join(lines) + "\n")
        self.start("consume", [sys.executable, "-m", "aggregator.consume", "--config", str(path)])
        metrics = f"http://127.0.0.1:{port}"
        self._wait("consume", lambda: _answers(f"{metrics}/readyz"))
        return metrics

    # ── processes ──

    def kill(self, name: str) -> None:
        """End a process at once, as a machine does that loses its power."""
        self.processes[name].kill()
        self.processes[name].wait()

    def restart(self, name: str) -> None:
        """Start a process again that was killed, as it was started."""
        (self.folder / f"{name}.ready").unlink(missing_ok=True)
        self.start(name, *self._commands[name])

    def start(self, name: str, command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        """Start a process; what it says goes to ``folder/NAME.log``."""
        self._commands[name] = command, environment
        with (self.folder / f"{name}.log").open("ab") as log:
            self._start(name, command, environment, stdout=log, stderr=log)

    def run(self, name: str, arguments: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        """Run a command of the project to its end. Raises ``UnrecoverableError`` if it fails."""
        command = [sys.executable, *arguments]
        with (self.folder / f"{name}.log").open("ab") as log:
            done = subprocess.run(  # noqa: S603 - our own
                command,
                env=_inherited(environment),
                cwd=ROOT,
                stdout=log,
                stderr=self._shown or log,
                check=False,
            )
        if done.returncode:
            raise UnrecoverableError(f"{name} has failed\n{self.words(name)}")

    def told(self, name: str, command: Sequence[str]) -> dict[str, Any]:
        """Start a process; return what it says in its first line, as JSON."""
        with (self.folder / f"{name}.log").open("ab") as log:
            process = self._start(name, command, None, stdout=subprocess.PIPE, stderr=log)
        line = process.stdout.readline() if process.stdout else b""
        if not line:
            raise UnrecoverableError(f"{name} has ended\n{self.words(name)}")
        told: dict[str, Any] = orjson.loads(line)
        return told

    def words(self, name: str) -> str:
        """Return the end of a process's log."""
        return (self.folder / f"{name}.log").read_text(errors="replace")[-2000:]

    def _start(
        self, name: str, command: Sequence[str], environment: Mapping[str, str] | None, **streams: Any
    ) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(  # noqa: S603 - our own
            command, env=_inherited(environment), cwd=ROOT, stdin=subprocess.DEVNULL, **streams
        )
        self.processes[name] = process
        self._stack.callback(_end, process)
        return process

    def _wait(self, name: str, holds: Any) -> None:
        until = SYSTEM_CLOCK.monotonic() + _PATIENCE
        while not holds():
            if self.processes[name].poll() is not None or SYSTEM_CLOCK.monotonic() > until:
                raise UnrecoverableError(f"{name} does not come up\n{self.words(name)}")
            sleep(0.05)


class Api:
    """The campaign service over HTTP."""

    def __init__(self, url: str, token: str) -> None:
        self.url = url
        self._session = requests.Session()
        self._session.headers["Authorization"] = f"Bearer {token}"

    def answers(self) -> bool:
        """Say whether it is up."""
        return _answers(f"{self.url}/healthz")

    def post(self, path: str, body: Any = None) -> Any:
        """Return what it answers. Raises ``UnrecoverableError`` with its words if it refuses."""
        return self._body(self._session.post(f"{self.url}{path}", json=body, timeout=60))

    def get(self, path: str) -> Any:
        """Return what it answers, as :meth:`post` does."""
        return self._body(self._session.get(f"{self.url}{path}", timeout=60))

    @staticmethod
    def _body(answer: requests.Response) -> Any:
        if not answer.ok:
            raise UnrecoverableError(f"the API answers {answer.status_code}: {answer.text[:1000]}")
        return answer.json()


def _inherited(more: Mapping[str, str] | None) -> dict[str, str]:
    """Return the environment of a process: nobody's settings but ours."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TERM") if name in os.environ}
    return kept | dict(more or {})


def _answers(url: str) -> bool:
    with suppress(requests.RequestException):
        return requests.get(url, timeout=2).ok
    return False


def _quoted(text: str) -> str:
    return orjson.dumps(text).decode()  # TOML's basic strings take it as it is


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.stdout is not None:
        process.stdout.close()
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is None:
            process.send_signal(number)
            with suppress(subprocess.TimeoutExpired):
                process.wait(_GRACE)
