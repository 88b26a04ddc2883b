"""What has become of messages so far, by route, and how fast: from the counters that /metrics shows."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from prometheus_client.metrics_core import Metric

#: Rates are of so many seconds at most, and of these at least.
LONGEST, LEAST = 10.0, 0.8
#: How many looks are remembered.
MOST_LOOKS = 32


@dataclass(slots=True)
class Counts:
    """Of one route. ``verdicts``: deliveries by what became of them; ``reasons``: refused ones."""

    received: int = 0
    retries: int = 0
    verdicts: dict[str, int] = field(default_factory=dict)
    batches: dict[str, int] = field(default_factory=dict)
    reasons: dict[str, int] = field(default_factory=dict)

    def told(self) -> dict[str, object]:
        """Return them for people who write scripts."""
        return {
            "received": self.received,
            "retries": self.retries,
            "verdicts": self.verdicts,
            "batches": self.batches,
            "dead_letters": self.reasons,
        }

    def flow(self) -> dict[str, int]:
        """Return what rates are of, by the names in the status."""
        settled = {"written", "duplicate", "dead_lettered"}
        return {
            "received": self.received,
            "batches": sum(self.batches.values()),
            "retries": self.retries,
            "written": self.verdicts.get("written", 0) + self.verdicts.get("duplicate", 0),
            "dead_lettered": self.verdicts.get("dead_lettered", 0),
            "other": sum(number for word, number in self.verdicts.items() if word not in settled),
        }


def counted(metrics: Iterable[Metric]) -> dict[str, Counts]:
    """Return the counts of each route, from whatever was collected."""
    found: dict[str, Counts] = {}
    for metric in metrics:
        for sample in metric.samples:
            name = sample.labels.get("route")
            if name is None or not sample.name.endswith("_total"):
                continue
            counts, number = found.setdefault(name, Counts()), int(sample.value)
            if sample.name == "aggregator_received_total":
                counts.received += number
            elif sample.name == "aggregator_retries_total":
                counts.retries += number
            elif number:
                _add(counts, sample.name, sample.labels, number)
    return found


def _add(counts: Counts, name: str, labels: Mapping[str, str], number: int) -> None:
    kinds = {
        "aggregator_deliveries_total": (counts.verdicts, "verdict"),
        "aggregator_batches_total": (counts.batches, "trigger"),
        "aggregator_dead_letters_total": (counts.reasons, "reason"),
    }
    if name in kinds:
        table, label = kinds[name]
        table[labels[label]] = table.get(labels[label], 0) + number


class Rates:
    """How much a second, between the look before and this one: the farthest that is not too long ago.

    Nothing is counted between looks: of whoever asks rarely, the first answer has no rates.
    """

    def __init__(self) -> None:
        self._looks: deque[tuple[float, dict[str, dict[str, int]]]] = deque(maxlen=MOST_LOOKS)

    def of(self, counts: Mapping[str, Counts], now: float) -> tuple[float, dict[str, dict[str, float]]]:
        """Return of how many seconds they are, and each route's; 0 and nothing where there are none yet."""
        flows = {name: each.flow() for name, each in counts.items()}
        # one look from before that stays, for whoever asks more rarely
        while len(self._looks) > 1 and now - self._looks[1][0] >= LONGEST:
            self._looks.popleft()
        rates: dict[str, dict[str, float]] = {}
        seconds = now - self._looks[0][0] if self._looks else 0.0
        if seconds >= LEAST:
            before = self._looks[0][1]
            for name, flow in flows.items():
                was = before.get(name, {})
                # one that was started again may count less for a moment
                rates[name] = {
                    word: max(0.0, round((number - was.get(word, 0)) / seconds, 1))
                    for word, number in flow.items()
                }
        self._looks.append((now, flows))
        return (round(seconds, 1), rates) if rates else (0.0, {})
