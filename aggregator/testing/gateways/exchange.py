"""What goes between a connection and its gateway, whatever the version of HTTP."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Sequence

    from aggregator.testing.gateways.script import Rule

#: The longest body that is kept; what is longer is counted and thrown away.
LONGEST = 65_536


@dataclass(slots=True)
class Request:
    """A request, complete when its client has ended it. ``pairs``: its headers as they came."""

    pairs: Sequence[tuple[str, str]]
    stream: int
    connection: Connection
    headers: dict[str, str] = field(init=False)
    body: bytearray = field(default_factory=bytearray)
    size: int = 0

    def __post_init__(self) -> None:
        self.headers = dict(self.pairs)

    def add(self, data: bytes) -> None:
        """Take a piece of the body."""
        self.size += len(data)
        if len(self.body) + len(data) <= LONGEST:
            self.body += data


@dataclass(frozen=True, slots=True)
class Answer:
    """``reason``: the gateway's own word for it, empty for success."""

    status: int
    reason: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""


@dataclass(slots=True)
class Pending:
    """A request whose answer is decided and not told yet. ``counts``: whether it stands in the journal."""

    request: Request
    answer: Answer
    token: str
    apns_id: str
    rule: Rule | None
    counts: bool = True
    timer: asyncio.TimerHandle | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Goaway:
    """How a connection ends: streams above ``last_stream_id`` are not processed, the others answered first.

    By default that is the highest stream seen, or the one ``behind`` streams before it. ``abrupt``: the
    connection ends at once, and what was not answered is uncertain. ``code``: HTTP/2's error.
    """

    body: bytes
    last_stream_id: int | None = None
    behind: int = 0
    code: int = 0
    abrupt: bool = False


class Connection(Protocol):
    """What a gateway tells a connection; in the gateway's own thread alone."""

    number: int
    #: Of the connection alone, such as whether its provider has shown who it is.
    trusted: bool

    def peer_certificate(self) -> bytes | None:
        """Return the client's certificate (DER)."""

    def set_streams(self, count: int) -> None:
        """Announce a new limit of streams."""

    def wait(self, pending: Pending, delay: float) -> None:
        """Answer after ``delay`` seconds."""

    def goaway(self, how: Goaway) -> None:
        """End the connection with a word."""

    def drop(self) -> None:
        """End the connection at once, without a word."""


class Host(Protocol):
    """What a connection asks of its gateway."""

    settings: dict[int, int]
    #: Seconds after which a connection without requests is ended.
    idle: float

    @property
    def first_streams(self) -> int:
        """The limit of streams that a new connection is told."""

    @property
    def window_updates(self) -> bool:
        """Whether flow control windows are given back."""

    def opened(self, connection: Connection) -> None:
        """Note a connection."""

    def closed(self, connection: Connection) -> None:
        """Forget a connection."""

    def take(self, request: Request) -> None:
        """Decide on a complete request."""

    def note(self, pending: Pending, outcome: str) -> None:
        """Write down what became of a request."""

    def goaway_body(self, reason: str) -> bytes:
        """Return what stands in a GOAWAY frame."""
