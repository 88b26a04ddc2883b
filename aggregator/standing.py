"""What a route does at the moment, and when a sink that was away is asked again. Pure."""

from __future__ import annotations

from enum import Enum
from math import inf
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aggregator.backoff import Backoff

#: The share of the ack deadline for which a server may be away before everything is given back.
PATIENCE = 0.25
#: The first further pause of a route that loses its sink again and again; it doubles.
OUTAGE_SECONDS = 30.0


class RouteState(Enum):
    """The states of a route; it starts as ``WAITING``."""

    WAITING = "waiting"
    """The sink is not there: nothing is consumed, the sink is probed."""
    RUNNING = "running"
    DRAINING = "draining"
    """Stopping: what is held is written."""
    PAUSING = "pausing"
    """Told to rest: nothing more is taken, what is held is written."""
    PAUSED = "paused"
    """At rest: nothing is held, nothing is consumed, until somebody says so."""
    STOPPED = "stopped"
    """The fault needs a person: nothing is consumed until the process starts again."""


STATES = tuple(state.value for state in RouteState)
#: How the reason begins of what rests for its quiet hours.
QUIET = "quiet until"
_RESTING = frozenset({RouteState.PAUSING, RouteState.PAUSED})
_LINKED = frozenset({RouteState.RUNNING, RouteState.DRAINING, RouteState.PAUSING})


class Standing:
    """The state of a route, its reason, and the pauses between probes. The owner holds a lock.

    ``ack_deadline``: seconds for which the broker lets a delivery be unacked.
    """

    def __init__(self, backoff: Backoff, ack_deadline: float) -> None:
        self.state = RouteState.WAITING
        self.reason = "starting"
        self.patience = ack_deadline * PATIENCE
        self._ack_deadline = ack_deadline
        self._backoff = backoff
        self._probe_at = -inf
        self._probes = 0
        self._resumed_at = -inf
        self._outages = 0

    @property
    def consuming(self) -> bool:
        """Whether workers shall keep their links; otherwise they give everything back and wait."""
        return self.state in _LINKED

    @property
    def taking(self) -> bool:
        """Whether they shall take more over them."""
        return self.state is RouteState.RUNNING

    @property
    def quiet(self) -> bool:
        """Whether it rests, or is about to, for its quiet hours alone."""
        return self.state in _RESTING and self.reason.startswith(QUIET)

    @property
    def probe_at(self) -> float:
        """When the sink is to be probed; ``inf`` unless the route waits for it."""
        return self._probe_at if self.state is RouteState.WAITING else inf

    def probe_failed(self, problem: str, now: float) -> float:
        """Wait longer; return the seconds until the next probe."""
        self.reason = problem
        self._probes += 1
        pause = self._backoff.pause(self._probes)
        self._probe_at = now + pause
        return pause

    def resume(self, now: float) -> None:
        """Run: the sink answers."""
        self._resumed_at = now
        self.state, self.reason = RouteState.RUNNING, ""

    def lose_patience(self, failing: float, problem: str, now: float) -> bool:
        """Wait, if something has been failing for too many seconds; return whether that is new.

        Everything is given back by that, once: held for longer, the broker would take it back. A
        route to which it happens again and again waits longer each time, or it would eat up the
        broker's delivery limit.
        """
        if failing < self.patience:
            return False
        if self.state is RouteState.PAUSING:
            return self.rest(f"{self.reason}; what was not written went back: {problem}")
        if self.state is not RouteState.RUNNING:
            return False
        self._outages = self._outages + 1 if now - self._resumed_at < 2 * self.patience else 1
        first = min(OUTAGE_SECONDS, self.patience)
        pause = first * 2.0 ** min(self._outages - 2, 6) if self._outages > 1 else 0.0
        self._probes = 0
        self._probe_at = now + max(self._backoff.pause(1), min(pause, self._ack_deadline))
        self.state, self.reason = RouteState.WAITING, problem
        return True

    def drain(self, *, linked: bool) -> bool:
        """Stop taking more and finish what is held; return whether that is new.

        ``linked``: whether workers still hold what came before the sink went away.
        """
        running = self.state is RouteState.RUNNING or self.state is RouteState.PAUSING
        if not running and not (self.state is RouteState.WAITING and linked):
            return False
        self.state, self.reason = RouteState.DRAINING, "stopping"
        return True

    def pause(self, reason: str) -> bool:
        """Rest once what is held is written, or at once where the sink is away; whether that is new.

        What rests for quiet hours alone takes the new reason, a person's or that of the next ones.
        """
        if self.state is RouteState.RUNNING:
            self.state = RouteState.PAUSING
        elif self.state is RouteState.WAITING:
            self.state = RouteState.PAUSED
        elif not self.quiet:
            return False
        self.reason = reason
        return True

    def rest(self, reason: str = "") -> bool:
        """Be at rest; return whether that is new."""
        if self.state is not RouteState.PAUSING:
            return False
        self.state, self.reason = RouteState.PAUSED, reason or self.reason
        return True

    def unpause(self, now: float) -> bool:
        """Take up again, from rest by way of a probe; return whether that is new."""
        if self.state is RouteState.PAUSING:
            self.resume(now)
        elif self.state is RouteState.PAUSED:
            self._probes, self._probe_at = 0, -inf
            self.state, self.reason = RouteState.WAITING, "resuming"
        else:
            return False
        return True

    def stop(self, reason: str) -> bool:
        """Stop for good; return whether that is new."""
        if self.state is RouteState.STOPPED:
            return False
        self.state, self.reason = RouteState.STOPPED, reason
        return True
