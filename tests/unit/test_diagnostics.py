"""Wrong settings as a compiler shows them: file, line and column, the source, a mark, what was meant."""

from __future__ import annotations

import io
import os

import orjson
import pytest

from aggregator import diagnostics
from aggregator.check import check
from aggregator.config import load
from aggregator.consume import main
from aggregator.diagnostics import diagnose, report
from aggregator.errors import ConfigurationError, ConfigurationErrors
from aggregator.toml_place import Span, broken, find


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    for name in list(os.environ):
        if name.upper().startswith("AGGREGATOR_"):
            monkeypatch.delenv(name)


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write(text):
        (tmp_path / "settings.toml").write_text(text)
        return "settings.toml"

    return write


def shown(*argv):
    with pytest.raises(ConfigurationErrors) as raised:
        load(argv)
    stream = io.StringIO()
    report(raised.value, stream)
    return stream.getvalue()


def test_a_value_is_marked_where_it_stands(file):
    name = file('# first\nsize = 20\n\n[routes.a]\nqueue = "a"\n  size   = "many"  # why\n')
    assert (
        shown("--config", name)
        == """\
settings.toml:6:12: error: routes.a.size: 'many' is something else; a whole number is needed
    6 |   size   = "many"  # why
      |            ^~~~~~
"""
    )


def test_a_name_is_marked_and_what_was_meant_stands_below(file):
    assert (
        shown("--config", file('[routes.a]\nqueue = "a"\ncorelate = "type"\n'))
        == """\
settings.toml:3:1: error: routes.a.corelate: no such setting; did you mean correlate?
    3 | corelate = "type"
      | ^~~~~~~~
      | correlate
"""
    )


def test_flags_and_variables_as_they_were_written(monkeypatch):
    monkeypatch.setenv("AGGREGATOR_LATE", "nw")
    assert (
        shown("--sise", "20", "--workers=0", "--age", "2")
        == """\
error: --sise: no such flag; did you mean --size?
      | --sise 20
      | ^~~~~~
      | --size
error: --age: 2 has no unit; a number with its unit is needed, like 500ms, 2s, 5m or 1h30m
      | --age 2
      |       ^
error: AGGREGATOR_LATE: 'nw' is unknown; 'new', 'alone' or 'dead-letter' is needed; did you mean new?
      | AGGREGATOR_LATE=nw
      |                 ^~
      |                 new
error: --workers: '0' is too small; at least 1 is needed
      | --workers=0
      |           ^
"""
    )


def test_a_flag_without_its_value_hides_no_other_fault():
    told = shown("--size", "x", "--prefetch")
    assert "error: --prefetch: a value is needed: --prefetch N" in told
    assert "error: --size: 'x' is something else" in told


def test_a_file_that_is_no_toml(file):
    told = shown("--config", file("size = 1\nage = = 2\n"))
    assert told.startswith("settings.toml:2:7: error: --config: 'settings.toml' is no TOML: ")
    assert told.endswith("    2 | age = = 2\n      |       ^\n")


def test_what_is_not_there_is_shown_by_its_table(file):
    told = shown("--config", file('[routes.a]\nqueue = "a"\n[routes.b]\nqueue = "b"\nlate = "alone"\n'))
    assert "settings.toml:3:1: error: routes.b.closed_keys: 0 keys are remembered" in told
    assert "    3 | [routes.b]\n      | ^~~~~~~~~~\n" in told


def test_no_password_is_shown(file, monkeypatch):
    secret = "hunter2"
    monkeypatch.setenv("AGGREGATOR_SINK", f"user:{secret}@host")
    monkeypatch.setenv("AGGREGATOR_SIZE", f"http://u:{secret}@h")
    text = f'broker = "amqp://u:{secret}@h:port/"\nqueue = 5 # amqp://u:{secret}@h\nseen = "u:{secret}@h"\n'
    told = shown("--config", file(text), "--results", f"redi://u:{secret}@h", f"--broker=amqp//u:{secret}@h")
    assert secret not in told
    assert "amqp://u:***@h" in told
    assert "AGGREGATOR_SINK='***'" in told


