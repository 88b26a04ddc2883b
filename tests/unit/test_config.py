"""Settings: where they come from, what is derived, what stays secret."""

from __future__ import annotations

import os
import re
from itertools import compress, product
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator import rules
from aggregator.commandline import parse_flags
from aggregator.config import load
from aggregator.errors import ConfigurationErrors
from aggregator.layers import Everything
from aggregator.options import RouteOptions
from aggregator.reference import markdown

if TYPE_CHECKING:
    from aggregator.settings import Route

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """No setting from outside, and no sink is made: sinks have tests of their own."""
    for name in list(os.environ):
        if name.upper().startswith("AGGREGATOR_"):
            monkeypatch.delenv(name)
    monkeypatch.setattr(rules, "from_url", lambda url: None)


def write(tmp_path, text):
    path = tmp_path / "settings.toml"
    path.write_text(text)
    return str(path)


def only(settings) -> Route:
    (route,) = settings.routes.values()
    return route


def test_nothing_said():
    settings = load([])
    route = only(settings)
    assert list(settings.routes) == ["default"] == [route.name]
    assert route.broker.get_secret_value() == "sqlite-queue:///data/queue.db"
    assert route.sink.get_secret_value() == "sqlite:///data/documents.db"
    assert (route.queue, route.dead_letter_queue) == ("task_queue", "task_queue.dead")
    assert (route.size, route.bytes, route.age, route.idle) == (1000, 10_000_000, 2.0, None)
    assert (route.max_held, route.ack_deadline, route.delivery_limit) == (256_000_000, 1800.0, 15)
    assert (route.id, route.correlate, route.trust_json) == ("message_id", None, False)
    assert (settings.grace, settings.heartbeat, settings.metrics_port) == (30.0, 20.0, None)
    assert (settings.check, settings.until_empty, settings.config) == (False, False, None)


def test_flags_beat_environment_beats_route_beats_file_beats_default(tmp_path, monkeypatch):
    path = write(
        tmp_path,
        'size = 2\nworkers = 2\nconcurrency = 2\nrequest_items = 2\ngrace = "2s"\n'
        "[routes.a]\nsize = 3\nworkers = 3\nconcurrency = 3\n",
    )
    monkeypatch.setenv("AGGREGATOR_SIZE", "4")
    monkeypatch.setenv("AGGREGATOR_WORKERS", "4")
    settings = load(["--config", path, "--size", "5"])
    route = only(settings)
    assert (route.size, route.workers, route.concurrency, route.request_items) == (5, 4, 3, 2)
    assert (settings.grace, route.max_message) == (2.0, 16_000_000)


@pytest.mark.parametrize("places", [*product([False, True], repeat=4)], ids=str)
def test_the_strongest_of_any_places_wins(places, tmp_path):
    strength = ["flag", "environment", "route", "top"]
    places = {*compress(strength, places)}
    values = {place: str(100 + index) for index, place in enumerate(strength)}
    text = (f"size = {values['top']}\n" if "top" in places else "") + "[routes.a]\n"
    text += f"size = {values['route']}\n" if "route" in places else ""
    path = write(tmp_path, text)
    with pytest.MonkeyPatch.context() as patch:
        if "environment" in places:
            patch.setenv("AGGREGATOR_SIZE", values["environment"])
        argv = ["--config", path] + (["--size", values["flag"]] if "flag" in places else [])
        expected = next((int(values[place]) for place in strength if place in places), 1000)
        assert load(argv).routes["a"].size == expected


def test_the_file_and_the_switches_by_environment(tmp_path, monkeypatch):
    path = write(tmp_path, "size = 7\n")
    monkeypatch.setenv("AGGREGATOR_CONFIG", path)
    monkeypatch.setenv("AGGREGATOR_UNTIL_EMPTY", "true")
    monkeypatch.setenv("AGGREGATOR_QUEUE", "")  # what a compose file makes of a variable that is not set
    settings = load([])
    assert (only(settings).size, settings.until_empty, str(settings.config)) == (7, True, path)
    assert only(settings).queue == "task_queue"


def test_several_routes(tmp_path):
    path = write(
        tmp_path,
        'broker = "amqp://h"\nsize = 20\n[routes.logs]\nqueue = "logs"\n'
        '[routes.orders]\nqueue = "orders"\n'
        'broker = "sqlite-queue:///o.db"\nsize = 30\ncorrelate = "/order/id"\n',
    )
    routes = load(["--config", path]).routes
    assert {name: (r.name, r.queue, r.size, r.amqp, r.workers) for name, r in routes.items()} == {
        "logs": ("logs", "logs", 20, True, 5),
        "orders": ("orders", "orders", 30, False, 1),
    }


