"""A server as a container, where an engine answers."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.servers.base import Unavailable

if TYPE_CHECKING:
    from collections.abc import Mapping


class ContainerHost:
    """Runs ``image`` with ``ports`` (inside: outside) on the loopback interface.

    ``files`` maps paths inside to their text. ``instead`` tells why nothing installed was taken.
    Raises ``Unavailable`` where no engine answers.
    """

    origin = "container"

    def __init__(
        self,
        image: str,
        ports: Mapping[int, int],
        environment: Mapping[str, str],
        *,
        files: Mapping[str, str] | None = None,
        instead: str = "not installed",
    ) -> None:
        # slow to import, and most runs need neither
        from docker.errors import DockerException
        from testcontainers.core.container import DockerContainer

        import docker

        try:
            docker.from_env(timeout=5).ping()
        except DockerException:
            raise Unavailable(f"{instead}, and no container engine answers") from None
        self._folder = tempfile.TemporaryDirectory(prefix="aggregator-container-")
        self._container = DockerContainer(image)
        for inside, outside in ports.items():
            # the engine's library takes an address as well, which the annotation does not tell
            self._container.with_bind_ports(inside, ("127.0.0.1", outside))  # type: ignore[arg-type]
        for name, value in environment.items():
            self._container.with_env(name, value)
        for number, (path, text) in enumerate((files or {}).items()):
            file = Path(self._folder.name, str(number))
            file.write_text(text)
            file.chmod(0o644)
            self._container.with_volume_mapping(str(file), path, "ro")
        self._created = False

    def start(self) -> None:
        """Create it, or start it again."""
        if self._created:
            self._wrapped().start()
        else:
            self._container.start()
            self._created = True

    def stop(self) -> None:
        """Stop it gracefully."""
        self._wrapped().stop(timeout=30)

    def kill(self) -> None:
        """Send SIGKILL."""
        self._wrapped().kill()

    def pause(self) -> None:
        """Freeze it."""
        self._wrapped().pause()

    def resume(self) -> None:
        """Let it go on."""
        self._wrapped().unpause()

    def running(self) -> bool:
        """Ask the engine."""
        if not self._created:
            return False
        self._wrapped().reload()
        return self._wrapped().status in {"created", "running", "paused"}

    def run(self, *command: str) -> str:
        """Run a command inside; its path counts for nothing, only its name."""
        code, output = self._wrapped().exec_run([Path(command[0]).name, *command[1:]])
        text = str(output.decode(errors="replace"))
        if code:
            raise RuntimeError(f"{' '.join(command)}: exit {code}\n{text}")
        return text

    def last_words(self) -> str:
        """Return the end of its log."""
        return str(self._wrapped().logs(tail=15).decode(errors="replace")) if self._created else ""

    def close(self) -> None:
        """Remove it."""
        if self._created:
            self._container.stop()
        self._folder.cleanup()

    def _wrapped(self) -> Any:
        return self._container.get_wrapped_container()
