"""What is used when nothing is said: one queue and one store, each a file, no server."""

from __future__ import annotations

#: The name that the project is installed by.
DISTRIBUTION = "kombu-aggregator"

DEFAULT_BROKER = "sqlite-queue:///data/queue.db"
DEFAULT_QUEUE = "task_queue"
DEFAULT_SINK = "sqlite:///data/documents.db"
SINGLE_ROUTE = "default"
"""The route's name when no file names any."""
