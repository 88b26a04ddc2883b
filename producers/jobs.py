"""Jobs: messages whose sender asks what became of them.

``python -m producers.jobs submit '{"number": 1}'`` prints the id of a job; ``status ID`` and
``result ID --timeout 10s`` print what is known of it, as one line of JSON. The service has to be told
where: ``results = "redis://host/0"``, the same URL as here. Any broker that kombu knows will do.
"""

from __future__ import annotations

import os
import sys
from argparse import ArgumentTypeError
from dataclasses import asdict, dataclass
from math import inf
from typing import TYPE_CHECKING, Any, Final, Self
from uuid import uuid4

import orjson

from aggregator.clock import SYSTEM_CLOCK
from aggregator.clock import sleep as sleep_for
from aggregator.errors import (
    PublisherUnavailableError,
    StoreUnavailableError,
    UnrecoverableError,
)
from aggregator.results import FINAL, QUEUED
from aggregator.stores.redis_url import ResultOptions, read_url
from aggregator.units import parse_duration
from consumers.connecting import Broker
from consumers.publisher import Outgoing, Publisher
from producers.cli import Parser, run

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aggregator.clock import Clock
    from aggregator.stores.jobs_redis_client import Ends

PROG: Final = "producers.jobs"
#: How long a job that nobody takes is remembered, in seconds.
KEEP_SECONDS: Final = 86_400.0
#: A job's end that was not heard of is found by a look as often as this.
LOOK_SECONDS: Final = 1.0
_PERSISTENT: Final = 2
_STORE_ENV: Final = "AGGREGATOR_RESULTS"


class UnknownJobError(LookupError):
    """No such job: it was never submitted here, or it is over for longer than results are kept."""


class JobRefusedError(UnrecoverableError):
    """The broker did not take the message; there is no such job."""


@dataclass(frozen=True, slots=True)
class Job:
    """What is known of a job.

    ``state``: ``queued``, ``taken``, or one that is final: ``written``, ``duplicate``, ``expired``,
    ``refused``, ``dead-lettered``. ``reason``, ``detail``, ``status``: as in a verdict, empty where there
    is nothing to say. ``since`` (the submission) and ``at`` (this state): unix seconds by Redis's clock.
    """

    id: str
    state: str
    reason: str = ""
    detail: str = ""
    status: int | None = None
    since: float = 0.0
    at: float = 0.0

    @property
    def done(self) -> bool:
        """Whether this is the last that will be heard of it."""
        return self.state in FINAL

    @property
    def succeeded(self) -> bool:
        """Whether its document stands in the sink."""
        return self.state in {"written", "duplicate"}


