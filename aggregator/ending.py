"""How a process ends: its exit codes, and the time that it takes."""

from __future__ import annotations

CLEAN = 0
FAILED = 1
"""It cannot go on."""
MISCONFIGURED = 2
CLOSING_SECONDS = 5.0
"""What is left for closing, after the deadline for writing."""
