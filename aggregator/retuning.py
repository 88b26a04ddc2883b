"""Settings of a route that may be changed while it runs, by the rules that hold at its start. Pure."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

from pydantic import ValidationError

from aggregator import rules
from aggregator.assembly import make_completion
from aggregator.errors import CommandRefusedError
from aggregator.faults import problem_of
from aggregator.options import RouteOptions

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aggregator.clock import Clock
    from aggregator.completion import AnyOf
    from aggregator.settings import Route

#: What says when a group is complete, and bounds nothing that was derived from it at the start.
CHANGEABLE = ("size", "bytes", "age", "idle")


def retuned(route: Route, values: Mapping[str, object], clock: Clock) -> tuple[Route, AnyOf]:
    """Return the settings with ``values`` (as a user writes them) in them, and what completes groups by them.

    Raises ``CommandRefusedError``, whose text names each setting that is wrong.
    """
    if not values:
        raise CommandRefusedError(f"values: nothing is set; {', '.join(CHANGEABLE)} can be")
    faults = [f"{name[:40]}: {_unchangeable(name)}" for name in values if name not in CHANGEABLE]
    checked: dict[str, object] = {}
    for name, value in values.items():
        if name in CHANGEABLE:
            try:
                options = RouteOptions.model_validate({name: value})
                checked[name] = getattr(options, name)
            except ValidationError as exc:
                (error,) = exc.errors(include_url=False)[:1]
                faults.append(f"{name}: {problem_of(error, RouteOptions.model_fields[name])}")
    changed = route.model_copy(update=checked)
    if not faults:
        faults = [str(fault) for fault in rules.route_faults(changed, lambda name: name)]
    if faults:
        raise CommandRefusedError("; ".join(faults))
    return changed, make_completion(changed, clock)


def _unchangeable(name: str) -> str:
    if name in RouteOptions.model_fields:
        return f"it cannot be changed while the route runs, only {', '.join(CHANGEABLE)} can"
    near = get_close_matches(name, CHANGEABLE, n=1)
    return f"no such setting; {f'did you mean {near[0]}?' if near else ', '.join(CHANGEABLE) + ' can be set'}"
