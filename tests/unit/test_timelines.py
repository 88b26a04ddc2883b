"""The timelines of docs/completion.md, replayed as they stand there: what comes, what goes, and when."""

from __future__ import annotations

import os
import re
import shlex
import sys
from datetime import datetime
from itertools import pairwise
from types import SimpleNamespace
from zoneinfo import ZoneInfo

import pytest

from aggregator.completion import Trigger
from aggregator.config import load
from aggregator.testing import Harness
from docs.pictures.timelines import MESSAGE, PAGE, read, seconds, written

TEXT = PAGE.read_text()
DRAWN = written()
MOMENT = 0.001
TIMELINES = list(read(DRAWN))


def price(members):
    return sum(member.json()["price"] for member in members)


SHOP = SimpleNamespace(
    full=lambda members, new: price(members) >= 100,
    over=lambda members, new: price([*members, new]) > 100,
)


@pytest.fixture(autouse=True)
def _own_functions(monkeypatch):
    for name in [name for name in os.environ if name.startswith("AGGREGATOR_")]:
        monkeypatch.delenv(name)
    monkeypatch.setitem(sys.modules, "shop", SHOP)


def start(timeline, route):
    """A Monday in the time zone of the route."""
    if not timeline.by_the_wall:
        return "2024-07-01T00:00:00Z"
    return datetime.fromisoformat(f"2024-07-01T{timeline.columns[0][0]}").replace(
        tzinfo=ZoneInfo(route.time_zone)
    )


def happen(word, route, *, sized):
    if word == "SIGUSR1":
        route.force()
    elif word == "LOST":
        route.lose_link()
    elif word == "SIGTERM":
        assert route.stop()
    else:
        found = MESSAGE.fullmatch(word)
        key, name, number = found["key"], found["name"], int(found["number"] or 0)
        headers = {"k": key} if key else {}
        if number:
            headers |= {"count": number, "members": number}
        body = "x" * number if sized else {"price": number}
        kind = {"type": "end"} if name == "end" else {}
        route.publish(body, id=name, headers=headers, **kind)


def told(batch):
    words = f"{' '.join(message.id for message in batch.messages)} by {batch.trigger}"
    if batch.key is not None:
        words += f", {batch.key} part {batch.part}" + (", closed" if batch.complete else "")
    return words


def gone(route, *, since, stopped):
    left = [told(batch) for batch in route.batches[since:]]
    if stopped and route.queue:
        left.append(f"{' '.join(message.id for message in route.queue)} given back")
    return "; ".join(left)


@pytest.mark.parametrize("timeline", TIMELINES, ids=str)
def test_a_timeline_is_as_it_is_drawn(timeline):
    ((_, settings),) = load(shlex.split(timeline.flags)).routes.items()
    with Harness(settings, at=start(timeline, settings)) as route:
        origin, begun = route.clock.monotonic(), seconds(timeline.columns[0][0])
        for moment, comes, goes in timeline.columns:
            seen = len(route.batches)
            at = origin + seconds(moment) - begun
            route.advance(max(0.0, at - MOMENT - route.clock.monotonic()))
            assert gone(route, since=seen, stopped=False) == "", f"something went before {moment}"
            route.advance(at - route.clock.monotonic())
            for word in comes.split():
                happen(word, route, sized="--bytes" in timeline.flags)
            assert gone(route, since=seen, stopped=comes == "SIGTERM") == goes, f"at {moment}"


def test_each_trigger_has_its_row_and_its_timeline():
    triggers = {trigger.value for trigger in Trigger}
    assert {timeline.trigger for timeline in TIMELINES} == triggers
    assert set(re.findall(r"^\| `(\w+)` \|", TEXT, re.MULTILINE)) == triggers
    for timeline in TIMELINES:
        drawn = " ".join(goes for _, _, goes in timeline.columns)
        assert timeline.trigger in drawn or "given back" in drawn, timeline


def test_they_are_drawn_in_columns():
    for block in DRAWN.split("\n\n"):
        bars = [[found.start() for found in re.finditer("│", row)] for row in block.splitlines()[1:]]
        assert all(one == other for one, other in pairwise(bars)), block
        assert max(map(len, block.splitlines())) <= 120, block
