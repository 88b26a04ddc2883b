"""What the service needs is taken from it while it works, and given back: queues, rights, certificates."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, ClassVar

import trustme

from tests.faults import faults
from tests.faults.faults import Fault
from tests.faults.plays import MESSAGES
from tests.relay import relay
from tests.servers.toxiproxy import DOWN

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.faults.plays import Play
    from tests.faults.trial import Trial

PASSWORD = "of-this-trial"
#: What the broker, or the library of TLS, says of it.
EXPIRED = "certificate has expired"


class Revoked(Fault):
    """A command takes something from the trial's user, another gives it back; connections are closed."""

    def __init__(self, take: Sequence[str], *give: Sequence[str]) -> None:
        self._take, self._give = take, give

    def start(self, trial: Trial) -> None:
        self._run(trial, self._take)
        trial.broker.close_all_connections()

    def stop(self, trial: Trial) -> None:
        for words in self._give:
            self._run(trial, words)

    def _run(self, trial: Trial, words: Sequence[str]) -> None:
        trial.broker.ctl(*(word.replace("USER", trial.name) for word in words))

    def __repr__(self) -> str:
        return f"{self._take[0]}"


ADD = ("add_user", "USER", PASSWORD)
ALLOW = ("set_permissions", "USER", ".*", ".*", ".*")
REVOKED: dict[str, tuple[Sequence[str], ...]] = {
    "password changed": (("change_password", "USER", "another"), ("change_password", "USER", PASSWORD)),
    "no right to read": (("set_permissions", "USER", ".*", ".*", "^$"), ALLOW),
    "no right to the virtual host": (("clear_permissions", "USER"), ALLOW),
    "user deleted": (("delete_user", "USER"), ADD, ALLOW),
}


def revoked(name: str, seconds: float) -> Play:
    """A user of its own loses a right in the midst of work, and gets it back."""

    def play(trial: Trial) -> None:
        trial.broker.ctl(*(word.replace("USER", trial.name) for word in ADD))
        trial.later(lambda: trial.broker.ctl("delete_user", trial.name))
        trial.broker.ctl(*(word.replace("USER", trial.name) for word in ALLOW))
        trial.broker_url = trial.broker_leg.url.replace("guest:guest", f"{trial.name}:{PASSWORD}")
        trial.sink_leg.add("latency", DOWN, name="pace", latency=20)
        trial.publish(MESSAGES // 2)
        trial.start()
        trial.wait_writes()
        with Revoked(*REVOKED[name]).on(trial):
            trial.publish(MESSAGES // 2)
            trial.wait_for(lambda: _refused(trial), "a refusal that is said")
            faults.hold(trial, seconds)
        trial.note_healed()
        trial.publish(20)

    return play


def _refused(trial: Trial) -> bool:
    words = ("ACCESS_REFUSED", "AccessRefused", "NOT_ALLOWED", "NotAllowed")
    lost = trial.service.events("link_lost")
    return any(word in line["problem"] for line in lost for word in words)


class Certified:
    """A relay that speaks TLS towards the service; its certificate can be exchanged while it runs."""

    hosts: ClassVar = "127.0.0.1"

    def __init__(self, trial: Trial, url: str) -> None:
        authority = trustme.CA()
        yesterday = datetime.now(UTC) - timedelta(days=1)
        self._good = authority.issue_cert(self.hosts)
        self._old = authority.issue_cert(self.hosts, not_after=yesterday)
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._good.configure_cert(self._context)
        self.ca = trial.folder / f"{len(list(trial.folder.iterdir()))}.pem"
        authority.cert_pem.write_to_path(self.ca)
        self.wire = trial.entered(relay(url, self._context))

    def expire(self) -> None:
        """Show an old certificate to whoever connects from now on; nobody stays connected."""
        self._old.configure_cert(self._context)
        self.wire.reset()

    def renew(self) -> None:
        """Show a good one."""
        self._good.configure_cert(self._context)


def certificate_expires(leg: str, event: str) -> Play:
    """New connections meet an expired certificate; the service says so, and goes on with the next one."""

    def play(trial: Trial) -> None:
        made = Certified(trial, getattr(trial, f"{leg}_leg").url)
        flags = []
        if leg == "broker":
            trial.broker_url, flags = made.wire.url, ["--broker-ca", str(made.ca)]
        else:
            trial.sink_url, trial.sink_options = f"https://127.0.0.1:{made.wire.port}", f"&ca={made.ca}"
        trial.sink_leg.add("latency", DOWN, name="pace", latency=20)
        trial.publish(MESSAGES // 2)
        trial.start(*flags)
        trial.wait_writes()
        made.expire()
        trial.publish(MESSAGES // 2)
        told = lambda: any(EXPIRED in line["problem"] for line in trial.service.events(event))  # noqa: E731
        trial.wait_for(told, f"{event} that tells why")
        faults.hold(trial, 1.0)
        made.renew()
        trial.note_healed()
        trial.publish(20)

    return play


def queue_deleted(remade: Callable[[Trial], None]) -> Play:
    """The queue is deleted under its consumers, with requests under way; what was in it is in those."""

    def play(trial: Trial) -> None:
        assert trial.recorder
        trial.publish(MESSAGES // 2)
        trial.start()
        trial.wait_consumers()
        trial.wait_for(lambda: trial.all_there, "all documents")
        sent = trial.recorder.attempted.total()
        trial.recorder.slow = 1.5
        trial.publish(40)
        trial.wait_for(lambda: trial.recorder.attempted.total() >= sent + 40, "requests under way")
        trial.broker.delete_queues(trial.queue)
        trial.recorder.slow = 0.0
        remade(trial)
        trial.service.wait_event("link_lost", 2)
        trial.wait_consumers()
        trial.note_healed()
        trial.publish(MESSAGES // 2)

    return play


def by_its_owner(trial: Trial) -> None:
    """Declare it as it was."""
    trial.declare()


def by_the_service(trial: Trial) -> None:
    """Wait until somebody has declared it."""
    trial.wait_for(lambda: trial.counts() is not None, "the queue")
