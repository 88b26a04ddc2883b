"""The load producer: unique ids, each message confirmed and mandatory, reproducible by a seed.

``python -m producers.load --count 1000000 --size 200 --broker amqp://localhost//`` prints one line
of figures at its end. A sentinel follows after the last member of the keys that take turns with its
own; with several connections it can overtake some, and its header ``count`` tells. It refuses
brokers beyond this machine unless ``--anywhere`` is given.
"""

from __future__ import annotations

import sys
import threading
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from ipaddress import ip_address
from itertools import islice, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from aggregator.clock import SYSTEM_CLOCK, sleep
from aggregator.errors import ConfigurationError, PublisherUnavailableError, UnrecoverableError
from consumers.publisher import Publisher
from producers.bars import bar
from producers.cli import Parser, run, share, whole
from producers.route_map import load_route_map
from producers.shapes import BLOCK, Shape, messages

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable, Iterator, Sequence
    from typing import TextIO

    from producers.shapes import Made

PROG: Final = "producers.load"
_LOCAL_SCHEMES: Final = frozenset({"sqlite-queue", "memory", "filesystem"})
#: Messages on the way without a verdict, messages and bytes of one call.
_WINDOW, _CALL_MESSAGES, _CALL_BYTES = 2_000, 10_000, 16 * 1024 * 1024
#: With a rate, calls are small enough that this many make up a second.
_CALLS_A_SECOND: Final = 10
_RETRY_SECONDS: Final = 0.5


@dataclass(slots=True)
class Tally:
    """What became of the messages; shared by the threads."""

    on_progress: Callable[[int], object]
    ids: TextIO | None = None
    confirmed: int = 0
    size: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    stop: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, batch: Sequence[Made], outcomes: Sequence[str | None]) -> list[Made]:
        """Add the verdicts of a batch; return what has none."""
        done = [made for made, outcome in zip(batch, outcomes, strict=True) if outcome is None]
        words = Counter(outcome for outcome in outcomes if outcome not in (None, "unknown"))
        with self._lock:
            self.confirmed += len(done)
            self.size += sum(len(made.message.body) for made in done)
            self.refused.update({word: count for word, count in words.items() if word})
            if self.ids:
                self.ids.writelines(f"{made.id}\n" for made in done if made.id)
            self.on_progress(len(done))
        return [made for made, outcome in zip(batch, outcomes, strict=True) if outcome == "unknown"]


def publish(
    source: Iterator[Made], publisher: Publisher, tally: Tally, *, call: int, rate: float, patience: float
) -> None:
    """Publish what ``source`` yields, ``call`` messages at a time.

    ``rate``: messages a second, 0 for as fast as can be. What got no verdict is sent again, with
    the same ids, for ``patience`` seconds; then ``PublisherUnavailableError`` is raised.
    """
    began = SYSTEM_CLOCK.monotonic()
    sent = 0
    while not tally.stop.is_set() and (batch := list(islice(source, call))):
        if rate:
            sleep(max(0.0, began + sent / rate - SYSTEM_CLOCK.monotonic()))
        sent += len(batch)
        give_up = SYSTEM_CLOCK.monotonic() + patience
        while batch:
            try:
                batch = tally.count(batch, publisher.publish([made.message for made in batch]))
            except PublisherUnavailableError as exc:
                batch = tally.count(batch, exc.outcomes)
                if SYSTEM_CLOCK.monotonic() >= give_up or tally.stop.is_set():
                    raise
                sleep(_RETRY_SECONDS)


def is_local(broker: str) -> bool:
    """Say whether every host of a broker's URL is this machine."""
    for part in broker.split(";"):
        url = urlsplit(part)
        host = url.hostname or "localhost"
        if url.scheme in _LOCAL_SCHEMES or host == "localhost":
            continue
        try:
            if not ip_address(host).is_loopback:
                return False
        except ValueError:
            return False
    return True


