"""The stages of a route as HTML: how many messages are where, and how fast they go on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aggregator.page.markup import NOTHING, Html, el
from aggregator.page.pieces import NONE, bar, bytes_text, count_text, number_text, rate_text

if TYPE_CHECKING:
    Row = dict[str, Any]

#: The share of what may be held above which it is said.
NEARLY = 0.8


def flow(route: Row, seconds: float) -> Html:
    """Return the stages, and how many messages are at each."""
    held, outgoing, totals, rates = route["held"], route["outgoing"], route["totals"], route["rates"]
    verdicts, waiting = totals["verdicts"], route["queue_messages"]
    written = verdicts.get("written", 0) + verdicts.get("duplicate", 0)
    dead = verdicts.get("dead_lettered", 0)
    settled = ("written", "duplicate", "dead_lettered")
    other = sum(number for word, number in verdicts.items() if word not in settled)
    groups, share = held["groups"], held["bytes"] / held["most_bytes"] if held["most_bytes"] else 0.0
    requests = outgoing["requests"]
    stages = [
        _stage(
            "In the queue",
            number_text(waiting.get("ready", sum(waiting.values()))) if waiting else NONE,
            "at the broker",
        ),
        _stage("Received", number_text(totals["received"]), rate_text(rates, "received")),
        _stage(
            "Held", number_text(held["messages"]), f"in {count_text(groups, 'group')}", _room(share, held)
        ),
        _stage("Outgoing", number_text(outgoing["items"]), count_text(requests, "request")),
        _stage("Written", number_text(written), rate_text(rates, "written"), good=True),
    ]
    branches = [
        _stage("Sent again", number_text(totals["retries"]), rate_text(rates, "retries")),
        _stage(
            "Dead-lettered",
            number_text(dead),
            rate_text(rates, "dead_lettered"),
            _pending(route),
            bad=bool(dead),
        ),
        _stage("Otherwise", number_text(other), rate_text(rates, "other")),
    ]
    over = f"Rates are of the last {seconds:g} seconds." if seconds else "Rates come with the next look."
    return el(
        "div",
        el("ol", stages, class_="flow", aria_label="Messages on their way"),
        el("ul", branches, class_="flow branches", aria_label="Messages that took another way"),
        el("p", over, class_="visually-hidden"),
        data_key="flow",
    )


def _stage(
    what: str, number: str, rate: str | Html, *more: Html, good: bool = False, bad: bool = False
) -> Html:
    kind = " good" if good else " bad" if bad else ""
    return el(
        "li",
        el("span", what, class_="what"),
        el("span", number, class_="number"),
        el("span", rate, class_="rate"),
        more,
        class_=f"stage{kind}",
    )


def _room(share: float, held: Row) -> Html:
    text = f"{bytes_text(held['bytes'])} of {bytes_text(held['most_bytes'])} that may be held"
    return bar(share, text, warn=share >= NEARLY)


def _pending(route: Row) -> Html:
    number = route["dead_letters_pending"]
    return el("span", f"{number_text(number)} on their way", class_="rate") if number else NOTHING