class Jobs:
    """Submits jobs to one queue, and asks for them. One thread owns it; nothing connects before its use.

    ``results``: the URL that the service's ``results`` has too. ``keep``: seconds that a job which
    nobody takes is remembered. Every call may raise ``StoreUnavailableError``; wrong URLs raise
    ``ConfigurationError``.
    """

    def __init__(
        self,
        broker: str,
        queue: str,
        results: str,
        *,
        keep: float = KEEP_SECONDS,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        server, options = read_url(results, ResultOptions, "results")
        from aggregator.stores.jobs_redis_client import RedisJobs  # noqa: PLC0415 - an extra

        self._store = RedisJobs(server, options)
        self._broker = broker
        self._queue = queue
        self._keep = keep
        self._clock = clock
        self._publisher: Publisher | None = None

    def submit(
        self,
        document: Any,
        *,
        id: str | None = None,  # noqa: A002
        headers: Mapping[str, Any] | None = None,
    ) -> str:
        """Publish a document (anything that JSON has, or ``bytes`` as they are) as a job; return its id.

        An ``id`` of your own makes it repeatable: of a job that has been taken nothing is published again.
        Raises ``JobRefusedError``, or ``PublisherUnavailableError``: then the message may have got through
        or not, and to submit it again with the same id is right.
        """
        job = id or str(uuid4())
        if self._store.submit(job, self._keep) not in {None, QUEUED}:
            return job
        body = document if isinstance(document, bytes) else orjson.dumps(document)
        properties: dict[str, Any] = {
            "delivery_mode": _PERSISTENT,
            "content_type": "application/json",
            "message_id": job,
        }
        if headers:
            properties["headers"] = dict(headers)
        (refusal,) = self._publishing().publish([Outgoing("", self._queue, body, properties)])
        if refusal is not None:
            self._store.forget(job)
            raise JobRefusedError(f"queue {self._queue!r} refused the message: {refusal}")
        return job

    def status(self, id: str) -> Job:  # noqa: A002
        """Return what is known of a job now. Raises :class:`UnknownJobError`."""
        fields = self._store.read(id)
        if not fields:
            raise UnknownJobError(id)
        status = fields.get("status", "")
        return Job(
            id,
            fields["state"],
            fields.get("reason", ""),
            fields.get("detail", ""),
            int(status) if status else None,
            float(fields["since"]),
            float(fields["at"]),
        )

    def result(self, id: str, timeout: float | None = None) -> Job:  # noqa: A002
        """Wait until a job is done, for ``timeout`` seconds at most; return it.

        Its end is told by Redis at once. Should that be lost, a look every second finds it, and while
        Redis is away it is waited for. Raises ``TimeoutError``, :class:`UnknownJobError`.
        """
        until = inf if timeout is None else self._clock.monotonic() + timeout
        ends: Ends | None = None
        try:
            while True:
                left = until - self._clock.monotonic()
                try:
                    # to listen before the look: an end between them would not be heard of
                    ends = ends or self._store.listen(id)
                    job = self.status(id)
                    if job.done:
                        return job
                    if left > 0:
                        ends.wait(min(LOOK_SECONDS, left))
                except StoreUnavailableError:
                    _closed(ends)
                    ends = None
                    if left <= 0:
                        raise
                    sleep_for(min(LOOK_SECONDS, left))
                if left <= 0:
                    raise TimeoutError(f"job {id} is not done after {timeout:g} s")
        finally:
            _closed(ends)

    def close(self) -> None:
        """Let go of all connections."""
        if self._publisher is not None:
            self._publisher.close()
        self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _publishing(self) -> Publisher:
        if self._publisher is None:
            publisher = Publisher(self._broker, tls=Broker(self._broker).tls)
            try:
                publisher.declare_queue(self._queue)
            except (PublisherUnavailableError, UnrecoverableError):
                publisher.close()
                raise
            self._publisher = publisher
        return self._publisher


def _closed(ends: Ends | None) -> None:
    if ends is not None:
        ends.close()


# ── the command line ──


def _seconds(text: str) -> float:
    try:
        return parse_duration(text)
    except ValueError as exc:
        raise ArgumentTypeError(str(exc)) from None


def _document(text: str) -> bytes:
    raw = sys.stdin.buffer.read() if text == "-" else text.encode("utf-8", "surrogateescape")
    try:
        orjson.loads(raw)
    except orjson.JSONDecodeError as exc:
        raise ArgumentTypeError(f"no JSON ({exc}); an object like '{{\"number\": 1}}' is needed") from None
    return raw


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Exit codes: 0 done and written, or submitted; 1 refused or not to be had; 2 wrong input; 3 not done yet.
    """
    parser = Parser(PROG, "submit jobs, and ask what became of them")
    default = os.environ.get(_STORE_ENV)
    parser.add_argument(
        "--results",
        default=default,
        required=not default,
        metavar="URL",
        help=f"redis://host/0, as the service has it ({_STORE_ENV})",
    )
    commands = parser.add_subparsers(dest="command", required=True, parser_class=_Command)
    submit = commands.add_parser("submit", help="publish a document; print its id")
    submit.add_argument("document", type=_document, metavar="JSON", help="the document, - for stdin")
    submit.add_argument("--id", help="an id of your own: repeated, it is one job")
    status = commands.add_parser("status", help="print what is known of a job")
    status.add_argument("id")
    result = commands.add_parser("result", help="wait until a job is done, and print it")
    result.add_argument("id")
    result.add_argument("--timeout", type=_seconds, default=None, metavar="DURATION", help="30s; for ever")
    args = parser.parse_args(argv)
    codes: list[int] = []
    code = run(PROG, lambda: codes.append(_work(args)))
    return code or codes[0]


class _Command(Parser):
    """A command's own flags; those of all commands stand before it."""

    def __init__(self, prog: str, **more: Any) -> None:
        super(Parser, self).__init__(prog=prog, allow_abbrev=False, **more)


def _work(args: Any) -> int:
    with Jobs(args.broker, args.queue, args.results) as jobs:
        if args.command == "submit":
            sys.stdout.write(f"{jobs.submit(args.document, id=args.id)}\n")
            return 0
        try:
            job = jobs.status(args.id) if args.command == "status" else jobs.result(args.id, args.timeout)
        except UnknownJobError:
            raise UnrecoverableError(
                f"no job {args.id}: never submitted, or over for longer than results are kept"
            ) from None
        except TimeoutError:
            job = jobs.status(args.id)
        sys.stdout.write(f"{orjson.dumps(asdict(job)).decode()}\n")
        return (0 if job.succeeded else 1) if job.done else 3


if __name__ == "__main__":
    sys.exit(main())
