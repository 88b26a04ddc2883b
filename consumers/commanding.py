"""Sends commands to the nodes of a namespace, and gathers their answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from aggregator.errors import ControlUnavailableError
from aggregator.masking import masked
from consumers.mailbox import ControlMailbox

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from consumers.connecting import Broker


class Destination(NamedTuple):
    """Which nodes: these, or those whose name a shell pattern fits; neither: all."""

    names: Sequence[str] = ()
    pattern: str | None = None


EVERYBODY = Destination()


def destination_of(text: str | None) -> Destination:
    """Return what ``PROCESS@HOST,…``, ``HOST``, or a pattern names.

    Raises ``ValueError``, whose text says what would be right.
    """
    names = [name.strip() for name in (text or "").split(",") if name.strip()]
    plain = [name for name in names if "@" in name and not set(name) & set("*?[")]
    if len(plain) == len(names):
        return Destination(names=plain)
    if len(names) > 1:
        raise ValueError(
            "several nodes are named in full, like 4211@web1,977@web2; a host or a pattern alone"
        )
    name = names[0]
    return Destination(pattern=name if "@" in name or set(name) & set("*?[") else f"*@{name}")


def send(
    broker: Broker,
    namespace: str,
    command: str,
    arguments: Mapping[str, Any],
    *,
    destination: Destination = EVERYBODY,
    timeout: float = 2.0,
) -> dict[str, Any]:
    """Return each node's answer, by its name.

    Of nodes that are named, once all have answered; else of whoever answers until ``timeout`` seconds pass
    without another. Raises ``ControlUnavailableError``.
    """
    connection = broker.connection()
    errors = (*connection.connection_errors, *connection.channel_errors)
    answers: dict[str, Any] = {}
    try:
        with connection:
            connection.ensure_connection(
                max_retries=broker.hosts - 1,
                interval_start=0,
                interval_step=0,
                reraise_as_library_errors=False,
            )
            mailbox = ControlMailbox(namespace)(connection)
            # what Celery calls too: the public methods know no patterns
            said = mailbox._broadcast(  # noqa: SLF001
                command,
                dict(arguments),
                list(destination.names) or None,
                reply=True,
                timeout=timeout,
                pattern=destination.pattern,
                matcher="glob" if destination.pattern else None,
                channel=connection.channel(),
            )
    except errors as exc:
        raise ControlUnavailableError(f"{masked(broker.url)}: {type(exc).__name__}: {exc}") from None
    for answer in said or ():
        answers.update(answer)
    return answers
