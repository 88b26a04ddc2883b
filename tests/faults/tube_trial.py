"""A trial on a tube of Tarantool: its tasks are pushes to a simulated gateway, which writes down each.

tube ── service ── gateway (APNs)
"""

from __future__ import annotations

from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING, Any

from aggregator.errors import TarantoolUnavailableError
from aggregator.testing.gateways import Apns
from tests.faults.played import Played
from tests.servers.base import wait_for

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Iterator, Sequence

    from tests.faults.account import Account
    from tests.servers import Fleet

#: Recipients of a task.
RECIPIENTS = 50
WORKERS, PREFETCH = 2, 4
REQUESTS, ITEMS = 2, 20
#: How long the service waits for an answer: longer than a busy machine takes for one.
ANSWER_SECONDS = 8
#: Who may get a push twice after a kill: those of the tasks that were held.
HELD = WORKERS * PREFETCH * RECIPIENTS
DRAIN_SECONDS = 90.0


class TubeTrial(Played):
    """Everything is counted in recipients, but for what is left: tasks."""

    flags = ("--workers", str(WORKERS), "--prefetch", str(PREFETCH), "--request-items", str(ITEMS),
             "--concurrency", str(REQUESTS), "--retry-first", "20ms", "--metrics-port", "0")  # fmt: skip

    def __init__(self, fleet: Fleet, kind: str, seed: int) -> None:
        super().__init__(seed)
        self.kind = kind
        self.broker: Any = fleet.get("tarantool")
        self.tube = self.name
        self.confirmed: set[str] = set()
        self.published = 0
        #: who may get it twice, beside those whom a killed service held
        self.doubtful = 0
        self.gateway = self._stack.enter_context(Apns(seed=seed, latency=(0.005, 0.02), streams=20))
        self._call("tubes.create", self.tube)

    def _ends(self) -> Sequence[str]:
        return (
            "--broker", self.broker.url_of("consumer"), "--queue", self.tube,
            "--aggregate", "push", "--sink", self.gateway.sink_url(timeout=f"{ANSWER_SECONDS}s"),
        )  # fmt: skip

    def _call(self, function: str, *arguments: Any) -> Any:
        with closing(self.broker.client()) as client:
            return client.call(function, *arguments)[0]

    def heal(self) -> None:
        """Let the server be well again."""
        self.broker.heal()

    def close(self) -> None:
        """End what still runs, heal the server, remove everything."""
        self.end()
        self.heal()
        with suppress(Exception):
            self._call("tubes.group", self.tube, {"state": "dropped"})
        self._stack.close()

    def publish(self, count: int) -> None:
        """Put pushes to so many that nobody was asked to push to before, at least."""
        for _ in range(0, count, RECIPIENTS):
            numbers = range(self.published, self.published + RECIPIENTS)
            self.published += RECIPIENTS
            recipients = [[f"d{number}", _token(number)] for number in numbers]
            message = {
                "campaign": self.tube,
                "platform": "apns",
                "notification": {"payload": {"aps": {"alert": "hello"}}},
                "recipients": recipients,
            }
            with suppress(TarantoolUnavailableError):
                self._call("tubes.put", self.tube, message, {"group": self.tube, "cost": RECIPIENTS})
                self.confirmed.update(token for _, token in recipients)

    # ── the end ──

    def tasks(self) -> int:
        """Return how many tasks there are, whatever their state."""
        return int(self._call("tubes.stats", self.tube)["tasks"]["total"])

    def _is_empty(self) -> bool:
        try:
            return not self.tasks()
        except TarantoolUnavailableError:
            return False

    def finish(self) -> Account:
        """Drain, stop the services, and add up."""
        with suppress(TimeoutError):
            wait_for(self._is_empty, "an empty tube", timeout=DRAIN_SECONDS, interval=0.2)
        for service in self.services:
            self.stop(service)
        account = self.account
        got: Counter[str] = self.gateway.journal.delivered
        counts = self._call("tubes.counts", self.tube).get(self.tube, {})
        account.left = self.tasks()
        account.confirmed, account.written = len(self.confirmed), len(got)
        account.lost = len(self.confirmed - got.keys())
        account.unexpected = len(got.keys() - {_token(number) for number in range(self.published)})
        account.repeats = got.total() - len(got)
        # a put of which nothing was heard may have been done
        if not len(self.confirmed) <= counts.get("sent", 0) <= self.published or len(counts) > 1:
            account.complaints.append(f"the server has counted {counts}")
        self.add_up()
        deaths = sum(service.process.returncode == -9 for service in self.services)
        deaths += sum(len(service.events("life_ended", code=-9)) for service in self.services)
        if account.repeats > deaths * HELD + self.doubtful:
            account.complaints.append(f"{account.repeats} got it twice")
        return account


def _token(number: int) -> str:
    return f"{number:064x}"


@contextmanager
def tube_trial(fleet: Fleet, kind: str, *, seed: int = 0, recorded: bool = True) -> Iterator[TubeTrial]:
    """Yield a trial on a tube of its own; nothing of it is left afterwards."""
    del recorded
    made = TubeTrial(fleet, kind, seed)
    try:
        yield made
    finally:
        made.close()
