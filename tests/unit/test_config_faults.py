"""What is refused, each with one line that names the setting and what would be right."""

from __future__ import annotations

import os
import re
import sys

import pytest

from aggregator import rules, sinks
from aggregator.config import load
from aggregator.errors import ConfigurationError, ConfigurationErrors
from consumers.brokers import broker_fault


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    for name in list(os.environ):
        if name.upper().startswith("AGGREGATOR_"):
            monkeypatch.delenv(name)

    def from_url(url):
        if url.startswith("bad"):
            raise ConfigurationError("sink", f"{url}: no such thing; a sink is needed")

    monkeypatch.setattr(rules, "from_url", from_url)


def faults(argv, **more):
    with pytest.raises(ConfigurationErrors) as refused:
        load(argv, **more)
    lines = str(refused.value).splitlines()
    assert len(lines) == len(refused.value.faults), "one line each"
    return lines


AMQP = ("--broker", "amqp://h")


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["--sise", "5"], "--sise: no such flag; did you mean --size?"),
        (["--until-emty"], "--until-emty: no such flag; did you mean --until-empty?"),
        (["--xyzzy=secret"], "--xyzzy: no such flag; --help lists all"),
        (["amqp://u:pw@h"], "command line: 'amqp://u:***@h' stands alone; every setting has its flag"),
        (["--size"], "--size: a value is needed: --size N"),
        (["--check=yes"], "--check: takes no value; --check alone switches it on"),
        (["--size", "x"], "--size: 'x' is something else; a whole number is needed"),
        (["--size", "2.5"], "--size: '2.5' is something else; a whole number is needed"),
        (["--size", "0"], "--size: '0' is too small; at least 1 is needed"),
        (["--size", "-5"], "--size: '-5' is too small; at least 1 is needed"),
        (["--age", "2"], "--age: 2 has no unit; a number with its unit is needed, like 500ms, 2s"),
        (["--age=-2s"], "--age: '-2s' is no duration; a number with its unit is needed"),
        (["--bytes", "10XB"], "--bytes: '10XB' is no size; a number of bytes is needed, like 512KiB, 10MB"),
        (["--max-held", "0"], "--max-held: 0 is too small; more than 0 bytes is needed"),
        (["--prefetch", "65536"], "--prefetch: '65536' is too large; at most 65535 is needed"),
        (["--delivery-limit", "20"], "--delivery-limit: '20' is too large; less than 20 is needed"),
        (["--metrics-port", "70000"], "--metrics-port: '70000' is too large; at most 65535 is needed"),
        (["--breaker-share", "nan"], "--breaker-share: 'nan' is too large; at most 1 is needed"),
        (["--breaker-share", "1.5"], "--breaker-share: '1.5' is too large; at most 1 is needed"),
        (
            ["--log-format", "jsn"],
            (
                "--log-format: 'jsn' is unknown; 'auto', 'console', 'json' or 'logfmt' is needed;"
                " did you mean json?"
            ),
        ),
        (["--correlate", "oddity"], "--correlate: 'oddity' is no expression; a property"),
        (["--id", "/host + /name"], "--id: '/host + /name': correlate alone joins several; one"),
        (["--id", "header:"], "--id: 'header:' is no expression"),
        (["--sentinel", "type"], "--sentinel: 'type' names no value; EXPRESSION=VALUE is needed"),
        (["--sentinel", "odd=1"], "--sentinel: 'odd' is no expression"),
        (["--sentinel-count", "n"], "--sentinel-count: there is no sentinel; set sentinel as well"),
        (["--queue", ""], "--queue: the name is empty; give the name of a queue"),
        (["--queue", "ä" * 128], "--queue: the name has 256 bytes; AMQP allows 255"),
        (["--queue", "q" * 251], "--queue: 256 bytes with .dead; shorten it"),
        (["--queue", "amq.rabbitmq.trace"], "--queue: 'amq.rabbitmq.trace' starts with amq."),
        (["--dead-letter", "task_queue"], "--dead-letter: 'task_queue' is the queue itself"),
        (["--dead-letter", "exchange:"], "--dead-letter: the exchange has no name; exchange:NAME is needed"),
        (["--dead-letter", "amq.gen"], "--dead-letter: 'amq.gen' starts with amq."),
        (["--dead-letter", "q" * 256], "--dead-letter: the name has 256 bytes; AMQP allows 255"),
        (["--broker", "localhost"], "--broker: 'localhost' is no URL; one like amqp://user:password@host"),
        (["--broker", "amqp://u:p/w@h"], "--broker: 'amqp://u:***@h': the port is no number"),
        (["--broker", "amqpx://h"], "--broker: unknown scheme 'amqpx'; did you mean amqp"),
        (["--broker", "zzz://h"], "--broker: unknown scheme 'zzz'; amqp, amqps, sqlite-queue"),
        (["--broker", "sqlite-queue://q.db"], "--broker: it names a host; write sqlite-queue:///relative"),
        (["--broker", "sqlite-queue:///q.db?leese=1s"], "--broker: 'leese' is no option of a queue file"),
        (["--broker-ca", "/no/such.pem"], "--broker-ca: no file at '/no/such.pem'; a file of certificates"),
        ([*AMQP, "--server-hostname", "n"], "--server-hostname: amqp://h is not encrypted"),
        (["--sink", "bad://u:pw@h"], "--sink: bad://u:***@h: no such thing; a sink is needed"),
        (
            ["--prefetch", "10", "--workers", "5"],
            (
                "--prefetch: 5 x prefetch 10 = 50 messages never fill a group of 1000;"
                " at least 200 is needed, or a size of 50 at most"
            ),
        ),
        (
            ["--size", "100000"],
            (
                "--size: 1 x prefetch 65535 = 65535 messages never fill a group of 100000;"
                " at least 2 workers are needed"
            ),
        ),
        (["--age", "16m"], "--age: 16m is more than half the ack deadline of 30m; 15m at most"),
        (["--age", "2s", "--ack-deadline", "3s"], "--age: 2s is more than half the ack deadline of 3s"),
        (
            ["--age", "14m", "--linger", "9m"],
            (
                "--age: 14m age + 9m linger + 7m30s writing and retrying, then all is given"
                " back = 30m30s reaches the ack deadline of 30m"
            ),
        ),
        (
            ["--age", "none", "--idle", "2s", "--deadline-share", "none"],
            "--idle: 33m18s idle (999 x 2s) + 7m30s writing",
        ),
        (
            [*AMQP, "--age", "none", "--deadline-share", "none"],
            "--age: off: a group that is not filled is held past the ack deadline",
        ),
        (
            ["--age", "0", "--size", "none", "--bytes", "none", "--deadline-share", "none"],
            "--age: size, bytes, age, idle and interval are all off",
        ),
        (["--crontab", "every day"], "--crontab: 'every day' names no moment; five fields"),
        (["--crontab", "0 0 30 2 *"], "--crontab: '0 0 30 2 *' names no moment"),
        (["--time-zone", "Mars/North"], "--time-zone: 'Mars/North' is none; one like Europe/Berlin"),
        (["--predicate", "nowhere:at_all"], "--predicate: nowhere cannot be imported"),
        (
            ["--predicate", "os:getcwd"],
            "--predicate: os:getcwd must take the group's deliveries and the new one",
        ),
        (["--predicate-early"], "--predicate-early: there is no predicate"),
        (["--correlate", "header:a + nonsense"], "--correlate: 'nonsense' is no expression"),
        (["--correlate", "function:os:nothing"], "--correlate: os has no nothing"),
        (["--correlate", "type", "--on-missing-key", "key:"], "--on-missing-key: 'key:' says nothing"),
        (["--correlate", "type", "--late", "alone"], "closed_keys: 0 keys are remembered"),
        (["--sequence", "header:n"], "--sequence: there are no keys; set correlate as well"),
        (["--correlate", "type", "--close-on", "size"], "--close-on: 'size' is none of age, idle"),
        (
            ["--isolate-at", "15"],
            "--isolate-at: 15 is not below delivery_limit 15; 14 at most is needed, or off",
        ),
        (["--isolate-at", "0"], "--isolate-at: '0' is too small; at least 1 is needed"),
        (["--retry-first", "1m"], "--retry-first: 1m is longer than retry_max 5s"),
        (["--heartbeat", "0"], "--heartbeat: 0.0 is too small; at least 1s is needed"),
        (["--metrics-host", ""], "--metrics-host: it is empty; a text is needed"),
        (["--config", "/no/such.toml"], "--config: no file at '/no/such.toml'"),
        (["--config", "/"], "--config: '/' cannot be read: Is a directory"),
    ],
)
def test_flags(argv, line):
    (got,) = faults(argv, broker_fault=broker_fault)
    assert got.startswith(line)


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("size = \n", ["Invalid value (at line 1, column 8)"]),
        ("sise = 5\n", ["sise: no such setting; did you mean size?"]),
        ("max-held = '1MB'\n", ["max-held: no such setting; did you mean max_held?"]),
        ("config = 'x'\n", ["config: a file cannot name another file; remove it"]),
        ("size = true\n", ["size: a number is needed, not true or false"]),
        ("age = 2\n", ["age: 2 has no unit; a number with its unit is needed"]),
        ("broker = 5\n", ["broker: a text is needed"]),
        ("check = 'perhaps'\n", ["check: 'perhaps' is something else; true or false is needed"]),
        ("routes = 5\n", ["routes: a table for each route is needed: [routes.NAME]"]),
        ("[route.a]\n", ["route: no such setting; did you mean routes?"]),
        ("[routes]\nlogs = 5\n", ["routes.logs: a table is needed: [routes.logs]"]),
        ("[routes.'a b']\n", ["routes.a b: letters, digits, - _ and . are allowed"]),
        ("[routes.logs]\nsize = 0\n", ["routes.logs.size: 0 is too small; at least 1 is needed"]),
        ("[routes.logs]\nsise = 1\n", ["routes.logs.sise: no such setting; did you mean size?"]),
        ("[routes.logs]\ngrace = '1s'\n", ["routes.logs.grace: holds for all routes"]),
        ("[routes.logs]\nprefetch = 9\n", ["routes.logs.prefetch: 1 x prefetch 9 = 9 messages never fill"]),
        ("size = 0\n[routes.a]\nqueue='a'\n[routes.b]\nqueue='b'\n", ["size: 0 is too small"]),
        ("size = 0\n[routes.a]\nsize = 5\nage = 1\n", ["routes.a.age: 1 has no unit"]),
        ("[routes.a]\n[routes.b]\n", ["routes.b.queue: route 'a' takes from 'task_queue' too"]),
        (
            "[routes.a]\nqueue=''\n[routes.b]\nqueue='amq.x'\n",
            ["routes.a.queue: the name is empty", "routes.b.queue: 'amq.x' starts with amq."],
        ),
    ],
)
def test_files(text, lines, tmp_path):
    path = tmp_path / "settings.toml"
    path.write_text(text)
    got = faults(["--config", str(path)])
    assert len(got) == len(lines)
    for line, expected in zip(got, lines, strict=True):
        assert expected in line