def load(given: Namespace, shape: Shape, tally: Tally) -> None:
    """Publish everything that the command line asks for."""
    arguments = {"x-queue-type": "quorum"} if given.queue_type == "quorum" else None
    first = Publisher(given.broker, window=_WINDOW)
    first.declare_queue(shape.queue, arguments=arguments)
    first.close()
    blocks = -(-shape.count // BLOCK)
    edges = [blocks * part // given.connections * BLOCK for part in range(given.connections + 1)]

    def one(source: Iterator[Made]) -> None:
        publisher = Publisher(given.broker, window=_WINDOW)
        try:
            rate = given.rate / given.connections
            call = max(1, min(_CALL_MESSAGES, _CALL_BYTES // max(1, shape.size)))
            if rate:
                call = max(1, min(call, int(rate / _CALLS_A_SECOND)))
            publish(source, publisher, tally, call=call, rate=rate, patience=given.patience)
        finally:
            publisher.close()

    sources = [messages(shape, start, min(stop, shape.count)) for start, stop in pairwise(edges)]
    _in_threads(one, sources, tally)


def _in_threads(
    work: Callable[[Iterator[Made]], None], sources: Sequence[Iterator[Made]], tally: Tally
) -> None:
    """Run ``work`` for each source on a thread of its own; the first error ends all and is raised."""

    def guarded(source: Iterator[Made]) -> None:
        try:
            work(source)
        except BaseException:
            tally.stop.set()
            raise

    with ThreadPoolExecutor(len(sources)) as pool:
        futures = [pool.submit(guarded, source) for source in sources]
        try:
            for future in futures:
                future.result()
        except BaseException:
            tally.stop.set()
            raise


def _shape(given: Namespace) -> Shape:
    if not given.anywhere and not is_local(given.broker):
        raise ConfigurationError("--broker", "not on this machine; --anywhere allows it")
    if given.sentinels and not given.keys:
        raise ConfigurationError("--sentinels", "needs --keys")
    if given.keys > given.count:
        raise ConfigurationError("--keys", f"{given.keys} keys need at least as many messages")
    return Shape(
        queue=_queue(given),
        count=given.count,
        prefix=uuid.uuid4().hex[:12] if given.seed is None else f"seed{given.seed}",
        seed=given.seed or 0,
        size=given.size,
        keys=given.keys,
        open_keys=given.open_keys,
        sentinels=given.sentinels,
        bad=given.bad,
        duplicates=given.duplicates,
    )


def _queue(given: Namespace) -> str:
    """Return the queue that was named, or the one that the file's route map has for a name."""
    if given.name is None and given.config is None:
        return str(given.queue)
    if given.name is None or given.config is None:
        raise ConfigurationError("--name", "a name and the --config with its route map go together")
    try:
        return load_route_map(given.config).queue(given.name)
    except LookupError as exc:
        raise ConfigurationError("--name", str(exc)) from None


def _parser() -> Parser:
    parser = Parser(PROG, "Publish many messages with unique ids, each confirmed and mandatory.")
    parser.add_argument("--count", type=whole(0), default=10_000, metavar="N", help="messages (10000)")
    parser.add_argument("--size", type=whole(1), default=200, metavar="BYTES", help="of a body (200)")
    parser.add_argument("--rate", type=whole(0), default=0, metavar="N", help="a second; 0: full speed")
    parser.add_argument("--keys", type=whole(0), default=0, metavar="N", help="correlation ids; 0: none")
    parser.add_argument("--open-keys", type=whole(1), default=100, metavar="N", help="that take turns (100)")
    parser.add_argument("--sentinels", action="store_true", help="one for each key, after its members")
    parser.add_argument("--bad", type=share, default=0.0, metavar="SHARE", help="of five kinds: header x-bad")
    parser.add_argument("--duplicates", type=share, default=0.0, metavar="SHARE", help="published twice")
    parser.add_argument("--connections", type=whole(1), default=1, metavar="N", help="a thread each (1)")
    parser.add_argument("--queue-type", choices=("classic", "quorum"), default="classic")
    parser.add_argument("--seed", type=whole(0), metavar="N", help="the same messages and ids each time")
    parser.add_argument("--ids", type=Path, metavar="FILE", help="write the confirmed ids, one a line")
    parser.add_argument(
        "--patience", type=whole(0), default=0, metavar="SECONDS", help="go on trying without a broker (0)"
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings with a [route-map]")
    parser.add_argument("--name", metavar="NAME", help="publish to the queue that the map has for it")
    parser.add_argument("--anywhere", action="store_true", help="allow brokers beyond this machine")
    return parser


def _figures(tally: Tally, seconds: float) -> str:
    pace = tally.confirmed / seconds if seconds else 0.0
    refused = "".join(f", {count} {word}" for word, count in sorted(tally.refused.items()))
    return (
        f"{tally.confirmed} messages confirmed{refused} in {seconds:.1f} s: "
        f"{pace:.0f}/s, {tally.size / 1e6 / (seconds or 1):.1f} MB/s\n"
    )


def _work(given: Namespace) -> None:
    shape = _shape(given)
    try:
        ids = given.ids.open("w", encoding="ascii") if given.ids else None
    except OSError as exc:
        raise ConfigurationError("--ids", str(exc)) from None
    began = SYSTEM_CLOCK.monotonic()
    with bar("published", shape.count) as shown:
        tally = Tally(shown.advance, ids)
        try:
            load(given, shape, tally)
        finally:
            if ids:
                ids.close()
    sys.stdout.write(_figures(tally, SYSTEM_CLOCK.monotonic() - began))
    if tally.refused:
        raise UnrecoverableError(f"{tally.refused.total()} messages were refused")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    given = _parser().parse_args(arguments)
    return run(PROG, lambda: _work(given))


if __name__ == "__main__":
    sys.exit(main())
