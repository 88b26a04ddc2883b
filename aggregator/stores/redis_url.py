"""URLs of Redis in settings: ``redis://[user:password@]host[:port][/db]?option=value``."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar
from urllib.parse import unquote, urlsplit

from pydantic import BaseModel, ConfigDict, Field

from aggregator.errors import ConfigurationError
from aggregator.sinks.url_options import check_ca, read_pairs, validate
from aggregator.units import Duration

if TYPE_CHECKING:
    from urllib.parse import SplitResult

_SHAPE = "redis://user:password@host:6379/0?prefix=NAME"
_PREFIX = re.compile(r"[\x21-\x7e]+")
DEFAULT_PORT = 6379


class RedisOptions(BaseModel):
    """What may stand behind the ``?`` of any of them. Times in seconds.

    ``prefix``: how all keys begin, None for the route's own. ``timeout``: for one answer of the
    server. ``ca``: certificates that the server's must descend from, for ``rediss``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    prefix: str | None = None
    timeout: Annotated[Duration, Field(gt=0, le=60)] = 1.0
    ca: Path | None = None


class SeenOptions(RedisOptions):
    """The store of seen ids.

    ``ttl``: an id is known at least so long, and half as long again at most. ``most``: ids that are
    kept at all. ``interval``: how often the copy learns what other processes have written.
    """

    ttl: Annotated[Duration, Field(ge=10)] = 86_400.0
    most: Annotated[int, Field(ge=1000, le=1_000_000_000)] = 10_000_000
    interval: Annotated[Duration, Field(ge=0.05, le=3600)] = 1.0


class ResultOptions(RedisOptions):
    """The store of verdicts. ``ttl``: how long one is kept after the last word."""

    ttl: Annotated[Duration, Field(ge=1)] = 3600.0


Options = TypeVar("Options", bound=RedisOptions)


class Server(BaseModel):
    """Where a server is, and who asks. ``db`` is the number of its database."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    host: str
    port: int = DEFAULT_PORT
    db: Annotated[int, Field(ge=0)] = 0
    username: str | None = None
    password: str | None = Field(None, repr=False)
    tls: bool = False

    @property
    def address(self) -> str:
        """Host, port and database, for people."""
        return f"{self.host}:{self.port}/{self.db}"


def read_url(url: str, model: type[Options], field: str) -> tuple[Server, Options]:
    """Return the server and the options that ``url`` names.

    Raises ``ConfigurationError`` for ``field``, also where the client is not installed; its words never
    hold the password.
    """
    if find_spec("redis") is None:
        raise ConfigurationError(field, "its client is not installed; pip install 'kombu-aggregator[redis]'")
    try:
        return _read(url, model)
    except ConfigurationError as exc:
        raise ConfigurationError(field, exc.problem) from None


def _read(url: str, model: type[Options]) -> tuple[Server, Options]:
    parts = urlsplit(url)
    if parts.scheme not in {"redis", "rediss"}:
        raise _fault(f"{parts.scheme[:20]!r} is no scheme of Redis; {_SHAPE} is needed")
    try:
        port = parts.port or DEFAULT_PORT
    except ValueError:  # its words would hold a part of the password
        raise _fault("the port is no number, or the password holds a / or @, written %2F and %40") from None
    if not parts.hostname:
        raise _fault(f"it names no host; {_SHAPE} is needed")
    if parts.fragment:
        raise _fault("it holds a #; write %23 if it is part of the password")
    known = ", ".join(model.model_fields)
    options = validate(
        read_pairs(parts.query, model, lambda name: f"{name[:40]!r} is not among its options: {known}"), model
    )
    if options.prefix is not None and not _PREFIX.fullmatch(options.prefix):
        raise _fault("prefix: a name without spaces in printable ASCII is needed")
    if options.ca is not None:
        if parts.scheme == "redis":
            raise _fault("ca: redis:// is not encrypted, nothing would be verified; rediss:// is needed")
        check_ca(options.ca)
    return _server(parts, port), options


def _server(parts: SplitResult, port: int) -> Server:
    db = parts.path.strip("/")
    if db and not (db.isascii() and db.isdecimal()):
        raise _fault(f"{db[:20]!r} is no number of a database; 0 or another number is needed")
    values: dict[str, Any] = {
        "host": parts.hostname,
        "port": port,
        "db": int(db or 0),
        "username": unquote(parts.username) if parts.username else None,
        "password": unquote(parts.password) if parts.password else None,
        "tls": parts.scheme == "rediss",
    }
    return Server.model_validate(values)


def _fault(problem: str) -> ConfigurationError:
    return ConfigurationError("", problem)
