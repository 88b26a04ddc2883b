"""The node of a process: a thread with its own connection that hears commands and answers them.

Nothing that happens to it reaches the routes: it connects again, with pauses that grow, and says in
``problem`` what is wrong meanwhile. Commands are kombu's pidbox messages (:mod:`consumers.mailbox`); what
they mean is said by :mod:`aggregator.commands`.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from threading import Event, Thread
from typing import TYPE_CHECKING, Any, Protocol, Self

import structlog
from kombu.messaging import Producer

from aggregator.backoff import LONGEST_PAUSE, Backoff
from consumers.mailbox import ControlMailbox, Letter, leave_undecoded

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kombu.connection import Connection

    from consumers.connecting import Broker

log = structlog.get_logger()

#: The longest wait for a command: whether to stop, and the heartbeat, are looked at.
TICK_SECONDS = 0.5
#: Bound on any single read or write of the socket.
IO_SECONDS = 5.0
#: How long the others have for telling a new node what is revoked; so long nothing comes in, that was all.
HELLO_SECONDS = 0.3
#: How long the start of the service waits for that at most.
GREETING_SECONDS = 2.0


class Commanded(Protocol):
    """What carries commands out."""

    def answer(self, command: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Carry one out; return what became of it. Raises nothing."""
        ...

    def adopt(self, rows: Any) -> int:
        """Take over what another node says; return how much."""
        ...


class ControlNode:
    """Hears the commands of a namespace from :meth:`start` to :meth:`stop`.

    ``name``: its address, ``PROCESS@HOST`` if not given.
    """

    def __init__(self, broker: Broker, namespace: str, commands: Commanded, *, name: str = "") -> None:
        self.name = name or f"{os.getpid()}@{socket.gethostname()}"
        self.problem = "it is not connected yet"
        self._broker = broker
        self._commands = commands
        self._mailbox = ControlMailbox(namespace)
        self._stop = Event()
        self._greeted = Event()
        self._has_asked = False
        self._failures = 0
        self._backoff = Backoff(0.2, LONGEST_PAUSE)
        self._wake: Any = None
        self._log = log.bind(node=self.name)
        self._thread = Thread(target=self._run, name="control", daemon=True)

    def __enter__(self) -> Self:
        """Start."""
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self.stop()

    def start(self) -> None:
        """Begin to listen; wait a moment for what the others know, not for a broker that is away."""
        self._thread.start()
        self._greeted.wait(GREETING_SECONDS)

    def stop(self) -> None:
        """End, within a few seconds, whatever the broker does."""
        self._stop.set()
        if (wake := self._wake) is not None:
            wake()
        self._thread.join(TICK_SECONDS + IO_SECONDS)

    def notes(self) -> list[str]:
        """Return why commands do not reach it, for people; nothing if they do."""
        problem = self.problem if self._thread.is_alive() else "its thread has died; see the log"
        return [f"control: {problem}"] if problem else []

    # ── its thread ──

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._serve()
            except Exception as exc:  # noqa: BLE001 - whatever it is, the routes go on, and so does this
                self._note(exc)
            self._wake = None
            self._greeted.set()

    def _note(self, exc: Exception) -> None:
        self._failures += 1
        pause = self._backoff.pause(self._failures)
        self.problem = f"the broker is not to be had ({type(exc).__name__})"
        said = f"{type(exc).__name__}: {exc}"
        self._log.warning("control_away", problem=said, next_try=round(pause, 1))
        self._stop.wait(pause)

    def _serve(self) -> None:
        with self._broker.connection() as connection:
            try:
                self._connect(connection)
                self._listen(connection)
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
        established = connection.connection
        if (end := getattr(established, "sock", None)) is not None and self._broker.amqp:
            end.settimeout(IO_SECONDS)
        self._wake = getattr(established, "wake", None)

    def _listen(self, connection: Connection) -> None:
        # through these, never through kombu's connection: it would connect anew, and hear nothing
        established, transport = connection.connection, connection.transport
        channel = connection.channel()
        leave_undecoded(channel, amqp=self._broker.amqp)
        mailbox = self._mailbox(connection)
        node = mailbox.Node(self.name, channel=channel)
        with node.Consumer(channel, on_message=lambda message: self._take(message, channel)):
            if not self._has_asked:
                self._ask(mailbox, connection)
            self._failures, self.problem = 0, ""
            self._log.info("control_listens", namespace=self._mailbox.namespace)
            self._greeted.set()
            while not self._stop.is_set():
                with suppress(TimeoutError):
                    transport.drain_events(established, timeout=TICK_SECONDS)
                if connection.connection is not established or not transport.verify_connection(established):
                    raise ConnectionError("the connection is closed")
                transport.heartbeat_check(established)

    def _ask(self, mailbox: ControlMailbox, connection: Connection) -> None:
        """Ask the others what is revoked: this process may have started after somebody said so."""
        channel = connection.channel()
        answers: list[Any] = mailbox.multi_call(  # type: ignore[no-untyped-call]
            "hello", {"node": self.name}, timeout=HELLO_SECONDS, channel=channel
        )
        self._has_asked = True
        adopted = 0
        for answer in answers or ():
            for said in answer.values() if isinstance(answer, dict) else ():
                adopted += self._commands.adopt(said.get("ok") if isinstance(said, dict) else None)
        if adopted:
            self._log.info("revocations_taken_over", number=adopted)

    # ── one command ──

    def _take(self, message: Any, channel: Any) -> None:
        try:
            letter = Letter(message)
        except ValueError as exc:
            # its words may hold what was sent
            self._log.warning("command_not_read", problem=type(exc).__name__)
            return
        greets = letter.command == "hello" and letter.arguments.get("node") == self.name
        if greets or not letter.is_for(self.name):
            return
        answer = self._commands.answer(letter.command, letter.arguments)
        exchange = self._mailbox.answers
        key = letter.reply_key(exchange.name)
        if key is None:
            return
        with Producer(channel, auto_declare=False, serializer="json") as producer:
            # without retries: they would connect anew behind the consumer's back
            producer.publish(
                {self.name: answer},
                exchange=exchange.name,
                routing_key=key,
                declare=[exchange],
                headers={"ticket": letter.ticket, "clock": self._mailbox.clock.forward()},
            )
