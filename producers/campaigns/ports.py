"""What the service asks of a server that holds users: one function call over one connection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from aggregator.errors import AggregatorError

if TYPE_CHECKING:
    from collections.abc import Callable

    from consumers.tarantool import Address


class ServerUnavailableError(AggregatorError):
    """The server did not answer in time, or is not there; what became of the call is unknown."""


class ServerRefusedError(AggregatorError):
    """The server answered with an error.

    ``code`` is its word (``conflict``, ``no-campaign``, ``read-only``), empty where it gave none.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message or code)
        self.code = code


class Connection(Protocol):
    """One connection, used by one thread at a time; any failure ends it."""

    def call(self, function: str, *arguments: Any) -> Any:
        """Call a Lua function and return its (first) result.

        Raises ``ServerUnavailableError`` or ``ServerRefusedError``.
        """
        ...

    def close(self) -> None:
        """Close it; never raises."""
        ...


if TYPE_CHECKING:
    #: opens a connection; the second argument limits each answer, in seconds
    Connect = Callable[[Address, float], Connection]
