"""Requests under way at once: this project's scheme, others, and fixed numbers, on a sink that changes.

    python -m benchmarks.concurrency                    # a simulated server: some two minutes
    python -m benchmarks.concurrency --elasticsearch    # the real one, as quick as it is

The simulation has a clock of its own. The real outbox, with its gate and its pauses, hands requests
to a server with a number of slots and a queue before them; where the queue is full it throttles.
Prints a table: documents a second as a share of what the best fixed number brings, and the median
seconds of a request. The other schemes are written anew after their published descriptions.
"""

from __future__ import annotations

import argparse
import heapq
import threading
import time
from collections import deque
from dataclasses import dataclass
from itertools import accumulate, count
from math import exp, inf, sqrt
from random import Random
from statistics import geometric_mean, mean, median

from aggregator.backoff import Backoff
from aggregator.concurrency import Concurrency
from aggregator.errors import SinkError, SinkUnavailableError
from aggregator.outbox import Outbox
from aggregator.sinks import from_url
from aggregator.sinks.base import WRITTEN, Fate, Verdict
from aggregator.testing.memory import MemoryDelivery
from tests.servers import Fleet

MOST = 32
ITEMS = 8
TOO_MUCH = Verdict(Fate.RETRY, "es_rejected_execution_exception", status=429)


@dataclass(frozen=True)
class Phase:
    """A server: ``service`` seconds for a full request in each of its slots."""

    seconds: float = 60.0
    slots: int = 4
    service: float = 0.05
    queue: int = 1000


@dataclass(frozen=True)
class Scenario:
    """``away``: seconds there and back; ``noise``, ``gusts``: sigma for a request, for a quarter second;
    ``thrash``: how much slower with each request too many; ``partial``: it throttles all items but one;
    ``pause``: it stands still for a second so often; ``rivals``: requests that others keep under way;
    ``arriving``: documents a second, ``inf`` for a backlog."""

    name: str
    phases: tuple[Phase, ...] = (Phase(),)
    sizes: tuple[int, ...] = (ITEMS,)
    away: float = 0.002
    noise: float = 0.2
    gusts: float = 0.0
    thrash: float = 0.0
    partial: bool = False
    pause: float = inf
    rivals: int = 0
    arriving: float = inf


NARROW = tuple(Phase(40, slots, queue=4) for slots in (8, 2, 8))
SCENARIOS = (
    Scenario("4 slots", (Phase(),)),
    Scenario("1 slot", (Phase(slots=1, service=0.02),)),
    Scenario("16 slots, 20 ms away", (Phase(slots=16),), away=0.02),
    Scenario("4 slots of 20 ms, 100 ms away", (Phase(service=0.02),), away=0.1),
    Scenario("4, then 16, then 2 slots", tuple(Phase(40, slots) for slots in (4, 16, 2))),
    Scenario("five times slower for a while", tuple(Phase(40, 6, s) for s in (0.05, 0.25, 0.05))),
    Scenario("requests of 1 to 8 documents", (Phase(slots=6),), sizes=(1, 2, 4, 8)),
    Scenario("a request's time varies much", (Phase(slots=6),), noise=0.6),
    Scenario("the server's speed varies much", (Phase(slots=6),), gusts=0.4),
    Scenario("8, 2, 8 slots, throttles requests", NARROW),
    Scenario("8, 2, 8 slots, throttles items", NARROW, partial=True),
    Scenario("slower with each request too many", (Phase(),), thrash=0.3),
    Scenario("stands still 1 s in 10", (Phase(slots=6),), pause=10.0),
    Scenario("others keep 8 under way", (Phase(slots=8),), rivals=8),
    Scenario("half of what it could take arrives", (Phase(slots=8),), arriving=640.0),
)


class Document:
    """As little of an item as the outbox asks for."""

    __slots__ = ("fingerprint", "id", "size")

    def __init__(self):
        self.id, self.size, self.fingerprint = "", 1, 0


