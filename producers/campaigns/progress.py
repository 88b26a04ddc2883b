"""What the servers say of a campaign, added up; pure functions of their answers and the time."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from producers.campaigns.answers import ENDED, PlatformProgress, Progress, ServerFault, ServerProgress, Wave
from producers.campaigns.model import moment

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from producers.campaigns.answers import State
    from producers.campaigns.servers import Answer

SENT = frozenset({"written", "sent", "duplicate"})
"""Words of the tasks' reports for devices that a gateway took."""
_SAMPLES_SPAN = 30.0
_LEAST_SPAN = 0.5


@dataclass(slots=True)
class History:
    """How many devices were done when: what a rate is made of. Bounded by time and number."""

    samples: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=120))

    def add(self, now: float, done: int) -> float | None:
        """Note a count; return devices per second over the last half minute, None as long as nobody knows."""
        while self.samples and now - self.samples[0][0] > _SAMPLES_SPAN:
            self.samples.popleft()
        if not self.samples or now - self.samples[-1][0] >= _LEAST_SPAN:
            self.samples.append((now, done))
        first, before = self.samples[0]
        if now - first < _LEAST_SPAN:
            return None
        # a server that answers no longer takes its counts along
        return max(done - before, 0) / (now - first)


def summed(maps: Iterable[Mapping[Any, Any] | None]) -> dict[str, int]:
    """Add up maps of numbers, key by key."""
    total: Counter[str] = Counter()
    for each in maps:
        for key, number in _mapping(each).items():
            total[str(key)] += int(number)
    return dict(total)


def state_of(states: Sequence[str], pending: int) -> State:
    """Return the one state of what each server said."""
    known = set(states)
    if not known:
        return "unknown"
    for word in ("revoked", "cancelled", "paused", "running"):
        if word in known:
            return word
    if "done" in known:
        return "sending" if pending else "done"
    return "created"


def summarise(
    id: str,  # noqa: A002 - the field's name
    answers: Sequence[Answer],
    *,
    now: float,
    expected: int,
    history: History,
) -> Progress:
    """Return a campaign's progress from what each server answered to ``campaigns.progress``."""
    heard = [(answer, _mapping(answer.value)) for answer in answers]
    maps = [said for answer, said in heard if answer.answered]
    platforms = _platforms(maps)
    done = sum(each.sent + each.refused for each in platforms)
    pending = sum(each.waiting + each.delayed + each.in_flight for each in platforms)
    walked, matched, queued = (sum(int(said.get(name) or 0) for said in maps) for name in _SUMS)
    state = state_of([str(said.get("state") or "created") for said in maps], pending)
    expected = max(expected, matched)
    ended = state in ENDED
    remaining = pending if ended else max(expected - done, pending)
    rate = history.add(now, done)
    wave = _wave(maps, now)
    return Progress(
        id=id,
        state=state,
        sampled=moment(now),
        started=_earliest(maps, "started"),
        ended=_latest(maps, "ended") if ended else None,
        expected=expected,
        walked=walked,
        matched=matched,
        queued=queued,
        done=done,
        remaining=remaining,
        rate=None if rate is None else round(rate, 1),
        eta_seconds=_eta(state, remaining, rate, [each.at.timestamp() - now for each in wave]),
        reasons=summed(each.reasons for each in platforms),
        skipped=summed(said.get("skipped") for said in maps),
        platforms=platforms,
        servers=[_server(answer, said) for answer, said in heard],
        wave=wave,
        unanswered=faults(answers),
    )


def faults(answers: Iterable[Answer]) -> list[ServerFault]:
    """Return the servers that did not do what they were asked for, each once."""
    found = {answer.server.name: answer.error for answer in answers if answer.error}
    return [ServerFault(server=name, error=error) for name, error in found.items()]


_SUMS = ("walked", "matched", "queued")


