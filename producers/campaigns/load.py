"""``python -m producers.campaigns load FILE --server URL``: users from CSV or JSON lines into the servers.

A row that is no user is told with its number and the reason, and counted; the rest is loaded. Loading
again is safe: a user is replaced by the one with the same id. With several ``--server`` each is a shard.
"""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser, ArgumentTypeError
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final, NoReturn

import orjson
from rich.console import Console

from aggregator.clock import SYSTEM_CLOCK
from aggregator.errors import ConfigurationError
from consumers.tarantool import parse_url
from producers.bars import Bar, bar
from producers.campaigns.made_up import PLATFORMS, ZONES, MadeUp
from producers.campaigns.users import Read, read_csv, read_jsonl
from producers.campaigns.writing import Tally, Writer, write_all
from producers.campaigns.zones import zone_of
from producers.cli import run as run_cli
from producers.cli import whole

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable, Iterable, Iterator, Sequence

PROG: Final = "producers.campaigns load"
_BATCH: Final = 5000
_TOLD: Final = 5


@contextmanager
def _source(given: Namespace, console: Console) -> Iterator[Iterator[Read]]:
    """Yield the rows; a bar moves as they are read."""
    if given.generate is not None:
        made = MadeUp(given.seed, given.zones, given.platforms).users(given.generate)
        with bar("users", given.generate, console=console) as shown:
            yield _counted((Read(n, row, None, None) for n, row in enumerate(made, 1)), shown)
        return
    path: Path = given.file
    kind = given.format or ("csv" if path.suffix.lower() == ".csv" else "jsonl")
    try:
        size = path.stat().st_size
        with path.open("rb") as raw, bar(path.name, size, size=True, console=console) as shown:
            tell = _Telling(raw, shown.reach)
            if kind == "jsonl":
                yield read_jsonl(tell)
            else:
                yield read_csv(_texts(tell), given.ignore)
            shown.reach(size)
    except OSError as exc:
        raise ConfigurationError("FILE", f"{str(path)!r} cannot be read: {exc.strerror}") from None


def _texts(lines: Iterable[bytes]) -> Iterator[str]:
    """Decode line by line: what is no UTF-8 becomes surrogates, which no field takes."""
    for number, line in enumerate(lines):
        yield line.decode("utf-8" if number else "utf-8-sig", "surrogateescape")


class _Telling:
    """A file's lines, telling how far it is every thousand."""

    def __init__(self, file: IO[bytes], tell: Callable[[int], None]) -> None:
        self._file, self._tell = file, tell

    def __iter__(self) -> Iterator[bytes]:
        at = 0
        for number, line in enumerate(self._file):
            at += len(line)
            if number % 1000 == 0:
                self._tell(at)
            yield line


def _counted(rows: Iterator[Read], shown: Bar) -> Iterator[Read]:
    while some := list(islice(rows, 1000)):
        yield from some
        shown.advance(len(some))


class _Refusals:
    """Counts rows that are no users, tells the first of them, and writes all of them to a file if asked."""

    def __init__(self, tally: Tally, console: Console, file: IO[bytes] | None) -> None:
        self._tally, self._console, self._file = tally, console, file

    def __call__(self, read: Read) -> None:
        fault = read.fault
        if fault is None:
            return
        if self._tally.refused.total() < _TOLD:
            self._console.print(f"row {read.number}: {fault}", markup=False, highlight=False)
        self._tally.refused[fault.field] += 1
        if self._file:
            line = {"row": read.number, "reason": str(fault), "record": read.record}
            try:
                self._file.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
            except TypeError:  # it is no UTF-8
                line["record"] = repr(read.record)
                self._file.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))


def load(given: Namespace) -> Tally:
    """Load everything that the command line asks for."""
    console = Console(stderr=True)
    tally = Tally()
    with _rejects(given.rejects) as rejects:
        writers = [Writer(parse_url(url, "--server"), tally, given.patience) for url in given.server]
        with _source(given, console) as rows:
            write_all(rows, writers, given.batch, _Refusals(tally, console, rejects))
    return tally