class Simulation:
    """One scenario under one scheme."""

    def __init__(self, scenario, scheme, seed):
        self.scenario, self.random, self.seed = scenario, Random(seed), seed
        backoff = Backoff(0.1, 30.0, self.random)
        self.outbox = Outbox(max_items=ITEMS, max_bytes=10**9, backoff=backoff, concurrency=scheme)
        self.events, self.ticket = [], count()
        self.now = self.alarm = -1.0
        self.busy, self.queue = 0, deque()
        self.offered = self.written = self.sent = self.throttled = 0
        self.seconds, self.limits = [], []

    @property
    def phase(self):
        ends = accumulate(phase.seconds for phase in self.scenario.phases)
        return next((p for p, end in zip(self.scenario.phases, ends, strict=True) if self.now < end))

    def at(self, when, what, *about):
        heapq.heappush(self.events, (when, next(self.ticket), what, about))

    def run(self):
        end = sum(phase.seconds for phase in self.scenario.phases)
        for number in range(self.scenario.rivals):
            self.at(0.001 * number, self.arrive, None, ITEMS)
        for tick in range(int(end * 50)):
            self.at(tick / 50, self.tick)
        while self.events and self.events[0][0] < end:
            self.now, _, what, about = heapq.heappop(self.events)
            what(*about)
        return {
            "rate": self.written / end,
            "median": median(self.seconds),
            "throttled": self.throttled / self.sent,
            "limit": mean(self.limits),
        }

    def tick(self):
        self.limits.append(min(self.outbox.concurrency.limit, MOST))
        self.start()
        self.hand_over()

    def hand_over(self):
        arriving = self.scenario.arriving
        while self.offered < self.now * arriving if arriving < inf else self.outbox.pending < 300 * ITEMS:
            size = self.random.choice(self.scenario.sizes)
            self.outbox.offer([Document() for _ in range(size)], size, self.now)
            self.offered += size
        while (request := self.outbox.take(self.now)) is not None:
            self.sent += 1
            self.at(self.now + self.scenario.away / 2, self.arrive, request, len(request.items))
        due = self.outbox.wake_at(self.now)
        if due < inf and not self.now < self.alarm <= due:
            self.alarm = max(due, self.now + 1e-6)
            self.at(self.alarm, self.hand_over)

    def arrive(self, request, size):
        if request is not None and len(self.queue) >= self.phase.queue:
            self.at(self.now + self.scenario.away / 2 + 0.001, self.reject, request)
            return
        self.queue.append((request, size))
        self.start()

    def start(self):
        scenario, phase = self.scenario, self.phase
        while self.queue and self.busy < phase.slots:
            request, size = self.queue.popleft()
            self.busy += 1
            # a fifth of a request's time is its own, the rest that of its documents
            seconds = phase.service * (0.2 + 0.8 * size / ITEMS) * exp(self.random.gauss(0, scenario.noise))
            if scenario.gusts:
                seconds *= exp(Random(int(4 * self.now) * 1000 + self.seed).gauss(0, scenario.gusts))
            seconds *= 1 + scenario.thrash * max(0, self.busy + len(self.queue) - phase.slots) / phase.slots
            if self.now % scenario.pause + seconds > scenario.pause - 1:
                seconds += scenario.pause - self.now % scenario.pause
            self.at(self.now + seconds, self.serve, request, size)

    def serve(self, request, size):
        self.busy -= 1
        if request is None:
            self.at(self.now + self.scenario.away, self.arrive, None, size)
        else:
            self.at(self.now + self.scenario.away / 2, self.answer, request)
        self.start()

    def answer(self, request):
        self.written += len(request.items)
        self.seconds.append(self.now - request.left)
        self.outbox.resolve(request, None, self.now)
        self.hand_over()

    def reject(self, request):
        self.throttled += 1
        rejected = len(request.items) - 1
        if self.scenario.partial and rejected:
            self.outbox.resolve(request, [WRITTEN, *[TOO_MUCH] * rejected], self.now)
        else:
            self.outbox.fail(request, SinkUnavailableError("429"), self.now)
        self.hand_over()


class Scheme:
    """The ground of the others: counts what is under way."""

    def __init__(self, limit=1):
        self.limit, self.under_way, self.reached = limit, 0, False

    @property
    def full(self):
        return self.under_way >= self.limit

    def leave(self):
        self.under_way += 1
        self.reached = self.reached or self.full

    def ended(self):
        self.under_way -= 1

    def answered(self, left, now, _items, *, throttled=False):
        used = self.full
        self.ended()
        self.judge(left, now, throttled=throttled, used=used)

    def judge(self, left, now, *, throttled, used):
        """Fixed: nothing follows."""


