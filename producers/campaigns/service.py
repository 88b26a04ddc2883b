"""What can be done with campaigns, whoever asks: create, start, pause, watch, and forget dead tokens.

Nothing is kept here but what can be asked for again: several such services may stand before the same
servers. Every call may be repeated.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from functools import partial
from typing import TYPE_CHECKING, Any

import structlog

from producers.campaigns import records, zones
from producers.campaigns.answers import (
    Acted,
    Campaign,
    Campaigns,
    Counts,
    DryRun,
    Forgotten,
    Outcome,
    Progress,
)
from producers.campaigns.model import PLATFORMS, moment
from producers.campaigns.problems import ProblemError
from producers.campaigns.progress import History, faults, state_of, summarise

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from aggregator.clock import Clock
    from producers.campaigns.model import CampaignSpec, DeadToken, Quiet
    from producers.campaigns.records import Record
    from producers.campaigns.servers import Answer, Shards

log = structlog.get_logger()

DAY = 86_400
#: What a gateway says of a token that is gone without a moment of its own: gone now.
_GONE = frozenset({"UNREGISTERED"})
_FORGET_AT_ONCE = 1000
_KEPT = 256


class CampaignService:
    """``span``: seconds that a campaign without an end of its own has; ``quiet``: hours of those without."""

    def __init__(self, shards: Shards, clock: Clock, *, span: float, quiet: Quiet | None) -> None:
        self.shards = shards
        self.clock = clock
        self._span = span
        self._quiet = quiet
        self._locks: OrderedDict[str, asyncio.Lock] = OrderedDict()
        self._histories: OrderedDict[str, History] = OrderedDict()
        self._expected: OrderedDict[str, int] = OrderedDict()

    # ── before anything is sent ──

    async def dry_run(self, spec: CampaignSpec) -> DryRun:
        """Count whom it would reach; create nothing."""
        self._check_time(spec)
        counts, used = await asyncio.gather(self.count(spec), self._zones_used())
        _, unknown = await asyncio.to_thread(zones.tables, self.clock.time(), self.clock.time(), used)
        sizes = {
            platform: {name: each.size for name, each in variants.items()}
            for platform, variants in spec.notifications.items()
        }
        return DryRun(**dict(counts), payload_bytes=sizes, unknown_zones=unknown)

    async def count(self, spec: CampaignSpec) -> Counts:
        """Count the devices that match now, in all shards; 503 where a shard does not answer."""
        chosen = records.filter_of(spec)
        wanted = [
            each
            for each in PLATFORMS
            if each in spec.notifications and chosen.get("platform") in {None, each}
        ]
        answers: list[Answer] = []
        platforms: dict[str, int] = {}
        for platform in wanted:
            heard = await self.shards.each_shard("users.count", {**chosen, "platform": platform}, lane="slow")
            outcomes = self._outcomes(heard, "the users cannot be counted")
            platforms[platform] = sum(int(answer.value) for answer in outcomes.values())
            answers += (answer for each in heard.values() for answer in each)
        return Counts(devices=sum(platforms.values()), platforms=platforms, unanswered=faults(answers))

    async def create(self, spec: CampaignSpec, key: str | None) -> tuple[Campaign, bool]:
        """Create it, or return the one that is there already; whether it is new.

        409: another campaign has this id or key. 422: nobody matches, or it ends in the past.
        """
        name = records.identify(spec, key)
        async with self._lock(name):
            record, heard = await self._find(name)
            new = record is None
            if record is None:
                self._check_time(spec)
                await self._check_key(name, key)
                record = await self._new(name, spec, key)
            elif differing := spec.differences(record.request):
                raise ProblemError(
                    409, "conflict", f"campaign {name} is another one: {', '.join(differing)} differ",
                    differing=differing,
                )  # fmt: skip
            if new or not all(each[-1].value for each in heard.values()):
                await self._store(record)
        log.info("campaign_created" if new else "campaign_repeated", campaign=name, expected=record.expected)
        state = "created" if new else (await self.progress(name)).state
        return self._campaign(record, state, []), new

    async def _new(self, name: str, spec: CampaignSpec, key: str | None) -> Record:
        counts = await self.count(spec)
        if not counts.devices and not spec.allow_empty:
            raise ProblemError(
                422, "nobody", "the filter matches no device; with allow_empty it is created all the same"
            )
        return records.make(
            name, spec, key=key, now=self.clock.time(), span=self._span, quiet=self._quiet,
            servers=len(self.shards.servers), expected=counts.platforms,
        )  # fmt: skip

    async def _store(self, record: Record) -> None:
        heard = await self.shards.each_shard(
            "campaigns.create", record.id, dict(record.stored), lane="telling"
        )
        last = [answers[-1] for answers in heard.values()]
        if any(answer.code == "conflict" for answer in last):
            # created by somebody else a moment ago: the same one?
            found, _ = await self._find(record.id)
            differing = record.request.differences(found.request) if found else ["spec"]
            if differing:
                detail = f"campaign {record.id} is another one: {', '.join(differing)} differ"
                raise ProblemError(409, "conflict", detail, differing=differing)
            heard = {shard: each for shard, each in heard.items() if each[-1].code != "conflict"}
        self._outcomes(heard, f"campaign {record.id} is not created everywhere; calling again is safe")

    def _check_time(self, spec: CampaignSpec) -> None:
        if spec.expires is not None and spec.expires.timestamp() <= self.clock.time():
            raise ProblemError(422, "expired", f"expires: {spec.expires.isoformat()} is in the past")

    async def _check_key(self, name: str, key: str | None) -> None:
        if key is None:
            return
        mark = records.digest(key)
        for found, stored in (await self._listed())[0].items():
            if found != name and stored.get("key") == mark:
                raise ProblemError(
                    409, "conflict", f"this Idempotency-Key was used for campaign {found}", differing=["id"]
                )

    # ── on its way ──

    async def start(self, name: str) -> Acted:
        """Start it in each shard, at the first server that answers; where it runs already, do nothing."""
        async with self._lock(name):
            record, _ = await self._find(name, needed=True)
            assert record is not None  # noqa: S101 - it was needed
            said = await self.shards.everywhere("campaigns.progress", name)
            states = self._states_by_shard(said)
            waiting = self._startable(record, states)
            heard = await self._start_in(waiting, record, said) if waiting else {}
        answers = [answer for each in heard.values() for answer in each]
        done = [
            Outcome(server=a.server.name, state="running", answered=a.answered, error=a.error)
            for a in answers
        ]
        log.info("campaign_started", campaign=name, at=[each.server for each in done if each.answered])
        return Acted(
            id=name,
            action="start",
            state="running" if waiting else state_of([s for each in states.values() for s in each], 0),
            complete=True,
            repeated=not waiting,
            servers=done,
            unanswered=faults([*said, *answers]),
        )

    def _startable(self, record: Record, states: Mapping[str, set[str]]) -> list[str]:
        """Return the shards in which it was not started yet; 409 where it must not be."""
        over = {state for each in states.values() for state in each} & {"paused", "cancelled", "revoked"}
        if over:
            state = min(over)
            hint = "resume it instead" if state == "paused" else "create another one"
            raise ProblemError(409, "state", f"campaign {record.id} is {state}; {hint}", state=state)
        waiting = [shard for shard, each in states.items() if not each - {"created"}]
        if waiting and record.expires <= self.clock.time():
            at = moment(record.expires).isoformat()
            raise ProblemError(409, "expired", f"campaign {record.id} ended at {at}")
        return waiting

    async def _start_in(
        self, waiting: Sequence[str], record: Record, said: Sequence[Answer]
    ) -> dict[str, list[Answer]]:
        used = await self._zones_used()
        begin, end = self.clock.time() - DAY, record.expires + DAY
        tables, unknown = await asyncio.to_thread(zones.tables, begin, end, used)
        if unknown:
            log.warning("unknown_zones", campaign=record.id, zones=unknown[:20], count=len(unknown))
        # those that answered a moment ago are asked first
        alive = {answer.server for answer in said if not answer.unavailable}
        start = partial(
            self.shards.somewhere,
            lane="telling",
            first=alive.__contains__,
            elsewhere=("unavailable", "read-only", "not-installed", "no-campaign"),
        )
        calls = [start(shard, "campaigns.start", record.id, tables) for shard in waiting]
        heard = dict(zip(waiting, await asyncio.gather(*calls), strict=True))
        self._outcomes(heard, f"campaign {record.id} is not started in every shard; calling again is safe")
        return heard

    async def act(self, name: str, action: str) -> Acted:
        """Pause, resume, cancel or revoke it at all servers; tell which did not answer."""
        async with self._lock(name):
            await self._find(name, needed=True)
            answers = await self.shards.everywhere(f"campaigns.{action}", name, lane="telling")
        for shard, servers in self.shards.by_name.items():
            _check_acted(f"{action} of {name}", shard, [each for each in answers if each.server in servers])
        silent = [each.server for each in faults(answers)]
        log.info("campaign_acted", campaign=name, action=action, unanswered=silent)
        states = [_state(answer) for answer in answers if answer.answered]
        return Acted(
            id=name,
            action=action,
            state=state_of(states, 0),
            complete=all(answer.answered for answer in answers),
            servers=[
                Outcome(
                    server=a.server.name,
                    state=_state(a) if a.answered else "",
                    answered=a.answered,
                    error=a.error,
                )
                for a in answers
            ],
            unanswered=faults(answers),
        )

    async def progress(self, name: str) -> Progress:
        """Return how far it is; 404 if no server knows it, 503 if none answers."""
        answers = await self.shards.everywhere("campaigns.progress", name, patient=False)
        if all(answer.unavailable for answer in answers):
            raise ProblemError(503, "unavailable", "no server answers", servers=_told(answers))
        if not any(answer.answered for answer in answers):
            await self._find(name, needed=True)
        if name not in self._expected:
            record, _ = await self._find(name)
            if record is not None:
                _remember(self._expected, name, sum(record.expected.values()))
        history = self._histories.get(name) or _remember(self._histories, name, History())
        expected = self._expected.get(name, 0)
        return summarise(name, answers, now=self.clock.time(), expected=expected, history=history)

    async def get(self, name: str) -> Campaign:
        """Return a campaign as it was created; its state at this moment."""
        record, heard = await self._find(name, needed=True)
        assert record is not None  # noqa: S101 - it was needed
        state = (await self.progress(name)).state
        return self._campaign(record, state, [answer for each in heard.values() for answer in each])

    async def campaigns(self) -> Campaigns:
        """Return all campaigns, the youngest first."""
        listed, answers = await self._listed()
        states: dict[str, list[str]] = {}
        for answer in answers:
            for each in _rows(answer.value) if answer.answered else ():
                states.setdefault(str(each["id"]), []).append(str(each.get("state") or "created"))
        found = [
            self._campaign(records.read(name, stored), state_of(states.get(name, []), 0), [])
            for name, stored in listed.items()
        ]
        found.sort(key=lambda each: (each.created, each.id), reverse=True)
        return Campaigns(campaigns=found, unanswered=faults(answers))

    # ── back from the gateways ──

    async def forget(self, dead: Sequence[DeadToken]) -> Forgotten:
        """Delete dead tokens not registered again since; 503 if a shard is missing: call again."""
        now = self.clock.time()
        rows = [
            [device, each.token, now if each.unregistered_at is None else each.unregistered_at]
            for each in dead
            if each.unregistered_at is not None or each.reason in _GONE
            for device in _ids(each.device)
        ]
        forgotten, answers = 0, []
        for begin in range(0, len(rows), _FORGET_AT_ONCE):
            heard = await self.shards.each_shard("users.forget", rows[begin : begin + _FORGET_AT_ONCE])
            outcomes = self._outcomes(heard, "not all tokens are forgotten; calling again is safe")
            forgotten += sum(int(answer.value or 0) for answer in outcomes.values())
            answers += [answer for each in heard.values() for answer in each]
        log.info("tokens_forgotten", reported=len(dead), forgotten=forgotten)
        return Forgotten(forgotten=forgotten, kept=len(dead) - forgotten, unanswered=faults(answers))

    # ── asked of the servers ──

    async def _find(
        self, name: str, *, needed: bool = False
    ) -> tuple[Record | None, Mapping[str, list[Answer]]]:
        heard = await self.shards.each_shard("campaigns.get", name)
        self._outcomes(heard, "not every shard can be asked")
        stored = next((each[-1].value for each in heard.values() if each[-1].value), None)
        if stored is None and needed:
            raise ProblemError(404, "no-campaign", f"there is no campaign {name}")
        return (records.read(name, stored["spec"]) if stored else None), heard

    async def _listed(self) -> tuple[dict[str, Mapping[str, Any]], list[Answer]]:
        answers = await self.shards.everywhere("campaigns.list", patient=False)
        if not any(answer.answered for answer in answers):
            raise ProblemError(503, "unavailable", "no server answers", servers=_told(answers))
        rows = (row for answer in answers if answer.answered for row in _rows(answer.value))
        return {str(row["id"]): row["spec"] for row in rows}, answers

    async def _zones_used(self) -> set[str]:
        heard = await self.shards.each_shard("users.zones", lane="slow")
        outcomes = self._outcomes(heard, "the users' time zones cannot be read")
        return {str(name) for answer in outcomes.values() for name in answer.value or ()}

    @staticmethod
    def _outcomes(heard: Mapping[str, Sequence[Answer]], detail: str) -> dict[str, Answer]:
        """Return each shard's outcome; 503 if a shard has none."""
        last = {shard: answers[-1] for shard, answers in heard.items()}
        if failed := [shard for shard, answer in last.items() if not answer.answered]:
            told = _told(answer for shard in failed for answer in heard[shard])
            where = "; ".join(f"{each['server']}: {each['error']}" for each in told)
            raise ProblemError(503, "unavailable", f"{detail}: {where}", servers=told)
        return last

    def _states_by_shard(self, answers: Sequence[Answer]) -> dict[str, set[str]]:
        states: dict[str, set[str]] = {shard: set() for shard in self.shards.by_name}
        for answer in answers:
            if answer.answered:
                states[answer.server.shard].add(_state(answer))
        return states

    @staticmethod
    def _campaign(record: Record, state: Any, answers: Sequence[Answer]) -> Campaign:
        return Campaign(
            id=record.id,
            state=state,
            created=moment(record.created),
            expires=moment(record.expires),
            expected=record.expected,
            spec=record.shown(),
            unanswered=faults(answers),
        )

    def _lock(self, name: str) -> asyncio.Lock:
        lock = self._locks.get(name)
        return lock or _remember(self._locks, name, asyncio.Lock())

    def close(self) -> None:
        """End all connections."""
        self.shards.close()