def _platforms(maps: Sequence[Mapping[str, Any]]) -> list[PlatformProgress]:
    counts: dict[str, Counter[str]] = {}
    pending: dict[str, Counter[str]] = {}
    for said in maps:
        for tube, reasons in _mapping(said.get("counts")).items():
            counts.setdefault(tube, Counter()).update(_numbers(reasons))
        for tube, states in _mapping(said.get("pending")).items():
            pending.setdefault(tube, Counter()).update(_devices(_mapping(states)))
    found = []
    for tube in sorted({"apns", "fcm", *counts, *pending}):
        by_reason, waits = counts.get(tube, Counter()), pending.get(tube, Counter())
        reasons = {word: number for word, number in by_reason.items() if word not in SENT and number}
        found.append(
            PlatformProgress(
                platform=tube,
                sent=sum(number for word, number in by_reason.items() if word in SENT),
                refused=sum(reasons.values()),
                waiting=waits["ready"],
                delayed=waits["delayed"],
                in_flight=waits["taken"],
                buried=waits["buried"],
                reasons=reasons,
            )
        )
    return found


def _devices(states: Mapping[str, Any]) -> Counter[str]:
    """Return devices by state, of tasks by state and the devices in all of them."""
    cost = states.get("cost")
    if isinstance(cost, dict):  # said state by state
        return Counter(_numbers(cost))
    tasks = _numbers({name: states.get(name) for name in ("ready", "delayed", "taken", "buried")})
    number = sum(tasks.values())
    if cost is None or not number:
        return Counter(tasks)
    shares = {name: int(cost) * each // number for name, each in tasks.items()}
    largest = max(tasks, key=lambda name: tasks[name])
    shares[largest] += int(cost) - sum(shares.values())
    return Counter(shares)


def _server(answer: Answer, said: Mapping[str, Any]) -> ServerProgress:
    server = answer.server
    if not answer.answered:
        return ServerProgress(server=server.name, shard=server.shard, answered=False, error=answer.error)
    platforms = _platforms([said])
    return ServerProgress(
        server=server.name,
        shard=server.shard,
        state=str(said.get("state") or "created"),
        walked=int(said.get("walked") or 0),
        matched=int(said.get("matched") or 0),
        queued=int(said.get("queued") or 0),
        done=sum(each.sent + each.refused for each in platforms),
        pending=sum(each.waiting + each.delayed + each.in_flight for each in platforms),
        baton=bool(_mapping(said.get("baton")).get("held")),
    )


def _wave(maps: Sequence[Mapping[str, Any]], now: float) -> list[Wave]:
    devices = sorted(summed(said.get("windows") for said in maps).items(), key=_when)
    return [
        Wave(at=moment(float(at)), devices=number, open=float(at) <= now) for at, number in devices if number
    ]


def _when(item: tuple[str, int]) -> float:
    return float(item[0])


def _eta(state: State, remaining: int, rate: float | None, opens_in: Sequence[float]) -> float | None:
    """Return the seconds to go; the last window has to open first, whatever the rate."""
    if state in ENDED:
        return 0.0
    if state not in {"running", "sending"}:
        return None
    last = max(opens_in, default=0.0)
    if not rate:
        return round(last) if last > 0 else None
    return float(round(max(remaining / rate, last)))


def _earliest(maps: Sequence[Mapping[str, Any]], name: str) -> Any:
    moments = [float(said[name]) for said in maps if said.get(name)]
    return moment(min(moments)) if moments else None


def _latest(maps: Sequence[Mapping[str, Any]], name: str) -> Any:
    moments = [float(said[name]) for said in maps if said.get(name)]
    return moment(max(moments)) if moments else None


def _mapping(value: Any) -> Mapping[str, Any]:
    # an empty Lua table comes as an empty list
    return value if isinstance(value, dict) else {}


def _numbers(value: Any) -> dict[str, int]:
    return {str(key): int(number or 0) for key, number in _mapping(value).items()}