class Aimd(Scheme):
    """One more for each round trip, a quarter less once that is half as long again as the quickest was."""

    since, seconds, answers, best = 0.0, 0.0, 0, None

    def judge(self, left, now, *, throttled, used):
        if left < self.since:
            return
        self.seconds, self.answers = self.seconds + now - left, self.answers + 1
        if not throttled and self.answers < max(4, self.limit):
            return
        trip = self.seconds / self.answers
        lowest = self.best is None or trip < self.best or self.limit == 1
        # the measure ages, or a server that has become slower would be taken for a full one for ever
        self.best = (
            trip if lowest and not throttled else self.best + (trip - self.best) * 0.02 if self.best else None
        )
        if throttled or trip > 1.5 * self.best:
            self.limit = max(1, int(self.limit * 0.75))
        elif used:
            self.limit = min(MOST, self.limit + 1)
        self.since, self.seconds, self.answers = now, 0.0, 0


class Arc(Scheme):
    """Vector's adaptive request concurrency: the mean of an interval against the EWMA and its deviation."""

    average, variance, due, seconds, answers, pressed = None, 0.0, 0.0, 0.0, 0, False

    def judge(self, left, now, *, throttled, used):  # noqa: ARG002
        if throttled:
            self.pressed = True
        else:
            self.seconds, self.answers = self.seconds + now - left, self.answers + 1
        trip = self.seconds / self.answers if self.answers else None
        if self.average is None:
            if trip is not None:
                self.average, self.due = trip, now + trip
            return
        if now < self.due:
            return
        if self.reached and not self.pressed and trip is not None and trip <= self.average:
            self.limit = min(MOST, self.limit + 1)
        elif self.pressed or (trip or 0.0) >= self.average + 2.5 * sqrt(self.variance):
            self.limit = max(1, int(0.9 * self.limit))
        if trip is not None:
            off = trip - self.average
            self.average += 0.4 * off
            self.variance = 0.6 * (self.variance + 0.4 * off * off)
        self.due, self.seconds, self.answers, self.pressed, self.reached = (
            now + self.average,
            0.0,
            0,
            False,
            False,
        )


class Gradient2(Scheme):
    """Netflix's gradient of a long average over the latest round trip, and some room; 0.9 at a 429."""

    exact, average, answers, since = 1.0, None, 0, 0.0

    def judge(self, left, now, *, throttled, used):  # noqa: ARG002
        trip = now - left
        if throttled:
            if left >= self.since:
                self.exact, self.since = max(1.0, 0.9 * self.exact), now
        else:
            self.answers += 1
            weight = 1 / self.answers if self.answers < 10 else 2 / 601
            self.average = trip if self.average is None else self.average + (trip - self.average) * weight
            if self.average > 2 * trip:
                self.average *= 0.95
            if self.under_way + 1 >= self.exact / 2:
                wanted = self.exact * max(0.5, min(1.0, 1.5 * self.average / trip)) + sqrt(self.exact)
                self.exact = max(1.0, min(MOST, 0.8 * self.exact + 0.2 * wanted))
        self.limit = int(self.exact)


SCHEMES = {
    "fixed 2": lambda: Scheme(2),
    "fixed 8": lambda: Scheme(8),
    "fixed 32": lambda: Scheme(32),
    "AIMD": Aimd,
    "Vector's": Arc,
    "gradient2": Gradient2,
    "ours": lambda: Concurrency(MOST, adaptive=True),
}


