"""Dead letters: the last ones of a route, and the page that a reason leads to."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from aggregator.page.markup import NOTHING, Html, el, join
from aggregator.page.pieces import NONE, cell, count_text, head, number_text, time_mark
from aggregator.page.reasons import explain

if TYPE_CHECKING:
    from collections.abc import Sequence

    Row = dict[str, Any]


def refusals(route: Row) -> Html:
    """Return for what messages were refused, and the last ones."""
    reasons, refusals = route["totals"]["dead_letters"], route["refusals"]
    if not (reasons or refusals):
        return NOTHING
    links = [
        el("li", _link(route, reason), f" {number_text(number)}", data_key=reason)
        for reason, number in sorted(reasons.items(), key=lambda each: -each[1])
    ]
    return el(
        "section",
        el("h3", "Dead letters"),
        el("ul", links, class_="words"),
        _refusal_table(refusals, route) if refusals else NOTHING,
        class_="steady",
        data_key="refusals",
    )


def _refusal_table(refusals: Sequence[Row], route: Row | None = None) -> Html:
    columns = head("Last tried", *(("Reason",) if route else ()), "=Messages", "=Tries", "What was said")
    rows = [
        el(
            "tr",
            el("th", time_mark(each["at"]), scope="row"),
            route and cell("Reason", _link(route, each["reason"])),
            cell("Messages", number_text(each["messages"]), number=True),
            cell("Tries", number_text(each["attempts"]), number=True),
            cell("What was said", _said(each), whole=True),
            data_key=f"{each['process']} {each['at']} {each['reason']} {each['error_type']} {each['status']}",
        )
        for each in refusals
    ]
    return el("div", el("table", columns, el("tbody", rows), class_="stack"), class_="scroll")


def _said(refusal: Row) -> str:
    status = "" if refusal["status"] is None else str(refusal["status"])
    said = " ".join(word for word in (status, refusal["error_type"]) if word)
    return ": ".join(word for word in (said, refusal["detail"]) if word) or NONE


def _link(route: Row, reason: str) -> Html:
    return el("a", reason, href=reason_address(route["route"], reason))


def reason_address(route: str, reason: str) -> str:
    """Return where a reason is explained."""
    return f"/dead-letters?{urlencode({'route': route, 'reason': reason}, errors='replace')}"


def dead_letters(route: Row, reason: str) -> Html:
    """Return what a reason means, the last letters of it, and how to look at them and send them back."""
    explanation = explain(reason)
    number = route["totals"]["dead_letters"].get(reason, 0)
    last = [each for each in route["refusals"] if each["reason"] == reason]
    since = f"{count_text(number, 'message')} of this route since the start"
    return join(
        el("p", el("a", "← All routes", href="/")),
        el("h1", el("code", reason)),
        el("p", since, ", from ", el("bdi", route["queue"]), class_="soft"),
        el(
            "section",
            el("h2", "What it means"),
            el("p", explanation.means),
            el("p", explanation.mend),
            class_="card",
        ),
        el("section", el("h2", "Last ones"), _last(last), class_="card"),
        el("section", el("h2", "Where they are"), _where(route, reason), class_="card"),
    )


def _last(last: Sequence[Row]) -> Html:
    if not last:
        return el("p", "None of the last dead letters was refused for this.", class_="empty")
    return _refusal_table(last)


def _where(route: Row, reason: str) -> Html:
    if route["tubes"]:
        text = (
            "Refused tasks are buried in their tube, each with its reason; tubes.kick makes them ready again."
        )
        return el("p", text)
    queue, named = route["dead_letter_queue"], route["dead_letter_exchange"]
    source = ["--from", queue or "NAME"] if queue != f"{route['queue']}.dead" else []
    note = NOTHING
    if named:
        note = el(
            "p", "They go to the exchange ", el("code", named), "; NAME is the queue that is bound to it."
        )
    chosen = ["--queue", route["queue"], *source, "--reason", reason]
    return join(
        el("p", "In the queue ", el("code", queue), ", as they came, with the reason in their headers.")
        if queue
        else note,
        el("p", "Look at three of them; count them; send them back to their queue:"),
        [
            _command(words)
            for words in (["show", *chosen, "--limit", "3"], ["list", *chosen], ["send", *chosen])
        ],
        el("p", "The broker is said by --broker or AGGREGATOR_BROKER, as to the service.", class_="soft"),
    )


def _command(words: Sequence[str]) -> Html:
    return el("pre", f"python -m producers.replay {shlex.join(words)}", tabindex=0)
