"""The port to the servers, carried out by the client of Tarantool."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aggregator.errors import ConfigurationError
from producers.campaigns.ports import ServerRefusedError, ServerUnavailableError

if TYPE_CHECKING:
    from producers.campaigns.ports import Connection


class TarantoolConnection:
    """One session; the client's errors become the port's."""

    def __init__(self, url: str, timeout: float) -> None:
        from aggregator.errors import TarantoolError, TarantoolUnavailableError  # noqa: PLC0415
        from consumers.tarantool import Tarantool  # noqa: PLC0415  an extra

        self._refused, self._unavailable = TarantoolError, TarantoolUnavailableError
        self._client = self._asked(Tarantool, url, timeout=timeout)

    def call(self, function: str, *arguments: Any) -> Any:
        """Call a Lua function and return its first result."""
        found = self._asked(self._client.call, function, *arguments)
        return found[0] if found else None

    def close(self) -> None:
        """End the session."""
        self._client.close()

    def _asked(self, what: Any, *arguments: Any, **named: Any) -> Any:
        try:
            return what(*arguments, **named)
        except self._refused as exc:
            raise ServerRefusedError(exc.code, str(exc)) from None
        except self._unavailable as exc:
            raise ServerUnavailableError(str(exc)) from None


def connect(url: str, timeout: float) -> Connection:
    """Open a connection to the one server of ``url``; errors as the port has them.

    Raises ``ConfigurationError`` where the client is not installed.
    """
    try:
        return TarantoolConnection(url, timeout)
    except ModuleNotFoundError:
        raise ConfigurationError(
            "shards", "pip install 'kombu-aggregator[campaigns]' for Tarantool"
        ) from None