def test_no_token_is_shown(file, monkeypatch):
    monkeypatch.setenv("AGGREGATOR_PAGE_TOKEN", "hunter2")
    monkeypatch.setenv("AGGREGATOR_PAGE_TOKN", "hunter2-and-more-of-it")
    told = shown("--config", file('page_tokn = "hunter2"\n'))
    assert "AGGREGATOR_PAGE_TOKEN" in told
    assert "page_tokn" in told
    assert "hunter" not in told


def test_true_and_false_are_marked_too(file):
    told = shown("--config", file("until_emty = true\n[routes.a]\nsize = true\n"))
    assert "settings.toml:1:1: error: until_emty: no such setting; did you mean until_empty?" in told
    assert "settings.toml:3:8: error: routes.a.size: " in told


def test_control_characters_do_not_reach_the_terminal(file):
    told = shown("--config", file('size = "\\u001b[2J"\nqueue = "a\x7f"\nage = "1"\n').replace("\x7f", ""))
    assert "\x1b" not in told


class Screen(io.StringIO):
    def isatty(self):
        return True


def test_colours_on_a_terminal_alone(file, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    with pytest.raises(ConfigurationErrors) as raised:
        load(("--size", "x"))
    stream = Screen()
    report(raised.value, stream)
    assert "\x1b[1;31merror: " in stream.getvalue()
    assert "1 error; nothing was started." in stream.getvalue()


def test_long_lines_are_cropped_around_the_mark():
    source = "a" * 300 + "WRONG" + "b" * 300
    found = diagnostics.Diagnostic("f", "p", "x.toml", 1, 301, source, 301, 306)
    _, line, mark = (row.plain for row in diagnostics.lines(found))
    assert len(line) < 120
    assert line[mark.index("^") : mark.rindex("~") + 1] == "WRONG"


def test_what_has_no_place_is_told_all_the_same():
    (found,) = diagnose(ConfigurationError("metrics_port", "it is taken"))
    assert [row.plain for row in diagnostics.lines(found)] == ["error: metrics_port: it is taken"]


def test_json_for_editors(file, capsys):
    name = file('[routes.a]\nqueue = "a"\nsise = 5\n')
    assert main(["--check", "--check-format", "json", "--config", name]) == 2
    told = orjson.loads(capsys.readouterr().out)
    assert told["ok"] is False
    assert told["faults"] == [
        {
            "field": "routes.a.sise", "problem": "no such setting; did you mean size?", "file": name,
            "line": 3, "column": 1, "end_column": 5, "suggestion": "size",
        }
    ]  # fmt: skip
    assert main(["--check", "--check-format=json", "--id", "none"]) == 0
    told = orjson.loads(capsys.readouterr().out)
    assert told["ok"]
    assert told["warnings"][0]["field"] == "id"
    assert told["routes"]["default"]["way"]["to"].startswith("sqlite:///")
    assert check(load(["--id", "none"])).as_json() == orjson.dumps(told).decode()


# ── positions ──

TEXT = """\
size = 1
a.b = 2
[routes."x.y"]
merge = { total = "sum", "a b" = "last" }
text = '''
two lines'''
[[queues.q.bindings]]
exchange = "e"
[[queues.q.bindings]]
exchange = "f"   # second
[route-map]
"video.*" = "x"
"""


@pytest.mark.parametrize(
    ("label", "name", "span"),
    [
        ("size", False, Span(1, 8, 9)),
        ("size", True, Span(1, 1, 5)),
        ("a.b", False, Span(2, 7, 8)),
        ("routes.x.y.merge", False, Span(4, 9, 42)),
        ("routes.x.y.merge.total", False, Span(4, 19, 24)),
        ("routes.x.y.text", False, Span(5, 8, 11)),
        ("queues.q.bindings[1].exchange", False, Span(10, 12, 15)),
        ('route-map."video.*"', False, Span(12, 13, 16)),
        ('route-map."video.*"', True, Span(12, 2, 9)),
        ("routes.x.y.absent", False, Span(3, 1, 15)),
        ("nothing.of.it", False, None),
    ],
)
def test_where_a_setting_stands(label, name, span):
    assert find(TEXT, label, name=name) == span


def test_where_a_parser_gave_up():
    assert broken("a = 1\nb", "Expected '=' (at line 2, column 2)") == Span(2, 2, 3)
    assert broken("a", "Expected '=' (at end of document)") is None
