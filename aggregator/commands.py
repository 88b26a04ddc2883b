"""What a running service can be told: commands with their arguments, and what it answers.

A command is a name and a table of arguments, an answer ``{"ok": [row, …]}`` or ``{"refused": why}``: both as
JSON has them, whatever carries them. Arguments are checked as settings are; what is not understood is
refused. No answer holds a body; keys of open groups stand in those to ``groups`` and ``hello`` alone.
"""

from __future__ import annotations

from threading import Lock
from typing import TYPE_CHECKING, Annotated, Any, Literal

import structlog
from pydantic import Field, StringConstraints, ValidationError

from aggregator.errors import CommandRefusedError
from aggregator.faults import problem_of
from aggregator.options import Options
from aggregator.retuning import retuned
from aggregator.revocation import MOST
from aggregator.standing import RouteState
from aggregator.units import Duration  # noqa: TC001 - pydantic reads it

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from aggregator.clock import Clock
    from aggregator.pipeline import Pipeline
    from aggregator.settings import Route

    Row = dict[str, Any]
    Answer = dict[str, Any]

log = structlog.get_logger()

#: Ids and keys that one command may name, and characters that each may have.
MOST_NAMES, LONGEST_NAME = 5_000, 1_000
#: Groups that one answer may list, and characters of a key that are shown.
MOST_GROUPS, SHOWN_KEY = 1_000, 200
#: How long a revocation holds unless it is said, and at most: a week.
REVOKED_FOR, LONGEST_REVOCATION = "3h", 7 * 86_400.0

Name = Annotated[str, StringConstraints(min_length=1, max_length=LONGEST_NAME)]
Names = Annotated[tuple[Name, ...], Field(max_length=MOST_NAMES)]
Left = Annotated[float, Field(gt=0, le=LONGEST_REVOCATION, allow_inf_nan=False)]


class Nothing(Options):
    """No arguments."""


class OfRoute(Options):
    """``route``: of which; all of them if not given."""

    route: Name | None = None


class Flush(OfRoute):
    """``keys``: of these groups alone; a key of several expressions is a list as JSON."""

    keys: Names = ()


class Groups(OfRoute):
    """``by``: what comes first. ``limit``: how many at most."""

    by: Literal["oldest", "fullest", "largest"] = "oldest"
    limit: int = Field(20, ge=1, le=MOST_GROUPS)


class Revoke(OfRoute):
    """``ids``: messages; ``keys``: all members of these. ``ttl``: for how long; ``undo``: no longer."""

    ids: Names = ()
    keys: Names = ()
    ttl: Annotated[Duration, Field(gt=0, le=LONGEST_REVOCATION)] = Field(
        REVOKED_FOR, validate_default=True, json_schema_extra={"metavar": "DURATION"}
    )
    undo: bool = False


class Set(Options):
    """``values``: settings of one route by their names, written as in the configuration."""

    route: Name
    values: dict[str, str | int | float]


class Hello(Options):
    """Asked by a node that has just started; ``node``: its name."""

    node: Name = ""


class Revoked(Options):
    """Ids and keys of a route, each with the seconds that are left."""

    route: Name
    ids: dict[Name, Left] = Field(default_factory=dict)
    keys: dict[Name, Left] = Field(default_factory=dict)


class Controlled:
    """A route that can be told something; ``route``: its settings as they are by now."""

    def __init__(self, route: Route, pipeline: Pipeline) -> None:
        self.route = route
        self.pipeline = pipeline
        self.name = route.name

    @property
    def state(self) -> Row:
        """What it does at the moment, and why it does not run."""
        return {"route": self.name, "state": self.pipeline.state.value, "reason": self.pipeline.reason}


