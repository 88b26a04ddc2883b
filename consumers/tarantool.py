"""A connection to one Tarantool server that is never renewed behind its user's back.

A new connection is a new session, and a session that ends loses the tasks that it had taken: so whoever
holds tasks has to learn of the loss. The client library reconnects silently, keeps a socket open whose
answer was given up, and is not safe to share between threads: each of that is fenced here.
"""

from __future__ import annotations

import re
import socket
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from errno import ECONNRESET
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote, urlsplit

import tarantool
from tarantool.error import DatabaseError, NetworkError
from tarantool.error import Error as LibraryError

from aggregator.errors import ConfigurationError, TarantoolError, TarantoolUnavailableError
from aggregator.units import parse_duration
from aggregator.urls import url_parts

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT_PORT = 3301
DEFAULT_TIMEOUT = 5.0
#: Codes of the server's own errors that have a word.
_WORDS = {
    2: "full",
    7: "read-only",
    33: "not-installed",
    40: "disk",
    42: "access-denied",
    45: "access-denied",
    47: "access-denied",
}
_CODED = re.compile(r"([a-z]+(?:-[a-z0-9]+)*): (.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server is, and as whom to speak to it; the password is not shown."""

    host: str
    port: int
    user: str = "guest"
    password: str = field(default="", repr=False)
    timeout: float = DEFAULT_TIMEOUT

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def parse_url(url: str, field_name: str = "broker") -> tuple[Address, ...]:
    """Read ``tarantool://user:password@host:port,host2:port2/?timeout=5s``: one address for each server."""
    parts = url_parts(url)
    if parts.scheme != "tarantool":
        raise ConfigurationError(field_name, "is not of the form tarantool://user:password@host:port")
    credentials, _, hosts = parts.netloc.rpartition("@")
    user, _, password = credentials.partition(":")
    timeout = DEFAULT_TIMEOUT
    for key, value in parse_qsl(parts.query, keep_blank_values=True):
        if key != "timeout":
            # a password with a bare ? would be taken for a parameter's name
            shown = key if key.isidentifier() and "@" not in parts.query else "that of this URL"
            raise ConfigurationError(field_name, f"{shown}: no such parameter; there is timeout")
        try:
            timeout = parse_duration(value)
        except ValueError as exc:
            raise ConfigurationError(field_name, f"timeout: {exc}") from None
    return tuple(
        Address(*_host_and_port(each, field_name), unquote(user) or "guest", unquote(password), timeout)
        for each in hosts.split(",")
    )


def _host_and_port(text: str, field_name: str) -> tuple[str, int]:
    at = urlsplit(f"//{text}")
    try:
        host, port = at.hostname, at.port
    except ValueError:
        # what stands there may be a part of a password
        problem = (
            "the port has to be a number up to 65535; a password's / is written %2F, its ? %3F, its # %23"
        )
        raise ConfigurationError(field_name, problem) from None
    if not host:
        raise ConfigurationError(field_name, "names no host: tarantool://user:password@host:port")
    return host, port or DEFAULT_PORT


class _Connection(tarantool.Connection):  # type: ignore[misc]
    """The library's connection, without its reconnecting."""

    def _opt_reconnect(self) -> None:
        if self._socket is None:
            raise NetworkError(ConnectionResetError(ECONNRESET, "closed"))

    def allow(self, seconds: float) -> None:
        """Set how long each wait for the server may last."""
        if self._socket is not None:
            self._socket.settimeout(seconds)

    def shut_down(self) -> None:
        """End what another thread waits for."""
        if (link := self._socket) is not None:
            with suppress(OSError):
                link.shutdown(socket.SHUT_RDWR)


class Tarantool:
    """One thread's connection to one server. Opened at once; ``timeout`` in seconds replaces the URL's.

    Every failure and every timeout closes it for good and raises ``TarantoolUnavailableError``; an error
    that Lua raised is a ``TarantoolError`` and leaves it usable. Only :meth:`abort` may be called from
    another thread.
    """

    def __init__(self, url: str | Address, *, timeout: float | None = None) -> None:
        self.address = url if isinstance(url, Address) else parse_url(url)[0]
        self.timeout = timeout or self.address.timeout
        self._lock = threading.Lock()
        self._aborted = False
        try:
            self._connection = _Connection(
                self.address.host,
                self.address.port,
                user=None if self.address.user == "guest" else self.address.user,
                password=self.address.password,
                socket_timeout=self.timeout,
                connection_timeout=self.timeout,
                fetch_schema=False,
            )
        except (LibraryError, OSError, ValueError) as exc:
            raise self._mapped(exc) from None

    @property
    def closed(self) -> bool:
        """Whether it can be used no more."""
        return bool(self._connection.is_closed())

    def call(self, function: str, *arguments: Any, wait: float = 0) -> list[Any]:
        """Call a Lua function; ``wait``: seconds that it may take beyond the timeout. What it returned."""
        return self._ask(self._connection.call, function, arguments, wait)

    def eval(self, lua: str, *arguments: Any, wait: float = 0) -> list[Any]:
        """Run a piece of Lua, which needs an administrator's rights. What it returned."""
        return self._ask(self._connection.eval, lua, arguments, wait)

    def require(self, versions: Mapping[str, int]) -> None:
        """Raise ``TarantoolError`` (``not-installed``) unless these modules run there, as new or newer."""
        how = "start the server with docker/tarantool/instance.lua, or run: python -m consumers.install URL"
        try:
            found = self.call("aggregator.versions")[0]
        except TarantoolError as exc:
            raise TarantoolError("not-installed", f"{self.address}: {exc.message}; {how}") from None
        for name, wanted in versions.items():
            if found.get(name, 0) < wanted:
                has = f"is version {found[name]}" if name in found else "is missing"
                problem = f"module {name} {has}, {wanted} is needed"
                raise TarantoolError("not-installed", f"{self.address}: {problem}; {how}")

    def close(self) -> None:
        """End the session: what it has taken is ready again. May be called twice."""
        self._connection.close()

    def abort(self) -> None:
        """End a call under way, and with it the session; from any thread."""
        self._aborted = True
        self._connection.shut_down()

    def _ask(self, how: Any, what: str, arguments: tuple[Any, ...], wait: float) -> list[Any]:
        if self.closed:
            raise TarantoolUnavailableError(f"{self.address}: this connection was closed")
        if not self._lock.acquire(blocking=False):
            raise RuntimeError("a connection to Tarantool belongs to one thread")
        try:
            self._connection.allow(self.timeout + wait)
            return list(how(what, arguments).data or ())
        except (LibraryError, OSError, ValueError) as exc:
            raise self._mapped(exc) from None
        except BaseException:
            self.close()  # an answer may still be under way, and would be taken for that of the next call
            raise
        finally:
            self._lock.release()

    def _mapped(self, exc: Exception) -> TarantoolError | TarantoolUnavailableError:
        cause: BaseException = exc
        while isinstance(cause, NetworkError) and cause.__cause__ is not None:
            cause = cause.__cause__  # the library wraps everything, what the server refuses as well
        if isinstance(cause, DatabaseError) and not isinstance(cause, NetworkError):
            return _refused(cause)
        if hasattr(self, "_connection"):
            self.close()
        why = f"no answer within {self.timeout:g} s" if isinstance(cause, TimeoutError) else str(cause)
        return TarantoolUnavailableError(f"{self.address}: {why or type(cause).__name__}")


def _refused(exc: DatabaseError) -> TarantoolError:
    text = exc.message.decode(errors="replace") if isinstance(exc.message, bytes) else exc.message
    coded = _CODED.fullmatch(text)
    if coded and exc.code in {0, 32}:  # raised by Lua: 32 if it was no error object
        return TarantoolError(coded[1], coded[2])
    return TarantoolError(_WORDS.get(exc.code, f"box-{exc.code}"), text)
