"""The command line of ``python -m producers.replay``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final

import orjson

from aggregator.errors import ConfigurationError, UnrecoverableError
from aggregator.importing import load_function
from consumers.connecting import Broker
from consumers.publisher import Publisher
from producers.bars import bar
from producers.cli import Parser, run, whole
from producers.replay.letter import DeadLetter
from producers.replay.queue import opened
from producers.replay.selection import Selection, moment
from producers.replay.sending import Replay
from producers.replay.tables import Summary, print_letter, print_summary

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable, Sequence

    from producers.replay.queue import DeadLetterQueue

PROG: Final = "producers.replay"


def _walk(given: Namespace, queue: DeadLetterQueue, take: Callable[[DeadLetter, Any], bool]) -> None:
    """Give each selected letter to ``take`` until ``--limit`` are taken."""
    selection = Selection.of(given)
    taken = 0
    with bar("letters", queue.letters) as shown:
        for letter, tag in queue.walk():
            shown.advance()
            if selection.takes(letter) and take(letter, tag):
                taken += 1
                if taken == given.limit:
                    break


def _list(given: Namespace, queue: DeadLetterQueue) -> None:
    summary = Summary()
    _walk(given, queue, lambda letter, _: summary.add(letter))
    print_summary(summary, as_json=given.json)


def _show(given: Namespace, queue: DeadLetterQueue) -> None:
    def take(letter: DeadLetter, _: Any) -> bool:
        if given.json:
            sys.stdout.write(orjson.dumps(letter.shown(), default=repr).decode() + "\n")
        else:
            print_letter(letter, given.body)
        return True

    _walk(given, queue, take)


def _settle(given: Namespace, queue: DeadLetterQueue, publisher: Publisher) -> None:
    dropping = given.command == "drop"
    replay = Replay(queue, publisher, dry_run=given.dry_run)
    if dropping:
        _walk(given, queue, replay.drop)
    else:
        replay.to, replay.most_replays, replay.edit = given.to, given.most_replays, _function(given.edit)
        try:
            _walk(given, queue, replay.send)
        finally:
            replay.flush()
    if given.json:
        sys.stdout.write(orjson.dumps({"run": replay.run, **replay.counts}).decode() + "\n")
    else:
        would = "would be " if given.dry_run else ""
        words = ", ".join(f"{count} {would}{what}" for what, count in sorted(replay.counts.items()))
        sys.stdout.write(f"{words or 'no letter was selected'} ({given.letters})\n")
    if replay.refused:
        raise UnrecoverableError(
            replay.problem or f"{replay.refused} letters stayed: the broker refused them"
        )


def _function(name: str | None) -> Callable[[DeadLetter], DeadLetter | None] | None:
    if name is None:
        return None
    module, colon, function = name.partition(":")
    if not (colon and module and function):
        raise ConfigurationError("--edit", f"{name!r} names no function; MODULE:NAME is needed")
    example = (DeadLetter(b"", {}, "", ""),)
    return load_function(module, function, field="--edit", takes="a dead letter", example=example)  # type: ignore[no-any-return]


def _work(given: Namespace) -> None:
    given.letters = given.letters or f"{given.queue}.dead"
    if given.broker.startswith("tarantool:"):
        raise ConfigurationError(
            "--broker", "tubes keep what was refused as buried tasks: kick gives them back"
        )
    if given.command == "drop" and not (given.yes or given.dry_run):
        raise ConfigurationError("--yes", "is needed: what is dropped is gone; --dry-run counts only")
    publisher = Publisher(given.broker, tls=Broker(given.broker).tls)
    try:
        with opened(given.broker, given.letters, publisher) as queue:
            if given.command == "list":
                _list(given, queue)
            elif given.command == "show":
                _show(given, queue)
            else:
                _settle(given, queue, publisher)
    finally:
        publisher.close()


def _parser() -> Parser:
    parser = Parser(PROG, "Look at dead letters, send them back to their queue, or drop them.")
    parser.add_argument(
        "command", choices=("list", "show", "send", "drop"), metavar="list|show|send|drop",
        help="count by reason; print; publish to their queue and take out; take out",
    )  # fmt: skip
    parser.add_argument("--from", dest="letters", metavar="NAME", help="the dead-letter queue (QUEUE.dead)")
    parser.add_argument("--json", action="store_true", help="one object of JSON a line")
    which = parser.add_argument_group("which letters (all of these have to hold; each may be given again)")
    which.add_argument("--reason", action="append", metavar="WORD", help="refused for: bad-json, mapping…")
    which.add_argument("--error-type", action="append", metavar="WORD", help="the sink's name of the error")
    which.add_argument("--id", action="append", metavar="ID", help="the message's id")
    which.add_argument(
        "--since", type=moment, metavar="WHEN", help="last tried then or later: 2h ago as 2h, or ISO 8601"
    )
    which.add_argument("--until", type=moment, metavar="WHEN", help="last tried before then")
    which.add_argument("--limit", type=whole(1), default=None, metavar="N", help="no more than N of them")
    how = parser.add_argument_group("how")
    how.add_argument(
        "--body", type=whole(0), default=1_000, metavar="N", help="show: characters of a body (1000)"
    )
    how.add_argument("--to", metavar="QUEUE", help="send: to this queue instead of the one that refused it")
    how.add_argument(
        "--edit", metavar="MODULE:NAME", help="send: a function that mends a letter, or leaves it by None"
    )
    how.add_argument(
        "--most-replays",
        type=whole(1),
        default=3,
        metavar="N",
        help="send: leave what was sent back so often (3)",
    )
    how.add_argument("--dry-run", action="store_true", help="send, drop: count, and change nothing")
    how.add_argument("--yes", action="store_true", help="drop: yes, for good")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    given = _parser().parse_args(arguments)
    return run(PROG, lambda: _work(given))
