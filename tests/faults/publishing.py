"""Publishing in a trial whose broker is hurt meanwhile."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aggregator.errors import PublisherUnavailableError
from consumers.publisher import Publisher
from tests.servers.base import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from consumers.publisher import Outgoing

#: So long a broker may be of no use, or the rest of a cluster take to elect.
PATIENCE = 60.0


def publish_all(url: Callable[[], str], messages: Sequence[Outgoing], confirmed: set[str]) -> None:
    """Publish until each is confirmed, and note its id: what nobody answered for is sent again."""
    left = list(messages)

    def done() -> bool:
        publisher = Publisher(url(), confirm_timeout=5.0)
        outcomes: Sequence[str | None] = ["unknown"] * len(left)
        try:
            outcomes = publisher.publish(left)
        except PublisherUnavailableError as exc:
            outcomes = exc.outcomes or outcomes
        finally:
            publisher.close()
        told = list(zip(left, outcomes, strict=True))
        confirmed.update(message.properties["message_id"] for message, outcome in told if outcome is None)
        left[:] = [message for message, outcome in told if outcome is not None]
        return not left

    wait_for(done, "confirms", timeout=PATIENCE, interval=0.2)
