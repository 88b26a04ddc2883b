"""The few shapes that all drawings are made of.

A drawing brings its own ground, and its colours for light and dark: it can be read on any page, whatever
that page thinks of the time of day. It asks for no font but the reader's.
"""

from __future__ import annotations

from html import escape
from math import atan2, cos, pi, sin

LIGHT = """\
--ground: #fbfbfa; --line: #9aa0a6; --text: #24292f; --soft: #5f6670; --box: #eef1f4;
--teal: #00796b; --tealy: #d5efeb; --amber: #a05a00; --ambery: #fbe8cb; --violet: #6a3fb0; --violety: #e9e0f8;
--red: #b3261e; --redy: #fae0de; --green: #2e7d32; --greeny: #dcf0dd; --grey: #5f6670; --greyy: #e6e9ed"""
DARK = """\
--ground: #1e2129; --line: #6f7683; --text: #e3e6ea; --soft: #a9b0bb; --box: #2a2e38;
--teal: #6fd3c4; --tealy: #17423c; --amber: #f0b35c; --ambery: #4a3413; --violet: #bea2f5; --violety: #37295a;
--red: #ff9a92; --redy: #55211e; --green: #8fd694; --greeny: #1f4423; --grey: #a9b0bb; --greyy: #343944"""
STYLE = f"""\
svg {{ {LIGHT} }}
@media (prefers-color-scheme: dark) {{ svg {{ {DARK} }} }}
text {{ font: 14px system-ui, "Segoe UI", Roboto, "Helvetica Neue", "DejaVu Sans", sans-serif }}
text {{ fill: var(--text) }} .soft {{ fill: var(--soft) }} .small {{ font-size: 12px }}
.bold {{ font-weight: 600 }} .halo {{ paint-order: stroke; stroke: var(--ground); stroke-width: 5px }}
.code {{ font-family: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace }}
.code {{ font-size: 13px }} .ground {{ fill: var(--ground) }} .box {{ fill: var(--box); stroke: var(--line) }}
.line {{ stroke: var(--line); fill: none; stroke-width: 1.5 }} .head {{ fill: var(--line); stroke: none }}
.dashed {{ stroke-dasharray: 4 4 }}
"""
HUES = ("teal", "amber", "violet", "red", "green", "grey")
STYLE += "".join(
    f".{hue} {{ fill: var(--{hue}y); stroke: var(--{hue}); stroke-width: 1.5 }} "
    f".{hue}-line {{ stroke: var(--{hue}); fill: none; stroke-width: 1.5 }} "
    f".{hue}-head {{ fill: var(--{hue}) }} .{hue}-text {{ fill: var(--{hue}) }}\n"
    for hue in HUES
)
RADIUS = 12.0
#: From the middle of a message to that of the word below it, which is outside of the box of its group.
BELOW = 28.0


class Drawing:
    """Shapes on a ground of so many pixels; ``title`` and ``told`` are for those who do not see it."""

    def __init__(self, width: float, height: float, title: str, told: str) -> None:
        self.width = width
        self.height = height
        self._title = title
        self._told = told
        self._shapes: list[str] = []

    def __str__(self) -> str:
        width, height = f"{self.width:g}", f"{self.height:g}"
        shapes = "\n".join(self._shapes)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
            f'viewBox="0 0 {width} {height}" role="img" aria-labelledby="title told">\n'
            f'<title id="title">{escape(self._title)}</title>\n<desc id="told">{escape(self._told)}</desc>\n'
            f'<style>\n{STYLE}</style>\n<rect class="ground" width="{width}" height="{height}" rx="8"/>\n'
            f"{shapes}\n</svg>\n"
        )

    def text(self, x: float, y: float, words: str, kind: str = "", anchor: str = "middle") -> None:
        """Write one line around ``x`` (``start``: from there on); ``y`` is its middle."""
        self._shapes.append(
            f'<text x="{x:g}" y="{y + 5:g}" text-anchor="{anchor}" class="{kind}">{escape(words)}</text>'
        )

    def box(self, x: float, y: float, width: float, height: float, kind: str = "box") -> None:
        """Draw a box with round corners; ``x`` and ``y`` are its upper left one."""
        self._shapes.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="6" class="{kind}"/>'
        )

    def line(self, points: list[tuple[float, float]], kind: str = "line") -> None:
        """Draw a line through points."""
        way = " ".join(f"{x:g},{y:g}" for x, y in points)
        self._shapes.append(f'<polyline points="{way}" class="{kind}"/>')

    def arrow(self, points: list[tuple[float, float]], hue: str = "", *, dashed: bool = False) -> None:
        """Draw a line that ends in a head; ``hue`` is one of :data:`HUES`, or nothing."""
        prefix = f"{hue}-" if hue else ""
        self.line(points, f"{prefix}line dashed" if dashed else f"{prefix}line")
        (x1, y1), (x2, y2) = points[-2:]
        angle = atan2(y2 - y1, x2 - x1)
        wings = [(x2 - 9 * cos(angle + side), y2 - 9 * sin(angle + side)) for side in (pi / 7, -pi / 7)]
        way = " ".join(f"{x:.1f},{y:.1f}" for x, y in [(x2, y2), *wings])
        self._shapes.append(f'<polygon points="{way}" class="{prefix}head"/>')

    def message(self, x: float, y: float, name: str, hue: str = "teal", below: str = "") -> None:
        """Draw a message: a circle with its name, and a word below it."""
        self._shapes.append(f'<circle cx="{x:g}" cy="{y:g}" r="{RADIUS:g}" class="{hue}"/>')
        self.text(x, y, name, "small")
        if below:
            self.text(x, y + BELOW, below, "small soft halo")

    def sentinel(self, x: float, y: float, below: str = "") -> None:
        """Draw a message that ends its group: a square on its corner, without a name."""
        way = " ".join(f"{x + dx:g},{y + dy:g}" for dx, dy in ((0, -17), (17, 0), (0, 17), (-17, 0)))
        self._shapes.append(f'<polygon points="{way}" class="grey"/>')
        self.text(x, y, "end", "small")
        if below:
            self.text(x, y + BELOW, below, "small soft halo")

    def document(self, x: float, y: float, width: float, height: float, hue: str = "teal") -> None:
        """Draw a sheet with a turned corner; ``x`` and ``y`` are its upper left one."""
        right, low = x + width, y + height
        way = f"{x:g},{y:g} {right - 8:g},{y:g} {right:g},{y + 8:g} {right:g},{low:g} {x:g},{low:g}"
        self._shapes.append(f'<polygon points="{way}" class="{hue}"/>')
