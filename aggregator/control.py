"""``python -m aggregator.control``: tells running services what to do, and shows what they answer."""

from __future__ import annotations

import sys
from argparse import SUPPRESS, ArgumentParser, Namespace, RawDescriptionHelpFormatter
from typing import TYPE_CHECKING, Any

import orjson
from rich.console import Console
from rich.table import Table

from aggregator.consume import load_settings
from aggregator.ending import CLEAN, FAILED, MISCONFIGURED
from aggregator.errors import AggregatorError, ConfigurationError, ConfigurationErrors
from aggregator.units import parse_duration
from aggregator.version import add_version
from consumers.commanding import Destination, destination_of, send
from consumers.mailbox import control_place

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

#: How wide a table is where nobody reads it from a screen.
PIPE_WIDTH = 200
#: Flags that say, as those of the service do, where commands go.
PLACE = {
    "--config": "FILE", "--app": "MODULE:NAME", "--broker": "URL", "--broker-ca": "FILE",
    "--server-hostname": "NAME", "--control-broker": "URL", "--control-namespace": "NAME",
}  # fmt: skip
EPILOG = """\
Where commands go is said as to the service: by these flags, AGGREGATOR_BROKER and its like, or its file.
Exit code: 0 if all who were asked have done it; 1 if nobody answered, or one of them did not, or refused;
2 if the command line is wrong. docs/control.md has an example of each."""


def main(argv: Sequence[str] | None = None) -> int:
    """Send the command that ``argv`` holds (default: the process's own); return the exit code."""
    # not the parser's defaults: those of a command would stand in the place of what came before it
    places: dict[str, Any] = {flag[2:].replace("-", "_"): None for flag in PLACE}
    given = _parser().parse_args(argv, Namespace(**places, destination=None, timeout="2s", json=False))
    try:
        destination, timeout = destination_of(given.destination), parse_duration(given.timeout)
        arguments = _arguments(given)
    except ValueError as exc:
        print(exc, file=sys.stderr)  # noqa: T201
        return MISCONFIGURED
    try:
        settings = load_settings(_place(given))
        place = control_place(settings)
        answers = send(
            place,
            settings.control_namespace,
            given.command,
            arguments,
            destination=destination,
            timeout=timeout,
        )
    except (ConfigurationError, ConfigurationErrors) as exc:
        print(exc, file=sys.stderr)  # noqa: T201
        return MISCONFIGURED
    except AggregatorError as exc:
        print(exc, file=sys.stderr)  # noqa: T201
        return FAILED
    if given.json:
        print(orjson.dumps(answers, option=orjson.OPT_SORT_KEYS).decode())  # noqa: T201
    else:
        _show(answers)
    return _judge(answers, destination, f"{timeout:g} s, namespace {settings.control_namespace!r}")


def _judge(answers: Mapping[str, Any], destination: Destination, asked: str) -> int:
    """Say who refused and who is silent; return the exit code."""
    faults = [
        f"{name}: refused: {answer['refused']}"
        for name, answer in sorted(answers.items())
        if "ok" not in answer
    ]
    faults += [f"{name}: no answer within {asked}" for name in destination.names if name not in answers]
    if not answers and not destination.names:
        faults.append(f"nobody has answered within {asked}; services listen where control = true")
    for fault in faults:
        print(fault, file=sys.stderr)  # noqa: T201
    return FAILED if faults else CLEAN


def _show(answers: Mapping[str, Any]) -> None:
    """Print the rows of all answers as one table."""
    rows = [(name, row) for name, answer in sorted(answers.items()) for row in answer.get("ok", ())]
    if not rows:
        if any("ok" in answer for answer in answers.values()):
            print("nothing")  # noqa: T201
        return
    # a reason, say, that nobody has needs no column
    columns = list(dict.fromkeys(name for _, row in rows for name, value in row.items() if value != ""))
    table = Table("node", *columns, box=None, pad_edge=False, header_style="bold")
    for name, row in rows:
        table.add_row(name, *(_shown(row.get(column)) for column in columns))
    terminal = sys.stdout.isatty()
    console = Console(width=None if terminal else PIPE_WIDTH, highlight=False, markup=False)
    console.print(table, soft_wrap=not terminal)


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, dict):
        return ", ".join(f"{number} {word}" for word, number in value.items()) or "-"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    # a key may hold anything: nothing of it shall move a terminal's cursor
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in str(value))