def _check_acted(what: str, shard: str, answers: Sequence[Answer]) -> None:
    """Raise a 409 or a 503 unless one of a shard's servers did it."""
    if any(answer.answered for answer in answers):
        return
    for answer in answers:
        if not answer.unavailable:
            raise ProblemError(409, "state", f"{what}: {answer.error}", servers=_told(answers))
    detail = f"{what}: no server of shard {shard} answers; calling again is safe"
    raise ProblemError(503, "unavailable", detail, servers=_told(answers))


def _remember(kept: OrderedDict[str, Any], name: str, value: Any) -> Any:
    kept[name] = value
    for old in list(kept):
        if len(kept) <= _KEPT:
            break
        # a lock that is held stays: two must not hold the same one
        if not (isinstance(kept[old], asyncio.Lock) and kept[old].locked()):
            del kept[old]
    return value


def _ids(device: str | int) -> list[str | int]:
    """Return what the device's id may be among the users: on its way a number has become a text."""
    text = str(device)
    return [text, int(text)] if text.isdecimal() and text.isascii() else [text]


def _state(answer: Answer) -> str:
    value = answer.value
    return str((value.get("state") if isinstance(value, dict) else value) or "created")


def _rows(value: Any) -> list[Mapping[str, Any]]:
    return [row for row in value if isinstance(row, dict)] if isinstance(value, list) else []


def _told(answers: Iterable[Answer]) -> list[dict[str, str]]:
    return [each.model_dump() for each in faults(answers)]
