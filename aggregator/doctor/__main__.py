"""The command line of the doctor: where its flags are read, and all places are put together."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, ArgumentTypeError, RawDescriptionHelpFormatter
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from aggregator import logs
from aggregator.check import check
from aggregator.clock import SYSTEM_CLOCK
from aggregator.consume import load_settings
from aggregator.diagnostics import report_faults
from aggregator.doctor.finding import Level, Place, error, note, ok, warning
from aggregator.doctor.machine import machine
from aggregator.doctor.running import PATIENCE, examine
from aggregator.doctor.showing import as_json, show, waiting, worst
from aggregator.doctor.sinks import sink_place
from aggregator.doctor.stores import store_places
from aggregator.ending import CLEAN, MISCONFIGURED
from aggregator.errors import ConfigurationError, ConfigurationErrors
from aggregator.units import parse_duration
from consumers.doctor_places import broker_places, exchange_findings
from consumers.topology_compare import compare
from consumers.transports import SQLITE_QUEUE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from aggregator.doctor.finding import Finding
    from aggregator.settings import Settings

PROG = "python -m aggregator.doctor"
#: Exit code where nothing is wrong now, and something will be.
WARNED = 1
#: Brokers that are files of this machine: their transports make them by connecting.
IN_FILES = (SQLITE_QUEUE, "filesystem:")
EPILOG = """\
All other flags, variables and files are those of python -m aggregator.consume: say the same to both.
Nothing is changed anywhere: questions to a broker are such that only a refusal can come of them.
Exit code: 0 if there is nothing worse than a note, 1 for warnings, 2 for errors or wrong settings."""


def main(argv: Sequence[str] | None = None) -> int:
    """Examine all that the settings name; return the exit code."""
    given, rest = _parser().parse_known_args(argv)
    try:
        settings = load_settings(rest)
        found = list(places(settings, given.management))
    except (ConfigurationError, ConfigurationErrors) as exc:
        report_faults(exc)
        return MISCONFIGURED
    logs.configure("console", "error")
    with waiting(f"looking at {len(found)} places", sys.stderr):
        runs = examine(found, SYSTEM_CLOCK, patience=given.timeout)
    if given.format == "json":
        sys.stdout.write(f"{as_json(runs)}\n")
    else:
        show(runs, sys.stdout)
    level = worst(runs)
    return MISCONFIGURED if level is Level.ERROR else WARNED if level is Level.WARNING else CLEAN


def places(settings: Settings, management: str | None = None) -> Iterator[Place]:
    """Yield all places that the settings name."""
    yield Place("this machine", lambda: machine(settings))
    yield Place("settings", lambda: _settings(settings))
    yield from broker_places(settings, management)
    if any(route.topology for route in settings.routes.values()):
        yield Place("topology", lambda: _topology(settings))
    for route in settings.routes.values():
        yield sink_place(route, partial(exchange_findings, heartbeat=settings.heartbeat))
        yield from store_places(route)


def _settings(settings: Settings) -> Iterator[Finding]:
    found = check(settings).warnings
    for text in found:
        setting, _, says = text.partition(": ")
        yield warning(setting, says)
    if not found:
        yield ok("settings", "contradict nothing; --check of the service shows what they mean")


def _topology(settings: Settings) -> Iterator[Finding]:
    asked = {}
    for name, route in settings.routes.items():
        if route.topology and route.broker.get_secret_value().startswith(IN_FILES):
            says = "not compared: this kind of broker is made, or brought up to date, by whoever opens it"
            yield note(f"routes.{name}.topology", says, do="--check --connect of the service compares it")
        else:
            asked[name] = route
    for found in compare(settings.model_copy(update={"routes": asked})):
        if found.right:
            yield ok(found.setting, found.text)
        else:
            says, _, do = found.text.partition("; ")
            yield error(found.setting, says, "the route would not start", do)


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog=PROG,
        usage="%(prog)s [--format text|json] [--timeout DURATION] [--config FILE] [--broker URL] ...",
        description="Connects to all that the settings name, and says what would go wrong.",
        epilog=EPILOG,
        formatter_class=RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--format", choices=("text", "json"), default="text", help="for people, or programs")
    parser.add_argument(
        "--timeout", type=_seconds, default=PATIENCE, metavar="DURATION",
        help="give up a server that says nothing for so long [5s]",
    )  # fmt: skip
    parser.add_argument(
        "--management", type=_place, metavar="URL",
        help="the management API of the one RabbitMQ [http://BROKER:15672, with the broker's user]",
    )  # fmt: skip
    return parser


def _seconds(text: str) -> float:
    try:
        seconds = parse_duration(text)
    except ValueError as exc:
        raise ArgumentTypeError(str(exc)) from None
    if not seconds:
        raise ArgumentTypeError("more than nothing is needed, like 5s")
    return seconds


def _place(text: str) -> str:
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError:
        raise ArgumentTypeError("the port is no number, or the password is not percent-encoded") from None
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ArgumentTypeError("a URL like http://user:password@host:15672 is needed")
    return text


if __name__ == "__main__":
    sys.exit(main())
