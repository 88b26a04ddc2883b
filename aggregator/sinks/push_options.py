"""The URL of a sink for pushes: what stands behind the ``?``, each option checked, no secret in an error."""

from __future__ import annotations

import os
import re
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field

from aggregator.sinks.url_options import check_ca, fault, read_pairs, unknown_option, validate
from aggregator.units import Duration

if TYPE_CHECKING:
    from urllib.parse import SplitResult

    from aggregator.sinks.push_engine import Endpoint

DEFAULT_PORT = 443


class PushOptions(BaseModel):
    """What all gateways have in common."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    ca: Path | None = None
    connections: int = Field(1, ge=1, le=64)
    streams: int = Field(500, ge=1, le=10_000)
    timeout: Annotated[Duration, Field(ge=1)] = 10.0
    concurrency: int = Field(4, ge=1, le=64)
    items: int = Field(1000, ge=1, le=10_000)
    feedback: str | None = None
    feedback_token_env: str | None = None
    feedback_token_file: Path | None = None


Model = TypeVar("Model", bound=PushOptions)


def require(module: str) -> None:
    """Raise ``ConfigurationError`` if a library that pushes need is not installed."""
    # of google.auth the first word: what is not there has no parts to look for
    package = module.partition(".")[0]
    if find_spec(package) is None or find_spec(module) is None:
        raise fault(f"{module} is not installed; pip install 'kombu-aggregator[push]'")


def read_options(url: SplitResult, model: type[Model], base: Path) -> Model:
    """Return the options of a URL. Files are relative to ``base``. Raises ``ConfigurationError``."""
    if url.fragment:
        raise fault("the URL holds a #; write %23 if it is part of a value")
    if url.path not in ("", "/"):
        raise fault(f"the URL has a path, {url.path}; the gateway's own is used, leave it away")
    values = read_pairs(url.query, model, partial(unknown_option, model))
    for name, value in values.items():
        if not value:
            raise fault(f"{name}: it is empty")
    options = validate(values, model)
    files = {
        name: base / value for name in model.model_fields if isinstance(value := getattr(options, name), Path)
    }
    options = options.model_copy(update=files)
    _check_feedback(options)
    return options


def read_endpoint(url: SplitResult, options: PushOptions, certificate: Path | None = None) -> Endpoint:
    """Return where pushes go. Raises ``ConfigurationError``."""
    from aggregator.sinks.push_engine import Endpoint  # noqa: PLC0415

    if "@" in url.netloc:
        raise fault("host: a gateway takes no user or password")
    if not url.hostname or url.port == 0 or re.search(r"[\s%,]", url.hostname):
        raise fault("host: it is missing or wrong; write it like apns+https://api.push.apple.com/?key=…")
    if options.ca:
        check_ca(options.ca)
    return Endpoint(
        host=url.hostname,
        port=DEFAULT_PORT if url.port is None else url.port,
        ca=options.ca,
        certificate=certificate,
        connections=options.connections,
        streams=options.streams,
        timeout=options.timeout,
    )


def read_file(option: str, file: Path) -> bytes:
    """Return what stands in a file. Raises ``ConfigurationError`` with the option's name."""
    try:
        content = file.read_bytes()
    except OSError as exc:
        raise fault(f"{option}: {file} cannot be read: {exc.strerror}") from None
    if not content.strip():
        raise fault(f"{option}: {file} is empty")
    return content


def feedback_token(options: PushOptions) -> str:
    """Return the bearer token for the feedback, empty for none. Raises ``ConfigurationError``."""
    if options.feedback_token_env:
        token = os.environ.get(options.feedback_token_env, "").strip()
        if not token:
            name = options.feedback_token_env
            raise fault(f"feedback_token_env: the environment has no variable {name}, or it is empty")
        return token
    if options.feedback_token_file:
        return (
            read_file("feedback_token_file", options.feedback_token_file).decode("utf-8", "replace").strip()
        )
    return ""


def _check_feedback(options: PushOptions) -> None:
    given = [name for name in ("feedback_token_env", "feedback_token_file") if getattr(options, name)]
    if given and not options.feedback:
        raise fault(f"{given[0]}: there is no feedback to send it with; add feedback=https://…")
    if len(given) > 1:
        raise fault("feedback_token_env: it is given twice; one of feedback_token_env, feedback_token_file")
    if options.feedback is None:
        return
    parts = urlsplit(options.feedback)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise fault("feedback: it is a URL that begins with https:// or http://")
    feedback_token(options)
