"""What a queue is, and what goes wrong by that: told by the broker's refusals, and judged.

RabbitMQ says what a queue's arguments are by refusing a declaration that differs. Each declaration made
here holds an argument that no queue can be made with, so that none ever is, whatever happens meanwhile.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from amqp.exceptions import ChannelError, PreconditionFailed

from aggregator.doctor.finding import error, note, ok, warning
from aggregator.entities import Declaration
from aggregator.entities import notes as notes_of
from aggregator.units import format_duration
from consumers.connecting import is_not_found
from consumers.refusals import difference
from consumers.topology import MOST_DIFFERENCES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from aggregator.doctor.finding import Finding
    from aggregator.settings import Route

#: Nothing is ever made with this: it is an argument of streams, and no value for one.
IMPOSSIBLE = {"x-max-age": "nonsense"}
#: RabbitMQ 4 counts deliveries of quorum queues, and gives up after so many.
DEFAULT_LIMIT = 20
#: From this version on there is such a default.
LIMITED_FROM = (4, 0)


@dataclass(frozen=True, slots=True)
class QueueFacts:
    """One queue. ``arguments``: those of its declaration, None where they cannot be seen.

    ``policy``: what policies set, by their words (``max-length``). ``hidden``: why something is unseen.
    """

    name: str
    messages: int = 0
    consumers: int = 0
    arguments: Mapping[str, Any] | None = None
    policy: Mapping[str, Any] = field(default_factory=dict)
    durable: bool = True
    auto_delete: bool = False
    exclusive: bool = False
    hidden: str = ""

    @property
    def about(self) -> str:
        """Return what findings are about."""
        return f"queue {self.name!r}"

    @property
    def kind(self) -> str:
        """Return its type: ``classic``, ``quorum``, ``stream``."""
        return str((self.arguments or {}).get("x-queue-type", "classic"))

    def value(self, word: str) -> Any:
        """Return what holds for ``word``: of two numbers the smaller one, else the argument."""
        argument, policy = (self.arguments or {}).get(f"x-{word}"), self.policy.get(word)
        if isinstance(argument, int) and isinstance(policy, int):
            return min(argument, policy)
        return policy if argument is None else argument

    def by(self, word: str) -> str:
        """Say where a value comes from."""
        given = (self.arguments or {}).get(f"x-{word}")
        return f"x-{word}" if given is not None and given == self.value(word) else f"policy {word}"


def seen(channel_of: Callable[[], Any], name: str, *, ask: bool = True) -> QueueFacts | None:
    """Return what the broker says of a queue; None if it is not there. Raises its other errors.

    ``ask``: whether the broker is known to refuse :data:`IMPOSSIBLE`; else it is asked passively alone.
    """
    channel = channel_of()
    try:
        _, messages, consumers = channel.queue_declare(name, passive=True)
    except ChannelError as exc:
        if is_not_found(exc):
            return None
        raise
    facts = QueueFacts(name, messages, consumers)
    channel.close()
    return _discovered(channel_of, facts) if ask else facts


def _discovered(channel_of: Callable[[], Any], facts: QueueFacts) -> QueueFacts:
    """Add the arguments: each refusal names one of them, which is taken over for the next try."""
    values: dict[str, Any] = {"durable": True, "auto_delete": False, "exclusive": False}
    arguments: dict[str, Any] = {}
    for _ in range(MOST_DIFFERENCES):
        channel = channel_of()
        try:
            channel.queue_declare(facts.name, arguments={**arguments, **IMPOSSIBLE}, **values)
        except PreconditionFailed as exc:
            found = difference(exc)
            if found is None or found.argument in IMPOSSIBLE:
                break
            if found.argument in values:
                values[found.argument] = found.theirs == "true"
            else:
                arguments[found.argument] = _value(found.theirs, found.type)
        except ChannelError as exc:
            return replace(facts, hidden=str(getattr(exc, "reply_text", exc)))
        else:
            channel.close()
            break
    return replace(facts, arguments={k: v for k, v in arguments.items() if v is not None}, **values)


def _value(text: str | None, kind: str) -> Any:
    if text is None:
        return None
    if kind == "bool" or text in {"true", "false"}:
        return text == "true"
    return int(text) if text.lstrip("-").isdecimal() and kind != "longstr" else text


# ── judged ──


def judge_source(facts: QueueFacts, route: Route, version: tuple[int, ...]) -> Iterator[Finding]:
    """Yield what a route's own queue means for it."""
    others = f", {facts.consumers} consumer{'s' * (facts.consumers != 1)} there already" * bool(
        facts.consumers
    )
    yield ok(facts.about, f"{facts.kind}, {facts.messages} messages wait{others}")
    if facts.consumers:
        then = "each gets a share of the messages; keyed groups are torn apart" if route.correlate else ""
        yield note(facts.about, f"{facts.consumers} others consume from it", then)
    yield from _hidden(facts)
    yield from _standing(facts)
    yield from _bounds(facts, "messages")
    yield from _deliveries(facts, route, version)
    declared = Declaration(facts.arguments or {}, facts.durable, facts.auto_delete, facts.exclusive)
    for text in notes_of(declared, route.workers):
        yield (warning if "restart" in text else note)(facts.about, text)
    timeout = facts.value("consumer-timeout")
    if isinstance(timeout, int) and timeout < route.ack_deadline * 1000:
        says = f"{facts.by('consumer-timeout')} is {format_duration(timeout / 1000)}"
        mine = f"ack_deadline is {format_duration(route.ack_deadline)}"
        then = "the broker closes the channel and hands everything out again while it is held here"
        do = f'ack_deadline = "{format_duration(timeout / 1000)}"'
        yield error(facts.about, f"{says}, {mine}", then, do)


