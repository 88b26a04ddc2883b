"""The dashboard, the alert rules and their pages: all that they name exists, and nothing is left out."""

from __future__ import annotations

import re

import pytest
import yaml

from aggregator.standing import STATES
from consumers import source
from tests.monitoring import ALERTS, DASHBOARD, ROOT, alerts, exported, labels_of, metrics_of, queries

#: Labels that Prometheus adds to whatever it scrapes.
ADDED = {"job", "instance"}
EXPORTED = exported()
SAMPLES = {name: each for each in EXPORTED for name in each.samples}
RULES = alerts()
ASKED = [*queries(), *((rule["alert"], rule["expr"]) for rule in RULES)]
RUNBOOKS = (ROOT / "docs" / "runbooks.md").read_text()
MONITORING = (ROOT / "docs" / "monitoring.md").read_text()


def anchor(title):
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def test_the_dashboard_is_what_its_description_makes():
    assert DASHBOARD["TARGET"].read_text() == DASHBOARD["text"](), "run: python docker/grafana/dashboard.py"


@pytest.mark.parametrize(("where", "query"), ASKED, ids=lambda text: text[:60])
def test_each_query_names_what_is_exported(where, query):
    read = metrics_of(query) - {"up"}
    assert read or "up" in metrics_of(query)
    assert read <= set(SAMPLES)
    for name, label in labels_of(query):
        if name != "up":
            assert label in {*SAMPLES[name].labels, *ADDED, "le"}, f"{name} has no label {label}"


def test_each_figure_of_the_catalogue_is_seen_somewhere():
    seen = set().union(*(metrics_of(query) for _, query in ASKED))
    unseen = {each.name for each in EXPORTED if not seen.intersection(each.samples)}
    # what the library adds of itself
    assert unseen <= {"process_virtual_memory_bytes", "process_max_fds"}


def test_states_are_those_that_there_are():
    asked = " ".join(query for _, query in ASKED)
    for name, known in (("route_state", STATES), ("workers", source.STATES)):
        for text in re.findall(rf'aggregator_{name}{{[^}}]*state=~?"([^"]*)"', asked):
            assert set(text.split("|")) <= set(known)


def test_ids_of_panels_are_their_own_and_no_two_overlap():
    drawn = DASHBOARD["dashboard"]()["panels"]
    assert len({panel["id"] for panel in drawn}) == len(drawn)
    places = set()
    for panel in drawn:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & places
        assert all(x < DASHBOARD["COLUMNS"] for x, _ in cells)
        places |= cells


def test_each_alert_says_what_it_is_and_where_to_read_on():
    assert len({rule["alert"] for rule in RULES}) == len(RULES)
    for rule in RULES:
        assert rule["labels"]["severity"] in {"critical", "warning"}
        assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
        assert rule["annotations"]["runbook_url"] == f"docs/runbooks.md#{anchor(rule['alert'])}"


def test_each_alert_has_its_section_and_each_section_its_alert():
    sections = re.findall(r"^## (Aggregator\w+)$", RUNBOOKS, re.MULTILINE)
    assert sections == [rule["alert"] for rule in RULES]
    for text in re.split(r"^## ", RUNBOOKS, flags=re.MULTILINE)[1:]:
        for part in ("**Means.**", "**Look at.**", "**Do.**"):
            assert part in text, text.split("\n")[0]


def test_words_of_the_program_that_the_runbooks_name_are_its_own():
    sources = "\n".join(
        path.read_text() for folder in ("aggregator", "consumers") for path in (ROOT / folder).rglob("*.py")
    )
    for word in set(re.findall(r"`([a-z]+(?:_[a-z]+)+)`", RUNBOOKS)):
        # what a thread beside the routes is away from stands before `_away`
        assert re.search(rf"\b{word}\b|\"{word.removesuffix('_away')}\"", sources), word


def test_each_alert_is_tried_firing_and_not_firing():
    cases = yaml.safe_load((ALERTS.parent / "alerts_test.yml").read_text())["tests"]
    fired = set()
    for case in cases:
        expected = [step["exp_samples"] for step in case["promql_expr_test"]]
        fired.update(re.findall(r'alertname="(\w+)"', str(expected)))
        assert [] in expected or len(case["input_series"]) == 0 or len(expected) == 1, case["name"]
    assert fired == {rule["alert"] for rule in RULES}


def test_the_page_lists_every_metric_as_it_is():
    rows = [
        f"| `{each.name}` | {each.kind} | {', '.join(each.labels)} | {each.help} |"
        for each in EXPORTED
        if not each.name.startswith("process_")
    ]
    table = "\n".join(rows)
    assert table in MONITORING, f"docs/monitoring.md needs this table:\n{table}"


def test_the_page_tells_of_every_panel():
    for row in dict.fromkeys(panel["row"]["title"] for panel in DASHBOARD["panels"]()):
        assert f"**{row.replace(' $route', '')}**" in MONITORING


def test_a_name_that_is_not_exported_is_noticed():
    assert metrics_of('sum(rate(aggregator_nothing_total{route="up"}[5m])) / up') == {
        "aggregator_nothing_total",
        "up",
    }
    assert labels_of('a{b="c"} + up{job=~"x", instance!="y"}') == {("up", "job"), ("up", "instance")}
