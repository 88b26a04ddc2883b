"""What the sinks on this machine share: their URLs, folders that last, and the system's errors."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import unquote

from pydantic import BaseModel, ConfigDict

from aggregator.errors import (
    AggregatorError,
    ConfigurationError,
    SinkBlockedError,
    SinkUnavailableError,
    UnrecoverableError,
)
from aggregator.sinks.url_options import read_pairs, validate

if TYPE_CHECKING:
    from urllib.parse import SplitResult

#: Somebody has to act: a mount, a mode, an owner.
_REFUSED = frozenset([errno.EACCES, errno.EPERM, errno.EROFS])
#: The path itself is wrong, today and tomorrow.
_WRONG = frozenset([errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP])


class Options(BaseModel):
    """What may stand behind the ``?`` of a sink's URL; each sink has its own."""

    model_config = ConfigDict(extra="forbid", frozen=True)


O = TypeVar("O", bound=Options)  # noqa: E741


def read_options(query: str, model: type[O]) -> O:
    """Return the options of a URL's query. Raises ``ConfigurationError`` for the field ``sink``."""
    known = ", ".join(model.model_fields)
    return validate(
        read_pairs(query, model, lambda name: f"{name[:40]!r} is not among its options: {known}"), model
    )


def read_path(url: SplitResult) -> Path:
    """Return the path that ``url`` names: three slashes and a relative one, four and an absolute one.

    Raises ``ConfigurationError`` for the field ``sink``.
    """
    shape = f"{url.scheme}:///relative/path or {url.scheme}:////absolute/path"
    if url.netloc or not url.path.startswith("/"):
        raise ConfigurationError("sink", f"it names a host; write {shape}")
    if url.fragment:
        raise ConfigurationError("sink", "the URL holds a #; write %23 if it is part of the path")
    path = unquote(url.path[1:])
    if not path or "\0" in path:
        raise ConfigurationError("sink", f"it names no path; write {shape}")
    return Path(path)


def make_folder(folder: Path) -> None:
    """Make ``folder`` and those above it, so that they outlive a power cut. Raises ``OSError``."""
    missing = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for made in missing:
        sync_folder(made.parent)


def sync_folder(folder: Path) -> None:
    """Make the names within ``folder`` outlive a power cut. Raises ``OSError``."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def system_fault(exc: OSError, path: Path, *, opening: bool) -> AggregatorError:
    """Return this project's error for one of the operating system."""
    text = f"{path}: {exc.strerror or type(exc).__name__}"
    if exc.errno in _REFUSED:
        return SinkBlockedError(text)
    if exc.errno in _WRONG:
        return UnrecoverableError(text) if opening else SinkBlockedError(text)
    return SinkUnavailableError(text)
