"""A drawing of each timeline in docs/completion.md, which a test replays: what comes, what goes, and when.

A lane for each key; a message is a circle at its moment, a group the box around its members, which ends when
the group goes; below stands the batch that it becomes.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING

from docs.pictures.svg import RADIUS, Drawing

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PAGE = Path(__file__).parents[1] / "completion.md"
MESSAGE = re.compile(r"(?:(?P<key>\w+):)?(?P<name>\w+?)(?:=(?P<number>\d+))?")
GONE = re.compile(
    r"(?P<members>[\w ]+?) (?:by (?P<trigger>\w+)|given back)"
    r"(?:, \w+ part (?P<part>\d+))?(?P<closed>, closed)?"
)
#: What the world does besides sending messages: (first line, second line) of its flag.
EVENTS = {
    "LOST": ("connection lost:", "all comes again"),
    "SIGUSR1": ("SIGUSR1", ""),
    "SIGTERM": ("SIGTERM", ""),
}
HUES = ("teal", "amber", "violet")

WIDTH = 480.0
LEFT, RIGHT = 44.0, 74.0
LANE = 60.0
BATCH = 66.0
#: Characters of flags in a line.
LINE = 56


@dataclass(frozen=True)
class Timeline:
    """``columns``: the moment, what comes at it, and what goes."""

    trigger: str
    flags: str
    columns: tuple[tuple[str, str, str], ...]

    def __str__(self) -> str:
        return f"{self.trigger} {self.flags}"

    @property
    def by_the_wall(self) -> bool:
        """Whether its moments are those of the clock on the wall."""
        return ":" in self.columns[0][0]


def written() -> str:
    """Return the timelines as the page has them."""
    section = PAGE.read_text().partition("## A timeline for each")[2]
    return re.split(r"```(?:text)?\n", section)[1].rstrip("\n")


def read(text: str) -> Iterator[Timeline]:
    """Return the timelines that such a text has, with an empty line between them."""
    for block in text.split("\n\n"):
        title, *rows = block.splitlines()
        trigger, flags = title.split(maxsplit=1)
        cells = [[cell.strip() for cell in row.split("│")] for row in rows]
        if [row[0] for row in cells] != ["time", "comes", "goes"]:
            raise ValueError(f"three rows are needed, time, comes and goes: {block}")
        moments, comes, goes = (row[1:] for row in cells)
        yield Timeline(trigger, flags, tuple(zip(moments, comes, goes, strict=True)))


def seconds(moment: str) -> float:
    """Return a moment of a timeline in seconds: of the day, where it is one of the wall's clock."""
    if ":" not in moment:
        return float(moment)
    hours, minutes, rest = map(int, moment.split(":"))
    return 3600.0 * hours + 60 * minutes + rest


def drawn() -> dict[str, str]:
    """Return the drawings by the names of their files: ``timeline-size-1.svg``."""
    numbers: Counter[str] = Counter()
    found = {}
    for timeline in read(written()):
        numbers[timeline.trigger] += 1
        found[f"timeline-{timeline.trigger}-{numbers[timeline.trigger]}.svg"] = str(draw(timeline))
    return found


@dataclass(frozen=True)
class Message:
    """A message: the column that it comes in, its lane, its place in pixels, and what is written below it."""

    column: int
    lane: int
    x: float
    name: str
    below: str


@dataclass(frozen=True)
class Batch:
    """What goes: the column that it goes in, its members, and what is said of it.

    ``trigger``: None for what is given back.
    """

    column: int
    members: tuple[str, ...]
    trigger: str | None
    part: str | None
    closed: bool


