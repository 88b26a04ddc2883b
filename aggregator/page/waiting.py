"""Why a route does what it does at the moment: a word that never changes, and a sentence for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from aggregator.standing import QUIET, RouteState

if TYPE_CHECKING:
    from aggregator.look import Look

#: A message that came so many seconds ago is still coming in.
COMING_SECONDS = 2.0
_UNITS = (("d", 86_400, "h", 3_600), ("h", 3_600, "min", 60), ("min", 60, "s", 1))


class Cause(NamedTuple):
    """``word`` is one of docs/live-page.md; ``why`` is for people."""

    word: str
    why: str


class Place(NamedTuple):
    """What a route knows of its workers.

    ``failure``: what nothing but a new start mends; ``problem``: why nothing can be taken from the broker;
    ``consuming``: how many workers take something.
    """

    failure: str
    problem: str
    consuming: int


def cause_of(look: Look, place: Place) -> Cause:
    """Return what matters most."""
    if place.failure or look.state is RouteState.STOPPED:
        why = place.failure or look.reason
        return Cause("stopped", f"{_begin(why)} It does nothing more until the process is started again.")
    if look.state is RouteState.RUNNING:
        return _broken(look, place) or _busy(look)
    if look.state is RouteState.WAITING:
        return _away(look, place)
    return _resting(look)


def _resting(look: Look) -> Cause:
    held = _messages(look.held_messages + look.outgoing)
    until = "then, or until it is resumed" if look.reason.startswith(QUIET) else "it is resumed"
    words = {
        RouteState.PAUSING: f"{_begin(look.reason)} It writes what it holds ({held}), then rests.",
        RouteState.PAUSED: f"{_begin(look.reason)} It takes nothing until {until}.",
        RouteState.DRAINING: f"The process stops; what is held is written ({held}).",
    }
    return Cause(look.state.value, words.get(look.state, _sentence(look.reason)))


def _away(look: Look, place: Place) -> Cause:
    if place.problem and look.reason == "starting":
        return Cause("broker-away", f"The broker is not to be had: {_sentence(place.problem)}")
    if look.reason in {"starting", "resuming"}:
        return Cause("starting", "The sink is asked whether it is there.")
    again = f" It is asked again {within(look.probe)}." if look.probe is not None else ""
    why = f"The sink is not there: {_sentence(look.reason)}{again} Everything is back with the broker."
    return Cause("sink-away", why)


def _broken(look: Look, place: Place) -> Cause | None:
    if not place.consuming:
        if not place.problem:
            return Cause("connecting", "The workers are connecting.")
        return Cause("broker-away", f"No worker consumes: {_sentence(place.problem)}")
    if look.letters_failing is not None:
        since, waiting = duration(look.letters_failing), _messages(look.letters_pending)
        return Cause("dead-letters-away", f"For {since} the dead-letter queue takes nothing; {waiting} wait.")
    if look.failing is not None:
        since, waiting = duration(look.failing), _messages(look.outgoing)
        trial = "a try is under way" if look.trial is None else f"the next try is {within(look.trial)}"
        return Cause("sink-failing", f"For {since} the sink has taken nothing; {trial}, {waiting} wait.")
    if not look.room:
        why = "As many bytes are held as max_held allows; nothing more is read until some are written."
        return Cause("full", why)
    return None


def _busy(look: Look) -> Cause:
    if look.received is not None and look.received < COMING_SECONDS:
        return Cause("working", "Messages come in.")
    if look.requests:
        return Cause("writing", f"The sink has not answered {_count(look.requests, 'request')} yet.")
    if look.held_messages:
        what = f"{_messages(look.held_messages)} in {_count(look.groups, 'group')} wait for more"
        end = "no time ends the wait" if look.due is None else f"the next group goes {within(look.due)}"
        return Cause("filling", f"{what}; {end}.")
    if look.outgoing:
        return Cause("lingering", f"{_messages(look.outgoing)} wait for a request to leave.")
    if look.received is None:
        return Cause("idle", "Nothing has come in yet.")
    return Cause("idle", f"Nothing is held; the last message came {duration(look.received)} ago.")


def duration(seconds: float) -> str:
    """Return a time for people, in two units at most: ``1 h 5 min``."""
    whole = round(seconds)
    for unit, length, smaller, least in _UNITS:
        if whole >= length:
            rest = whole % length // least
            return f"{whole // length} {unit} {rest} {smaller}" if rest else f"{whole // length} {unit}"
    return f"{whole} s"


def _sentence(text: str) -> str:
    text = text.strip()
    return text if not text or text[-1] in ".!?" else f"{text}."


def _begin(text: str) -> str:
    sentence = _sentence(text)
    return sentence[:1].upper() + sentence[1:]


def _messages(number: int) -> str:
    return _count(number, "message")


def _count(number: int, word: str) -> str:
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def within(seconds: float | None) -> str:
    """Return when something will be: ``in 5 s``, ``now``."""
    return "now" if not seconds or round(seconds) == 0 else f"in {duration(seconds)}"
