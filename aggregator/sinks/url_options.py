"""What stands behind the ``?`` of a sink's URL: read, checked, and told without what may be secret."""

from __future__ import annotations

import ssl
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
