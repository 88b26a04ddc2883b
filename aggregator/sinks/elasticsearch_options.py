"""The URL of an Elasticsearch sink: hosts, credentials, index, and options, each checked.

``elasticsearch+http(s)://[user:password@]host[:port][,host2[:port]]/index?option=value``. Nothing
that is secret is ever part of an error's text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal
from urllib.parse import unquote, urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator

from aggregator.correlation import compile_expression
from aggregator.errors import ConfigurationError
from aggregator.sinks.elasticsearch_index import AllowedIndex, compile_pattern, name_fault
from aggregator.sinks.url_options import (
    Secret,
    check_ca,
    fault,
    read_pairs,
    read_secret,
    unknown_option,
    validate,
)
from aggregator.units import Duration, Size

if TYPE_CHECKING:
    from urllib.parse import SplitResult

    from aggregator.correlation import Expression
    from aggregator.sinks.elasticsearch_index import IndexOf

DEFAULT_PORT = 9200
_SECRETS = re.compile(r"key|pass|secret|token|auth|user")


class Options(BaseModel):
    """What stands behind the ``?``; every option has its default."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    op: Literal["create", "index"] | None = None
    version: str | None = None
    routing: str | None = None
    pipeline: str | None = Field(None, min_length=1)
    require_alias: bool = False
    index_from: str | None = None
    allow: tuple[str, ...] = ()
    failure_store: Literal["written", "dead-letter"] = "written"
    api_key_env: str | None = None
    api_key_file: Path | None = None
    password_env: str | None = None
    password_file: Path | None = None
    ca: Path | None = None
    gzip: bool = False
    timeout: Annotated[Duration, Field(ge=1)] = 30.0
    max_bytes: Annotated[Size, Field(ge=1)] = 10 * 1024 * 1024
    max_items: int | None = Field(None, ge=1)
    concurrency: int = Field(32, ge=1, le=64)

    @field_validator("allow", mode="before")
    @classmethod
    def _split(cls, value: str) -> tuple[str, ...]:
        return tuple(name.strip() for name in value.split(",") if name.strip())


@dataclass(frozen=True, slots=True)
class Settings:
    """All that the sink needs, checked. ``names``: the indices that are known beforehand."""

    scheme: Literal["http", "https"]
    hosts: tuple[tuple[str, int], ...]
    user: str | None
    password: Secret | None
    api_key: Secret | None
    op: Literal["create", "index"]
    names: tuple[str, ...]
    target: str
    index_of: IndexOf | None
    version: Expression | None
    routing: Expression | None
    options: Options

    @property
    def fixed(self) -> str | None:
        """The one index, if all documents go to the same."""
        return self.names[0] if self.index_of is None else None

    @property
    def urls(self) -> list[str]:
        """The hosts as URLs, without credentials."""
        return [f"{self.scheme}://{f'[{host}]' if ':' in host else host}:{port}" for host, port in self.hosts]


def read_url(url: SplitResult) -> Settings:
    """Return the settings that ``url`` holds. Raises ``ConfigurationError`` for the field ``sink``."""
    _check_password(url)
    options = validate(read_pairs(url.query, Options, _unknown_option), Options)
    if url.fragment:
        raise fault("the URL holds a #; write %23 if it is part of a value")
    scheme = url.scheme.partition("+")[2]
    if options.ca and scheme == "http":
        raise fault("ca: only https has a certificate to check; write elasticsearch+https://")
    if options.ca:
        check_ca(options.ca)
    user, password, hosts = _authority(url, options)
    api_key = read_secret("api_key", options.api_key_env, options.api_key_file)
    if api_key and user:
        raise fault("api_key: either an API key or a user, not both")
    if options.version and options.op == "create":
        raise fault("op: a version needs op=index, which it implies; leave op away")
    names, target, index_of = _index(url.path, options)
    return Settings(
        scheme="https" if scheme == "https" else "http",
        hosts=hosts,
        user=user,
        password=password,
        api_key=api_key,
        op="index" if options.version else options.op or "create",
        names=names,
        target=target,
        index_of=index_of,
        version=_expression("version", options.version),
        routing=_expression("routing", options.routing),
        options=options,
    )


def _check_password(url: SplitResult) -> None:
    """Notice a password with bare reserved characters before any part of it is shown as something else."""
    port = url.netloc.rpartition(":")[2]
    cut_short = ":" in url.netloc and not port.isdecimal() and not port.endswith("]")
    if "@" not in url.netloc and ("@" in url.path or (cut_short and "@" in url.query + url.fragment)):
        raise fault("a password's / is written %2F, its ? %3F, its # %23, its @ %40")


def _unknown_option(name: str) -> str:
    if _SECRETS.search(name.lower()):
        return (
            "a secret is not given as an option; use api_key_env, api_key_file, password_env or password_file"
        )
    return unknown_option(Options, name)


def _authority(
    url: SplitResult, options: Options
) -> tuple[str | None, Secret | None, tuple[tuple[str, int], ...]]:
    """Return user, password and hosts. What stands in them is never shown: it may be a password."""
    credentials, _at, hosts = url.netloc.rpartition("@")
    user, colon, text = credentials.partition(":")
    if (colon or options.password_env or options.password_file) and not user:
        raise fault("the password has no user; write user:password@host")
    password = read_secret("password", options.password_env, options.password_file, unquote(text))
    if user and password is None:
        raise fault(
            "the user has no password; write user:password@host, or use password_file or password_env"
        )
    return unquote(user) or None, password, tuple(_host(text) for text in hosts.split(","))


def _host(text: str) -> tuple[str, int]:
    try:
        parts = urlsplit(f"//{text.strip()}")
        port = DEFAULT_PORT if parts.port is None else parts.port
    except ValueError:
        raise fault("host: a port is a number from 1 to 65535, an IPv6 address stands in []") from None
    if not parts.hostname or port == 0 or re.search(r"[\s@%]", parts.hostname):
        raise fault("host: it is missing or wrong; write it like elasticsearch+http://localhost:9200/tasks")
    return parts.hostname, port


def _index(path: str, options: Options) -> tuple[tuple[str, ...], str, IndexOf | None]:
    """Return the known names, what a person searches, and the function that names the index."""
    text = path.removeprefix("/")
    if options.index_from or options.allow:
        return _allow_list(text, options)
    if "{" in text or "}" in text:
        if options.require_alias:
            raise fault("require_alias: it needs one index or an allow-list, not a date")
        index_of, target = compile_pattern(text)  # as it is: %d would be taken for an escape
        return (), target, index_of
    name = unquote(text).removesuffix("/")
    if wrong := name_fault(name, alias=options.require_alias):
        raise fault(f"index {name!r}: {wrong}" if name else wrong)
    return (name,), name, None


def _allow_list(text: str, options: Options) -> tuple[tuple[str, ...], str, IndexOf | None]:
    if not (options.index_from and options.allow):
        raise fault("index_from and allow need each other, like ?index_from=header:index&allow=logs,events")
    if text:
        raise fault("index_from: the URL names an index as well; leave one of them away")
    for name in options.allow:
        if wrong := name_fault(name, alias=options.require_alias):
            raise fault(f"allow {name!r}: {wrong}")
    expression = _expression("index_from", options.index_from)
    assert expression  # noqa: S101 - for the type checker: index_from is given
    chooser = AllowedIndex(expression, options.index_from, frozenset(options.allow))
    return options.allow, ",".join(options.allow), chooser


def _expression(option: str, text: str | None) -> Expression | None:
    if text is None:
        return None
    try:
        return compile_expression(text, "sink")
    except ConfigurationError as exc:
        raise fault(f"{option}: {exc.problem}") from None
