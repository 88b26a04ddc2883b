"""Redis as a broker: is the server fit to keep messages?"""

from __future__ import annotations

from typing import Any

import structlog

from aggregator.errors import UnrecoverableError

log = structlog.get_logger()

#: The only policy under which Redis never throws a key away to make room.
FIT = "noeviction"


def refuse_unfit(connection: Any) -> None:
    """Look at the policy by which the server throws keys away: a queue is a key, and so are all unacked.

    Called with an open connection, before anything is consumed. A server that does not say is taken as it
    is. Raises ``UnrecoverableError``, and the transport's own errors where it does not answer.
    """
    channel = connection.default_channel
    try:
        said = channel.client.info("memory")
    except channel.ResponseError as exc:  # the user may not ask, or it is none of Redis's own
        log.warning("redis_not_looked_at", what="its maxmemory-policy", problem=str(exc))
        return
    policy = said.get("maxmemory_policy")
    if policy is None:
        log.warning("redis_not_looked_at", what="its maxmemory-policy")
    elif policy != FIT:
        raise UnrecoverableError(
            f"broker: Redis has maxmemory-policy {policy}: full, it may throw away what waits in it;"
            f" {FIT} is needed (a cache belongs into another Redis)"
        )
