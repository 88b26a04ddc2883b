"""``python -m producers.campaigns serve|load|install|status|demo|token``: one clear line for each fault.

Exit codes: 2 wrong input, 1 a server cannot be reached or refused something, 130 interrupted.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from contextlib import closing
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn
from urllib.parse import quote

from aggregator import logs
from aggregator.errors import ConfigurationError, UnrecoverableError
from aggregator.version import add_version
from producers.cli import run

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from consumers.tarantool import Address

PROG: Final = "producers.campaigns"
_HELP: Final = """\
serve    the HTTP API and the page
load     users from CSV or JSON lines
install  the Lua modules into the servers
status   ask each server how it is
demo     a whole campaign on this machine, with made-up users
token    make a token for callers

Settings come from flags, variables (CAMPAIGNS_SHARDS, CAMPAIGNS_TOKEN, …) and the TOML file that --config
(CAMPAIGNS_CONFIG) names; docs/campaigns.md has them all."""
_SETTINGS: Final = {
    "shards": (
        "URL",
        "tarantool://user:password@host,host2/ of the one shard; several stand in the file",
    ),
    "host": ("ADDRESS", "the address to listen on (127.0.0.1)"),
    "port": ("PORT", "the port to listen on (8620); 0 = any free one"),
    "token_file": ("FILE", "a file that holds the token"),
    "timeout": ("DURATION", "the longest wait for one server's answer (2s)"),
    "log_format": ("NAME", "auto, console, json or logfmt"),
    "log_level": ("NAME", "debug, info, warning or error"),
}
_LUA: Final = Path(__file__).parent / "lua"


class _Parser(ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Say what is wrong in one line, and exit with 2."""
        self.exit(2, f"{self.prog}: {message.removeprefix('argument ')}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    argv = list(sys.argv[1:] if arguments is None else arguments)
    if argv[:1] in (["load"], ["demo"]):
        _need("tarantool", "requests")
        # they have flags of their own
        return int(import_module(f"producers.campaigns.{argv[0]}").main(argv[1:]))
    given = _parser().parse_args(argv)
    if given.command == "token":
        return run(PROG, lambda: _token(given.file))
    _need("fastapi", "uvicorn", "tarantool")
    commands: dict[str, Callable[[Any], None]] = {"serve": _serve, "install": _install, "status": _status}

    def work() -> None:
        from producers.campaigns.settings import load  # noqa: PLC0415  reads slowly

        path = given.config or (Path(named) if (named := os.environ.get("CAMPAIGNS_CONFIG")) else None)
        settings = load({name: getattr(given, name, None) for name in _SETTINGS}, path)
        logs.configure(settings.log_format, settings.log_level)
        commands[given.command](settings)

    return run(PROG, work)


def _parser() -> ArgumentParser:
    parser = _Parser(
        prog=PROG,
        description="Push campaigns: users in Tarantool, an HTTP API, a page.",
        epilog=_HELP,
        formatter_class=RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_version(parser)
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="serve|load|install|status|demo|token"
    )
    for name in ("serve", "install", "status"):
        command = commands.add_parser(name, prog=f"{PROG} {name}", allow_abbrev=False)
        command.add_argument("--config", type=Path, metavar="FILE", help="a TOML file of settings")
        for setting, (metavar, text) in _SETTINGS.items():
            command.add_argument(f"--{setting.replace('_', '-')}", metavar=metavar, help=text)
    token = commands.add_parser("token", prog=f"{PROG} token", allow_abbrev=False)
    token.add_argument(
        "--file", type=Path, metavar="FILE", help="write it there, for its owner alone, instead"
    )
    return parser


def _need(*modules: str) -> None:
    if missing := [name for name in modules if find_spec(name) is None]:
        raise SystemExit(f"{PROG}: {missing[0]} is missing: pip install 'kombu-aggregator[campaigns]'")


def _serve(settings: Any) -> None:
    from producers.campaigns.connecting import TarantoolConnection  # noqa: PLC0415
    from producers.campaigns.serving import serve  # noqa: PLC0415

    serve(settings, TarantoolConnection)


def _install(settings: Any) -> None:
    from consumers.install import install  # noqa: PLC0415
    from consumers.tarantool import parse_url  # noqa: PLC0415

    modules = {path.stem: path.read_text() for path in _LUA.glob("*.lua")}
    for shard, url in settings.shards.items():
        # a shard's writer comes before its replicas
        for server, versions in install(url.get_secret_value(), modules).items():
            told = ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
            sys.stdout.write(f"{shard}/{server}: {told}\n")
        _introduce(parse_url(url.get_secret_value()))


def _introduce(servers: Sequence[Address]) -> None:
    """Tell the servers of a shard of each other; they keep it."""
    from consumers.tarantool import Tarantool  # noqa: PLC0415

    peers = [[str(each), f"{quote(each.user)}:{quote(each.password)}@{each}"] for each in servers]
    for each in servers:
        with closing(Tarantool(each)) as client:
            client.call("campaigns.peers", peers, str(each))


def _status(settings: Any) -> None:
    from producers.campaigns.connecting import TarantoolConnection  # noqa: PLC0415
    from producers.campaigns.status import report  # noqa: PLC0415

    if not asyncio.run(report(settings, TarantoolConnection)):
        raise UnrecoverableError("not every shard has a server that answers")


def _token(path: Path | None) -> None:
    token = secrets.token_urlsafe(32)
    if path is None:
        sys.stdout.write(f"{token}\n")
        return
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(f"{token}\n")
    except FileExistsError:
        raise ConfigurationError(
            "--file", f"{str(path)!r} is there already; remove it to have a new token"
        ) from None
    except OSError as exc:
        raise ConfigurationError("--file", f"{str(path)!r} cannot be written: {exc.strerror}") from None
    sys.stdout.write(f"the token is in {path}\n")
