"""What sinks for APNs and FCM have in common: addresses out of items, batches, counting, connections."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import structlog

from aggregator.errors import SinkUnavailableError
from aggregator.sinks.base import WRITTEN, Fate, Limits, Verdict
from aggregator.sinks.push_batch import Batch, addressed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aggregator.delivery import Item
    from aggregator.metrics import Metrics
    from aggregator.push import Address
    from aggregator.sinks.push_batch import Gateway
    from aggregator.sinks.push_engine import Endpoint, Engine
    from aggregator.sinks.push_feedback import Feedback
    from aggregator.sinks.push_hold import Hold
    from aggregator.sinks.push_options import PushOptions

_log = structlog.get_logger("aggregator.push")


class PushSink:
    """One gateway and one app. Each :meth:`write` sends its pushes at once, on connections of its own."""

    gateway_name: str

    def __init__(
        self,
        endpoint: Endpoint,
        options: PushOptions,
        *,
        hold: Hold,
        feedback: Feedback | None,
        app: str,
        known_reasons: frozenset[str],
    ) -> None:
        self.limits = Limits(options.items, 16 * 1024 * 1024, options.concurrency)
        self._endpoint = endpoint
        self._hold = hold
        self._feedback = feedback
        self._app = app
        self._known_reasons = known_reasons
        self._engine: Engine | None = None
        self._metrics: Metrics | None = None

    def count_in(self, metrics: Metrics) -> None:
        """Count pushes in the process's metrics from now on."""
        self._metrics = metrics

    def open(self) -> None:
        """Connect anew, and ask the gateway what can be asked without a push. Raises a ``SinkError``."""
        self._hold.check()
        self._disconnect()
        engine = self.connect()
        try:
            self.prove(engine)
        except BaseException:
            engine.close()
            raise
        self._engine = engine

    def write(self, items: Sequence[Item]) -> Sequence[Verdict] | None:
        """Push all items; see :meth:`aggregator.sinks.base.Sink.write`. Lasts three timeouts at most."""
        if not items:
            return None
        addresses, refused = _addresses(items)
        sent = self._push(addresses) if addresses else []
        if refused:
            answered = iter(sent)
            verdicts = [refused.get(number) or next(answered) for number in range(len(items))]
        else:
            verdicts = sent
        self._count(verdicts)
        return None if all(verdict is WRITTEN for verdict in verdicts) else verdicts

    def close(self) -> None:
        """Close all connections; feedback that is left has some seconds."""
        self._disconnect()
        if self._feedback:
            self._feedback.close()

    def where(self) -> str:
        """Return the gateway; what was pushed shows on devices alone."""
        return f"{self._endpoint.url} ({self.described()})"

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.where()}>"

    def connect(self) -> Engine:
        """Return a new engine."""
        raise NotImplementedError

    def prove(self, engine: Engine) -> None:
        """Ask the gateway for what can be known without a push. Raises a ``SinkError``."""
        raise NotImplementedError

    def gateway(self) -> Gateway:
        """Return what one batch needs to know. Raises a ``SinkError``."""
        raise NotImplementedError

    def described(self) -> str:
        """Return what tells this sink from others at the same gateway."""
        raise NotImplementedError

    def _push(self, addresses: Sequence[Address]) -> list[Verdict]:
        engine = self._engine
        if engine is None:
            raise SinkUnavailableError("the sink is not open")
        self._hold.check()
        batch = Batch(addresses, self.gateway())
        engine.run(batch)
        return batch.finish()

    def _count(self, verdicts: Sequence[Verdict]) -> None:
        counted = Counter((verdict.fate, verdict.reason) for verdict in verdicts)
        if self._metrics is not None:
            for (fate, reason), number in counted.items():
                shown = reason if not reason or reason in self._known_reasons else "other"
                self._metrics.pushes.labels(self.gateway_name, self._app, fate.value, shown).inc(number)
        failed = {f"{fate.value} {why}": n for (fate, why), n in counted.items() if fate is not Fate.WRITTEN}
        if failed:
            _log.info(
                "pushed", gateway=self.gateway_name, app=self._app, pushes=len(verdicts), not_taken=failed
            )

    def _disconnect(self) -> None:
        engine, self._engine = self._engine, None
        if engine:
            engine.close()


#: Reasons of our own, beside those of the gateways.
OWN_REASONS = frozenset(
    {
        "bad-address", "bad-push", "bad-json", "bad-header", "bad-background-push", "bad-collapse-id",
        "payload-too-large", "bad-data", "wrong-platform", "unsent", "timeout", "tls",
        "stream-lost", "refused-stream", "connection-lost", "other",
    }
)  # fmt: skip


def _addresses(items: Sequence[Item]) -> tuple[list[Address], dict[int, Verdict]]:
    addresses: list[Address] = []
    refused: dict[int, Verdict] = {}
    for number, item in enumerate(items):
        found = addressed(item)
        if isinstance(found, Verdict):
            refused[number] = found
        else:
            addresses.append(found)
    return addresses, refused
