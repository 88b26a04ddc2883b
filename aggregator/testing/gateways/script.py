"""How a gateway shall behave: rules for answers and faults, latency; to be changed at any time."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, fields
from difflib import get_close_matches
from hashlib import blake2b
from random import Random
from threading import Lock
from typing import TYPE_CHECKING, Any, Protocol

from aggregator.units import parse_duration

if TYPE_CHECKING:
    from collections.abc import Collection

#: What can happen to a request instead of an answer.
FAULTS = ("rst", "cut", "silence", "drop", "goaway")
Latency = float | tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What happens to some of the requests: an answer by its ``reason``, or a ``fault``, or ``latency``.

    Which: of a ``token``, or of tokens with a ``prefix``, or of all; of those the ``nth`` alone, or
    ``every`` nth, or a ``share`` (0..1) that is drawn by the seed, token and how often it was hit:
    so it does not hang on the order of arrival, and a token may be hit once more when it comes again.
    ``times``: ends after so many hits.

    ``retry_after``: seconds, as the header of that name. ``timestamp``: unix seconds, told with a 410.
    ``empty``: the status without its body. ``code``: the HTTP/2 error of ``rst`` and ``cut``.
    ``processed``: a request that ends in a fault was taken nevertheless: the device gets the push.
    """

    reason: str = ""
    fault: str = ""
    token: str = ""
    prefix: str = ""
    nth: int = 0
    every: int = 0
    share: float = 1
    times: int = 0
    latency: float | None = None
    retry_after: float | None = None
    timestamp: float | None = None
    empty: bool = False
    code: int = 2
    processed: bool = False

    def __post_init__(self) -> None:
        """Raise ``ValueError`` for what makes no sense."""
        if self.reason and self.fault:
            raise ValueError("a rule has a reason or a fault, not both")
        if not self.reason and not self.fault and self.latency is None:
            raise ValueError("a rule needs a reason, a fault or a latency")
        if self.fault and self.fault not in FAULTS:
            raise ValueError(f"no fault {self.fault!r}; one of {', '.join(FAULTS)} is needed")
        if not 0 <= self.share <= 1:
            raise ValueError(f"share is {self.share:g}; a number from 0 to 1 is needed")
        for name in ("nth", "every", "times"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise ValueError(f"{name} is {value!r}; a whole number from 0 is needed")
        for name in ("latency", "retry_after", "timestamp"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ValueError(f"{name} is {value:g}; it cannot be negative")

    @classmethod
    def parse(cls, data: Any) -> Rule:
        """Return the rule that JSON tells, with durations as texts. Raises ``ValueError``."""
        known = {field.name: field.type for field in fields(cls)}
        if not isinstance(data, dict):
            raise ValueError(f"a rule is a JSON object, not {data!r}")  # noqa: TRY004 - all are ValueErrors
        for name in data:
            if name not in known:
                raise ValueError(f"a rule has no field {name!r}; it has {', '.join(known)}")
        durations = {name: parse_duration(data[name]) for name in ("latency", "retry_after") if name in data}
        try:
            return cls(**(data | durations))
        except TypeError as exc:
            raise ValueError(f"a rule's field has a wrong type: {exc}") from None

    def to_json(self) -> dict[str, Any]:
        """Return the fields that are set, as ``parse`` takes them."""
        shown = {field.name: getattr(self, field.name) for field in fields(self)}
        shown = {name: value for name, value in shown.items() if value != _DEFAULTS[name]}
        return shown | {name: f"{shown[name]}s" for name in ("latency", "retry_after") if name in shown}


_DEFAULTS = {field.name: field.default for field in fields(Rule)}


class Acting(Protocol):
    """What a gateway does at once, when it is told to; from any thread."""

    def goaway(
        self,
        reason: str = "Shutdown",
        *,
        last_stream_id: int | None = None,
        behind: int = 0,
        code: int = 0,
        abrupt: bool = False,
    ) -> None:
        """End all connections with GOAWAY."""

    def drop(self) -> None:
        """End all connections without a word."""

    def set_streams(self, count: int) -> None:
        """Tell all connections a new limit of streams."""


class Script:
    """The rules of one gateway; the first that fits decides. Safe to change from any thread.

    Raises ``ValueError`` for a reason that the gateway does not know, and for numbers without sense.
    """

    def __init__(self, acting: Acting, reasons: Collection[str], *, seed: int, latency: Latency) -> None:
        self._acting = acting
        self._reasons = reasons
        self._seed = seed
        self._random = Random(seed)  # noqa: S311 - latencies
        self._lock = Lock()
        self._rules: tuple[Rule, ...] = ()
        self._seen: Counter[int] = Counter()
        self._hits: Counter[int] = Counter()
        self._hits_of: Counter[tuple[int, str]] = Counter()
        self.window_updates = True
        self.latency = latency

    @property
    def latency(self) -> Latency:
        """Seconds from the last byte of a request to its answer; two: drawn evenly from between them."""
        return self._latency

    @latency.setter
    def latency(self, value: Latency) -> None:
        self._latency = _checked(value)

    @property
    def rules(self) -> tuple[Rule, ...]:
        """All rules, in the order in which they are tried."""
        return self._rules

    def answer(self, reason: str, **where: Any) -> Rule:
        """Add a rule that answers with ``reason``; ``where`` as the fields of :class:`Rule`."""
        return self.add(Rule(reason=reason, **where))

    def fault(self, kind: str, **where: Any) -> Rule:
        """Add a rule for ``rst``, ``cut`` (status, then RST_STREAM), ``silence``, ``drop``, ``goaway``."""
        return self.add(Rule(fault=kind, **where))

    def slow(self, latency: float, **where: Any) -> Rule:
        """Add a rule that answers as ever, ``latency`` seconds later than the request."""
        return self.add(Rule(latency=latency, **where))

    def add(self, rule: Rule) -> Rule:
        """Add a rule behind the others."""
        self._check(rule)
        with self._lock:
            self._rules = (*self._rules, rule)
        return rule

    def clear(self) -> None:
        """Forget all rules; latency and limits stay."""
        self._replace(())

    def goaway(self, reason: str = "Shutdown", **how: Any) -> None:
        """Send GOAWAY on all connections, see the gateway's own ``goaway``."""
        self._acting.goaway(reason, **how)

    def drop(self) -> None:
        """End all connections without a word."""
        self._acting.drop()

    def streams(self, count: int) -> None:
        """Tell all connections, and those to come, a new limit of streams."""
        self._acting.set_streams(count)

    def load(self, data: Any) -> None:
        """Take ``rules`` (they replace all), ``latency``, ``streams``, ``window_updates`` from JSON.

        Nothing is changed if anything is wrong. Raises ``ValueError``.
        """
        if not isinstance(data, dict):
            raise ValueError("a script is a JSON object")  # noqa: TRY004 - all are ValueErrors
        known = ("rules", "latency", "streams", "window_updates")
        for name in data:
            if name not in known:
                raise ValueError(f"a script has no field {name!r}; it has {', '.join(known)}")
        rules = tuple(Rule.parse(one) for one in _list(data.get("rules", [])))
        for rule in rules:
            self._check(rule)
        latency = _checked(_latency(data["latency"])) if "latency" in data else self._latency
        window_updates = data.get("window_updates", self.window_updates)
        if not isinstance(window_updates, bool):
            raise ValueError(f"window_updates is {window_updates!r}; true or false is needed")  # noqa: TRY004 - as all
        if "streams" in data:
            self._acting.set_streams(data["streams"])
        self.latency = latency
        self.window_updates = window_updates
        if "rules" in data:
            self._replace(rules)

    def to_json(self) -> dict[str, Any]:
        """Return what ``load`` takes, but for the limit of streams."""
        pair = self._latency if isinstance(self._latency, tuple) else (self._latency,) * 2
        return {
            "latency": [f"{one}s" for one in pair],
            "window_updates": self.window_updates,
            "rules": [rule.to_json() for rule in self._rules],
        }

    def decide(self, token: str) -> Rule | None:
        """Return the rule that a request for ``token`` falls under; counts it. The gateway calls it."""
        if not self._rules:
            return None
        with self._lock:
            for place, rule in enumerate(self._rules):
                if self._fits(place, rule, token):
                    self._hits[place] += 1
                    return rule
        return None

    def delay(self, rule: Rule | None) -> float:
        """Return the seconds until the answer."""
        if rule is not None and rule.latency is not None:
            return rule.latency
        if isinstance(self._latency, tuple):
            return self._random.uniform(*self._latency)
        return self._latency

    def _fits(self, place: int, rule: Rule, token: str) -> bool:
        if (rule.token and rule.token != token) or not token.startswith(rule.prefix):
            return False
        if rule.times and self._hits[place] >= rule.times:
            return False
        self._seen[place] += 1
        if rule.nth and self._seen[place] != rule.nth:
            return False
        if rule.every and self._seen[place] % rule.every:
            return False
        return rule.share >= 1 or self._drawn(place, rule.share, token)

    def _drawn(self, place: int, share: float, token: str) -> bool:
        hits = self._hits_of.get((place, token), 0)
        text = f"{self._seed}\0{place}\0{hits}\0{token}".encode()
        if int.from_bytes(blake2b(text, digest_size=8).digest()) >= share * 2**64:
            return False
        self._hits_of[place, token] = hits + 1
        return True

    def _replace(self, rules: tuple[Rule, ...]) -> None:
        with self._lock:
            self._rules = rules
            self._seen.clear()
            self._hits.clear()
            self._hits_of.clear()

    def _check(self, rule: Rule) -> None:
        if rule.reason and rule.reason not in self._reasons:
            near = get_close_matches(rule.reason, self._reasons, n=1) or sorted(self._reasons)
            raise ValueError(f"this gateway has no reason {rule.reason!r}; is {' or '.join(near)} meant?")


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError("rules are a JSON array")  # noqa: TRY004 - all are ValueErrors
    return value


def _latency(value: Any) -> Latency:
    try:
        if isinstance(value, list):
            low, high = value
            return parse_duration(low), parse_duration(high)
        return parse_duration(value)
    except ValueError as exc:
        raise ValueError(f"latency is a duration, or a list of two: {exc}") from None


def _checked(latency: Latency) -> Latency:
    low, high = latency if isinstance(latency, tuple) else (latency, latency)
    if not 0 <= low <= high:
        raise ValueError(f"latency is {latency}; seconds from 0 are needed, or two, the smaller one first")
    return latency