def test_a_file_that_is_not_utf8(tmp_path):
    path = tmp_path / "settings.toml"
    path.write_bytes(b"queue = '\xff'\n")
    (line,) = faults(["--config", str(path)])
    assert line.endswith("is not UTF-8 at byte 9; TOML is always UTF-8")


def test_all_faults_at_once_each_by_the_name_that_was_written(tmp_path, monkeypatch):
    path = tmp_path / "settings.toml"
    path.write_text("age = 2\nsise = 1\n")
    monkeypatch.setenv("AGGREGATOR_MAX_HELD", "much")
    got = faults(["--config", str(path), "--queu", "x", "--size", "0", "--sink", "bad://h", "--broker", "h"])
    assert [line.partition(":")[0] for line in got] == [
        "--queu", "sise", "--size", "age", "AGGREGATOR_MAX_HELD", "--broker", "--sink",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["queue", "sink"])
def test_one_queue_or_sink_for_several_routes(name, tmp_path, monkeypatch):
    path = tmp_path / "settings.toml"
    path.write_text("[routes.a]\nqueue = 'a'\n[routes.b]\nqueue = 'b'\n")
    got = faults(["--config", str(path), f"--{name}", "sqlite:///x"])
    assert f"--{name}: there are 2 routes, set it in each [routes.NAME]" in got
    monkeypatch.setenv(f"AGGREGATOR_{name.upper()}", "sqlite:///x")
    got = faults(["--config", str(path)])
    assert f"AGGREGATOR_{name.upper()}: there are 2 routes, set it in each [routes.NAME]" in got


