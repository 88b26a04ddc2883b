"""From what was seen to figures: pure functions, no process, no clock."""

from __future__ import annotations

import math
import statistics
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.watch import Curve


@dataclass(frozen=True, slots=True)
class Spread:
    """Several runs' values of one figure."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Return that of at least one value."""
        return cls(statistics.median(values), min(values), max(values))

    def overlaps(self, other: Spread) -> bool:
        """Say whether the two ranges have a value in common."""
        return self.least <= other.most and other.least <= self.most


def acked(held: Curve, total: int) -> Curve:
    """From the messages that a full queue held to those that were acked; it never falls."""
    curve, most = [], 0.0
    for time, number in held:
        most = max(most, total - number)
        curve.append((time, most))
    return curve


def reached(curve: Curve, value: float) -> float:
    """Return when a curve first had this value. Raises ``ValueError`` if it never did."""
    for time, number in curve:
        if number >= value:
            return time
    last = curve[-1][1] if curve else 0
    raise ValueError(f"{value:g} was never reached: {last:g} at the end")


def at(curve: Curve, time: float) -> float:
    """Return a steadily growing curve's value at a time, between its points by a straight line."""
    times = [point[0] for point in curve]
    right = bisect_left(times, time)
    if right == 0:
        return curve[0][1]
    if right == len(curve):
        return curve[-1][1]
    (t0, v0), (t1, v1) = curve[right - 1], curve[right]
    return v0 + (v1 - v0) * (time - t0) / (t1 - t0)


def throughput(acks: Curve, cpu: Curve, warm: int, count: int) -> dict[str, float]:
    """Return messages a second and CPU seconds for 100,000 of the messages after the first ``warm``.

    ``acks``: messages acked over time. ``cpu``: CPU seconds of all processes over time.
    """
    first = reached(acks, warm)
    last = reached(acks, warm + count)
    done = count - (at_step(acks, first) - warm)  # an ack may have passed the mark by some
    return {
        "messages_per_s": done / (last - first),
        "cpu_s_per_100k": (at(cpu, last) - at(cpu, first)) / done * 100_000,
    }


def at_step(curve: Curve, time: float) -> float:
    """Return a curve's value at a time, as of its last point before."""
    place = bisect_right([point[0] for point in curve], time)
    return curve[place - 1][1] if place else 0.0


def latencies(published: Sequence[tuple[float, float, int]], held: Curve) -> list[float]:
    """Return the seconds from publish to ack of each message, in the order of publishing.

    ``published``: for each call of the publisher when it began, when it was confirmed, and how many
    messages had been published by then. ``held``: messages in the queue. The n-th ack is taken for
    that of the n-th message: exact for the mean, and for a consumer that keeps the order.
    """
    confirmed = [(end, float(total)) for _, end, total in published]
    acks, most = [], 0.0
    for time, number in held:
        most = max(most, at_step(confirmed, time) - number)
        acks.append((time, most))
    totals = [number for _, number in acks]
    found: list[float] = []
    before = 0
    for start, _, total in published:
        for number in range(before + 1, total + 1):
            place = bisect_left(totals, number)
            found.append(acks[place][0] - start if place < len(acks) else math.inf)
        before = total
    return found


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that is not exceeded by this share of the values."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def summarize(runs: Sequence[dict[str, Any]], keys: Sequence[str]) -> dict[str, Spread]:
    """Return the spread of each figure over the runs that have it."""
    found = {key: [run[key] for run in runs if run.get(key) is not None] for key in keys}
    return {key: Spread.of(values) for key, values in found.items() if values}