class Commands:
    """Carries commands out, one at a time; any thread may call. ``totals``: deliveries by verdict."""

    def __init__(
        self,
        routes: Mapping[str, Controlled],
        *,
        totals: Callable[[], Mapping[str, Mapping[str, int]]],
        clock: Clock,
        process: int,
    ) -> None:
        self._routes = routes
        self._totals = totals
        self._clock = clock
        self._process = process
        self._started = clock.monotonic()
        self._turn = Lock()
        self._known: dict[str, tuple[type[Options], Callable[[Any], list[Row]]]] = {
            "ping": (Nothing, self._ping),
            "stats": (OfRoute, self._stats),
            "groups": (Groups, self._groups),
            "flush": (Flush, self._flush),
            "pause": (OfRoute, self._pause),
            "resume": (OfRoute, self._resume),
            "revoke": (Revoke, self._revoke),
            "set": (Set, self._set),
            "hello": (Hello, self._hello),
        }

    def answer(self, command: str, arguments: Mapping[str, Any]) -> Answer:
        """Carry a command out; return what became of it. Raises nothing."""
        answer: Answer
        try:
            with self._turn:
                answer = {"ok": self._carry_out(command, arguments)}
        except CommandRefusedError as exc:
            answer = {"refused": str(exc)}
        except Exception as exc:
            # a fault of ours; its words may hold anything
            log.exception("command_failed", command=command)
            answer = {"refused": f"an internal error ({type(exc).__name__}); see the log"}
        if command != "hello":
            known = command if command in self._known else "unknown"
            log.info("command", command=known, refused="refused" in answer)
        return answer

    def adopt(self, rows: Any) -> int:
        """Take over what another node's ``hello`` says is revoked; return how many ids and keys."""
        adopted = 0
        for row in rows if isinstance(rows, list) else ():
            try:
                said = Revoked.model_validate(row)
            except ValidationError:
                continue
            known = self._routes.get(said.route)
            if known is not None and not known.pipeline.revocations.revoke(said.ids, said.keys):
                adopted += len(said.ids) + len(said.keys)
        return adopted

    def _carry_out(self, command: str, arguments: Mapping[str, Any]) -> list[Row]:
        if command not in self._known:
            names = ", ".join(name for name in self._known if name != "hello")
            raise CommandRefusedError(f"{command[:40]!r} is no command; {names} are")
        model, carry_out = self._known[command]
        try:
            given = model.model_validate(arguments)
        except ValidationError as exc:
            raise CommandRefusedError(_wrong(exc, model)) from None
        return carry_out(given)

    # ── looking ──

    def _ping(self, _: Nothing) -> list[Row]:
        seconds = round(self._clock.monotonic() - self._started, 1)
        return [{"process": self._process, "seconds": seconds, "routes": list(self._routes)}]

    def _stats(self, given: OfRoute) -> list[Row]:
        totals = self._totals()
        return [
            {
                **route.state,
                **route.pipeline.held(),
                "revoked": len(route.pipeline.revocations),
                "verdicts": {word: number for word, number in totals.get(route.name, {}).items() if number},
            }
            for route in self._chosen(given)
        ]

    def _groups(self, given: Groups) -> list[Row]:
        order: dict[str, Callable[[Any], float]] = {
            "oldest": lambda group: group.age,
            "fullest": lambda group: group.messages,
            "largest": lambda group: group.bytes,
        }
        found = [(route.name, group) for route in self._chosen(given) for group in route.pipeline.groups()]
        found.sort(key=lambda each: order[given.by](each[1]), reverse=True)
        return [
            {
                "route": name,
                "key": None if group.key is None else group.key[:SHOWN_KEY],
                "messages": group.messages,
                "sentinels": group.sentinels,
                "expected": group.expected,
                "bytes": group.bytes,
                "age": round(group.age, 1),
                "idle": round(group.idle, 1),
            }
            for name, group in found[: given.limit]
        ]

    def _hello(self, _: Hello) -> list[Row]:
        rows = []
        for name, route in self._routes.items():
            ids, keys = route.pipeline.revocations.left()
            if ids or keys:
                rows.append({"route": name, "ids": ids, "keys": keys})
        return rows

    # ── doing ──

    def _flush(self, given: Flush) -> list[Row]:
        chosen = self._chosen(given)
        if given.keys and given.route is None and len(chosen) > 1:
            raise CommandRefusedError(f"route: of which are these keys? {', '.join(self._routes)} are here")
        keys = [self._key(route, key) for route in chosen for key in given.keys]
        return [{"route": route.name, "groups": route.pipeline.force(*keys)} for route in chosen]

    def _pause(self, given: OfRoute) -> list[Row]:
        chosen = self._chosen(given)
        for route in chosen:
            if route.pipeline.state in {RouteState.STOPPED, RouteState.DRAINING}:
                state = route.state
                raise CommandRefusedError(f"route {route.name} is {state['state']}: {state['reason']}")
        for route in chosen:
            route.pipeline.pause("told to by control")
        return [route.state for route in chosen]

    def _resume(self, given: OfRoute) -> list[Row]:
        chosen = self._chosen(given)
        for route in chosen:
            if route.pipeline.state is RouteState.STOPPED:
                why = f"route {route.name} is stopped: {route.pipeline.reason}; start the process again"
                raise CommandRefusedError(why)
        for route in chosen:
            route.pipeline.resume()
        return [route.state for route in chosen]

    def _revoke(self, given: Revoke) -> list[Row]:
        if not given.ids and not given.keys:
            raise CommandRefusedError("ids: nothing is named; ids of messages, or keys, are needed")
        chosen = self._chosen(given)
        if given.keys and not any(route.route.correlate for route in chosen):
            raise CommandRefusedError("keys: no route here has keys; name ids of messages")
        rows = []
        for route in chosen:
            keys = given.keys if route.route.correlate else []
            revocations = route.pipeline.revocations
            if given.undo:
                rows.append({"route": route.name, "restored": revocations.restore(given.ids, keys)})
                continue
            ids = dict.fromkeys(given.ids, given.ttl)
            if excess := revocations.revoke(ids, dict.fromkeys(keys, given.ttl)):
                raise CommandRefusedError(
                    f"route {route.name}: {MOST} ids and keys may be revoked at once, these are {excess} too"
                    " many; wait until earlier ones are over, or revoke keys"
                )
            rows.append({"route": route.name, "revoked": len(ids) + len(keys), "seconds": given.ttl})
        return rows

    def _set(self, given: Set) -> list[Row]:
        (route,) = self._chosen(OfRoute(route=given.route))
        changed, completion = retuned(route.route, given.values, self._clock)
        route.pipeline.complete_by(completion)
        route.route = changed
        now = {name: getattr(changed, name) for name in ("size", "bytes", "age", "idle")}
        return [{"route": route.name, **now}]

    def _chosen(self, given: OfRoute) -> list[Controlled]:
        if given.route is None:
            return list(self._routes.values())
        if given.route not in self._routes:
            here = ", ".join(self._routes)
            raise CommandRefusedError(
                f"route: there is none of the name {given.route[:64]!r}; {here} are here"
            )
        return [self._routes[given.route]]

    @staticmethod
    def _key(route: Controlled, key: str) -> str:
        if route.route.correlate is None:
            raise CommandRefusedError(f"keys: route {route.name} has no keys; without one all is one group")
        return key


def _wrong(error: ValidationError, model: type[Options]) -> str:
    problems = []
    for each in error.errors(include_url=False)[:3]:
        name = str(each["loc"][0]) if each["loc"] else "arguments"
        field = model.model_fields.get(name)
        if field is None:
            known = ", ".join(model.model_fields) or "none"
            problems.append(f"{name[:40]}: no such argument; {known} can be given")
        else:
            problems.append(f"{name}: {problem_of(each, field)}")
    return "; ".join(problems)
