"""Small pieces of the pages: who looks at them, numbers, times, cells, bars."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from aggregator.page.markup import Html, el
from aggregator.page.waiting import duration

if TYPE_CHECKING:
    Row = dict[str, Any]

#: Where there is nothing to say.
NONE = "\N{EN DASH}"


@dataclass(frozen=True, slots=True)
class Visitor:
    """Who looks. ``guarded``: one can sign in; ``signed_in``: buttons are shown; ``details``: so are keys.

    ``said``: what became of the last action.
    """

    guarded: bool = False
    signed_in: bool = False
    details: bool = False
    said: str = ""


def head(*names: str) -> Html:
    """Return a table's head; ``=`` before a name: a column of numbers; an empty name: of buttons."""
    cells = [
        el("th", name.removeprefix("="), scope="col", class_="number" if name.startswith("=") else None)
        if name
        else el("td", el("span", "Actions", class_="visually-hidden"))
        for name in names
    ]
    return el("thead", el("tr", cells))


def cell(label: str, value: str | Html, *, number: bool = False, whole: bool = False) -> Html:
    """Return a cell; in a narrow window the label stands before the value."""
    kind = "number" if number else "whole" if whole else None
    return el("td", el("span", value), class_=kind, data_label=label)


def state_mark(state: str) -> Html:
    """Return the state of a route."""
    return el("span", state, class_=f"state {word_of(state)}")


def word_of(text: str) -> str:
    """Return a text as a name of a class."""
    return "".join(letter for letter in text if letter.isascii() and letter.isalpha())


def bar(share: float, text: str, *, warn: bool = False) -> Html:
    """Return a bar that shows a share; ``text`` says the same."""
    shown = round(min(max(share, 0.0), 1.0), 3)
    return el("progress", value=shown, max=1, aria_label=text, title=text, class_="warn" if warn else None)


def number_text(number: float) -> str:
    """Return a number for people."""
    return f"{number:,.0f}"


def count_text(number: int, word: str) -> str:
    """Return a number of things."""
    return f"{number_text(number)} {word}{'' if number == 1 else 's'}"


def bytes_text(number: float) -> str:
    """Return a size for people."""
    for unit, length in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if number >= length:
            return f"{number / length:.1f} {unit}"
    return f"{number:.0f} B"


def rate_text(rates: Row | None, name: str) -> str:
    """Return how many a second; a dash where that is not known yet."""
    if rates is None:
        return f"{NONE}/s"
    rate = rates.get(name, 0.0)
    return f"{rate:,.1f}/s" if 0 < rate < 10 else f"{rate:,.0f}/s"  # noqa: PLR2004 - a digit more where it tells


def short(seconds: float) -> str:
    """Return a time that may be short."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 60 else duration(seconds)  # noqa: PLR2004 - a minute


def time_mark(at: float) -> Html:
    """Return a moment (unix seconds); a script makes it one of the reader's own time zone."""
    moment = datetime.fromtimestamp(at, UTC)
    return el("time", f"{moment:%H:%M:%S} UTC", datetime=moment.isoformat(timespec="milliseconds"))


def exact(text: str) -> str:
    """Return a value for a form's field: browsers would change line breaks, and what is no Unicode."""
    return quote(text, safe="", errors="surrogatepass")
