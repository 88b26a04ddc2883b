"""Connections to Redis: bounded waits, errors mapped, and a look whether a server is fit for its use."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import redis
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)
from redis.retry import Retry

from aggregator.errors import StoreUnavailableError, UnrecoverableError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from aggregator.stores.redis_url import RedisOptions, Server

#: The first version whose scripts may do all that ours do (SMISMEMBER).
OLDEST = (6, 2)


def connect(server: Server, options: RedisOptions) -> redis.Redis:
    """Return a client; nothing connects yet. Threads may share it."""
    tls: dict[str, Any] = {}
    if server.tls:
        tls = {"ssl": True, "ssl_check_hostname": True}
        if options.ca:
            tls["ssl_ca_certs"] = str(options.ca)
    return redis.Redis(
        host=server.host,
        port=server.port,
        db=server.db,
        username=server.username,
        password=server.password,
        socket_timeout=options.timeout,
        socket_connect_timeout=options.timeout,
        # a connection that the server has closed while idle is opened again, once; a silent one is not
        # waited for twice. All that our scripts do may be done twice
        retry=Retry(NoBackoff(), 1, supported_errors=(redis.exceptions.ConnectionError,)),
        protocol=2,
        **tls,
    )


@contextmanager
def mapped(server: Server) -> Iterator[None]:
    """Map the client's errors: no answer, or none that can be used, is ``StoreUnavailableError``."""
    try:
        yield
    except (RedisError, OSError) as exc:
        raise StoreUnavailableError(f"Redis at {server.address}: {_words(exc)}") from None


@contextmanager
def refusing(server: Server, setting: str) -> Iterator[None]:
    """As :func:`mapped`, but what only a person can put right is an ``UnrecoverableError``."""
    where = f"{setting}: Redis at {server.address}"
    try:
        yield
    except NoPermissionError as exc:
        raise UnrecoverableError(f"{where}: {exc}; give the user what docs/redis.md lists") from None
    except (AuthenticationError, AuthorizationError) as exc:
        raise UnrecoverableError(f"{where}: {exc}; the URL's user and password have to be right") from None
    except ReadOnlyError:
        raise UnrecoverableError(f"{where} is a replica, and takes no writes; name the master") from None
    except (BusyLoadingError, OutOfMemoryError) as exc:
        raise StoreUnavailableError(f"Redis at {server.address}: {_words(exc)}") from None
    except ResponseError as exc:
        if str(exc).startswith(("NOAUTH", "WRONGPASS")):
            raise UnrecoverableError(f"{where}: {exc}; the URL needs user and password") from None
        if "ACL failure" in str(exc) or "NOPERM" in str(exc):
            raise UnrecoverableError(f"{where}: {exc}; give the user what docs/redis.md lists") from None
        raise UnrecoverableError(f"{where}: {_words(exc)}") from None
    except (RedisError, OSError) as exc:
        raise StoreUnavailableError(f"Redis at {server.address}: {_words(exc)}") from None


def look(client: redis.Redis, where: str, unfit: Collection[str], needed: str) -> str | None:
    """Refuse a server that is too old, or that throws keys away by a policy that is among ``unfit``.

    ``unfit`` holds beginnings of policies' names. Returns what could not be looked at, if anything.
    Raises ``UnrecoverableError``, and the client's own errors.
    """
    try:
        said: dict[str, Any] = {**client.info("server"), **client.info("memory")}
    except NoPermissionError:
        return "its version and maxmemory-policy: the user may not ask for INFO"
    version = tuple(
        int(part) for part in str(said.get("redis_version", "0")).split(".")[:2] if part.isdigit()
    )
    if version < OLDEST:
        raise UnrecoverableError(
            f"{where} is Redis {said.get('redis_version')}; {'.'.join(map(str, OLDEST))} or newer is needed"
        )
    policy = str(said.get("maxmemory_policy", ""))
    if policy.startswith(tuple(unfit)):
        raise UnrecoverableError(
            f"{where} has maxmemory-policy {policy}: it may throw away any key; {needed} is needed"
        )
    return None if policy else "its maxmemory-policy"


def _words(exc: BaseException) -> str:
    return str(exc).split("\n", maxsplit=1)[0][:200] or type(exc).__name__
