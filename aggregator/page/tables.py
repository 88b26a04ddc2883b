"""Open groups and the last batches as tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aggregator.page.markup import NOTHING, Html, el, join
from aggregator.page.pieces import NONE, bar, bytes_text, cell, exact, head, number_text, short, time_mark
from aggregator.page.waiting import duration, within

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from aggregator.page.pieces import Visitor

    Row = dict[str, Any]

#: What people call verdicts, and what completes a group by its time.
VERDICTS = {
    "written": "written",
    "duplicate": "there already",
    "dead_lettered": "dead-lettered",
    "retried": "sent to wait",
    "given_back": "given back",
    "postponed": "put off",
    "control": "sentinels",
}
_BY = {"idle": "idle time", "deadline": "the ack deadline", "sentinel": "the sentinel's grace"}


def group_tables(route: Row, visitor: Visitor) -> Html:
    """Return the oldest and the fullest open groups."""
    oldest, fullest = route["groups"]["oldest"], route["groups"]["fullest"]
    number = route["held"]["groups"]
    title = el("h3", "Open groups ", el("span", number_text(number), class_="soft"))
    if not oldest:
        text = "No message is held."
        return el("section", title, el("p", text, class_="empty"), class_="steady", data_key="groups")
    if not route["keyed"]:
        tables = [_group_table("All messages of a process are one group", oldest, route, visitor)]
    else:
        tables = [
            _group_table("Oldest", oldest, route, visitor),
            _group_table("Fullest", fullest, route, visitor),
        ]
    pair = el("div", tables, class_="pair" if len(tables) > 1 else None)
    return el("section", title, pair, class_="steady", data_key="groups")


def _group_table(caption: str, groups: Sequence[Row], route: Row, visitor: Visitor) -> Html:
    buttons = visitor.signed_in and any(_flushable(group) for group in groups)
    columns = head("Group", "=Messages", "=Bytes", "=Age", "Complete", *(("",) if buttons else ()))
    rows = [
        el(
            "tr",
            el("th", _key(group, route), scope="row", class_="key"),
            cell("Messages", _fill(group), number=True),
            cell("Bytes", bytes_text(group["bytes"]), number=True),
            cell("Age", duration(group["age"]), number=True),
            cell("Complete", _completes(group), whole=True),
            buttons and el("td", _flush(group, route["route"]), class_="whole"),
            data_key=group["id"],
        )
        for group in groups
    ]
    table = el(
        "table",
        el("caption", caption),
        columns,
        el("tbody", rows),
        class_="stack groups with-buttons" if buttons else "stack groups",
    )
    return el("div", table, class_="scroll", data_key=caption)


def _flushable(group: Row) -> bool:
    return group["key"] is not None and not group["cut"]


def _flush(group: Row, route: str) -> Html:
    return action("flush", route, "Flush", key=group["key"]) if _flushable(group) else NOTHING


def _key(group: Row, route: Row) -> Html:
    if not route["keyed"]:
        return Html(f"process {group['process']}" if group["process"] else "one for all")
    if group["key"] is None:
        return el("span", "hidden ", el("code", group["id"]), class_="soft")
    text = group["key"] + ("…" if group["cut"] else "")
    return el("bdi", text) if text else el("span", "empty key", class_="soft")


def _fill(group: Row) -> Html:
    wanted = f" of {number_text(group['expected'])}" if group["expected"] else ""
    text = f"{number_text(group['messages'])}{wanted}"
    return join(
        text, bar(group["fill"], f"{group['fill']:.0%} full") if group["fill"] is not None else NOTHING
    )


def _completes(group: Row) -> str:
    if group["due"] is None:
        return "when it is full"
    by = _BY.get(group["trigger"], group["trigger"])
    return f"{within(group['due'])} by {by}"


def batch_table(route: Row) -> Html:
    """Return the last batches, the newest first."""
    batches = route["batches"]
    title = el("h3", "Last batches")
    if not batches:
        text = "No batch is done with yet."
        return el("section", title, el("p", text, class_="empty"), class_="steady", data_key="batches")
    columns = head("Ended", "By", "=Messages", "=Oldest waited", "=Queued", "=Written in", "=Tries", "Became")
    rows = [
        el(
            "tr",
            el("th", time_mark(batch["ended"]), scope="row"),
            cell("By", _part(batch)),
            cell("Messages", _filled(batch), number=True),
            cell("Oldest waited", short(batch["collecting"]), number=True),
            cell("Queued", short(batch["queueing"]), number=True),
            cell("Written in", short(batch["writing"]), number=True),
            cell("Tries", number_text(batch["attempts"]), number=True),
            cell("Became", _became(batch["verdicts"])),
            data_key=f"{batch['process']} {batch['ended']} {number}",
        )
        for number, batch in _numbered(batches)
    ]
    table = el("table", columns, el("tbody", rows), class_="stack batches")
    return el("section", title, el("div", table, class_="scroll"), class_="steady", data_key="batches")


def _numbered(batches: Sequence[Row]) -> Iterable[tuple[int, Row]]:
    """Tell those apart that ended at the same moment."""
    seen: dict[tuple[int, float], int] = {}
    for batch in batches:
        moment = (batch["process"], batch["ended"])
        seen[moment] = seen.get(moment, 0) + 1
        yield seen[moment], batch


def _part(batch: Row) -> str:
    return (
        batch["trigger"]
        if batch["complete"] or batch["part"] == 1
        else f"{batch['trigger']}, part {batch['part']}"
    )


def _filled(batch: Row) -> Html:
    share = batch["fill"]
    return join(
        number_text(batch["messages"]), bar(share, f"{share:.0%} full") if share is not None else NOTHING
    )


def _became(verdicts: Row) -> Html:
    words = [
        el(
            "span",
            f"{number_text(number)} {VERDICTS.get(word, word)}",
            class_="bad" if word == "dead_lettered" else None,
        )
        for word, number in verdicts.items()
    ]
    return Html(", ".join(words)) if words else Html(NONE)


def action(command: str, route: str, text: str, *, key: str | None = None, ask: str | None = None) -> Html:
    """Return a button that does something, as a form; ``ask``: the question before."""
    label = None if key is None else f"{text} group {key}"
    return el(
        "form",
        el("input", type="hidden", name="command", value=command),
        el("input", type="hidden", name="route", value=exact(route)),
        el("input", type="hidden", name="key", value=exact(key)) if key is not None else NOTHING,
        el("button", text, class_="button small" if key is not None else "button", aria_label=label),
        method="post",
        action="/actions",
        data_key=f"{command} {route} {key}",
        data_ask=ask,
    )
