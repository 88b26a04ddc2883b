"""Kombu transports of this project.

``register()`` makes them known to kombu by their URL schemes; nothing is imported before a
connection of that scheme is opened.
"""

from __future__ import annotations

from typing import Final

from kombu.transport import TRANSPORT_ALIASES

SQLITE_QUEUE: Final = "sqlite-queue"
"""The URL scheme of the durable queue in one SQLite file."""

_OURS: Final = {SQLITE_QUEUE: "consumers.transports.sqlite:Transport"}


def register() -> None:
    """Make this project's URL schemes known to kombu; calling it again changes nothing."""
    TRANSPORT_ALIASES.update(_OURS)
