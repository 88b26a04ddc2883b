"""What sends pushes: an engine, and what it is told of the gateway's address and our certificate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pathlib import Path

    from aggregator.sinks.push_batch import Batch, Reply, Request


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where pushes go. ``ca``: certificates to trust instead of the machine's. ``certificate``: ours.

    ``streams``: pushes under way at once on all ``connections`` of one write. ``timeout``: seconds of
    silence, and of one push from its leaving to its answer.
    """

    host: str
    port: int
    ca: Path | None
    certificate: Path | None
    connections: int
    streams: int
    timeout: float

    @property
    def url(self) -> str:
        """The gateway without a path."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"https://{host}" if self.port == 443 else f"https://{host}:{self.port}"  # noqa: PLR2004


class Engine(Protocol):
    """Sends batches over HTTP/2. Several threads may call :meth:`run`, each with its own batch."""

    def ask(self, request: Request) -> Reply:
        """Send one request on a connection that is kept for pushes. Raises a ``SinkError``."""
        ...

    def run(self, batch: Batch) -> None:
        """Send a batch; returns when nothing of it is under way, after three timeouts at most."""
        ...

    def close(self) -> None:
        """Close all connections; nothing is under way. May be called twice."""
        ...
