"""The port to the servers, carried out by the client of Tarantool."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aggregator.errors import TarantoolError, TarantoolUnavailableError
from consumers.tarantool import Tarantool
from producers.campaigns.ports import ServerRefusedError, ServerUnavailableError

if TYPE_CHECKING:
    from consumers.tarantool import Address


class TarantoolConnection:
    """One session, opened at once; the client's errors become the port's."""

    def __init__(self, address: Address, timeout: float) -> None:
        self._client = _asked(Tarantool, address, timeout=timeout)

    def call(self, function: str, *arguments: Any) -> Any:
        """Call a Lua function and return its first result."""
        found = _asked(self._client.call, function, *arguments)
        return found[0] if found else None

    def close(self) -> None:
        """End the session."""
        self._client.close()


def _asked(what: Any, *arguments: Any, **named: Any) -> Any:
    try:
        return what(*arguments, **named)
    except TarantoolError as exc:
        raise ServerRefusedError(exc.code, str(exc)) from None
    except TarantoolUnavailableError as exc:
        raise ServerUnavailableError(str(exc)) from None
