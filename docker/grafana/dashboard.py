"""The Grafana dashboard: ``python docker/grafana/dashboard.py`` makes its JSON of dashboard.toml.

Grafana's own form is five times as long and differs with each save; a test compares the two.
"""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
SOURCE = FOLDER / "dashboard.toml"
TARGET = FOLDER / "dashboards" / "aggregator.json"

COLUMNS = 24
SIZES = {"timeseries": (8, 8), "stat": (3, 4)}
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
CHOSEN = 'route=~"$route", instance=~"$instance"'
SPREAD = {"half": 0.5, "95 %": 0.95, "99 %": 0.99}


def panels() -> list[dict[str, Any]]:
    """Return the panels as they are described, each with all its ``queries``: (legend, PromQL)."""
    found = []
    for row in tomllib.loads(SOURCE.read_text())["rows"]:
        for panel in row["panels"]:
            panel["row"] = row
            panel["queries"] = [(legend, chosen(query)) for legend, query in _queries(panel)]
            found.append(panel)
    return found


def dashboard() -> dict[str, Any]:
    """Return the dashboard as Grafana reads it."""
    drawn: list[dict[str, Any]] = []
    x = y = bottom = 0
    row = None
    for panel in panels():
        width, height = SIZES[panel.get("kind", "timeseries")]
        if panel["row"] is not row:
            row = panel["row"]
            drawn.append(_row(row, bottom, number=len(drawn) + 1))
            x, y, bottom = 0, bottom + 1, bottom + 1
        elif x + width > COLUMNS:
            x, y = 0, bottom
        place = {"x": x, "y": y, "w": width, "h": height}
        drawn.append({"id": len(drawn) + 1, "gridPos": place, **_panel(panel)})
        x, bottom = x + width, y + height
    return {
        "uid": "aggregator",
        "title": "Aggregator",
        "description": "Single messages, written in bulk. What each figure means: docs/monitoring.md",
        "tags": ["aggregator"],
        "schemaVersion": 39,
        "editable": True,
        "graphTooltip": 1,  # one line through all pictures
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "links": [],
        "annotations": {"list": [_alerts()]},
        "templating": {"list": _variables()},
        "panels": drawn,
    }


def chosen(query: str) -> str:
    """Return the query with what the viewer has chosen in it."""
    query = query.replace("{$}", f"{{{CHOSEN}}}").replace("{$, ", f"{{{CHOSEN}, ")
    return query.replace("$i}", 'instance=~"$instance"}')


def _queries(panel: dict[str, Any]) -> list[tuple[str, str]]:
    found = [(legend or panel["title"], query) for legend, query in panel.get("queries", ())]
    if histogram := panel.get("spread"):
        rate = f"sum by (le) (rate({histogram}_bucket{{$}}[$__rate_interval]))"
        found += [(name, f"histogram_quantile({share}, {rate})") for name, share in SPREAD.items()]
    return found


def _row(row: dict[str, Any], y: int, *, number: int) -> dict[str, Any]:
    place = {"x": 0, "y": y, "w": COLUMNS, "h": 1}
    drawn = {"id": number, "type": "row", "title": row["title"], "gridPos": place, "collapsed": False}
    repeated = {"repeat": row["repeat"]} if "repeat" in row else {}
    return {**drawn, "panels": [], **repeated}


def _panel(panel: dict[str, Any]) -> dict[str, Any]:
    single = panel.get("kind") == "stat"
    targets = [
        {
            "refId": chr(ord("A") + number), "datasource": DATASOURCE, "expr": query, "legendFormat": legend,
            "instant": single, "range": not single, "editorMode": "code",
        }
        for number, (legend, query) in enumerate(panel["queries"])
    ]  # fmt: skip
    defaults: dict[str, Any] = {"unit": panel.get("unit", "short"), "min": 0, "thresholds": _limits(panel)}
    if not single:
        defaults["custom"] = _lines(stacked=panel.get("stacked", False))
    if panel.get("quiet"):
        defaults["noValue"] = "nothing"
    return {
        "type": panel.get("kind", "timeseries"),
        "title": panel["title"],
        "description": panel["about"],
        "datasource": DATASOURCE,
        "targets": targets,
        "fieldConfig": {"defaults": defaults, "overrides": _overrides(panel)},
        "options": _figure(panel) if single else _picture(),
    }


def _limits(panel: dict[str, Any]) -> dict[str, Any]:
    limits = {float(value): colour for value, colour in panel.get("limits", {}).items()}
    first = limits.pop(0.0, "text")
    return {
        "mode": "absolute",
        "steps": [
            {"color": first, "value": None},
            *({"color": colour, "value": value} for value, colour in limits.items()),
        ],
    }


def _lines(*, stacked: bool) -> dict[str, Any]:
    return {
        "drawStyle": "line",
        "lineWidth": 1,
        "fillOpacity": 30 if stacked else 0,
        "showPoints": "never",
        "spanNulls": False,
        "stacking": {"mode": "normal" if stacked else "none", "group": "A"},
    }


def _overrides(panel: dict[str, Any]) -> list[dict[str, Any]]:
    if "line" not in panel:
        return []
    plain = [
        {"id": "custom.stacking", "value": {"mode": "none"}},
        {"id": "custom.fillOpacity", "value": 0},
    ]
    return [{"matcher": {"id": "byName", "options": panel["line"]}, "properties": plain}]


def _figure(panel: dict[str, Any]) -> dict[str, Any]:
    return {
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "textMode": panel.get("text", "value"),
        "colorMode": "value",
        "graphMode": "none",
        "justifyMode": "center",
        "orientation": "auto",
    }


def _picture() -> dict[str, Any]:
    return {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }


def _alerts() -> dict[str, Any]:
    """Return what marks the moments at which an alert fired."""
    return {
        "name": "Alerts",
        "datasource": DATASOURCE,
        "enable": True,
        "iconColor": "red",
        "expr": 'ALERTS{alertname=~"Aggregator.*", alertstate="firing"}',
        "titleFormat": "{{alertname}} {{route}}",
        "step": "30s",
    }


def _variables() -> list[dict[str, Any]]:
    def found(name: str) -> dict[str, Any]:
        query = f"label_values(aggregator_received_total, {name})" if name == "route" else (
            'label_values(up{job="aggregator"}, instance)'
        )  # fmt: skip
        return {
            "name": name, "label": name.capitalize(), "type": "query", "datasource": DATASOURCE,
            "query": {"query": query, "refId": name}, "definition": query, "refresh": 2, "sort": 1,
            "includeAll": True, "allValue": ".*", "multi": True,
            "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
        }  # fmt: skip

    source = {
        "name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus",
        "includeAll": False, "multi": False, "refresh": 1,
        "current": {"selected": True, "text": "Prometheus", "value": "prometheus"},
    }  # fmt: skip
    return [source, found("route"), found("instance")]


def text() -> str:
    """Return the content of the JSON file."""
    return json.dumps(dashboard(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    TARGET.write_text(text())