def draw(timeline: Timeline) -> Drawing:
    """Draw one."""
    flagged = any(comes in EVENTS for _, comes, _ in timeline.columns)
    messages, batches = list(coming(timeline)), list(going(timeline))
    lanes = len({message.lane for message in messages})
    lines = wrap(timeline.flags, LINE, break_on_hyphens=False)
    top = 42.0 + 18 * len(lines) + (32 if flagged else 0)
    rows = max(Counter(batch.column for batch in batches).values())
    low = top + LANE * lanes + (10 if any(message.below for message in messages) else 0)
    height = low + 22 + BATCH * rows
    told = "; ".join(
        f"at {moment} " + ", ".join(filter(None, (comes and f"comes {comes}", goes and f"goes {goes}")))
        for moment, comes, goes in timeline.columns
    )
    drawing = Drawing(WIDTH, height, f"{timeline.trigger}: {timeline.flags}", told)
    for number, line in enumerate(lines):
        drawing.text(16, 22 + 18 * number, line, "code bold", "start")
    _draw_frame(drawing, timeline, lanes, top)
    _draw_groups(drawing, timeline, messages, batches, top)
    for message in messages:
        y = _middle(message.lane, top)
        if message.name == "end":
            drawing.sentinel(message.x, y, message.below)
        else:
            drawing.message(message.x, y, message.name, HUES[message.lane], message.below)
    _draw_batches(drawing, timeline, messages, batches, low)
    return drawing


def coming(timeline: Timeline) -> Iterator[Message]:
    """Return the messages, those that come at once beside one another."""
    lanes: dict[str | None, int] = {}
    for column, (x, (_, comes, _)) in enumerate(zip(xs_of(timeline), timeline.columns, strict=True)):
        beside: Counter[int] = Counter()
        for word in comes.split():
            found = MESSAGE.fullmatch(word)
            if word in EVENTS or found is None:
                continue
            lane = lanes.setdefault(found["key"], len(lanes))
            yield Message(
                column, lane, x + beside[lane] * (2 * RADIUS + 4), found["name"], _below(found, timeline)
            )
            beside[lane] += 1


def going(timeline: Timeline) -> Iterator[Batch]:
    """Return the batches."""
    for column, (_, _, goes) in enumerate(timeline.columns):
        for one in filter(None, goes.split("; ")):
            found = GONE.fullmatch(one)
            if found is None:
                raise ValueError(f"nothing that goes: {one}")
            members = tuple(found["members"].split())
            yield Batch(column, members, found["trigger"], found["part"], found["closed"] is not None)


def xs_of(timeline: Timeline) -> list[float]:
    """Return where the moments lie, in pixels: as in time, but with room for what is written at each."""
    least = []
    for (_, comes, goes), (_, then_comes, then) in pairwise(timeline.columns):
        beside = 28.0 * max(0, len({*comes.split()}) - 1)
        flags = 96.0 if comes in EVENTS and then_comes in EVENTS else 0.0
        clock = 66.0 if timeline.by_the_wall else 44.0
        least.append(max(100.0 if goes and then else 66.0 if goes or then else clock, clock + beside, flags))
    return places([moment for moment, _, _ in timeline.columns], least)


def _below(message: re.Match[str], timeline: Timeline) -> str:
    number = message["number"]
    if not number:
        return ""
    if "--bytes" in timeline.flags:
        return f"{number} B"
    return number if "--predicate" in timeline.flags else f"of {number}"


def _middle(lane: int, top: float) -> float:
    return top + LANE * (lane + 0.5) - 4


def _draw_frame(drawing: Drawing, timeline: Timeline, lanes: int, top: float) -> None:
    keys = [word.split(":")[0] for _, comes, _ in timeline.columns for word in comes.split() if ":" in word]
    for lane, key in enumerate([*dict.fromkeys(keys)] or [""]):
        drawing.text(18, _middle(lane, top), key, "bold", "start")
        drawing.line([(LEFT - 8, _middle(lane, top)), (WIDTH - 14, _middle(lane, top))], "line dashed")
    for x, (moment, comes, _) in zip(xs_of(timeline), timeline.columns, strict=True):
        drawing.text(x, top - 14, moment + ("" if timeline.by_the_wall else " s"), "small soft")
        drawing.line([(x, top - 4), (x, top + LANE * lanes)], "line dashed")
        if comes in EVENTS:
            first, second = EVENTS[comes]
            middle = min(x, WIDTH - 58)
            drawing.text(middle, top - 46, first, "small red-text bold")
            drawing.text(middle, top - 31, second, "small red-text")
            drawing.line([(x, top - 4), (x, top + LANE * lanes)], "red-line")


