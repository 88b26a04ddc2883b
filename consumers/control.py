"""The node of a process: it hears commands, and answers them.

Commands are kombu's pidbox messages (:mod:`consumers.mailbox`); what
they mean is said by :mod:`aggregator.commands`.
"""

from __future__ import annotations

import os
import socket
from threading import Event
from typing import TYPE_CHECKING, Any, Protocol

from kombu.messaging import Producer

from consumers.attendant import Attendant
from consumers.mailbox import ControlMailbox, Letter, leave_undecoded

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kombu.connection import Connection

    from consumers.connecting import Broker

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


class ControlNode(Attendant):
    """Hears the commands of a namespace from :meth:`start` to :meth:`stop`.

    ``name``: its address, ``PROCESS@HOST`` if not given.
    """

    def __init__(self, broker: Broker, namespace: str, commands: Commanded, *, name: str = "") -> None:
        self.name = name or f"{os.getpid()}@{socket.gethostname()}"
        self._commands = commands
        self._mailbox = ControlMailbox(namespace)
        self._greeted = Event()
        self._has_asked = False
        super().__init__(broker, "control", node=self.name)

    def start(self) -> None:
        """Begin to listen; wait a moment for what the others know, not for a broker that is away."""
        super().start()
        self._greeted.wait(GREETING_SECONDS)

    def parted(self) -> None:
        """Have the start of the service wait no longer."""
        self._greeted.set()

    def attend(self, connection: Connection) -> None:
        """Hear commands."""
        channel = connection.channel()
        leave_undecoded(channel, amqp=self._broker.amqp)
        mailbox = self._mailbox(connection)
        node = mailbox.Node(self.name, channel=channel)
        with node.Consumer(channel, on_message=lambda message: self._take(message, channel)):
            if not self._has_asked:
                self._ask(mailbox, connection)
            self.served()
            self._log.info("control_listens", namespace=self._mailbox.namespace)
            self._greeted.set()
            while not self.stopping:
                self.turn(connection)

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
