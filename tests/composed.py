"""Compose files as compose reads them, and their services as processes of this machine.

A service's command, settings, files and health check are taken as they stand; host names, ports and
folders of containers give way to those of here. What differs from the file is only that.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from producers.network import free_port
from tests.servers import Unavailable
from tests.servers.base import program, wait_for
from tests.servers.local import LocalHost, new_folder

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Self

ROOT = Path(__file__).parents[1]
DOCKER = ROOT / "docker"
MAIN, PUSH = DOCKER / "compose.yaml", DOCKER / "compose.push.yaml"
SECRETS = {
    MAIN: {"RABBITMQ_PASSWORD": "onlyfortests"},
    PUSH: {"TARANTOOL_PASSWORD": "onlyfortests", "CAMPAIGNS_TOKEN": "only-for-tests-0123456789"},
}
PATIENCE = 60.0


@cache
def _command() -> tuple[str, ...]:
    for command in (("docker", "compose"), ("docker-compose",)):
        if shutil.which(command[0]):
            done = subprocess.run([*command, "version"], check=False, capture_output=True)
            if done.returncode == 0:
                return command
    raise Unavailable("docker compose is not installed")


def config(file: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run ``docker compose config``; ``variables`` beside the secrets, or in their place."""
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": os.environ.get("HOME", "/"),
        **SECRETS[file],
        **variables,
    }
    command = [*_command(), "-f", str(file), "--profile", "load", "config"]
    return subprocess.run(command, check=False, capture_output=True, text=True, env=environment)


def services(file: Path, **variables: str) -> dict[str, Any]:
    """Return the services with all variables and defaults filled in."""
    found: dict[str, Any] = yaml.safe_load(_rendered(file, *variables.items()))["services"]
    return found


@cache
def _rendered(file: Path, *variables: tuple[str, str]) -> str:
    done = config(file, **dict(variables))
    assert done.returncode == 0, done.stderr
    return done.stdout


def environment(service: Mapping[str, Any]) -> dict[str, str]:
    """Return the variables that a service is given."""
    return {name: str(value) for name, value in service.get("environment", {}).items()}


def mounts(service: Mapping[str, Any]) -> dict[str, str]:
    """Return what is mounted where: folder in the container by file, folder or volume."""
    found = {}
    for each in service.get("volumes", ()):
        source, target = each.split(":")[:2] if isinstance(each, str) else (each["source"], each["target"])
        found[target] = source
    return found


def image_healthcheck() -> list[str]:
    """Return the Dockerfile's own."""
    text = (DOCKER / "Dockerfile").read_text().replace("\\\n", " ")
    (found,) = re.findall(r"^HEALTHCHECK .*CMD (\[.*\])$", text, re.MULTILINE)
    command: list[str] = json.loads(found)
    return command


class Composed:
    """The services of one file, each a process here. Leaving the block ends all of them."""

    def __init__(self, file: Path) -> None:
        self.services = services(file)
        self.folder = new_folder("composed")
        text = "\n".join([file.read_text(), (DOCKER / "push.toml").read_text()])
        self.ports = {port: free_port() for port in sorted(set(re.findall(r"(?<=[:=\"])(\d{4})\b", text)))}
        self.own = {name: free_port() for name in self.services}
        self.hosts: dict[str, LocalHost] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for host in reversed(self.hosts.values()):
            host.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def port(self, port: str) -> int:
        """Return which port stands here for that of the file."""
        return self.ports[port]

    def start(self, name: str) -> None:
        """Start a service once all that it depends on is well, and wait until it is so itself.

        One that is not to be started again is run to its end.
        """
        if name in self.hosts:
            return
        service = self.services[name]
        for other in service.get("depends_on", {}):
            self.start(other)
        host = self.hosts[name] = self._host(name, service)
        if service.get("restart") == "no":
            host.run(*host.command)
            return
        host.start()
        wait_for(lambda: self.healthy(name), f"{name} to be well", timeout=PATIENCE, detail=host.last_words)

    def healthy(self, name: str) -> bool:
        """Run a service's health check; fail if the service has ended."""
        host, service = self.hosts[name], self.services[name]
        assert host.running(), host.last_words()
        test = service.get("healthcheck", {}).get("test") or ["CMD", *image_healthcheck()]
        command = [self.grounded(name, word) for word in test[1:]]
        done = subprocess.run(_here(command), check=False, capture_output=True, env=host.environment)
        return done.returncode == 0

    def grounded(self, name: str, text: str) -> str:
        """Return a text of the file as it has to be here."""
        service = self.services[name]
        for host, port in self.own.items():
            text = text.replace(f"{host}:3301", f"127.0.0.1:{port}")
        text = text.replace("0.0.0.0:3301", f"127.0.0.1:{self.own[name]}").replace("0.0.0.0", "127.0.0.1")
        for port, here in self.ports.items():
            text = re.sub(rf"(?<=[:=]){port}\b|^{port}$", str(here), text)
        # the folders of here come last: their names are not to be looked at again
        places = {"/tmp/": f"{name}.tmp", **mounts(service)}
        found = "|".join(map(re.escape, sorted(places, key=len, reverse=True)))
        return re.sub(found, lambda match: self._place(name, places[match[0]]), text)

    def _place(self, name: str, source: str) -> str:
        """Return the file or folder of here; a file with settings of ours as a copy that fits."""
        if not source.startswith("/"):
            place = self.folder / source
            place.mkdir(exist_ok=True)
            return f"{place}/" if source.endswith(".tmp") else str(place)
        if not source.endswith(".toml"):
            return source
        copy = self.folder / f"{name}-{Path(source).name}"
        if not copy.exists():
            copy.touch()
            copy.write_text(self.grounded(name, Path(source).read_text()))
        return str(copy)

    def _host(self, name: str, service: Mapping[str, Any]) -> LocalHost:
        command = [*(service.get("entrypoint") or ()), *(service.get("command") or ())]
        given = {key: self.grounded(name, value) for key, value in environment(service).items()}
        surroundings = {"PATH": os.environ["PATH"], "HOME": str(self.folder), "PYTHONPATH": str(ROOT)}
        words = _here([self.grounded(name, word) for word in command])
        return LocalHost(name, new_folder(name), words, {**surroundings, **given})


def _here(command: list[str]) -> list[str]:
    """Return a command of the image as one of here."""
    ours = {"python": [sys.executable], "aggregator-consume": [sys.executable, "-m", "aggregator.consume"]}
    first = ours.get(command[0]) or [program(command[0])]
    return [*first, *command[1:]]
