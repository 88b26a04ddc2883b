"""The Lua modules that run inside Tarantool: ``aggregator`` loads them, ``tubes`` are the queues."""

from __future__ import annotations

from importlib.resources import files

#: Versions that this Python code needs at least; the same numbers stand in the files.
VERSIONS = {"aggregator": 1, "tubes_store": 1, "tubes": 1}


def sources(package: str = __name__) -> dict[str, str]:
    """Return the Lua files of a package, name to source: those of ``consumers.lua`` if none is named."""
    return {
        entry.name.removesuffix(".lua"): entry.read_text(encoding="utf-8")
        for entry in files(package).iterdir()
        if entry.name.endswith(".lua")
    }
