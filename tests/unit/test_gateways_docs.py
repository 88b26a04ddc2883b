"""What docs/gateways.md shows runs, and names what there is."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path

from aggregator.testing.gateways import Apns, Fcm, Rule
from aggregator.testing.gateways.control import _ACTIONS
from aggregator.testing.gateways.script import FAULTS

TEXT = (Path(__file__).parents[2] / "docs" / "gateways.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


def test_the_first_test_runs():
    scope = {}
    exec(compile(BLOCKS[0][1], "docs/gateways.md", "exec"), scope)
    scope["test_a_dead_token_is_reported"]()


def test_the_script_in_json_is_taken():
    scripts = [json.loads(code) for language, code in BLOCKS if language == "json" and "rules" in code]
    for script in scripts:
        with Apns() as apns:
            apns.script.load(script)
    assert len(scripts) == 1


def test_the_ready_line_has_what_is_shown():
    shown = next(json.loads(code) for language, code in BLOCKS if language == "json" and '"control"' in code)
    with Apns() as apns:
        assert set(shown) == set(apns.ready()) | {"control"}
        assert set(fields_of_url(apns.sink_url())) == {"key", "key_id", "team_id", "topic", "ca"}
    with Fcm() as fcm:
        assert set(fields_of_url(fcm.sink_url(rate=5))) == {"credentials", "project", "ca", "rate"}


def fields_of_url(url):
    return re.findall(r"[?&](\w+)=", url)


def test_every_fault_field_and_path_is_told():
    assert [name for name in FAULTS if f'script.fault("{name}"' not in TEXT] == []
    told_by_calls = {"reason", "fault", "latency"}
    names = {field.name for field in fields(Rule)} - told_by_calls
    assert {name for name in names if f"{name}=" not in TEXT} == set()
    assert {path for _, path in _ACTIONS if path not in TEXT} == set()