def judge_dead_letters(facts: QueueFacts, route: Route) -> Iterator[Finding]:
    """Yield what the queue for refused messages means."""
    yield ok(facts.about, f"{facts.kind}, takes what is refused")
    if facts.messages:
        yield warning(
            facts.about,
            f"{facts.messages} dead letters wait there",
            "nobody looks at them by themselves",
            f"python -m producers.replay list --queue {route.queue} --broker URL",
        )
    yield from _standing(facts)
    yield from _bounds(facts, "dead letters")
    if not facts.durable:
        yield warning(facts.about, "not durable", "a restart of the broker deletes it, with its messages")


def _hidden(facts: QueueFacts) -> Iterator[Finding]:
    if facts.arguments is None:
        then = "a length limit, a ttl or a delivery limit that loses messages would not be noticed here"
        do = "name a user that may configure it, or the management API: --management http://HOST:15672"
        yield note(facts.about, "its arguments cannot be seen with these rights", then, do)


def _standing(facts: QueueFacts) -> Iterator[Finding]:
    if facts.kind == "stream":
        then = "it takes nothing back and keeps what is acked: all of it would come again and again"
        yield error(facts.about, "a stream", then, "a quorum or classic queue, fed from the same exchange")
    for what in ("exclusive", "auto_delete"):
        if getattr(facts, what):
            then = "a lost connection deletes it, with its messages"
            yield error(facts.about, what, then, f"have it declared without {what}")


def _bounds(facts: QueueFacts, what: str) -> Iterator[Finding]:
    overflow = facts.value("overflow") or "drop-head"
    for word, unit in (("max-length", "messages"), ("max-length-bytes", "bytes")):
        most = facts.value(word)
        if most is None:
            continue
        says = f"{facts.by(word)} {most} {unit}, overflow {overflow}"
        if overflow != "drop-head":
            yield note(facts.about, says, "when it is full, publishers are refused: they have to notice")
        elif facts.value("dead-letter-exchange") is not None:
            yield warning(facts.about, says, f"when it is full, the oldest {what} are dead-lettered unread")
        else:
            then = f"when it is full, the oldest {what} are thrown away, and nobody is told"
            yield error(facts.about, says, then, _without(facts, word))
    ttl = facts.value("message-ttl")
    if ttl is not None:
        fate = (
            "dead-lettered" if facts.value("dead-letter-exchange") is not None else "gone, and nobody is told"
        )
        says = f"{facts.by('message-ttl')} {format_duration(int(ttl) / 1000)}"
        yield warning(
            facts.about,
            says,
            f"what waits longer, while the service is down say, is {fate}",
            _without(facts, "message-ttl"),
        )


def _without(facts: QueueFacts, word: str) -> str:
    if (facts.arguments or {}).get(f"x-{word}") is None:
        return f"rabbitmqctl list_policies, and set the one that matches again without {word}"
    return f"arguments never change: delete {facts.about} once it is empty, and declare it without x-{word}"


def _deliveries(facts: QueueFacts, route: Route, version: tuple[int, ...]) -> Iterator[Finding]:
    if facts.kind != "quorum":
        return
    limit = facts.value("delivery-limit")
    if limit is None and version >= LIMITED_FROM:
        limit = DEFAULT_LIMIT
    if not isinstance(limit, int) or limit < 0 or limit > route.delivery_limit:
        return
    says = f"delivery limit {limit}, and delivery_limit is {route.delivery_limit}"
    if facts.value("dead-letter-exchange") is None:
        then = f"after {limit} deliveries, crashes say, the broker drops a message before it is dead-lettered"
        yield error(facts.about, says, then, f"delivery_limit = {max(1, limit - 1)}")
    else:
        then = "the broker dead-letters a message first: without its reason, to an exchange of its own"
        yield warning(facts.about, says, then, f"delivery_limit = {max(1, limit - 1)}")
