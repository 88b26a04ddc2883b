"""Posts items to a webhook in bulk, as one object of JSON or as NDJSON, by requests.

``webhook+http(s)://[user:password@]host[:port]/path?option=value`` posts
``{"items": [{"id": …, "document": {…}}, …]}``. An answer of 2xx means that all of them were taken, unless
it is an object with as many ``items`` itself, ``{"items": [{"status": "written"}, …]}`` in the same order,
which gives each its own verdict: ``written``, ``duplicate``, ``retry``, or ``refused`` with a ``reason``.

=====================  ============================================================================
``format``             ``json`` (the default) or ``ndjson``: a line for each item, no object around them
``token_env``          the environment variable, or with ``token_file`` the file, of a bearer token
``password_env``       the same for the password of ``user@``, with ``password_file``
``secret_env``         the same for the secret that signs bodies, with ``secret_file``: the header
                       ``x-signature-256: sha256=…`` is the HMAC of the body
``ca``                 a file of certificates in PEM to trust, for https
``gzip``               ``true``: bodies are compressed
``timeout``            of a request, ``30s``
``max_bytes``          of documents in a request, ``10MiB``
``max_items``          in a request; any number unless given
``concurrency``        requests under way at once, at most: 8
=====================  ============================================================================

The header ``idempotency-key`` is the same for the same items in the same order: what comes again after an
answer was lost can be known by it, and each item by its ``id``.
"""

from __future__ import annotations

import gzip
import hashlib
import hmac
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal
from urllib.parse import unquote

import orjson
from pydantic import BaseModel, ConfigDict, Field

from aggregator.errors import ConfigurationError, SinkUnavailableError
from aggregator.sinks.base import WRITTEN, Fate, Limits, Verdict
from aggregator.sinks.url_options import (
    Secret,
    check_ca,
    fault,
    read_pairs,
    read_secret,
    unknown_option,
    validate,
)
from aggregator.sinks.webhook_answer import verdicts
from aggregator.units import Duration, Size

if TYPE_CHECKING:
    from collections.abc import Sequence
    from urllib.parse import SplitResult

    from aggregator.delivery import Item
    from aggregator.sinks.webhook_client import Client

_TYPES = {"json": "application/json", "ndjson": "application/x-ndjson"}


class Options(BaseModel):
    """What stands behind the ``?``; every option has its default."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["json", "ndjson"] = "json"
    token_env: str | None = None
    token_file: Path | None = None
    password_env: str | None = None
    password_file: Path | None = None
    secret_env: str | None = None
    secret_file: Path | None = None
    ca: Path | None = None
    gzip: bool = False
    timeout: Annotated[Duration, Field(ge=0.1)] = 30.0
    max_bytes: Annotated[Size, Field(ge=1)] = 10 * 1024 * 1024
    max_items: int | None = Field(None, ge=1)
    concurrency: int = Field(8, ge=1, le=64)


@dataclass(frozen=True, slots=True)
class Settings:
    """All that the sink needs, checked. ``url``: without credentials and options."""

    url: str
    user: str
    password: Secret | None
    token: Secret | None
    secret: Secret | None
    options: Options


def from_url(url: SplitResult) -> WebhookSink:
    """Return the sink that ``url`` names. Raises ``ConfigurationError`` for the field ``sink``."""
    options = validate(read_pairs(url.query, Options, partial(unknown_option, Options)), Options)
    scheme = url.scheme.partition("+")[2]
    if not url.hostname:
        raise fault("host: it is missing; write it like webhook+https://host/path")
    if url.fragment:
        raise fault("the URL holds a #; write %23 if it is part of a value")
    if options.ca and scheme == "http":
        raise fault("ca: only https has a certificate to check; write webhook+https://")
    if options.ca:
        check_ca(options.ca)
    host = f"[{url.hostname}]" if ":" in url.hostname else url.hostname
    port = f":{url.port}" if url.port else ""
    user = unquote(url.username or "")
    password = read_secret(
        "password", options.password_env, options.password_file, unquote(url.password or "")
    )
    token = read_secret("token", options.token_env, options.token_file)
    if bool(user) != bool(password):
        raise fault("user and password belong together; write user:password@host, or user@ and password_env")
    if user and token:
        raise fault("token: either a token or a user, not both")
    try:
        import requests  # noqa: F401, PLC0415
    except ImportError:
        raise ConfigurationError(
            "sink", "its client is not installed; pip install 'kombu-aggregator[webhook]'"
        ) from None
    secret = read_secret("secret", options.secret_env, options.secret_file)
    settings = Settings(f"{scheme}://{host}{port}{url.path or '/'}", user, password, token, secret, options)
    return WebhookSink(settings)


class WebhookSink:
    """One POST for each :meth:`write`; any number of threads may write at once."""

    def __init__(self, settings: Settings) -> None:
        options = settings.options
        self._settings = settings
        self._client: Client | None = None
        self._ndjson = options.format == "ndjson"
        self.limits = Limits(options.max_items, options.max_bytes, options.concurrency)

    def open(self) -> None:
        """Connect anew, with credentials and certificates as they are now, and ask for ``OPTIONS``."""
        from aggregator.sinks.webhook_client import Client  # noqa: PLC0415

        self.close()
        settings, options = self._settings, self._settings.options
        client = Client(
            settings.url,
            user=settings.user,
            password=settings.password,
            token=settings.token,
            ca=options.ca,
            timeout=options.timeout,
        )
        try:
            client.probe()
        except BaseException:
            client.close()
            raise
        self._client = client

    def write(self, items: Sequence[Item]) -> Sequence[Verdict] | None:
        """Post ``items``; see :meth:`aggregator.sinks.base.Sink.write`."""
        entries: list[bytes] = []
        refused: dict[int, Verdict] = {}
        for number, item in enumerate(items):
            try:
                entries.append(b'{"id":%b,"document":%b}' % (orjson.dumps(item.id), item.document))
            except orjson.JSONEncodeError:
                refused[number] = Verdict(Fate.DEAD_LETTER, "bad-id", "the id is no Unicode")
        told = self._post(entries) if entries else None
        if not refused:
            return told
        answered = iter(told if told is not None else [WRITTEN] * len(entries))
        return [refused.get(number) or next(answered) for number in range(len(items))]

    def _post(self, entries: list[bytes]) -> list[Verdict] | None:
        if self._client is None:
            raise SinkUnavailableError("the sink is not open")
        body = b"\n".join([*entries, b""]) if self._ndjson else b'{"items":[%b]}' % b",".join(entries)
        headers = {
            "content-type": _TYPES[self._settings.options.format],
            "idempotency-key": hashlib.sha256(body).hexdigest(),
        }
        if self._settings.options.gzip:
            body = gzip.compress(body, 1, mtime=0)
            headers["content-encoding"] = "gzip"
        if self._settings.secret:
            key = self._settings.secret.read().encode()
            headers["x-signature-256"] = f"sha256={hmac.new(key, body, hashlib.sha256).hexdigest()}"
        status, answer = self._client.post(body, headers)
        return verdicts(status, answer, len(entries))

    def close(self) -> None:
        """Close all connections."""
        client, self._client = self._client, None
        if client:
            client.close()

    def where(self) -> str:
        """Return the URL that the items are posted to."""
        return self._settings.url

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.where()}>"
