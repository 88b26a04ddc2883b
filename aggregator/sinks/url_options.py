"""What stands behind the ``?`` of a sink's URL: read, checked, and told without what may be secret."""

from __future__ import annotations

import os
import re
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import parse_qsl

from pydantic import BaseModel, ValidationError

from aggregator.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Model = TypeVar("Model", bound=BaseModel)


def fault(problem: str) -> ConfigurationError:
    """Return the error for a wrong URL."""
    return ConfigurationError("sink", problem)


def read_pairs(query: str, model: type[BaseModel], unknown: Callable[[str], str]) -> dict[str, str]:
    """Return the options as they are written. ``unknown`` says what is wrong with one that ``model`` lacks.

    Raises ``ConfigurationError``.
    """
    pairs = parse_qsl(query, keep_blank_values=True)
    for name, _value in pairs:
        if name not in model.model_fields:
            raise fault(unknown(name))
    values = dict(pairs)
    if len(values) != len(pairs):
        raise fault("each option may stand in the URL once")
    return values


def unknown_option(model: type[BaseModel], name: str) -> str:
    """Return what is wrong with an option that ``model`` lacks."""
    # a password with a bare ? would be taken for an option's name
    shown = name if re.fullmatch("[a-z_]{1,40}", name) else "that of this URL"
    return f"{shown}: unknown option; one of {', '.join(model.model_fields)} is needed"


def validate(values: dict[str, str], model: type[Model]) -> Model:
    """Return the options, each checked. Raises ``ConfigurationError`` for the first that is wrong."""
    try:
        return model.model_validate(values)
    except ValidationError as exc:
        first = exc.errors(include_url=False, include_input=False)[0]
    words = first["msg"].removeprefix("Value error, ").replace("Input should", "it should")
    raise fault(f"{first['loc'][0]}: {words}")


def check_ca(file: Path) -> None:
    """Raise ``ConfigurationError`` for a file without certificates."""
    try:
        ssl.create_default_context(cafile=str(file))
    except (OSError, ssl.SSLError) as exc:
        words = (
            exc.strerror
            if isinstance(exc, FileNotFoundError | PermissionError)
            else "no PEM certificates in it"
        )
        raise fault(f"ca: {file} cannot be used: {words}") from None


@dataclass(frozen=True, slots=True)
class Secret:
    """Where a secret is kept; read anew at each use, so that it may be changed while we run."""

    option: str
    variable: str | None
    file: Path | None
    text: str = ""

    def read(self) -> str:
        """Return the secret. Raises ``ConfigurationError`` for the field ``sink`` if it is absent."""
        if self.variable:
            secret = os.environ.get(self.variable, "").strip()
            where = f"{self.option}_env: the environment has no variable {self.variable}, or it is empty"
        elif self.file:
            secret, where = _content(self.file, f"{self.option}_file")
        else:
            return self.text
        if not secret:
            raise ConfigurationError("sink", where)
        return secret

    def __repr__(self) -> str:
        return f"Secret({self.option})"


def _content(file: Path, option: str) -> tuple[str, str]:
    try:
        return file.read_text(encoding="utf-8").strip(), f"{option}: {file} is empty"
    except (OSError, UnicodeDecodeError) as exc:
        words = exc.strerror if isinstance(exc, OSError) else "it is no text"
        raise ConfigurationError("sink", f"{option}: {file} cannot be read: {words}") from None


def read_secret(option: str, variable: str | None, file: Path | None, text: str = "") -> Secret | None:
    """Return where a secret is kept; None if it is given nowhere.

    Raises ``ConfigurationError`` where it is given twice, or is not there.
    """
    given = [source for source in (variable, file, text) if source]
    if not given:
        return None
    if len(given) > 1:
        raise fault(f"{option}: it is given twice; {option}_env or {option}_file, one of them")
    secret = Secret(option, variable, file, text)
    secret.read()  # absent: better known now than at the first message
    return secret
