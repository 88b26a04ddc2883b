"""Plots as SVG, by matplotlib; the same figures give the same file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib as mpl
from matplotlib.figure import Figure

from benchmarks.catalogue import OURS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from benchmarks.figures import Spread

_OURS, _OTHERS = "#1b6ca8", "#a9b4bd"


def bars(path: Path, head: str, rows: Sequence[tuple[str, str, Spread]], decimals: int) -> None:
    """Draw a bar for each row (title, name, values): the median, and a line from the least to the most."""
    mpl.rcParams["svg.hashsalt"] = path.name
    mpl.rcParams["svg.fonttype"] = "none"
    figure = Figure(figsize=(8, 0.6 + 0.34 * len(rows)), layout="constrained")
    axes = figure.subplots()
    titles = [title.replace("`", "") for title, _, _ in rows]
    middles = [spread.median for *_, spread in rows]
    reach = (
        [spread.median - spread.least for *_, spread in rows],
        [spread.most - spread.median for *_, spread in rows],
    )
    colours = [_OURS if name.startswith(OURS) else _OTHERS for _, name, _ in rows]
    drawn = axes.barh(titles, middles, color=colours, xerr=reach, error_kw={"lw": 1, "capsize": 2})
    axes.bar_label(drawn, labels=[f"{middle:,.{decimals}f}" for middle in middles], padding=4, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel(head)
    axes.margins(x=0.12)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None})
