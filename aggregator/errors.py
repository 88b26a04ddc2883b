"""Every error that this project raises. Foreign exceptions are mapped to these at the edge."""

from __future__ import annotations

from traceback import clear_frames
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


class AggregatorError(Exception):
    """The root of all errors of this project."""


class ConfigurationError(AggregatorError):
    """A setting is wrong; the process ends with exit code 2 before it takes a message.

    ``field`` is the setting's name as the user wrote it (``sink``, ``routes.logs.size``);
    ``problem`` says what is wrong and what would be right, in one line.
    """

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem


class ConfigurationErrors(AggregatorError):  # noqa: N818 - it is many of them
    """Everything that is wrong with the settings, at once; exit code 2.

    ``faults`` is never empty; the text has one line for each. ``file`` and ``argv``: where the settings
    were read from, as far as they were.
    """

    def __init__(
        self, faults: Iterable[ConfigurationError], *, file: str | None = None, argv: Sequence[str] = ()
    ) -> None:
        self.faults = tuple(faults)
        self.file = file
        self.argv = tuple(argv)
        super().__init__("\n".join(str(fault) for fault in self.faults))


class UnrecoverableError(AggregatorError):
    """The process cannot go on and says so; exit code 1. Nothing unacked is lost."""


class MessageRefusedError(AggregatorError):
    """This one message cannot become a document; it is dead-lettered with ``reason``.

    ``reason`` is a short constant word for metrics and headers (``bad-json``); ``detail`` is for
    people and never holds the body.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


class SinkError(AggregatorError):
    """A whole request got no verdicts for its items. One of the subclasses says why."""


class SinkUnavailableError(SinkError):
    """The sink did not answer, or not in full: what it wrote is unknown.

    The same items with the same ids are sent again, after a pause that grows.
    """


class SinkRaisedError(SinkUnavailableError):
    """The user's own function raised, maybe for one item: all are sent again, from the second time halved."""


class RequestTooLargeError(SinkError):
    """The sink refuses requests of this size: halve it; a single item is dead-lettered."""


class RequestRefusedError(SinkError):
    """The sink refuses the request as a whole although one item may be at fault: bisect it.

    ``reason`` and ``detail`` are those of :class:`MessageRefusedError`, used when one item is left.
    """

    def __init__(self, reason: str, detail: str = "", status: int | None = None) -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail
        self.status = status


class SinkBlockedError(SinkError):
    """The refusal concerns everything (read-only, security, a missing index): pause the route."""


class CommandRefusedError(AggregatorError):
    """A command cannot be carried out; the text says why, by the argument's name, and what would be right."""


class ControlUnavailableError(AggregatorError):
    """Commands cannot be sent: the broker is not there, or it refuses."""


class PublisherUnavailableError(AggregatorError):
    """The broker did not confirm: the connection is lost, silent, or blocked by an alarm.

    ``outcomes`` holds one entry for each message of the call: ``None`` (confirmed), the word of its
    refusal, or ``unknown``; it is empty where nothing was to be published.
    """

    def __init__(self, detail: str, outcomes: Sequence[str | None] = ()) -> None:
        super().__init__(detail)
        self.outcomes = tuple(outcomes)


class StoreUnavailableError(AggregatorError):
    """A store beside the sink (seen ids, results) did not answer, or not so that it can be used.

    It never holds up a write: the route goes on without it until it is back.
    """


class TarantoolUnavailableError(AggregatorError):
    """A Tarantool server did not answer, or not in time: the connection is closed, its session over.

    What the call did is unknown. Tasks that the session had taken are ready again.
    """


class TarantoolError(AggregatorError):
    """A Tarantool server refused a call; the connection stays usable.

    ``code`` is the word of the project's Lua modules (``not-taken``, ``no-tube``), or of what the server
    itself says: ``access-denied``, ``not-installed``, ``box-N`` by its number. ``message`` is for people.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


def let_go(exc: BaseException) -> None:
    """Take from an exception what it holds beside its words: the frames that it came through.

    They hold the body of a request, in a circle with the exception as soon as a caller keeps it: a frame
    knows its caller. While a sink is away nothing else is made that would have the collector look for
    circles, and each failed request would stay.
    """
    known: BaseException | None = exc
    while known is not None:
        clear_frames(known.__traceback__)
        known.__traceback__ = None
        known = known.__cause__ or known.__context__
