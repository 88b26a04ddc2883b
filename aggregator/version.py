"""``--version`` of every program: what is installed, and on which Python."""

from __future__ import annotations

from argparse import SUPPRESS, Action
from importlib import metadata
from platform import python_version
from typing import TYPE_CHECKING, Any

from aggregator.defaults import DISTRIBUTION

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace, _ArgumentGroup

#: What the answer depends on most: a fault is often theirs, or of a version that was not tried.
_TOLD = ("kombu", "amqp")


def version() -> str:
    """Return the installed version; ``unknown`` where only the sources lie."""
    return _version(DISTRIBUTION) or "unknown"


def version_line() -> str:
    """Return all that a report of a fault should name, in one line."""
    told = [f"{name} {found}" for name in _TOLD if (found := _version(name))]
    return f"{DISTRIBUTION} {version()} ({', '.join([f'Python {python_version()}', *told])})"


def add_version(parser: ArgumentParser | _ArgumentGroup) -> None:
    """Add the flag ``--version``: it prints the line, and the program ends with 0."""
    parser.add_argument(
        "--version", action=_Version, nargs=0, default=SUPPRESS, help="show what is installed and exit"
    )


class _Version(Action):
    # the library's own action wants the text while the parser is made: each start would pay for it
    def __call__(
        self, parser: ArgumentParser, _namespace: Namespace, _values: Any, _flag: Any = None
    ) -> None:
        print(version_line())  # noqa: T201
        parser.exit()


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
