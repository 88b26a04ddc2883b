"""``python -m tests.servers run rabbitmq elasticsearch``: start servers and keep them until Ctrl-C.

Prints a line for each that a shell can read and that makes the tests use it:
``export TEST_RABBITMQ_URL=amqp://…``.
"""

from __future__ import annotations

import argparse
import signal
import sys

from tests.servers.base import Unavailable
from tests.servers.fleet import NAMES, Fleet


def main() -> int:
    """Run until SIGINT or SIGTERM; exit code 1 if a server cannot be had."""
    parser = argparse.ArgumentParser(prog="python -m tests.servers")
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="start servers and keep them until Ctrl-C")
    run.add_argument("names", nargs="+", choices=NAMES)
    names = parser.parse_args().names
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    fleet = Fleet(full_speed=True)
    try:
        fleet.prefetch(names)
        for name in names:
            print(f"export TEST_{name.upper()}_URL={fleet.get(name).url}", flush=True)
        while True:
            signal.pause()
    except KeyboardInterrupt:
        return 0
    except Unavailable as why:
        print(f"{name}: {why}", file=sys.stderr)
        return 1
    finally:
        fleet.close()


if __name__ == "__main__":
    sys.exit(main())
