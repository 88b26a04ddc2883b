"""The Lua modules that run inside Tarantool: ``aggregator`` loads them, ``tubes`` are the queues.

What ``tubes`` is made of stands in modules that nobody else uses: ``tubes_store`` (spaces, changes of
state, counters), ``tubes_calls`` (what callers give), ``tubes_holders`` (who waits, who has taken what),
``tubes_taking``, ``tubes_settling``, ``tubes_groups`` and ``tubes_looking``.
"""

from __future__ import annotations

from importlib.resources import files

#: Versions that this Python code needs at least; the same numbers stand in the files.
VERSIONS = {
    "aggregator": 1,
    "tubes_store": 1,
    "tubes_calls": 1,
    "tubes_holders": 1,
    "tubes_taking": 1,
    "tubes_settling": 1,
    "tubes_groups": 1,
    "tubes_looking": 1,
    "tubes": 1,
}


def sources(package: str = __name__) -> dict[str, str]:
    """Return the Lua files of a package, name to source: those of ``consumers.lua`` if none is named."""
    return {
        entry.name.removesuffix(".lua"): entry.read_text(encoding="utf-8")
        for entry in files(package).iterdir()
        if entry.name.endswith(".lua")
    }