# ── the command line ──


def _place(given: Namespace) -> list[str]:
    """Return the flags for the settings of the service."""
    said = ((flag, getattr(given, flag[2:].replace("-", "_"))) for flag in PLACE)
    return [word for flag, value in said if value is not None for word in (flag, value)]


def _arguments(given: Namespace) -> dict[str, Any]:
    """Return the command's arguments. Raises ``ValueError``."""
    arguments = {name: getattr(given, name) for name in given.names if getattr(given, name)}
    if given.command == "set":
        pairs = [pair.partition("=") for pair in given.values]
        if wrong := [name for name, equals, _ in pairs if not (name and equals)]:
            raise ValueError(f"{wrong[0]!r} sets nothing; SETTING=VALUE is needed, like size=500")
        arguments["values"] = {name: value for name, _, value in pairs}
    return arguments


def _common() -> ArgumentParser:
    """Return the flags that may stand before the command and after it."""
    common = ArgumentParser(add_help=False, argument_default=SUPPRESS)
    for flag, metavar in PLACE.items():
        common.add_argument(flag, metavar=metavar, help="as of the service")
    node = "PROCESS@HOST, several with commas, HOST, or a pattern [all]"
    common.add_argument("--destination", "-d", metavar="NODE", help=node)
    common.add_argument("--timeout", metavar="DURATION", help="wait so long for another answer [2s]")
    common.add_argument("--json", action="store_true", help="the answers as JSON")
    return common


def _parser() -> ArgumentParser:
    common = _common()
    parser = ArgumentParser(
        prog="python -m aggregator.control",
        usage="%(prog)s [--broker URL] [--destination NODE] [--json] ... COMMAND ...",
        description="Tells running services what to do, and shows what they answer.",
        epilog=EPILOG,
        formatter_class=RawDescriptionHelpFormatter,
        allow_abbrev=False,
        parents=[common],
    )
    add_version(parser)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, text: str, *names: str) -> ArgumentParser:
        usage = f"python -m aggregator.control {name}"
        added = commands.add_parser(
            name, prog=usage, help=text, description=text, allow_abbrev=False, parents=[common]
        )
        added.set_defaults(names=names)
        return added

    command("ping", "who is there")
    optional: dict[str, Any] = {"nargs": "?", "metavar": "ROUTE", "help": "[all]"}
    command("stats", "what each route does, holds, and has done", "route").add_argument("route", **optional)
    groups = command("groups", "open groups", "route", "by", "limit")
    groups.add_argument("route", **optional)
    groups.add_argument("--by", choices=("oldest", "fullest", "largest"), help="what comes first [oldest]")
    groups.add_argument("--limit", type=int, metavar="N", help="how many of each node [20]")
    flush = command("flush", "complete groups now", "route", "keys")
    flush.add_argument("route", **optional)
    flush.add_argument("keys", nargs="*", metavar="KEY", help="of these keys alone")
    for name, text in (("pause", "write what is held, and take nothing more"), ("resume", "take up again")):
        command(name, text, "route").add_argument("route", **optional)
    revoke = command("revoke", "have messages not be written", "route", "ids", "keys", "ttl", "undo")
    revoke.add_argument("ids", nargs="*", metavar="ID", help="ids of messages")
    revoke.add_argument("--keys", nargs="+", metavar="KEY", help="all members of these keys")
    revoke.add_argument("--route", metavar="ROUTE", help="of this route alone [all]")
    revoke.add_argument("--ttl", metavar="DURATION", help="for how long, a week at most [3h]")
    revoke.add_argument("--undo", action="store_true", help="have them be written again")
    change = command("set", "change when groups are complete", "route")
    change.add_argument("route", metavar="ROUTE")
    change.add_argument("values", nargs="+", metavar="SETTING=VALUE", help="size, bytes, age, idle")
    return parser


if __name__ == "__main__":
    sys.exit(main())
