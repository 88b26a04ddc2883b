"""This machine, and what the settings ask of it: memory, file descriptors, processors, versions."""

from __future__ import annotations

import os
import platform
import resource
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from aggregator.doctor.finding import amount, error, note, ok, warning

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from aggregator.doctor.finding import Finding
    from aggregator.settings import Route, Settings

#: Libraries whose version changes what the service does.
LIBRARIES = ("kombu", "amqp", "elasticsearch", "opensearch-py", "redis", "tarantool", "pydantic")
#: What an interpreter with the program in it takes, and each message beside its body.
PROGRAM_BYTES, MESSAGE_BYTES = 80 * 1024 * 1024, 1_000
#: A body is held once, and once more in the request that it is written by.
COPIES = 2
#: The share of what there is that may be used before it is worth a word.
FULL_SHARE = 0.8
#: Files beside connections: the program's own, logs, the metrics' port.
OWN_FILES = 64
_UNLIMITED = 1 << 60


def machine(settings: Settings, root: Path = Path("/")) -> Iterator[Finding]:
    """Compare what the settings may need at worst with what there is. ``root``: where /proc and /sys are."""
    yield ok("versions", ", ".join(versions()))
    yield from memory(settings, memory_limit(root))
    yield from files(settings, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    yield from processors(settings.processes, available_processors(root))


def versions() -> Iterator[str]:
    """Yield what runs here, each with its version."""
    yield f"{platform.python_implementation()} {platform.python_version()}"
    for name in LIBRARIES:
        try:
            yield f"{name} {version(name)}"
        except PackageNotFoundError:
            continue


def memory(settings: Settings, limit: int) -> Iterator[Finding]:
    """Judge the worst case of all processes; ``limit`` in bytes."""
    needed = settings.processes * (PROGRAM_BYTES + sum(map(held, settings.routes.values())))
    says = f"{amount(limit)} here, {amount(needed)} needed at worst"
    if needed <= limit * FULL_SHARE:
        yield ok("memory", says)
        return
    what = "max_held of the largest route, prefetch, or processes"
    then = "a full buffer has the kernel kill the process; the broker hands all of it out again"
    do = f"lower {what}, or give more memory"
    yield warning("memory", says, then, do)


def held(route: Route) -> int:
    """Return the bytes that a route may hold at worst, requests included."""
    messages = route.workers * route.prefetch
    bodies = min(route.max_held, messages * route.max_message)
    return COPIES * bodies + messages * MESSAGE_BYTES


def memory_limit(root: Path) -> int:
    """Return the bytes that this process may use: its control group's, or the machine's."""
    total = int(_meminfo(root).get("MemTotal", _UNLIMITED))
    found = [total]
    for name in ("sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory/memory.limit_in_bytes"):
        text = _text(root / name)
        if text.isdecimal() and int(text) < _UNLIMITED:
            found.append(int(text))
    return min(found)


def files(settings: Settings, limit: int) -> Iterator[Finding]:
    """Judge the connections of one process; each is a file."""
    needed = OWN_FILES + sum(connections(route) for route in settings.routes.values())
    says = f"{limit} allowed, {needed} needed by a process"
    if limit < 0 or needed <= limit * FULL_SHARE:
        yield ok("file descriptors", f"{'any number' if limit < 0 else limit} allowed, {needed} needed")
        return
    then = "connections fail with 'Too many open files'"
    yield (error if needed > limit else warning)(
        "file descriptors", says, then, f"ulimit -n {max(4096, 2 * needed)} (systemd: LimitNOFILE=)"
    )


def connections(route: Route) -> int:
    """Return the sockets and pipes of a route: workers with their wakers, flush threads, its own others."""
    return 3 * route.workers + 2 * route.concurrency + 4


def processors(processes: int, there: float) -> Iterator[Finding]:
    """Judge the number of processes: each keeps one processor busy at most."""
    says = f"{there:g} for {processes} process{'es' * (processes > 1)}"
    if processes > there:
        yield note("processors", says, "they take turns", f"processes = {max(1, int(there))}")
    else:
        yield ok("processors", says)


def available_processors(root: Path) -> float:
    """Return how many processors this process may use, by affinity and control group."""
    most = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    quota, _, period = _text(root / "sys/fs/cgroup/cpu.max").partition(" ")
    if quota.isdecimal() and period.isdecimal() and int(period):
        most = min(most, int(quota) / int(period))
    return most


def _meminfo(root: Path) -> Mapping[str, int]:
    found = {}
    for line in _text(root / "proc/meminfo").splitlines():
        name, _, rest = line.partition(":")
        number = rest.removesuffix("kB").strip()
        if number.isdecimal():
            found[name] = int(number) * 1024
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""