@pytest.mark.parametrize(
    ("argv", "derived"),
    [
        ([], (1, 4000, 1000, 0.0)),
        (["--broker", "amqp://h"], (5, 800, 1000, 0.0)),
        (["--broker", "amqp://h", "--size", "20"], (5, 16, 20, 0.0)),
        (["--broker", "amqp://h", "--size", "1"], (5, 10, 1, 0.0)),
        (["--workers", "3", "--size", "100", "--concurrency", "3"], (3, 167, 100, 0.0)),
        (["--size", "60000"], (1, 65535, 60000, 0.0)),
        (["--correlate", "type", "--size", "20"], (1, 80, 1000, 0.005)),
        (["--correlate", "type", "--size", "2000"], (1, 8000, 2000, 0.005)),
        (["--prefetch", "5000", "--linger", "1s", "--request-items", "7"], (1, 5000, 7, 1.0)),
        (["--size", "none"], (1, 4000, 1000, 0.0)),
    ],
)
def test_what_is_derived(argv, derived):
    route = only(load(argv))
    assert (route.workers, route.prefetch, route.request_items, route.linger) == derived
    assert route.workers * route.prefetch >= (route.size or 0)


@pytest.mark.parametrize("word", ["none", "off", "0", "0s", "NONE"])
def test_a_condition_is_taken_back(word):
    assert only(load(["--age", word, "--idle", "10ms"])).age is None


def test_no_id_and_the_dead_letter_exchange():
    route = only(load(["--id", "none", "--dead-letter", "exchange:refused"]))
    assert (route.id, route.dead_letter_queue, route.dead_letter_exchange) == (None, None, "refused")
    assert only(load(["--dead-letter", "elsewhere"])).dead_letter_queue == "elsewhere"


def test_settings_are_frozen():
    settings = load([])
    with pytest.raises(ValueError, match="frozen"):
        settings.grace = 1.0
    with pytest.raises(ValueError, match="frozen"):
        only(settings).size = 1


def test_values_that_a_parser_might_take_apart():
    sink = "elasticsearch+http://u:p@h1,h2:9201/a?index={x}&b=[1,2]"
    settings = load(["--sink", sink, "--queue", "a,b", "--correlate", "header:x=[1]", "--queue", "null"])
    route = only(settings)
    assert (route.sink.get_secret_value(), route.queue, route.correlate) == (sink, "null", "header:x=[1]")


def test_passwords_are_in_no_repr():
    settings = load(
        ["--broker", "amqp://u:hunter2@h//", "--sink", "elasticsearch+https://u:hunter2@h/i?api_key=hunter2"]
    )
    shown = f"{settings!r} {settings} {settings.model_dump_json()} {only(settings)!r}"
    assert "hunter2" not in shown
    assert "amqp://u:***@h//" in shown
    assert settings.broker.get_secret_value() == "amqp://u:hunter2@h//"


def flags_in_help(capsys):
    with pytest.raises(SystemExit) as ended:
        load(["--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    return text, re.findall(r"^  (?:-h, )?(--[\w-]+)", text, re.MULTILINE)


def test_help_names_every_flag_in_its_group(capsys):
    text, flags = flags_in_help(capsys)
    promised = (
        "--broker --queue --sink --size --bytes --age --idle --correlate --sentinel --workers --prefetch"
        " --max-held --grace --metrics-port --until-empty --config --check"
    )
    assert set(promised.split()) <= set(flags)
    assert len(flags) == len(set(flags)) == len(Everything.model_fields) + len(("--help", "--version"))
    assert "--age DURATION" in text
    assert "[2s]" in text
    assert "[10MB]" in text
    assert re.search(r"^Writing:\n(?:.+\n)*?  --sink URL", text, re.MULTILINE)
    assert re.search(r"^  --until-empty  ", text, re.MULTILINE), "a switch takes no value"
    assert not [line for line in text.splitlines() if len(line) > 110]


def test_every_option_is_described():
    assert not [name for name, info in Everything.model_fields.items() if not info.description]


def test_the_documentation_is_up_to_date():
    assert (ROOT / "docs/configuration.md").read_text() == markdown()


@pytest.mark.parametrize(
    "example", sorted((ROOT / "docs/examples").glob("*.toml")), ids=lambda path: path.stem
)
def test_the_examples_are_right(example):
    assert load(["--config", str(example)]).routes


@given(st.lists(st.text(max_size=8), max_size=4))
def test_any_command_line_is_read_or_refused_in_words(words):
    if {"-h", "--help", "--version"} & set(words):
        return
    faults = []
    values = parse_flags(Everything, words, faults)
    assert bool(faults) or not words or values
    assert all(str(fault) for fault in faults)


@settings(max_examples=2 * settings().max_examples)
@given(st.dictionaries(st.sampled_from(sorted(RouteOptions.model_fields)), st.text(max_size=12), max_size=4))
def test_any_text_is_a_value_or_a_named_fault(values):
    argv = [f"--{name.replace('_', '-')}={text}" for name, text in values.items() if name != "trust_json"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rules, "from_url", lambda url: None)
        try:
            load(argv)
        except ConfigurationErrors as errors:
            for fault in errors.faults:
                assert fault.field.startswith("--") or fault.field in RouteOptions.model_fields
                assert fault.problem
