"""A thread beside the routes with a connection of its own, which goes on whatever happens to that.

Nothing that happens to it reaches the routes: it connects again, with pauses that grow, and says in
``problem`` what is wrong meanwhile.
"""

from __future__ import annotations

from contextlib import suppress
from threading import Event, Thread
from typing import TYPE_CHECKING, Any, Self

import structlog

from aggregator.backoff import LONGEST_PAUSE, Backoff

if TYPE_CHECKING:
    from kombu.connection import Connection

    from consumers.connecting import Broker

#: The longest wait for a message: whether to stop, and the heartbeat, are looked at.
TICK_SECONDS = 0.5
#: Bound on any single read or write of the socket.
IO_SECONDS = 5.0


class Attendant:
    """Serves over one connection after another from :meth:`start` to :meth:`stop`.

    ``name``: of its thread, its logs and its notes. A subclass serves in :meth:`attend`.
    """

    def __init__(self, broker: Broker, name: str, **said: str) -> None:
        self.problem = "it is not connected yet"
        self._broker = broker
        self._name = name
        self._stop = Event()
        self._failures = 0
        self._backoff = Backoff(0.2, LONGEST_PAUSE)
        self._wake: Any = None
        self._established: Any = None
        self._log = structlog.get_logger().bind(**said)
        self._thread = Thread(target=self._run, name=name, daemon=True)

    def __enter__(self) -> Self:
        """Start."""
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self.stop()

    def start(self) -> None:
        """Begin to serve; no broker is waited for."""
        self._thread.start()

    def stop(self) -> None:
        """End, within a few seconds, whatever the broker does."""
        self._stop.set()
        if (wake := self._wake) is not None:
            wake()
        self._thread.join(TICK_SECONDS + IO_SECONDS)

    def notes(self) -> list[str]:
        """Return what keeps it from its work, for people; nothing if all is well."""
        problem = self.problem if self._thread.is_alive() else "its thread has died; see the log"
        return [f"{self._name}: {problem}"] if problem else []

    # ── a subclass's part ──

    def attend(self, connection: Connection) -> None:
        """Serve over a new connection until :attr:`stopping`; errors end it, and another follows."""
        raise NotImplementedError

    def parted(self) -> None:
        """Hear that a connection has ended, however that came."""

    @property
    def stopping(self) -> bool:
        """Whether to end."""
        return self._stop.is_set()

    def served(self) -> None:
        """Say that all is well."""
        self._failures, self.problem = 0, ""

    def turn(self, connection: Connection) -> bool:
        """Wait a tick for what comes in, and beat the heart; return whether something came."""
        # through these, never through kombu's connection: it would connect anew, and hear nothing
        established, transport = self._established, connection.transport
        came = False
        with suppress(TimeoutError):
            transport.drain_events(established, timeout=TICK_SECONDS)
            came = True
        if connection.connection is not established or not transport.verify_connection(established):
            raise ConnectionError("the connection is closed")
        transport.heartbeat_check(established)
        return came

    # ── its thread ──

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._serve()
            except Exception as exc:  # noqa: BLE001 - whatever it is, the routes go on, and so does this
                self._note(exc)
            self._wake = None
            self.parted()

    def _note(self, exc: Exception) -> None:
        self._failures += 1
        pause = self._backoff.pause(self._failures)
        self.problem = f"the broker is not to be had ({type(exc).__name__})"
        said = f"{type(exc).__name__}: {exc}"
        self._log.warning(f"{self._name}_away", problem=said, next_try=round(pause, 1))
        self._stop.wait(pause)

    def _serve(self) -> None:
        with self._broker.connection() as connection:
            try:
                self._connect(connection)
                self.attend(connection)
            except BaseException:
                # a frozen broker answers no good-bye: let go without one
                if self._broker.amqp:
                    connection.collect()
                raise

    def _connect(self, connection: Connection) -> None:
        connection.ensure_connection(
            max_retries=self._broker.hosts - 1,
            interval_start=0,
            interval_step=0,
            reraise_as_library_errors=False,
        )
        self._established = established = connection.connection
        if (end := getattr(established, "sock", None)) is not None and self._broker.amqp:
            end.settimeout(IO_SECONDS)
        self._wake = getattr(established, "wake", None)
