"""The pushes of one write: which are still to be sent, and the verdict on each that was.

An engine takes them one by one and tells what came of each; whatever it does not come to is decided
at the end. It knows requests and replies, a gateway knows what they mean.
"""

from __future__ import annotations

from collections import deque
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple, Protocol

from aggregator.errors import MessageRefusedError, SinkUnavailableError
from aggregator.push_message import address_of
from aggregator.sinks.base import Fate, Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aggregator.delivery import Item
    from aggregator.errors import SinkError
    from aggregator.push import Address

#: So often a push is sent within one write, where the gateway surely did nothing with it before.
ATTEMPTS = 4


class Request(NamedTuple):
    """One push as HTTP: the path at the gateway, header lines, body."""

    path: bytes
    headers: Sequence[bytes]
    body: bytes


class Reply(NamedTuple):
    """A gateway's answer. ``body`` may be empty; ``retry_after``: seconds it asks to wait, 0 for none."""

    status: int
    body: bytes = b""
    retry_after: float = 0.0


class Scope(Enum):
    """Whom a ruling concerns."""

    ONE = "one"
    """This push alone."""
    AGAIN = "again"
    """This push, which is sent once more at once: nothing was done with it."""
    ALL = "all"
    """Every push: what was not sent yet stays, with the same verdict."""


class Ruling(NamedTuple):
    """What a reply means."""

    verdict: Verdict
    scope: Scope = Scope.ONE


class Gateway(Protocol):
    """What engines ask of APNs or FCM."""

    def request(self, address: Address) -> Request | Verdict:
        """Return the request for one device, or the verdict on what cannot be sent at all."""
        ...

    def ruling(self, address: Address, request: Request, reply: Reply) -> Ruling:
        """Return what the reply to a request means."""
        ...

    def pause(self) -> float:
        """Return for how many seconds no push may leave; 0: one leaves now, and is counted."""
        ...


def addressed(item: Item) -> Address | Verdict:
    """Return to whom an item goes, or the verdict on one that does not say it."""
    address: Address | None = item.address
    if address is not None:
        return address
    try:
        return address_of(item)
    except MessageRefusedError as exc:
        return Verdict(Fate.DEAD_LETTER, exc.reason, exc.detail)


class Batch:
    """One write; used by one thread. ``verdicts`` is complete after :meth:`finish`."""

    def __init__(self, addresses: Sequence[Address], gateway: Gateway) -> None:
        self._addresses = addresses
        self._gateway = gateway
        self._verdicts: list[Verdict | None] = [None] * len(addresses)
        self._attempts = bytearray(len(addresses))
        self._sent: dict[int, Request] = {}
        self._todo = deque(range(len(addresses)))
        self._error: SinkError | None = None
        self._rest = Verdict(Fate.RETRY, "unsent")
        self._paid = False
        self.stopped = False
        self.answers = 0

    def wait(self) -> float | None:
        """Return in how many seconds :meth:`take` has something; None for not any more."""
        if self.stopped or not self._todo:
            return None
        if self._paid:
            return 0.0
        pause = self._gateway.pause()
        self._paid = pause <= 0
        return pause

    def take(self) -> tuple[int, Request] | None:
        """Return the number and the request of a push that may leave now."""
        while self.wait() == 0:
            number = self._todo.popleft()
            request = self._gateway.request(self._addresses[number])
            if isinstance(request, Request):
                self._paid = False
                self._attempts[number] += 1
                self._sent[number] = request
                return number, request
            self._verdicts[number] = request
        return None

    def answered(self, number: int, reply: Reply) -> None:
        """Take the reply to a push."""
        self.answers += 1
        ruling = self._gateway.ruling(self._addresses[number], self._sent[number], reply)
        if ruling.scope is Scope.AGAIN and self._attempts[number] < ATTEMPTS and not self.stopped:
            self._todo.appendleft(number)
            return
        self._verdicts[number] = ruling.verdict
        if ruling.scope is Scope.ALL:
            self.stop(ruling.verdict)

    def untouched(self, number: int, problem: str) -> None:
        """Take back a push that the gateway surely did nothing with: it is sent again at once."""
        if self._attempts[number] < ATTEMPTS and not self.stopped:
            self._todo.appendleft(number)
        else:
            self._verdicts[number] = Verdict(Fate.RETRY, "refused-stream", problem)

    def uncertain(self, number: int, reason: str, problem: str) -> None:
        """Take back a push of which nobody knows what became: it comes again, with the same id."""
        self._verdicts[number] = Verdict(Fate.RETRY, reason, problem)

    def stop(self, verdict: Verdict, error: SinkError | None = None) -> None:
        """Send no more; what was not sent has this verdict, or nothing has one where nobody answered."""
        if not self.stopped:
            self.stopped = True
            self._rest = verdict
            self._error = error

    def finish(self) -> list[Verdict]:
        """Return a verdict for each. Raises the ``SinkError`` that stopped it if nobody answered at all."""
        if self._error is not None and not self.answers:
            raise self._error
        return [verdict or self._rest for verdict in self._verdicts]


class Question(Batch):
    """A batch of one request, whose reply is kept."""

    def __init__(self, request: Request) -> None:
        super().__init__((), None)  # type: ignore[arg-type]  # nobody is asked
        self._request: Request | None = request
        self._reply: Reply | None = None
        self._problem = "it did not come"

    def wait(self) -> float | None:
        """Return 0 until the request has left."""
        return None if self._request is None or self.stopped else 0.0

    def take(self) -> tuple[int, Request] | None:
        """Return the request, once."""
        request, self._request = self._request, None
        return None if request is None or self.stopped else (0, request)

    def answered(self, number: int, reply: Reply) -> None:  # noqa: ARG002
        """Keep the reply."""
        self.answers += 1
        self._reply = reply

    def untouched(self, number: int, problem: str) -> None:  # noqa: ARG002
        """Keep the problem."""
        self._problem = problem

    def uncertain(self, number: int, reason: str, problem: str) -> None:  # noqa: ARG002
        """Keep the problem."""
        self._problem = problem or reason

    def result(self, where: str) -> Reply:
        """Return the reply. Raises the ``SinkError`` that took its place."""
        self.finish()
        if self._reply is None:
            raise SinkUnavailableError(f"no answer from {where}: {self._problem}")
        return self._reply