def test_variables_that_are_no_settings(monkeypatch):
    monkeypatch.setenv("AGGREGATOR_QUEU", "x")
    assert faults([]) == ["AGGREGATOR_QUEU: no such setting; did you mean AGGREGATOR_QUEUE?"]
    monkeypatch.delenv("AGGREGATOR_QUEU")
    for name in ("SERVICE_HOST", "SERVICE_PORT", "PORT", "PORT_9108_TCP_ADDR", "ZZZ"):
        monkeypatch.setenv(f"AGGREGATOR_{name}", "x")
    assert load([]).notes == ("AGGREGATOR_ZZZ: no setting of this name; it has no effect",)


def test_a_password_is_in_no_fault():
    argv = [
        "--broker",
        "amqp://u:hun/ter2@h",
        "--sink",
        "bad://u:hunter2@h?api_key=hunter2",
        "--config",
        "/no",
    ]
    text = "\n".join(faults(argv))
    assert "ter2" not in text
    assert "***" in text


@pytest.mark.parametrize(
    "url",
    [
        "u:hunter2",
        "//u:hunter2@h",
        "sqlite-queue://u:hunter2@h/q.db",
        "sqlite-queue://u:hunter2@/q.db#f",
        "sqlite-queue:///q.db#hunter2",
        "redis://:hunter2@h:port/0",
        "amqps://u:hunter2@h//;amqp://u:hunter2@h//",
        "sqs://u:hunter2@h",
        "nothing+like://u:hunter2@h",
        "tarantool://u:hunter2@h:port/",
        *(f"{scheme}://u:hun{sign}ter2@h/" for scheme in ("amqp", "tarantool", "redis") for sign in "/?#"),
    ],
)
def test_what_is_wrong_with_a_broker_is_said_without_its_password(url):
    (line,) = faults(["--broker", url], broker_fault=broker_fault)
    assert line.startswith("--broker: ")
    assert not re.search("hun|ter2", line)


