"""One route from a queue to a sink: intake, buffer, outbox and ledger under one lock.

Workers call :meth:`Pipeline.accept` and the ``link_…`` methods; flush threads call :meth:`step`;
the dead-letter thread reports to :meth:`dead_lettered`. Nothing here sleeps but idle flush threads.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from math import inf
from threading import Condition, Event, Lock
from typing import TYPE_CHECKING

import structlog

from aggregator.backoff import Backoff
from aggregator.breaker import Breaker
from aggregator.buffer import LATE_NEW, Buffer
from aggregator.clock import SYSTEM_CLOCK
from aggregator.concurrency import Concurrency
from aggregator.delivery import Settlement
from aggregator.entrance import Entrance
from aggregator.errors import UnrecoverableError
from aggregator.flush import Flush, problem_of
from aggregator.group import described
from aggregator.history import History
from aggregator.ledger import Ledger, with_followers
from aggregator.look import look
from aggregator.making import Maker
from aggregator.outbox import Outbox
from aggregator.pushing import Pushes
from aggregator.revocation import Revocations
from aggregator.screening import Screening
from aggregator.settlement import Settler
from aggregator.standing import PATIENCE, STATES, RouteState, Standing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from aggregator.clock import Clock
    from aggregator.closed import ClosedKeys
    from aggregator.completion import AnyOf
    from aggregator.delivery import Delivery, Item, Link
    from aggregator.group import OpenGroup
    from aggregator.intake import Intake
    from aggregator.look import Look
    from aggregator.made import Aggregation
    from aggregator.metrics import RouteMetrics
    from aggregator.ports import DeadLetterPort, Refused
    from aggregator.request import Request
    from aggregator.screening import Screen
    from aggregator.sinks.base import Sink

    Job = Callable[[], None]

log = structlog.get_logger()

#: Sentinels that are acked later may take this share of all that may be unacked.
LINGERING = 4
#: How long an isolated request lets acks go out before it looks again.
ACK_SECONDS = 0.01


@dataclass(frozen=True, slots=True)
class Limits:
    """The bounds of a route. Times in seconds.

    ``held_bytes``: bodies in memory, before nothing more is read. ``ack_deadline``: how long the
    broker lets a delivery be unacked. ``breaker_share`` of the last ``breaker_window`` messages
    refused stops the route (window 0: never); with ``stop_on_refusal`` the first does.
    ``concurrency``: requests under way at once; with ``adaptive_concurrency`` fewer where more bring nothing.
    """

    request_items: int = 1000
    request_bytes: int = 10 * 1024 * 1024
    linger: float = 0.0
    concurrency: float = inf
    adaptive_concurrency: bool = False
    held_bytes: int = 256 * 1024 * 1024
    ack_deadline: float = 1800.0
    breaker_share: float = 0.5
    breaker_window: int = 200
    backoff: Backoff = field(default_factory=Backoff)
    give_back_keyed: bool = True
    stop_on_refusal: bool = False


class Pipeline:
    """Takes deliveries, and has each of them settled exactly once on the link that brought it."""

    def __init__(
        self,
        name: str,
        *,
        intake: Intake,
        completion: AnyOf,
        sink: Sink,
        dead_letters: DeadLetterPort,
        metrics: RouteMetrics,
        aggregation: Aggregation | None = None,
        limits: Limits | None = None,
        grace: float = 0.0,
        closed: ClosedKeys | None = None,
        late: str = LATE_NEW,
        most_groups: float = inf,
        partitioned: bool = False,
        screens: Sequence[Screen] = (),
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.name = name
        #: what nobody may write any more
        self.revocations = Revocations(clock)
        self._screening = Screening(self.revocations, *intake.screens, *screens)
        self._limits = limits = limits or Limits()
        self._clock = clock
        self._intake = intake
        self._sink = sink
        self._dead_letters = dead_letters
        self._metrics = metrics
        self._log = log.bind(route=name)
        self._buffer = Buffer(completion, grace=grace, closed=closed, late=late, most_groups=most_groups)
        self._ledger = Ledger()
        self._outbox = Outbox(
            max_items=min(limits.request_items, sink.limits.items or limits.request_items),
            max_bytes=min(limits.request_bytes, sink.limits.bytes),
            linger=limits.linger,
            backoff=limits.backoff,
            patience=limits.ack_deadline * PATIENCE,
            concurrency=Concurrency(
                min(limits.concurrency, sink.limits.concurrency), adaptive=limits.adaptive_concurrency
            ),
        )
        self._changed = Condition()
        self._alarms: list[float] = []
        self._lost = 0
        self._quiet_links: set[Link] = set()
        self._hands = 0
        self._closed = False
        self._take = Event()
        #: held by the worker that takes messages one at a time
        self.sifting = Lock()
        self.last_received = -inf
        self.unrecoverable = False
        self._standing = Standing(limits.backoff, limits.ack_deadline)
        breaker = Breaker(limits.breaker_share, limits.breaker_window)
        self._settler = Settler(
            lock=self._changed,
            ledger=self._ledger,
            breaker=breaker,
            stop_on_refusal=limits.stop_on_refusal,
            aggregated=aggregation is not None,
            divided=isinstance(aggregation, Pushes),
            dead_letters=dead_letters,
            metrics=metrics,
            clock=clock,
            log=self._log,
            stop=self.stop,
            history=History(full_messages=completion.full_messages, full_bytes=completion.full_bytes),
        )
        self._entrance = Entrance(
            intake=intake,
            ledger=self._ledger,
            buffer=self._buffer,
            outbox=self._outbox,
            settler=self._settler,
            dead_letters=dead_letters,
            metrics=metrics,
            most_bytes=limits.held_bytes,
            aggregated=aggregation is not None,
            partitioned=partitioned,
        )
        #: what the last batches tell of themselves
        self.history = self._settler.history
        maker = Maker(
            name,
            lock=self._changed,
            sink=sink,
            outbox=self._outbox,
            intake=intake,
            aggregation=aggregation,
            settler=self._settler,
            screening=self._screening,
            clock=clock,
            on_change=self._nudge,
        )
        self._aggregated = aggregation is not None
        self._gathers = False
        self._flush = Flush(
            lock=self._changed,
            outbox=self._outbox,
            sink=sink,
            maker=maker,
            settler=self._settler,
            metrics=metrics,
            clock=clock,
            log=self._log,
            on_change=self._nudge,
        )
        #: the dead-letter queue's report: these are safe there
        self.dead_lettered = self._settler.dead_lettered
        self.retried = self._settler.retried
        metrics.state(self.state.value, STATES)
        self._gauges: dict[str, Callable[[], float]] = {
            "held_messages": lambda: self._buffer.held,
            "held_groups": lambda: self._buffer.groups,
            "held_bytes": lambda: self._entrance.held_bytes,
            "outgoing_messages": lambda: self._outbox.pending,
            "requests_under_way": lambda: self._outbox.concurrency.under_way,
            "dead_letters_pending": lambda: self._dead_letters.pending,
        }
        metrics.watch(self._gauges)
        metrics.watch(
            {
                "requests_limit": lambda: self._outbox.concurrency.limit,
                "held_bytes_limit": lambda: limits.held_bytes,
                "oldest_group": self._oldest,
                "route_quiet": lambda: self._standing.quiet,
            }
        )
        if limits.breaker_window:
            metrics.watch(
                {
                    "refused_ratio": lambda: breaker.refused_share,
                    "refused_ratio_limit": lambda: limits.breaker_share,
                }
            )

    # ── what workers ask and tell ──

    @property
    def consuming(self) -> bool:
        """Whether workers shall keep their links; otherwise they give everything back and wait."""
        return self._standing.consuming

    @property
    def taking(self) -> bool:
        """Whether they shall take more: one that is to keep its link and take nothing is pausing."""
        return self._standing.taking

    def wait_until_consuming(self, seconds: float) -> bool:
        """Wait for :attr:`taking`, at most so long; return it."""
        return self._take.wait(seconds)

    @property
    def has_room(self) -> bool:
        """Whether workers may read on; otherwise they only ack and beat the heart."""
        return self._entrance.has_room

    @property
    def refusing(self) -> bool:
        """Whether refused messages are on their way to the dead-letter queue."""
        return bool(self._dead_letters.pending)

    @property
    def idle(self) -> bool:
        """Whether nothing is held, under way, or waiting for the dead-letter queue."""
        with self._changed:
            return not (self._buffer.held or self._under_way)

    @property
    def writing(self) -> bool:
        """Whether a request to the sink has no answer yet."""
        return self._outbox.concurrency.under_way > 0

    @property
    def _under_way(self) -> bool:
        """Whether something has left its group and is not settled."""
        return bool(
            self._outbox.pending or self._dead_letters.pending or self._hands or self._settler.lingers
        )

    @property
    def unfinished(self) -> bool:
        """Whether something is held that will be settled though nothing more comes in.

        Groups without a key are none of it: they wait for more, and are flushed when the route stops.
        """
        with self._changed:
            timed = self._intake.key is not None and self._buffer.next_deadline < inf
            return self._under_way or bool(timed and self._buffer.held)

    def accept(self, deliveries: Sequence[Delivery]) -> None:
        """Take all that one read of a socket brought. Called by the worker that owns their link."""
        now = self._clock.monotonic()
        result = self._intake.sort(deliveries)
        if self._intake.plain:
            self._screening.receive(result)
        self._metrics.received.inc(len(deliveries))
        with self._changed:
            self.last_received = now
            again, refused = self._entrance.enter(result, now)
            self._entrance.relieve(now)
            self._entrance.dispatch(now)
            self._nudge(now)
        self._settler.acknowledge(again, "duplicate")
        if result.screened:
            self._settler.discard(result.screened)
        if refused:
            self._settler.refuse(refused)
            with self._changed:
                self._nudge(now)  # somebody has to see whether they get through

    @property
    def isolate_at(self) -> float:
        """What was delivered so often is written alone; ``inf`` where nothing is."""
        return self._intake.isolate_at or inf

    @property
    def alone_at(self) -> float:
        """And so often, without its group too; ``inf`` where nothing is."""
        return self._intake.alone_at

    def gather(self, *, on: bool) -> None:
        """Have groups that are to be written alone wait until all that came before is here."""
        with self._changed:
            self._gathers = on
            self._nudge(self._clock.monotonic())

    @property
    def trying(self) -> bool:
        """Whether something is written alone, and it may still turn out that this kills the process."""
        with self._changed:
            return self._outbox.isolation.untried

    def expect(self, capacity: int) -> None:
        """Say how many messages the broker will send over all links, once they are open."""
        self._entrance.capacity = capacity

    def link_opened(self, link: Link, prefetch: int) -> None:
        """Count on a link: the broker sends ``prefetch`` messages before one is settled."""
        with self._changed:
            self._entrance.links[link] = prefetch
            self._entrance.linked = self._clock.monotonic()
            # at most a prefetch of settled messages can come again over each link
            self._ledger.remember = max(self._ledger.remember, 2 * sum(self._entrance.links.values()))
            self._settler.most_lingering = max(1, sum(self._entrance.links.values()) // LINGERING)

    def link_lost(self, link: Link) -> None:
        """Forget what came over a link that is dead: the broker hands it out again.

        What is on its way to the sink stays until its verdict, so that a redelivery is recognised.
        """
        with self._changed:
            if self._entrance.links.pop(link, None) is None:
                return
            self._quiet_links.discard(link)
            self._lost += 1
            self._entrance.linked = self._clock.monotonic()
            dropped, heirs = self._buffer.drop(link)
            for old, heir in heirs:
                self._ledger.pass_on(old, heir)
            self._settler.give_up(dropped)
            self._drop_dead()
            self._changed.notify()  # there is less to come, and an id may be free

    def link_quiet(self, link: Link, *, quiet: bool) -> None:
        """Say whether nothing more comes over a link: its consumers are cancelled, all is handed over."""
        with self._changed:
            if quiet and link in self._entrance.links:
                self._quiet_links.add(link)
            else:
                self._quiet_links.discard(link)
            self._changed.notify()

    # ── what flush threads do ──

    def run(self) -> None:
        """Write until :meth:`close`; the body of a flush thread."""
        try:
            while (job := self._await_job()) is not None:
                self._do(job)
        except BaseException:  # noqa: BLE001 - logged; whatever ends it, there is nobody left to write
            self._log.exception("flush_thread_failed")
            self.stop("an internal error; see the log", lasting=True)

    def step(self) -> bool:
        """Do one piece of work if there is any, without waiting; whether there was."""
        with self._changed:
            job = self._pick(self._clock.monotonic())
        if job is not None:
            self._do(job)
        return job is not None

    # ── what people ask for ──

    def force(self, *keys: str | None) -> int:
        """Complete the groups of these keys now, of all if none is named; return how many there were."""
        with self._changed:
            now = self._clock.monotonic()
            self._buffer.advance(now)
            forced = self._buffer.force(now, *keys)
            self._entrance.dispatch(now)
            self._nudge(now)
        return forced

    def pause(self, reason: str) -> bool:
        """Take nothing more, write what is held, rest until :meth:`resume`; return whether that is new."""
        with self._changed:
            if new := self._standing.pause(reason):
                self._tell_state()
        if new:
            self._log.info("route_pauses", reason=reason)
        return new

    def resume(self) -> bool:
        """Take up again what was paused; return whether that is new."""
        with self._changed:
            if new := self._standing.unpause(self._clock.monotonic()):
                self._tell_state()
        if new:
            self._log.info("route_resumes")
        return new

    def complete_by(self, completion: AnyOf) -> None:
        """Have other conditions complete groups from now on, the open ones too."""
        with self._changed:
            now = self._clock.monotonic()
            self._buffer.advance(now)
            self._buffer.complete_by(completion, now)
            self.history.full_by(completion.full_messages, completion.full_bytes)
            self._entrance.dispatch(now)
            self._nudge(now)

    def held(self) -> dict[str, float]:
        """Return how much is held, on its way and refused, by the names of :class:`Metrics`' gauges."""
        return {name: value() for name, value in self._gauges.items()}

    def _oldest(self) -> float:
        with self._changed:
            opened = self._buffer.oldest
            return 0.0 if opened is None else self._clock.monotonic() - opened

    def groups(self) -> list[OpenGroup]:
        """Return the open groups, in the order of their opening; some may go meanwhile."""
        with self._changed:
            groups, now = self._buffer.open_groups(), self._clock.monotonic()
        return [described(group, now) for group in groups]

    def look(self, most: int) -> Look:
        """Return where it stands, with so many open groups at most of each kind: oldest, fullest."""
        return look(
            self._changed,
            self._clock.monotonic(),
            most,
            standing=self._standing,
            buffer=self._buffer,
            entrance=self._entrance,
            outbox=self._outbox,
            dead_letters=self._dead_letters,
            last_received=self.last_received,
        )

    # ── how it ends ──

    def drain(self) -> None:
        """Complete what is held: groups without a key are flushed, keyed ones given back."""
        with self._changed:
            if self._standing.drain(linked=bool(self._entrance.links)):
                self._tell_state()
            now = self._clock.monotonic()
            returned = self._buffer.shut(now, give_back_keyed=self._limits.give_back_keyed)
            self._settler.give_up(returned)
            self._entrance.dispatch(now)
            self._changed.notify_all()
        self._settler.settle(returned, Settlement.GIVE_BACK)

    def close(self) -> None:
        """Let the flush threads end after what they have in hand."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    # ── out ──

    def _await_job(self) -> Job | None:
        with self._changed:
            while not self._closed:
                now = self._clock.monotonic()
                if (job := self._pick(now)) is not None:
                    self._nudge(now)  # what comes next is for another thread
                    return job
                alarm = self._wake_at(now)
                if self._alarms and min(self._alarms) <= alarm:
                    alarm = inf  # one that wakes in time is enough: it wakes the next
                self._alarms.append(alarm)
                try:
                    self._changed.wait(None if alarm == inf else max(0.0, alarm - now))
                finally:
                    self._alarms.remove(alarm)
        return None

    def _wake_at(self, now: float) -> float:
        """Return when there is something to do though nothing else happens; ``inf`` for never."""
        sentinels = self._settler.wake_at
        if not self.consuming:
            return min(self._probe_due(), sentinels)
        if self._buffer.held and self.state is RouteState.PAUSING:
            return now
        outbox = self._outbox.wake_at(now, quiet=self._quiet)
        due = min(outbox, self._buffer.next_deadline, self._entrance.relief_at(), sentinels)
        if self._outbox.isolation and not (self._hands or self._gathers or self._quiet):
            due = min(due, now + ACK_SECONDS)
        if self._dead_letters.pending:
            due = min(due, now + self._standing.patience)  # to see whether they get through
        return due

    @property
    def _quiet(self) -> bool:
        """Whether all that was written is concluded, and the broker told: a crash takes none of it back."""
        if not self._outbox.isolation:
            return not self._hands
        return not (self._hands or self._gathers or any(link.unsent for link in self._entrance.links))

    def _nudge(self, now: float) -> None:
        """Wake a flush thread, unless one of those that sleep wakes in time by itself."""
        if self._alarms and self._wake_at(now) < min(self._alarms):
            self._changed.notify()

    def _pick(self, now: float) -> Job | None:
        job: Job | None = None
        if self._settler.wake_at <= now:
            job = partial(self._ack_sentinels, self._settler.release(now))
        elif self.state is RouteState.WAITING:
            if now >= self._probe_due():
                job = self._probe
        elif self.consuming:
            self._look_at_dead_letters(now)
            self._buffer.advance(now)
            if self.state is RouteState.PAUSING:
                self._buffer.force(now)
            self._entrance.relieve(now)
            self._entrance.dispatch(now)
            hurry = self.state is not RouteState.RUNNING
            request = self._outbox.take(now, hurry=hurry, quiet=self._quiet)
            job = partial(self._send, request, self._lost) if request is not None else None
            self._rest()
        self._hands += job is not None
        return job

    def _rest(self) -> None:
        """Be paused once nothing more comes and all that came is settled: then nothing goes back."""
        if self.state is not RouteState.PAUSING or self._buffer.held or self._under_way:
            return
        if self._quiet_links.issuperset(self._entrance.links) and self._standing.rest():
            self._tell_state()

    def _do(self, job: Job) -> None:
        try:
            job()
        except Exception:  # noqa: BLE001
            # logged; a thread that dies would hold its request for ever; this is a fault of ours
            self._log.exception("flush_failed")
            self.stop("an internal error; see the log", lasting=True)
        finally:
            with self._changed:
                self._hands -= 1

    def _ack_sentinels(self, groups: list[list[Delivery]]) -> None:
        for controls in groups:
            self._settler.acknowledge(controls, "control")

    def _send(self, request: Request, lost: int) -> None:
        failure = self._flush.send(request)
        if failure is not None:
            self._lose_patience(*failure)
        if lost != self._lost:
            with self._changed:
                self._drop_dead()

    def _drop_dead(self) -> None:
        """Take items out that nobody can ack any more; the broker hands them out again."""
        letters = self._dead_letters.drop(_all_dead)
        self._settler.give_up(with_followers(entry.delivery for entry in letters))
        dead = [item for item in self._outbox.waiting() if not _alive(item.deliveries)]
        if dead and self._aggregated:
            dead = _all_waiting(dead)
        if dead:
            self._outbox.drop(dead)
            self._settler.give_back(dead)

    # ── the state of the route ──

    @property
    def state(self) -> RouteState:
        """What the route does at the moment."""
        return self._standing.state

    @property
    def reason(self) -> str:
        """Why it does not run; empty if it does."""
        return self._standing.reason

    def _probe_due(self) -> float:
        # no write may be under way meanwhile; the thread that ends the last one looks again
        return inf if self._hands else self._standing.probe_at

    def _probe(self) -> None:
        problem = ""
        try:
            self._sink.open()
        except UnrecoverableError as exc:
            self.stop(str(exc), lasting=True)
        except Exception as exc:  # noqa: BLE001 - whatever it is, the sink is not there
            problem = problem_of(None, exc)
        if not problem and self._dead_letters.failing_since is not None:
            problem = "the dead-letter queue takes nothing"
        pause = 0.0
        with self._changed:
            if self.state is not RouteState.WAITING:
                return
            now = self._clock.monotonic()
            if problem:
                pause = self._standing.probe_failed(problem, now)
            else:
                self._outbox.gate.succeeded(now)
                self._standing.resume(now)
                self._tell_state()
        if problem:
            self._log.warning("sink_away", problem=problem, next_try=round(pause, 1))
        else:
            self._log.info("route_runs")

    def _lose_patience(self, failing: float, problem: str) -> None:
        with self._changed:
            lost = self._standing.lose_patience(failing, problem, self._clock.monotonic())
            if lost:
                self._tell_state()
        if lost:
            self._log.error("route_waits", problem=problem, after=round(failing, 1))

    def _look_at_dead_letters(self, now: float) -> None:
        since = self._dead_letters.failing_since
        if since is not None:
            self._lose_patience(now - since, "the dead-letter queue takes nothing")

    def stop(self, reason: str, *, lasting: bool = False) -> None:
        """Consume nothing more until the process starts again: the fault needs a person.

        ``lasting``: it is not the messages that are at fault; the process may end.
        """
        with self._changed:
            self.unrecoverable = self.unrecoverable or lasting
            stopped = self._standing.stop(reason)
            if stopped:
                self._tell_state()
        if stopped:
            self._log.error("route_stopped", reason=reason)

    def _tell_state(self) -> None:
        self._metrics.state(self.state.value, STATES)
        if self.taking:
            self._take.set()
        else:
            self._take.clear()
        for link in self._entrance.links:
            link.wake()
        self._changed.notify_all()


def _alive(deliveries: Iterable[Delivery]) -> bool:
    return any(delivery.link.alive for delivery in with_followers(deliveries))


def _all_waiting(items: Sequence[Item]) -> list[Item]:
    """Leave out items that others share their deliveries with that are under way.

    A copy may still attach to those. Whoever has them in hand looks again.
    """
    waiting = Counter(item.shared for item in items)
    return [item for item in items if item.shared is None or waiting[item.shared] == item.shared.left]


def _all_dead(refused: Refused) -> bool:
    return not _alive((refused.delivery,))
