"""``python -m aggregator.testing.gateways apns``: a simulator until it is told to end (SIGINT, SIGTERM).

Prints one line of JSON once it listens: ``url``, ``ca``, ``control``, and what a sender needs. A script
file is read again whenever it changes.
"""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

import orjson

from aggregator.testing.gateways import Apns, Fcm
from aggregator.testing.gateways.control import Control
from aggregator.units import parse_duration
from aggregator.version import add_version

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aggregator.testing.gateways.script import Latency
    from aggregator.testing.gateways.server import Gateway

#: Seconds between two looks at the script's file, and between two writes of the journal.
_TICK = 0.2
_WRONG = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a simulator; return 0 when it was told to end, 2 if it could not start."""
    options = vars(_parser().parse_args(arguments))
    kind, port, file = options.pop("kind"), options.pop("control"), options.pop("script")
    try:
        gateway: Gateway = (Apns if kind == "apns" else Fcm)(**options)
        script = ScriptFile(gateway, Path(file)) if file else None
        if script:
            script.read()
        gateway.start()
    except (ValueError, OSError) as exc:
        sys.stderr.write(f"{kind}: {exc}\n")
        return _WRONG
    try:
        control = Control(gateway, port)
    except OSError as exc:
        gateway.stop()
        sys.stderr.write(f"{kind}: control: {exc}\n")
        return _WRONG
    try:
        sys.stdout.buffer.write(orjson.dumps(gateway.ready() | {"control": control.url}) + b"\n")
        sys.stdout.buffer.flush()
        _wait(gateway, script)
    finally:
        control.close()
        gateway.stop()
    return 0


class ScriptFile:
    """A script in a file of JSON, for ``gateway``."""

    def __init__(self, gateway: Gateway, path: Path) -> None:
        self._gateway = gateway
        self._path = path
        self._seen: tuple[int, int] | None = None

    def read(self) -> None:
        """Take the file if it has changed. Raises ``ValueError`` or ``OSError``, and changes nothing then."""
        stat = self._path.stat()
        stamp = (stat.st_mtime_ns, stat.st_size)
        if stamp != self._seen:
            self._seen = stamp
            try:
                self._gateway.script.load(orjson.loads(self._path.read_bytes()))
            except ValueError as exc:
                raise ValueError(f"{self._path}: {exc}") from None


def _wait(gateway: Gateway, script: ScriptFile | None) -> None:
    ended = Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    while not ended.wait(_TICK):
        gateway.journal.flush()
        try:
            if script:
                script.read()
        except (ValueError, OSError) as exc:
            sys.stderr.write(f"the script stays as it was: {exc}\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m aggregator.testing.gateways", description=__doc__)
    add_version(parser)
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="apns|fcm")
    apns, fcm = (kinds.add_parser(name, argument_default=argparse.SUPPRESS) for name in ("apns", "fcm"))
    for one in (apns, fcm):
        _common(one)
    apns.add_argument("--topic", dest="topics", action="append", help="may be pushed to; else any")
    apns.add_argument("--team-id", help="what tokens name as issuer")
    apns.add_argument("--key-id", help="what tokens name as their key")
    apns.add_argument("--environment", help="production or development")
    apns.add_argument("--token-updates", type=int, help="new tokens taken within 20 minutes (10)")
    apns.add_argument("--idle", type=_duration, help="ends connections without requests (1h)")
    fcm.add_argument("--project", help="the only one that there is (example-project)")
    fcm.add_argument("--lifetime", type=_duration, help="of bearer tokens (1h)")
    fcm.add_argument("--quota", type=int, help="messages a minute (600000)")
    return parser


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--port", type=int, help="to listen on; 0 takes a free one")
    parser.add_argument("--control", type=int, default=0, help="port of the control; 0 takes a free one")
    parser.add_argument("--folder", help="where keys and certificates go; else a temporary one")
    parser.add_argument("--latency", type=_latency, help="of each answer: 20ms, or 10ms-50ms")
    parser.add_argument("--streams", type=int, help="limit of a connection (APNs 1000, FCM 100)")
    parser.add_argument("--seed", type=int, help="of shares and latencies (0)")
    parser.add_argument("--journal", help="a file that gets a line for each request")
    parser.add_argument("--journal-limit", type=int, help="how many entries stay in memory (100000)")
    parser.add_argument("--script", default=None, help="a file of JSON with rules; read again if it changes")


def _duration(text: str) -> float:
    try:
        return parse_duration(text)
    except ValueError as exc:
        raise argparse.ArgumentTypeError(str(exc)) from None


def _latency(text: str) -> Latency:
    low, dash, high = text.partition("-")
    return (_duration(low), _duration(high)) if dash else _duration(low)


if __name__ == "__main__":
    sys.exit(main())
