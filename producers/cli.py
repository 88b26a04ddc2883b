"""What the producers' command lines have in common: one clear line for each fault, and exit codes.

2: wrong input. 1: the broker cannot be reached or refused something. 130: interrupted.
"""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser, ArgumentTypeError
from typing import TYPE_CHECKING, NoReturn
from urllib.parse import urlsplit

from aggregator.defaults import DEFAULT_BROKER, DEFAULT_QUEUE
from aggregator.errors import AggregatorError, ConfigurationError, ConfigurationErrors
from aggregator.units import parse_duration
from aggregator.version import add_version
from consumers import transports

if TYPE_CHECKING:
    from collections.abc import Callable

_QUEUE_BYTES = 255


class Parser(ArgumentParser):
    """An ``ArgumentParser`` whose faults are one line, and whose flags cannot be abbreviated."""

    def __init__(self, prog: str, description: str) -> None:
        super().__init__(prog=prog, description=description, allow_abbrev=False)
        add_version(self)
        self.add_argument(
            "--broker",
            default=os.environ.get("AGGREGATOR_BROKER") or DEFAULT_BROKER,
            type=url,
            metavar="URL",
            help="amqp(s)://user:password@host:port/vhost or any URL that kombu knows "
            f"(AGGREGATOR_BROKER; {DEFAULT_BROKER})",
        )
        self.add_argument(
            "--queue",
            default=os.environ.get("AGGREGATOR_QUEUE") or DEFAULT_QUEUE,
            type=queue_name,
            metavar="NAME",
            help=f"durable queue, made if absent (AGGREGATOR_QUEUE; {DEFAULT_QUEUE})",
        )

    def error(self, message: str) -> NoReturn:
        """Say what is wrong in one line, and exit with 2."""
        self.exit(2, f"{self.prog}: {message.removeprefix('argument ')}\n")


def run(prog: str, work: Callable[[], None]) -> int:
    """Run a producer; turn its errors into one line and an exit code."""
    transports.register()
    try:
        work()
    except (ConfigurationError, ConfigurationErrors) as exc:
        return _say(prog, exc, 2)
    except AggregatorError as exc:
        return _say(prog, exc, 1)
    except KeyboardInterrupt:
        return _say(prog, "interrupted", 130)
    return 0


def url(text: str) -> str:
    """Check that a broker's URL looks like one; the text of the fault never holds the URL."""
    if not all(part.partition("://")[1] for part in text.split(";")):
        raise ArgumentTypeError("not a URL: scheme://… is expected, such as amqp://localhost//")
    try:
        for part in text.split(";"):
            _ = urlsplit(part).port
    except ValueError:
        # its text may hold a piece of the password
        raise ArgumentTypeError(
            "no URL: is a password in it not percent-encoded, or a port no number?"
        ) from None
    return text


def queue_name(text: str) -> str:
    """Check a queue's name by AMQP's rules."""
    if not 0 < len(text.encode()) <= _QUEUE_BYTES:
        raise ArgumentTypeError(f"a queue's name has 1 to {_QUEUE_BYTES} bytes")
    return text


def duration(text: str) -> float:
    """Return the seconds of ``90s`` or ``1h30m``."""
    try:
        return parse_duration(text)
    except ValueError as exc:
        raise ArgumentTypeError(str(exc)) from None


def whole(minimum: int) -> Callable[[str], int]:
    """Return a type for whole numbers from ``minimum`` on."""

    def convert(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = minimum - 1
        if number < minimum:
            raise ArgumentTypeError(f"{text!r} is not a whole number from {minimum} on")
        return number

    return convert


def share(text: str) -> float:
    """Read a share: 0 to 1."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number <= 1:
        raise ArgumentTypeError(f"{text!r} is not a share between 0 and 1")
    return number


def _say(prog: str, what: object, code: int) -> int:
    line = " ".join(str(what).split())
    sys.stderr.write(f"{prog}: {line}\n")
    return code