def _draw_groups(
    drawing: Drawing, timeline: Timeline, messages: Sequence[Message], batches: Sequence[Batch], top: float
) -> None:
    """Draw a box around each group, from its first message to the moment at which it goes."""
    xs = xs_of(timeline)
    left = [message for message in messages if message.name != "end"]
    for batch in batches:
        inside = [each for each in left if each.name in batch.members and each.column <= batch.column]
        left = [each for each in left if each not in inside]
        lane, end = inside[0].lane, xs[batch.column]
        others = [each for each in messages if each.column == batch.column and each.lane == lane]
        if inside[-1].column == batch.column:
            end = max(each.x for each in others) + RADIUS + 6
        elif others and others[0].name != "end":
            end -= RADIUS + 10
        _draw_group(drawing, inside[0], end, top)
    for lane in {each.lane for each in left}:
        _draw_group(drawing, next(each for each in left if each.lane == lane), WIDTH - 16, top, "dashed")


def _draw_group(drawing: Drawing, first: Message, end: float, top: float, kind: str = "") -> None:
    start = first.x - RADIUS - 6
    y = _middle(first.lane, top) - RADIUS - 7
    drawing.box(start, y, end - start, 2 * RADIUS + 14, f"{HUES[first.lane]}-line {kind}")


def _draw_batches(
    drawing: Drawing, timeline: Timeline, messages: Sequence[Message], batches: Sequence[Batch], low: float
) -> None:
    rows: Counter[int] = Counter()
    for batch in batches:
        x, row = xs_of(timeline)[batch.column], rows[batch.column]
        rows[batch.column] += 1
        hue = HUES[next(each.lane for each in messages if each.name in batch.members)]
        hue = hue if batch.trigger else "red"
        top = low + 22 + BATCH * row
        if row == 0:
            drawing.arrow([(x, low - 4), (x, top - 3)], hue)
        width = 18.0 * len(batch.members) + 12
        x = min(max(x, 8 + width / 2), WIDTH - 8 - width / 2)
        drawing.box(x - width / 2, top, width, 22, hue)
        for position, name in enumerate(batch.members):
            drawing.text(x - width / 2 + 15 + 18 * position, top + 11, name, "small")
        said = f"by {batch.trigger}" if batch.trigger else "given back"
        part = f"part {batch.part}" + (", closed" if batch.closed else "") if batch.part else ""
        x = min(x, WIDTH - 8 - 3.3 * max(len(said), len(part)))
        drawing.text(x, top + 32, said, "small soft")
        drawing.text(x, top + 47, part if batch.trigger else "to the broker", "small soft")


def places(moments: Sequence[str], least: Sequence[float]) -> list[float]:
    """Return where the moments lie, in pixels: as far apart as they are in time, but so far at least."""
    room = WIDTH - LEFT - RIGHT
    gaps = [seconds(then) - seconds(now) for now, then in pairwise(moments)]
    spare = max(0.0, room - sum(least))
    # what a moment lacks of its share of the room is taken from those that have more than they need
    scale = room / sum(gaps)
    over = [max(0.0, gap * scale - need) for gap, need in zip(gaps, least, strict=True)]
    share = spare / sum(over) if sum(over) else 0.0
    shrink = min(1.0, room / sum(least))
    found = [LEFT + 14]
    for need, more in zip(least, over, strict=True):
        found.append(round(found[-1] + need * shrink + more * share, 1))
    return found
