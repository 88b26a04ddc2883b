"""When a group is complete, as values that compose: ``size(100) | age("2s")``.

Each stands for the option of its name (docs/configuration.md); a composition stands for all of
them, and the first that holds completes the group. What is not said keeps its default; ``None``
turns a condition off. Values are checked where a file's are: in ``Aggregator.settings``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aggregator.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aggregator.correlation import Source
    from aggregator.delivery import Delivery
    from aggregator.keys import Key
    from aggregator.keywords import Bytes, Seconds


@dataclass(frozen=True, slots=True)
class Completion:
    """Options that say when a group is complete: ``said`` as (option, value), each at most once.

    ``closing``: the triggers after which a key is done with, though by default they make a part.
    """

    said: tuple[tuple[str, Any], ...]
    closing: frozenset[str] = frozenset()

    def __or__(self, other: Completion) -> Completion:
        """Return both: whichever holds first. Raises ``ConfigurationError`` where one is said twice."""
        if not isinstance(other, Completion):
            return NotImplemented
        twice = {name for name, _ in self.said} & {name for name, _ in other.said}
        if twice:
            raise ConfigurationError(min(twice), "said twice in one completion; one of them is needed")
        return Completion(self.said + other.said, self.closing | other.closing)

    def options(self) -> dict[str, Any]:
        """Return the options that it stands for, by name."""
        triggers = [name for name in ("age", "idle", "interval", "crontab") if name in self.closing]
        return dict(self.said) | ({"close_on": ",".join(triggers)} if triggers else {})


def _timed(name: str, value: Any, closes: bool) -> Completion:
    return Completion(((name, value),), frozenset({name} if closes else ()))


def size(count: int | None) -> Completion:
    """So many messages are in the group."""
    return Completion((("size", count),))


def max_bytes(limit: Bytes | None) -> Completion:
    """When the next message would take the group past so many bytes (``"10MB"``)."""
    return Completion((("bytes", limit),))


def age(duration: Seconds | None, *, closes: bool = False) -> Completion:
    """So long after the group's first message; ``closes``: its key is done with, not only a part."""
    return _timed("age", duration, closes)


def idle(duration: Seconds | None, *, closes: bool = False) -> Completion:
    """So long after the group's last message; ``closes`` as for :func:`age`."""
    return _timed("idle", duration, closes)


def interval(every: Seconds | None, *, closes: bool = False) -> Completion:
    """When the wall clock passes a multiple of ``every``; ``closes`` as for :func:`age`."""
    return _timed("interval", every, closes)


def crontab(expression: str | None, time_zone: str | None = None, *, closes: bool = False) -> Completion:
    """At these moments (``"*/15 6-22 * * mon-fri"``), in UTC or ``time_zone``.

    ``closes`` as for :func:`age`.
    """
    zone = (("time_zone", time_zone),) if time_zone is not None else ()
    return Completion((("crontab", expression), *zone), frozenset({"crontab"} if closes else ()))


def deadline_share(share: float | None) -> Completion:
    """At the latest after this share of the broker's ack deadline."""
    return Completion((("deadline_share", share),))


def predicate(
    function: str | Callable[[Sequence[Delivery], Delivery], bool] | None, *, early: bool = False
) -> Completion:
    """When ``function(members, delivery)`` says so: after the delivery is added, ``early``: before it."""
    return Completion((("predicate", function), *((("predicate_early", True),) if early else ())))


def sequence(count: Key | Source | None) -> Completion:
    """When as many members are there as each says by ``count``, an expression: ``header("count")``."""
    return Completion((("sequence", count),))


def sentinel(
    match: Key | Source, value: str | None = None, *, count: str | None = None, grace: Seconds | None = None
) -> Completion:
    """When a message comes that says so.

    ``match`` is the whole text (``"header:end=true"``), an expression that gives ``value``
    (``header("end"), "true"``), or a function of one delivery that returns ``True``. ``count``: the
    sentinel's header with the number of members; ``grace``: how long members may come after a
    sentinel without one.
    """
    options: list[tuple[str, Any]] = [("sentinel", _match(match, value))]
    options += [("sentinel_count", count)] if count is not None else []
    options += [("sentinel_grace", grace)] if grace is not None else []
    return Completion(tuple(options))


def _match(match: Key | Source, value: str | None) -> Any:
    expression: Any = match if isinstance(match, str) or callable(match) else match.expression("sentinel")
    if not isinstance(expression, str):
        return expression, "true" if value is None else value
    if value is None:
        return expression
    # an equals sign in the expression would end it in the text
    return (expression, value) if "=" in expression or not value else f"{expression}={value}"
