"""``aggregator COMMAND``: every program of the project by one name."""

from __future__ import annotations

import sys
from difflib import get_close_matches
from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple

from aggregator.ending import CLEAN, MISCONFIGURED
from aggregator.version import version_line

if TYPE_CHECKING:
    from collections.abc import Sequence


class Command(NamedTuple):
    """``module`` has its ``main(argv)``, and is imported once it is asked for; ``extra``: what that takes."""

    module: str
    text: str
    extra: str = ""


COMMANDS = {
    "consume": Command("aggregator.consume", "the service: single messages off queues, written in bulk"),
    "control": Command("aggregator.control", "tell running services what to do, see what they hold"),
    "doctor": Command(
        "aggregator.doctor.__main__", "look at everything the settings name; say what would go wrong"
    ),
    "tasks": Command("producers.tasks", "publish a few test messages"),
    "load": Command("producers.load", "publish many messages, at a rate, with ids, keys and sentinels"),
    "replay": Command("producers.replay.cli", "list dead letters, mend them, send them back"),
    "jobs": Command("producers.jobs", "submit a message, and ask what became of it"),
    "campaigns": Command("producers.campaigns.cli", "push campaigns: users, fan-out, HTTP API and page"),
    "tarantool": Command("consumers.install", "bring the Lua modules into Tarantool servers", "tarantool"),
    "gateways": Command("aggregator.testing.gateways.__main__", "simulators of APNs and FCM", "gateways"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that ``argv`` (default: the process's own) names first; return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    name = words[0] if words else "--help"
    if name in {"-h", "--help"}:
        print(usage())  # noqa: T201
        return CLEAN
    if name == "--version":
        print(version_line())  # noqa: T201
        return CLEAN
    if name not in COMMANDS:
        near = get_close_matches(name, COMMANDS, n=1)
        hint = f"; did you mean {near[0]}?" if near else f"; one of {', '.join(COMMANDS)} is needed"
        print(f"aggregator: {name!r} is no command{hint}", file=sys.stderr)  # noqa: T201
        return MISCONFIGURED
    command = COMMANDS[name]
    try:
        module = import_module(command.module)
    except ModuleNotFoundError:
        if not command.extra:
            raise
        needed = f"pip install 'kombu-aggregator[{command.extra}]'"
        print(f"aggregator {name}: a library is missing: {needed}", file=sys.stderr)  # noqa: T201
        return MISCONFIGURED
    return int(module.main(words[1:]))


def usage() -> str:
    """Return the list of commands."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {command.text}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: aggregator COMMAND ...        aggregator COMMAND --help tells its flags",
            "",
            "Takes single messages off a queue and writes them in bulk; acks only what was written.",
            "",
            *lines,
            "",
            "  --version  what is installed",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