@pytest.mark.parametrize("option", ["size", "age", "log-format", "on-missing-key", "correlate", "crontab"])
@pytest.mark.parametrize("host", ["h", "a-host-whose-name-is-longer-than-what-is-shown.example"])
def test_a_url_where_another_value_belongs_is_shown_without_its_password(option, host):
    (line,) = faults([f"--{option}", f"amqp://u:hunter2@{host}//"])
    assert line.startswith(f"--{option}: ")
    assert "hunter2" not in line


@pytest.mark.parametrize(
    ("flag", "url", "shown"),
    [
        ("--broker", "amqp://u:hunter2@h//", True),
        ("--sink", "elasticsearch+http://u:hunter2@h/i", True),
        ("--broker", "amqp://guest:guest@h//", False),
        ("--sink", "elasticsearch+http://u@h/i?password_env=P", False),
    ],
)
def test_a_password_on_the_command_line_is_noticed(flag, url, shown, monkeypatch):
    notes = load([flag, url]).notes
    assert [note.partition(":")[0] for note in notes] == ([flag] if shown else [])
    assert "hunter2" not in str(notes)
    monkeypatch.setenv(f"AGGREGATOR_{flag[2:].upper()}", url)
    assert load([]).notes == (), "whose environment it is, is a matter of the machine's"


def test_the_broker_is_asked_about():
    assert load(["--broker", "strange://h"]).routes
    assert faults(["--broker", "strange://h"], broker_fault=lambda url: f"{url} is odd") == [
        "--broker: strange://h is odd"
    ]


def test_a_transport_whose_client_is_missing(monkeypatch):
    def missing(url, **_options):
        raise ImportError("no module named redis")

    monkeypatch.setattr("consumers.brokers.Connection", missing)
    assert broker_fault("redis://h") == (
        "the client for redis cannot be used (no module named redis); install it: pip install 'kombu[redis]'"
    )
    assert broker_fault("amqpp://h").startswith("unknown scheme 'amqpp'")


