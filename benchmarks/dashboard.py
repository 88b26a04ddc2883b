"""The dashboard's picture for the docs: its own queries, asked of a Prometheus that scraped a real run.

    python -m benchmarks.dashboard docs/pictures/dashboard.png

Two minutes between RabbitMQ 4.0 and Elasticsearch: messages in two waves, some of them refused; in
between Elasticsearch stands still (SIGSTOP) for a while. Needs the group ``bench``.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
import uuid
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib import pyplot as plt
from matplotlib.ticker import EngFormatter, PercentFormatter
from PIL import Image

from tests.monitoring import ALERTS, DASHBOARD, Drawn, drawn
from tests.servers import Fleet
from tests.servers.base import wait_for
from tests.servers.prometheus import prometheus
from tests.service import Service, Stage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from matplotlib.axes import Axes

    from tests.servers import Prometheus

#: Seconds of each act: a wave, silence of the sink while the wave goes on, the rest, quiet.
WAVE, SILENCE, REST, QUIET = 35, 15, 40, 15
RATE = 800
SETTINGS = (
    "--size=500",
    "--age=1s",
    "--max-held=2MB",
    "--concurrency=4",
    "--adaptive-concurrency",
    "--metrics-port=0",
)
COLUMNS = 3
FORMATS = {"s": "s", "bytes": "B", "cps": "/s", "short": ""}


def main(arguments: list[str] | None = None) -> int:
    """Run it and draw; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", type=Path, help="the picture, .png or .svg")
    parser.add_argument("--short", action="store_true", help="a sixth of the time: to see that it works")
    given = parser.parse_args(arguments)
    draw(given.target, *run(6 if given.short else 1))
    return 0


@contextmanager
def scene() -> Iterator[tuple[Stage, Service, Prometheus]]:
    """Set up the servers, the service between them, and Prometheus; end all of it."""
    with ExitStack() as stack:
        fleet = Fleet()
        stack.callback(fleet.close)
        name = f"dashboard-{uuid.uuid4().hex[:8]}"
        fleet.prefetch(["rabbitmq4", "elasticsearch"])
        rabbitmq, elasticsearch = fleet.get("rabbitmq4"), fleet.get("elasticsearch")
        stage = Stage(rabbitmq, name, elasticsearch, name, Service)  # type: ignore[arg-type]
        stage.declare("quorum")
        running = stage.start(*SETTINGS)
        stack.callback(running.kill)
        scraping = prometheus([running.address.removeprefix("http://")], [ALERTS])
        stack.callback(scraping.close)
        scraping.start()
        yield stage, running, scraping


def run(faster: int) -> tuple[list[tuple[dict[str, Any], list[Drawn]]], float]:
    """Play it; return each panel with its lines, and when it began."""
    with scene() as (stage, running, scraping):
        start = time.time()
        numbers = iter(range(10**9))

        def wave(seconds: float) -> None:
            begun, sent = time.monotonic(), 0
            while (gone := time.monotonic() - begun) < seconds:
                # it swells and ebbs
                wanted = RATE * (gone - math.sin(2 * math.pi * gone / seconds) * seconds / (2 * math.pi))
                if (due := int(wanted) - sent) > 0:
                    bad = stage.numbered((next(numbers) for _ in range(due // 100)), body=b"{")
                    stage.publish([*stage.numbered(next(numbers) for _ in range(due)), *bad])
                    sent += due
                time.sleep(0.1)

        wave(WAVE / faster)
        stage.elasticsearch.pause()
        wave(SILENCE / faster)
        stage.elasticsearch.resume()
        wave(REST / faster)
        stage.wait_empty()
        time.sleep(QUIET / faster)
        now = time.time()
        lines = [(panel, drawn(scraping, panel, start, now)) for panel in DASHBOARD["panels"]()]
        wait_for(lambda: not stage.counts().unacked, "the last acks")
        running.stop()
    return lines, start


def draw(target: Path, panels: list[tuple[dict[str, Any], list[Drawn]]], start: float) -> None:
    """Draw the figures of the first row, and the pictures of those that have something to show."""
    figures = [(panel, lines) for panel, lines in panels if panel.get("kind") == "stat"]
    shown = [(panel, lines) for panel, lines in panels if panel.get("kind") != "stat" and lines]
    rows = math.ceil(len(shown) / COLUMNS)
    picture = plt.figure(figsize=(15, 1.2 + 2.35 * rows), layout="constrained")
    top, rest = picture.subfigures(2, 1, height_ratios=[1, 2.35 * rows])
    for axes, (panel, lines) in zip(top.subplots(1, len(figures)), figures, strict=True):
        _figure(axes, panel, lines)
    grid = rest.subplots(rows, COLUMNS, squeeze=False).flatten()
    for axes, (panel, lines) in zip(grid, shown, strict=False):
        _lines(axes, panel, lines, start)
    for axes in grid[len(shown) :]:
        axes.set_axis_off()
    picture.savefig(target, dpi=85)
    if target.suffix == ".png":
        Image.open(target).convert("RGB").quantize(48).save(target, optimize=True)


def _figure(axes: Axes, panel: dict[str, Any], lines: list[Drawn]) -> None:
    axes.set_axis_off()
    named = panel.get("text") == "name"
    text = (
        lines[0].legend
        if named
        else _format(panel, places=int(panel.get("unit") == "s"))(lines[0].points[-1][1], None)
    )
    axes.text(0.5, 0.75, panel["title"], ha="center", fontsize=9, color="#555555")
    axes.text(0.5, 0.2, text.replace(", ", "\n"), ha="center", fontsize=10 if named else 17)


def _lines(axes: Axes, panel: dict[str, Any], lines: list[Drawn], start: float) -> None:
    axes.set_title(panel["title"], fontsize=9, loc="left")
    plain = [line for line in lines if not panel.get("stacked") or line.legend == panel.get("line")]
    stacked = [line for line in lines if line not in plain]
    if stacked:
        moments = sorted({when for line in stacked for when, _ in line.points})
        values = [[dict(line.points).get(when, 0.0) for when in moments] for line in stacked]
        labels = [line.legend for line in stacked]
        axes.stackplot([when - start for when in moments], values, labels=labels, alpha=0.6)
    for line in plain:
        points = _with_gaps(line.points)
        axes.plot([when - start for when, _ in points], [value for _, value in points], label=line.legend)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(_format(panel))
    axes.xaxis.set_major_formatter(EngFormatter(unit="s"))
    axes.tick_params(labelsize=7)
    axes.grid(alpha=0.3)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    if any(line.legend != panel["title"] for line in lines):
        axes.legend(fontsize=6, ncols=2, loc="upper right", framealpha=0.6)


def _with_gaps(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the points of a line that is broken where a moment has none."""
    whole: list[tuple[float, float]] = []
    for when, value in points:
        if whole and when - whole[-1][0] > 1.5:  # they come each second
            whole.append((when, math.nan))
        whole.append((when, value))
    return whole


def _format(panel: dict[str, Any], places: int | None = None) -> Any:
    unit = panel.get("unit", "short")
    if unit == "percentunit":
        return PercentFormatter(xmax=1)
    return EngFormatter(unit=FORMATS[unit], places=places)


if __name__ == "__main__":
    sys.exit(main())