@contextmanager
def _rejects(path: Path | None) -> Iterator[IO[bytes] | None]:
    if path is None:
        yield None
        return
    try:
        # it holds tokens: for its owner alone
        file = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb")
    except OSError as exc:
        raise ConfigurationError("--rejects", f"{str(path)!r} cannot be written: {exc.strerror}") from None
    with closing(file):
        yield file


def run(given: Namespace) -> None:
    """Load, and say what became of it in one line."""
    if (given.file is None) == (given.generate is None):
        raise ConfigurationError("FILE", "give either a file or --generate N")
    if not given.server:
        raise ConfigurationError("--server", "is missing: tarantool://user:password@host:port")
    began = SYSTEM_CLOCK.monotonic()
    tally = load(given)
    seconds = max(SYSTEM_CLOCK.monotonic() - began, 1e-9)
    reasons = ", ".join(f"{name} {count}" for name, count in tally.refused.most_common())
    refused = f"{tally.refused.total()} rows refused{': ' if reasons else ''}{reasons}"
    sys.stdout.write(
        f"{tally.loaded} users loaded ({tally.updated} were there before) in {seconds:.1f} s, "
        f"{tally.loaded / seconds:.0f}/s; {refused}\n"
    )


def shares(text: str) -> dict[str, float]:
    """Read ``name=share,name=share``; a name alone has the share 1."""
    found = {}
    for part in text.split(","):
        name, _, number = part.partition("=")
        try:
            found[name.strip()] = float(number or 1)
        except ValueError:
            raise ArgumentTypeError(f"{part!r} is not of the form name=share") from None
    if not all(found) or min(found.values()) < 0 or not any(found.values()):
        raise ArgumentTypeError("names with shares are needed, such as apns=2,fcm=3")
    return found


def _zones(text: str) -> dict[str, float]:
    found = shares(text)
    for name in found:
        try:
            zone_of(name)
        except ValueError as exc:
            raise ArgumentTypeError(str(exc)) from None
    return found


def _platforms(text: str) -> dict[str, float]:
    found = shares(text)
    if unknown := found.keys() - PLATFORMS:
        raise ArgumentTypeError(f"{min(unknown)!r} is neither apns nor fcm")
    return found


def add_arguments(parser: ArgumentParser) -> None:
    """Add what the command takes."""
    parser.add_argument("file", type=Path, nargs="?", metavar="FILE", help="CSV with a header, or JSON lines")
    parser.add_argument("--format", choices=("csv", "jsonl"), help="by the name: .csv, else JSON lines")
    parser.add_argument(
        "--server", action="append", metavar="URL",
        default=[os.environ["CAMPAIGNS_SHARDS"]] if os.environ.get("CAMPAIGNS_SHARDS") else [],
        help="tarantool://user:password@host:port,host2:port/; again for each shard (CAMPAIGNS_SHARDS)",
    )  # fmt: skip
    parser.add_argument("--rejects", type=Path, metavar="FILE", help="refused rows, as JSON lines")
    parser.add_argument(
        "--ignore", action="append", default=[], metavar="COLUMN", help="a column to leave out"
    )
    parser.add_argument("--batch", type=whole(1), default=_BATCH, metavar="N", help=f"rows a call ({_BATCH})")
    parser.add_argument(
        "--patience", type=whole(0), default=10, metavar="SECONDS", help="go on trying without a server (10)"
    )
    parser.add_argument("--generate", type=whole(0), metavar="N", help="load made-up users instead of a file")
    parser.add_argument("--seed", type=whole(0), default=0, metavar="N", help="the same users each time (0)")
    parser.add_argument("--zones", type=_zones, default=ZONES, metavar="NAME=SHARE,…", help="of these users")
    parser.add_argument(
        "--platforms", type=_platforms, default=PLATFORMS, metavar="NAME=SHARE,…", help="of these"
    )


class _Parser(ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Say what is wrong in one line, and exit with 2."""
        self.exit(2, f"{self.prog}: {message.removeprefix('argument ')}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = _Parser(prog=PROG, description="Load users into the servers.", allow_abbrev=False)
    add_arguments(parser)
    given = parser.parse_args(arguments)
    return run_cli(PROG, lambda: run(given))