def simulate(seeds):
    """Print a line for each scenario: share of the best fixed number, milliseconds, throttled requests."""
    print(f"| server | best fixed | {' | '.join(SCHEMES)} |\n|---|{'---|' * (len(SCHEMES) + 1)}")
    shares, times, thrown = ({name: [] for name in SCHEMES} for _ in range(3))

    def several(scenario, make):
        found = [Simulation(scenario, make(), seed).run() for seed in seeds]
        return {key: mean(result[key] for result in found) for key in found[0]}

    for scenario in SCENARIOS:
        fixed = {n: several(scenario, lambda n=n: Scheme(n)) for n in (1, 2, 4, 6, 8, 12, 16, 24, 32)}
        top = max(result["rate"] for result in fixed.values())
        best = min(n for n, result in fixed.items() if result["rate"] >= 0.98 * top)
        cells = []
        for name, make in SCHEMES.items():
            result = several(scenario, make)
            shares[name].append(result["rate"] / top)
            times[name].append(result["median"] / fixed[best]["median"])
            thrown[name].append(result["throttled"])
            refused = f", {result['throttled']:.0%} thrown back" if result["throttled"] >= 0.005 else ""
            cells.append(f"{result['rate'] / top:.0%}, {1000 * result['median']:.0f} ms{refused}")
        number = f"{best}: {1000 * fixed[best]['median']:.0f} ms"
        print(f"| {scenario.name} | {number} | {' | '.join(cells)} |", flush=True)
    line = (
        f"{geometric_mean(shares[n]):.0%}, worst {min(shares[n]):.0%}; {geometric_mean(times[n]):.1f} x"
        for n in SCHEMES
    )
    print(f"| all: geometric mean | 100%; 1.0 x | {' | '.join(line)} |")


def measure(url, documents, rounds):
    """Print documents a second into the real server; the ways take turns."""
    ways = {
        "fixed 2": (2, False),
        "fixed 8": (8, False),
        "adaptive to 8": (8, True),
        "adaptive to 16": (16, True),
    }
    found = {name: [] for name in ways}
    write(url, "warm", documents, 2, adaptive=False)
    for number in range(rounds):
        for name, (threads, adaptive) in ways.items():
            index = f"{name}-{number}".replace(" ", "-")
            found[name].append(write(url, index, documents, threads, adaptive=adaptive))
    print("| | documents/s: median (range) | mean limit |\n|---|---|---|")
    for name, results in found.items():
        rates = [rate for rate, _ in results]
        limit = mean(limit for _, limit in results)
        print(f"| {name} | {median(rates):,.0f} ({min(rates):,.0f}-{max(rates):,.0f}) | {limit:.1f} |")


def write(url, index, documents, threads, *, adaptive, size=1000):
    sink = from_url(f"elasticsearch+{url}/{index}")
    sink.open()
    scheme = Concurrency(threads, adaptive=adaptive)
    outbox, changed, limits = (
        Outbox(max_items=size, max_bytes=10**8, concurrency=scheme),
        threading.Condition(),
        [],
    )
    for start in range(0, documents, size):
        outbox.offer([document(number) for number in range(start, start + size)], 200 * size, 0.0)

    def work():
        while True:
            with changed:
                while (request := outbox.take(time.monotonic())) is None:
                    if not outbox.pending:
                        changed.notify_all()
                        return
                    changed.wait(1)
            try:
                verdicts, error = sink.write(request.items), None
            except SinkError as exc:
                verdicts, error = None, exc
            with changed:
                now = time.monotonic()
                if error is None:
                    outbox.resolve(request, verdicts, now)
                else:
                    outbox.fail(request, error, now)
                limits.append(scheme.limit)
                changed.notify_all()

    crew = [threading.Thread(target=work) for _ in range(threads)]
    began = time.monotonic()
    for thread in crew:
        thread.start()
    for thread in crew:
        thread.join()
    took = time.monotonic() - began
    sink.close()
    return documents / took, mean(limits)


def document(number):
    made = MemoryDelivery(b'{"n":%d,"text":"%s"}' % (number, b"x" * 170))
    made.id, made.document = f"d{number}", made.body
    return made


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--elasticsearch", action="store_true")
    parser.add_argument("--documents", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seeds", type=int, nargs="+", default=[11, 12, 13])
    args = parser.parse_args()
    if not args.elasticsearch:
        simulate(args.seeds)
        return
    fleet = Fleet(full_speed=True)
    try:
        measure(fleet.get("elasticsearch").url, args.documents, args.rounds)
    finally:
        fleet.close()


if __name__ == "__main__":
    main()
