"""The pages, as HTML: complete without a script, and put in the place of the one before by a small one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aggregator.page.markup import NOTHING, Html, el, join
from aggregator.page.pieces import NONE, cell, head, number_text, rate_text, state_mark, time_mark, word_of
from aggregator.page.refusals import refusals
from aggregator.page.stages import flow
from aggregator.page.tables import VERDICTS, action, batch_table, group_tables
from aggregator.page.waiting import duration

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from aggregator.page.pieces import Visitor

    Row = dict[str, Any]

#: With more routes than this each is folded up at first.
UNFOLDED = 3
NAME = "Aggregator"


def document(title: str, *main: Html | Iterable[Html], visitor: Visitor, live: bool) -> bytes:
    """Return a whole page; ``live``: it is kept new."""
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="color-scheme", content="light dark"),
        el("title", f"{title} {NONE} {NAME}" if title else NAME),
        el("link", rel="icon", href="/page/icon.svg", type="image/svg+xml"),
        el("link", rel="stylesheet", href="/page/page.css"),
        live and el("noscript", el("meta", http_equiv="refresh", content=5)),
        el("script", type="module", src="/page/page.js"),
    )
    body = el(
        "body",
        el("a", "Skip to the content", class_="skip", href="#main"),
        _top(visitor, live),
        el("main", *main, id="main", tabindex=-1, data_live=live),
        _dialog() if visitor.signed_in else NOTHING,
    )
    text = f"<!doctype html>\n{el('html', head, body, lang='en')}\n"
    return text.encode("utf-8", "replace")


def _top(visitor: Visitor, live: bool) -> Html:
    sign = NOTHING
    if visitor.signed_in:
        button = el("button", "Sign out", class_="quiet")
        sign = el("form", button, method="post", action="/sign-out", data_plain=True)
    elif visitor.guarded:
        sign = el("a", "Sign in", href="/sign-in", class_="quiet")
    hold = el(
        "button", "Hold still", type="button", id="hold", class_="quiet", aria_pressed="false", hidden=True
    )
    return el(
        "header",
        el("a", NAME, class_="brand", href="/"),
        el("span", id="link", class_="link"),
        el("nav", live and hold, sign, aria_label="Page"),
        class_="top",
    )


def _dialog() -> Html:
    buttons = el(
        "form",
        el("button", "No, go back", value="no", class_="button", autofocus=True),
        el("button", "Yes", value="yes", class_="button primary"),
        method="dialog",
        class_="actions",
    )
    return el("dialog", el("p", id="question"), buttons, id="ask", aria_labelledby="question")


def overview(status: Row, visitor: Visitor) -> Html:
    """Return what the first page shows."""
    routes = status["routes"]
    folded = len(routes) > UNFOLDED
    return join(
        el("h1", "Routes" if len(routes) != 1 else "Route", class_="visually-hidden"),
        el("p", visitor.said, class_="said", role="status", id="said"),
        _faults(status),
        _table_of_routes(routes) if len(routes) > 1 else NOTHING,
        [_route(number, route, status, visitor, folded) for number, route in enumerate(routes)],
        _processes(status),
    )


def _faults(status: Row) -> Html:
    silent = [row["process"] for row in status["processes"] if not row["answers"]]
    lines = [f"Process {number} does not answer." for number in silent] + status["notes"]
    return el("div", [el("p", line, class_="warning") for line in lines], data_key="faults")


def _table_of_routes(routes: Sequence[Row]) -> Html:
    rows = [
        el(
            "tr",
            el("th", el("a", el("bdi", each["route"]), href=f"#route-{number}"), scope="row"),
            cell("State", state_mark(each["state"])),
            cell("Received", rate_text(each["rates"], "received"), number=True),
            cell("Held", number_text(each["held"]["messages"]), number=True),
            cell("Written", rate_text(each["rates"], "written"), number=True),
            cell(
                "Dead-lettered", number_text(each["totals"]["verdicts"].get("dead_lettered", 0)), number=True
            ),
            data_key=each["route"],
        )
        for number, each in enumerate(routes)
    ]
    columns = head("Route", "State", "=Received", "=Held", "=Written", "=Dead-lettered")
    return el(
        "section",
        el("table", columns, el("tbody", rows), class_="stack"),
        class_="card",
        aria_label="All routes",
    )


def _route(number: int, route: Row, status: Row, visitor: Visitor, folded: bool) -> Html:
    name = el("h2", el("bdi", route["route"]), id=f"route-{number}")
    headline = join(name, state_mark(route["state"]), _queue(route))
    inner = join(
        el("p", route["why"], class_="why", data_cause=route["cause"]),
        _several(route),
        _buttons(route) if visitor.signed_in else NOTHING,
        flow(route, status["rate_seconds"]),
        group_tables(route, visitor),
        batch_table(route),
        refusals(route),
        _totals(route),
    )
    told: Row = {"data_key": route["route"], "data_route": route["route"], "data_state": route["state"]}
    told |= {"data_why": route["why"], "class_": f"card route {word_of(route['state'])}"}
    if folded:
        return el("details", el("summary", headline, class_="headline"), inner, **told)
    return el(
        "section", el("div", headline, class_="headline"), inner, **told, aria_labelledby=f"route-{number}"
    )


def _queue(route: Row) -> Html:
    return el("span", "from ", el("bdi", route["queue"]), class_="soft")


def _several(route: Row) -> Html:
    """Say which process does what, where they differ."""
    told = route["processes"]
    if len({each["state"] for each in told}) < 2:  # noqa: PLR2004 - they all do the same
        return NOTHING
    lines = [
        el("li", f"Process {each['process']}: ", state_mark(each["state"]), f" {each['why']}")
        for each in told
    ]
    return el("ul", lines, class_="plain")


def _buttons(route: Row) -> Html:
    name, state = route["route"], route["state"]
    found = []
    if route["held"]["groups"]:
        ask = f"Complete all open groups of {name} now?"
        found.append(action("flush", name, "Flush all groups", ask=ask))
    if state in {"running", "waiting"}:
        ask = f"Pause {name}? What is held is written, and nothing more is taken until it is resumed."
        found.append(action("pause", name, "Pause", ask=ask))
    if state in {"paused", "pausing"}:
        found.append(action("resume", name, "Resume"))
    return el("div", found, class_="actions", data_key="actions")


def _totals(route: Row) -> Html:
    totals, workers = route["totals"], route["workers"]
    facts = [("received", totals["received"])]
    facts += [(VERDICTS.get(word, word), number) for word, number in totals["verdicts"].items()]
    by = [
        (f"by {trigger}", number)
        for trigger, number in sorted(totals["batches"].items(), key=lambda each: -each[1])
    ]
    parts = (("Messages so far", facts), ("Batches so far", by), ("Workers", list(workers.items())))
    lists = [
        el("div", el("h4", title), el("dl", [_fact(word, number) for word, number in pairs]))
        for title, pairs in parts
        if pairs
    ]
    return el(
        "details",
        el("summary", "Totals"),
        el("div", lists, class_="lists"),
        class_="totals",
        data_key="totals",
    )


def _fact(word: str, number: int) -> Html:
    return el("div", el("dt", word), el("dd", number_text(number)), data_key=word)


def _processes(status: Row) -> Html:
    told = [
        f"Process {row['process']}, pid {row['pid']}, up {duration(row['uptime'])}"
        if row["process"]
        else f"Process id {row['pid']}, up {duration(row['uptime'])}"
        for row in status["processes"]
        if row["answers"]
    ]
    links = [el("a", name, href=f"/{name}") for name in ("status.json", "metrics", "healthz", "readyz")]
    said = el("p", " · ".join(told), " · as of ", time_mark(status["at"]))
    return el("footer", said, el("p", Html(" · ".join(links))), class_="soft")


def sign_in(problem: str) -> Html:
    """Return the form that asks for the token."""
    field = el(
        "p",
        el("label", "Token", for_="token"),
        el(
            "input",
            id="token",
            name="token",
            type="password",
            required=True,
            autocomplete="current-password",
            aria_describedby="problem" if problem else None,
            aria_invalid="true" if problem else None,
            autofocus=True,
        ),
        problem and el("span", problem, id="problem", class_="bad", role="alert"),
        el("span", "The page_token that the service was started with.", class_="soft"),
        class_="field",
    )
    form = el(
        "form",
        field,
        el("button", "Sign in", class_="button primary"),
        method="post",
        action="/sign-in",
        data_plain=True,
    )
    return el(
        "section", el("h1", "Sign in"), form, el("p", el("a", "Only look", href="/")), class_="card narrow"
    )