@pytest.mark.parametrize(
    ("sink", "line"),
    [
        ("nope://h", "--sink: unknown scheme 'nope'; one of elasticsearch+http, "),
        ("elasticsearch+http://h/BAD", "--sink: index 'BAD'"),
        ("elasticsearch+http://u:hunter2@h/i?opp=index", "--sink: opp: unknown option"),
        ("function:no_such_module:f", "--sink: no_such_module cannot be imported"),
        ("sqlite://", "--sink: it names a host; write sqlite:///relative/path"),
    ],
)
def test_the_sinks_own_refusals(sink, line, monkeypatch):
    monkeypatch.setattr(rules, "from_url", sinks.from_url)
    (got,) = faults(["--sink", sink])
    assert got.startswith(line)


CLIENT = {"elasticsearch", "elastic_transport"}


def test_a_sink_whose_client_is_missing_names_its_extra(monkeypatch):
    monkeypatch.setattr(rules, "from_url", sinks.from_url)
    for name in [name for name in sys.modules if name.split(".")[0] in CLIENT]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "elasticsearch", None)
    (line,) = faults(["--sink", "elasticsearch+http://h/i"])
    assert "pip install 'kombu-aggregator[elasticsearch]'" in line


def test_looking_at_settings_leaves_nothing_behind(monkeypatch, tmp_path):
    monkeypatch.setattr(rules, "from_url", sinks.from_url)
    monkeypatch.chdir(tmp_path)
    load([], broker_fault=broker_fault)
    load(["--sink", "jsonl:///out"], broker_fault=broker_fault)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["--processes", "0"], "--processes: '0' is too small; at least 1 is needed"),
        (
            [*AMQP, "--processes", "4", "--correlate", "type"],
            (
                "--correlate: with 4 processes the messages of one key would gather in several of them;"
                " set processes to 1 or partitions, or remove correlate"
            ),
        ),
        (
            [*AMQP, "--processes", "4", "--sentinel", "type=end"],
            (
                "--sentinel: of 4 processes it would end the group of one alone;"
                " set processes to 1, or remove the sentinel"
            ),
        ),
        (
            ["--broker", "memory://", "--processes", "2"],
            (
                "--broker: messages in memory are seen by one process alone, not by 2;"
                " set processes to 1, or name a broker"
            ),
        ),
    ],
)
def test_what_several_processes_would_tear_apart(argv, line):
    assert faults(argv) == [line]


def test_keys_of_one_route_of_a_file(tmp_path):
    path = tmp_path / "settings.toml"
    path.write_text("processes = 2\n[routes.a]\nqueue = 'a'\n[routes.b]\nqueue = 'b'\ncorrelate = 'type'\n")
    (line,) = faults(["--config", str(path)])
    assert line.startswith("routes.b.correlate: with 2 processes")


KEYED = (*AMQP, "--correlate", "header:user", "--partitions", "8")


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["--partitions", "1"], "--partitions: '1' is too small; at least 2 is needed"),
        (["--partitions", "257"], "--partitions: '257' is too large; at most 256 is needed"),
        (["--partitions", "8", "--correlate", "header:user"], "--partitions: keys are spread by RabbitMQ's"),
        ([*AMQP, "--partitions", "8"], "--partitions: without keys instances share one queue as it is"),
        ([*KEYED, "--correlate", "/user/id"], "--correlate: /user/id is nothing that the broker can spread"),
        ([*KEYED, "--correlate", "header:a + header:b"], "--correlate: header:a + header:b is nothing"),
        ([*KEYED, "--correlate", "type"], "--correlate: type is nothing that the broker can spread keys by"),
        ([*KEYED, "--workers", "5"], "--workers: 5, but each of 8 partitions has a worker of its own"),
        ([*KEYED, "--size", "100", "--prefetch", "99"], "--prefetch: 99 messages never fill a group of 100"),
    ],
)  # fmt: skip
def test_partitions(argv, line):
    assert any(fault.startswith(line) for fault in faults(argv)), faults(argv)


def test_partitions_have_a_worker_each_and_allow_processes():
    settings = load([*KEYED, "--processes", "3"], broker_fault=broker_fault)
    route = settings.routes["default"]
    assert (route.workers, route.prefetch) == (8, 1000)
