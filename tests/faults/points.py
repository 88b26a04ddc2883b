"""The service, ended or frozen at a named point: ``python -m tests.faults.points --at mid-ack:3 -- FLAGS``.

Each ``--at POINT:N`` is a life that ends by SIGKILL when it comes to that point for the N-th time; the
next one follows at once, as with an orchestrator, and the last lives on. With ``--freeze`` it stops
there instead (SIGSTOP) and goes on when it is told to. The methods of the running program are wrapped:
it has no hook for this, so nothing but this module can switch one on.
"""

from __future__ import annotations

import argparse
import ctypes
import http.client
import json
import os
import select
import signal
import sys
import threading
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

# what a life would import anew
import elasticsearch  # noqa: F401
import kombu  # noqa: F401

import consumers.transports.amqp_batched  # noqa: F401
from aggregator.consume import main
from aggregator.flush import Flush
from aggregator.settlement import Settler
from aggregator.sinks.elasticsearch_client import Connection
from consumers.link import ChannelLink
from tests.faults import local_points

if TYPE_CHECKING:
    from collections.abc import Callable

POINTS = ("before-flush", "mid-request", "unread-reply", "after-reply", "in-settle", "mid-ack", "after-ack")
_DEATH_WITH_PARENT = 1
_REPLY_SECONDS = 10


class Point:
    """Counts how often it was come to; the ``number``-th time is the end."""

    def __init__(self, number: int, *, freeze: bool = False) -> None:
        self._left = number
        self._freeze = freeze
        self._lock = threading.Lock()

    def due(self) -> bool:
        """Count; whether this is the time."""
        with self._lock:
            self._left -= 1
            return self._left == 0

    def strike(self) -> None:
        """End the process, or stop it until it is told to go on."""
        os.kill(os.getpid(), signal.SIGSTOP if self._freeze else signal.SIGKILL)

    def hit(self) -> None:
        """Count, and strike when it is time."""
        if self.due():
            self.strike()


def install(name: str, point: Point) -> None:
    """Wrap the methods that pass by the point of this name."""
    _INSTALLERS[name](point)


def _around_write(point: Point, *, after: bool) -> None:
    write = Flush._write

    def _write(self, request):
        if not after:
            point.hit()
        done = write(self, request)
        if after:
            point.hit()
        return done

    Flush._write = _write


def _in_request(point: Point, *, whole: bool) -> None:
    """Half of the body is on its way; or all of it, and the reply has come and nobody has read it."""
    client = http.client.HTTPConnection
    bulk, send, getresponse = Connection.bulk, client.send, client.getresponse
    here = threading.local()

    def _bulk(self, *args):
        here.body = args[1]
        try:
            return bulk(self, *args)
        finally:
            here.body = None

    def _send(self, data):
        if not whole and data == getattr(here, "body", None) and point.due():
            self.sock.sendall(data[: len(data) // 2])
            point.strike()
            data = data[len(data) // 2 :]
        send(self, data)

    def _getresponse(self, *args, **kwargs):
        if whole and getattr(here, "body", None) is not None and point.due():
            select.select([self.sock], [], [], _REPLY_SECONDS)
            point.strike()
        return getresponse(self, *args, **kwargs)

    Connection.bulk = _bulk
    client.send = _send
    client.getresponse = _getresponse


def _in_settle(point: Point) -> None:
    """The ledger has it settled, and no link knows of it."""
    acknowledge = Settler.acknowledge

    def _acknowledge(self, deliveries, verdict):
        if deliveries and verdict == "written":
            point.hit()
        acknowledge(self, deliveries, verdict)

    Settler.acknowledge = _acknowledge


def _around_ack(point: Point, *, torn: bool) -> None:
    """Half of what one settlement writes is on its way to the broker; or all of it."""
    ack = ChannelLink._ack

    def _ack(self, tags, *, hold):
        transport = self._channel.connection.transport
        write = transport._write

        def half(data):
            if point.due():
                write(data[: len(data) // 2])
                point.strike()
                data = data[len(data) // 2 :]
            write(data)

        def noted(data):
            write(data)
            point.hit()

        transport._write = half if torn else noted
        try:
            ack(self, tags, hold=hold)
        finally:
            transport._write = write

    ChannelLink._ack = _ack


_INSTALLERS = {
    "before-flush": lambda point: _around_write(point, after=False),
    "mid-request": lambda point: _in_request(point, whole=False),
    "unread-reply": lambda point: _in_request(point, whole=True),
    "after-reply": lambda point: _around_write(point, after=True),
    "in-settle": _in_settle,
    "mid-ack": lambda point: _around_ack(point, torn=True),
    "after-ack": lambda point: _around_ack(point, torn=False),
    **local_points.INSTALLERS,
}


def live(prepare: Callable[[], None], flags: list[str]) -> int:
    """Be one life, in a process of its own that is prepared first; return its end as ``waitpid`` tells it."""
    parent = os.getpid()
    child = os.fork()
    if not child:
        ctypes.CDLL(None).prctl(_DEATH_WITH_PARENT, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        prepare()
        sys.exit(main(flags))
    signal.signal(signal.SIGTERM, lambda number, _: _pass_on(child, number))
    while True:
        with suppress(InterruptedError):
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def report(at: str, code: int) -> None:
    """Say how a life has ended, in a line as the service's own."""
    said = {"event": "life_ended", "at": at, "code": code, "timestamp": datetime.now(UTC).isoformat()}
    print(json.dumps(said), file=sys.stderr, flush=True)


def _pass_on(child: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(child, number)


def _prepare(at: str, *, freeze: bool) -> None:
    if at:
        name, _, number = at.partition(":")
        install(name, Point(int(number), freeze=freeze))


def run(argv: list[str]) -> int:
    """Live one life after the other; return the exit code of the last."""
    cut = argv.index("--")
    parser = argparse.ArgumentParser(prog="python -m tests.faults.points")
    parser.add_argument("--at", action="append", default=[], metavar="POINT:N")
    parser.add_argument("--freeze", action="store_true")
    given = parser.parse_args(argv[:cut])
    lives = given.at if given.freeze else [*given.at, ""]
    code = 0
    for at in lives:
        code = live(partial(_prepare, at, freeze=given.freeze), argv[cut + 1 :])
        report(at, code)
        if code != -signal.SIGKILL:
            break
    return code


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
