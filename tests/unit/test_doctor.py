"""The doctor's judgement without servers: queues, machines, files, clocks, silence; and how it is told."""

from __future__ import annotations

import http.server
import io
import os
import socket
import ssl
import threading
from types import SimpleNamespace
from urllib.parse import urlsplit

import orjson
import pytest

from aggregator.clock import SYSTEM_CLOCK
from aggregator.config import load
from aggregator.doctor import files, machine, network, search, sinks, stores
from aggregator.doctor.__main__ import main
from aggregator.doctor.finding import Finding, Level, Place, amount, clock_finding, error, note, ok, warning
from aggregator.doctor.running import examine
from aggregator.doctor.showing import as_json, lines, show, summary, worst
from aggregator.sinks.elasticsearch_client import Reply
from aggregator.sinks.elasticsearch_options import read_url
from consumers.doctor_management import Management
from consumers.doctor_queue import QueueFacts, judge_dead_letters, judge_source

V3, V4 = (3, 10, 8), (4, 0, 5)


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    for name in list(os.environ):
        if name.upper().startswith("AGGREGATOR_"):
            monkeypatch.delenv(name)


def route(*argv):
    return load(["--broker", "amqp://h", *argv]).routes["default"]


def levels(findings):
    """What is worse than ok, as (level, what was said)."""
    return [(finding.level.word, finding.says) for finding in findings if finding.level is not Level.OK]


def one(findings):
    (found,) = [finding for finding in findings if finding.level is not Level.OK]
    return found


# ── queues ──


def judged(arguments, *flags, version=V4, **more):
    return list(judge_source(QueueFacts("q", arguments=arguments, **more), route(*flags), version))


def test_a_plain_durable_queue_is_fine():
    assert levels(judged({})) == []
    assert levels(judged({"x-queue-type": "quorum"})) == []


def test_a_length_limit_that_throws_away_is_an_error():
    found = one(judged({"x-max-length": 10}))
    assert found.level is Level.ERROR
    assert found.says == "x-max-length 10 messages, overflow drop-head"
    assert "thrown away, and nobody is told" in found.then
    assert found.do.endswith("delete queue 'q' once it is empty, and declare it without x-max-length")


def test_with_a_dead_letter_exchange_or_refused_publishers_it_is_less():
    assert one(judged({"x-max-length": 10, "x-dead-letter-exchange": ""})).level is Level.WARNING
    assert one(judged({"x-max-length-bytes": 10, "x-overflow": "reject-publish"})).level is Level.NOTE


def test_what_a_policy_sets_counts_and_is_named_as_such():
    found = one(judged({}, policy={"max-length": 5}))
    assert found.says == "policy max-length 5 messages, overflow drop-head"
    assert found.do.startswith("rabbitmqctl list_policies")
    # of two limits the smaller one holds
    assert one(judged({"x-max-length": 9}, policy={"max-length": 5})).says.startswith("policy max-length 5")


def test_a_time_to_live_loses_what_waits_for_longer():
    found = one(judged({"x-message-ttl": 60_000}))
    assert (found.level, found.says) == (Level.WARNING, "x-message-ttl 1m")
    assert found.then.endswith("is gone, and nobody is told")


@pytest.mark.parametrize(
    ("arguments", "flags", "version", "level"),
    [
        ({}, [], V4, None),  # 20 by default, and delivery_limit is 15
        ({"x-delivery-limit": 15}, [], V4, Level.ERROR),
        ({"x-delivery-limit": 16}, [], V4, None),
        ({"x-delivery-limit": 5, "x-dead-letter-exchange": "dlx"}, [], V4, Level.WARNING),
        ({"x-delivery-limit": 5}, ["--delivery-limit", "4", "--isolate-at", "2"], V3, None),
        ({"x-delivery-limit": -1}, [], V4, None),  # without end
    ],
)
def test_a_delivery_limit_below_ours_drops_messages(arguments, flags, version, level):
    found = judged({"x-queue-type": "quorum", **arguments}, *flags, version=version)
    assert [each.level for each in found if each.level is not Level.OK] == ([level] if level else [])


def test_a_consumer_timeout_shorter_than_the_ack_deadline():
    found = one(judged({"x-consumer-timeout": 60_000}))
    assert found.says == "x-consumer-timeout is 1m, ack_deadline is 30m"
    assert found.do == 'ack_deadline = "1m"'
    assert levels(judged({"x-consumer-timeout": 60_000}, "--ack-deadline", "1m")) == []


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"arguments": {"x-queue-type": "stream"}}, "a stream"),
        ({"arguments": {}, "exclusive": True}, "exclusive"),
        ({"arguments": {}, "auto_delete": True}, "auto_delete"),
    ],
)
def test_queues_that_keep_nothing(facts, said):
    found = one(judge_source(QueueFacts("q", **facts), route(), V4))
    assert (found.level, found.says) == (Level.ERROR, said)


def test_others_at_the_queue_and_arguments_that_cannot_be_seen():
    found = levels(judge_source(QueueFacts("q", consumers=2), route(), V4))
    assert found == [
        ("note", "2 others consume from it"),
        ("note", "its arguments cannot be seen with these rights"),
    ]


def test_dead_letters_that_wait_and_a_place_that_loses_them():
    facts = QueueFacts("q.dead", messages=3, arguments={"x-max-length": 100}, durable=False)
    found = list(judge_dead_letters(facts, route("--queue", "q")))
    assert levels(found) == [
        ("warning", "3 dead letters wait there"),
        ("error", "x-max-length 100 messages, overflow drop-head"),
        ("warning", "not durable"),
    ]
    assert found[1].do == "python -m producers.replay list --queue q --broker URL"


# ── this machine ──


def test_memory_is_that_of_the_control_group(tmp_path):
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal:       8000000 kB\nMemFree: 1 kB\n")
    assert machine.memory_limit(tmp_path) == 8_000_000 * 1024
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/memory.max").write_text("268435456\n")
    assert machine.memory_limit(tmp_path) == 268_435_456
    (tmp_path / "sys/fs/cgroup/memory.max").write_text("max\n")
    assert machine.memory_limit(tmp_path) == 8_000_000 * 1024


def test_more_held_than_there_is_memory():
    settings = load(["--broker", "amqp://h", "--max-held", "1GB"])
    assert one(machine.memory(settings, 10**9)).level is Level.WARNING
    assert levels(machine.memory(settings, 10**10)) == []


def test_more_connections_than_files():
    settings = load(["--broker", "amqp://h", "--workers", "300"])
    found = one(machine.files(settings, 1024))
    assert found.level is Level.WARNING
    assert found.do.startswith("ulimit -n 4096")
    assert one(machine.files(settings, 256)).level is Level.ERROR
    assert levels(machine.files(settings, -1)) == []


def test_processors_by_affinity_and_control_group(tmp_path):
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/cpu.max").write_text("50000 100000")
    assert machine.available_processors(tmp_path) == 0.5
    assert one(machine.processors(4, 2.0)).do == "processes = 2"
    assert levels(machine.processors(2, 2.0)) == []


# ── files ──


def test_files_that_are_there_or_will_be(tmp_path):
    assert levels(files.file_findings("f", tmp_path / "a.db", shared=True)) == []
    found = one(files.file_findings("f", tmp_path / "b/c/a.db", shared=True))
    assert (found.level, found.says) == (Level.NOTE, f"the folder {tmp_path}/b/c is made at the start")
    assert not (tmp_path / "b").exists(), "it looks, and makes nothing"
    (tmp_path / "d").mkdir()
    assert one(files.file_findings("f", tmp_path / "d", shared=True)).level is Level.ERROR
    (tmp_path / "file").touch()
    assert one(files.folder_findings("f", tmp_path / "file/x")).says == f"{tmp_path}/file is no folder"


def test_what_may_not_be_written_to(tmp_path, monkeypatch):
    monkeypatch.setattr(files.os, "access", lambda *_: False)
    found = one(files.folder_findings("f", tmp_path))
    assert found.level is Level.ERROR
    assert found.do.startswith("chown ")


def test_a_disk_that_is_nearly_full_and_one_over_a_network(tmp_path, monkeypatch):
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: SimpleNamespace(free=10**6, total=10**12))
    assert one(files.folder_findings("f", tmp_path)).says == f"1 MB of 1 TB free at {tmp_path}"
    mounts = tmp_path / "mounts"
    mounts.write_text(f"x / ext4 rw 0 0\nserver:/ {tmp_path} nfs4 rw 0 0\n")
    assert files.filesystem(tmp_path / "a", mounts) == "nfs4"
    assert files.filesystem(tmp_path.parent, mounts) == "ext4"


# ── the network ──


@pytest.mark.parametrize(
    ("exc", "says", "do"),
    [
        (socket.gaierror(-2, "x"), "no such host", "DNS"),
        (ConnectionRefusedError(), "nothing listens there", "start the server"),
        (TimeoutError(), "no answer within 4 s", "firewall"),
        (ConnectionResetError(), "it hung up", "TLS"),
        (ssl.SSLError(1, "wrong version"), "no TLS is spoken there", "TLS port"),
        (OSError("odd"), "OSError: odd", "log"),
    ],
)
def test_what_a_failed_connection_means(exc, says, do):
    found = network.unreachable("server", exc, "h:1")
    assert found.says.startswith(f"h:1: {says}")
    assert do in found.do


def test_a_certificate_that_ends():
    assert network.valid_for("c", "it", 40).level is Level.OK
    assert network.valid_for("c", "it", 20).level is Level.NOTE
    assert network.valid_for("c", "it", 5).level is Level.WARNING
    assert network.valid_for("c", "it", -5).says == "it has ended 5 days ago"


def test_clocks_that_differ():
    assert clock_finding("c", 1.0, 0.5).level is Level.OK
    assert clock_finding("c", 8.0, 9.0).level is Level.OK, "it is not known that exactly"
    assert clock_finding("c", -8.0, 0.5).says == "its clock is 8 s behind this machine's"
    assert clock_finding("c", 400.0, 0.5).level is Level.ERROR


class Api(http.server.BaseHTTPRequestHandler):
    answers: dict[str, object]

    def do_GET(self):
        told = self.answers.get(self.path)
        self.send_response(200 if told is not None else 404)
        self.end_headers()
        self.wfile.write(orjson.dumps(told if told is not None else {"error": "not found"}))

    def do_HEAD(self):
        self.send_response(200)
        self.end_headers()

    def do_OPTIONS(self):
        self.do_HEAD()

    def log_message(self, *_):
        pass


@pytest.fixture
def api():
    """A server of HTTP; what it answers, by path."""
    answers: dict[str, object] = {}
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("It", (Api,), {"answers": answers}))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield answers, server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_management_api_tells_of_alarms_and_policies(api):
    answers, port = api
    place = Management("amqp://u:p@elsewhere", f"http://127.0.0.1:{port}")
    assert one(place.findings()).says == f"http://127.0.0.1:{port} answers 404"
    answers["/api/overview"] = {}
    answers["/api/nodes"] = [
        {"name": "a", "running": True, "mem_alarm": True, "fd_used": 90, "fd_total": 100},
        {"name": "b", "running": False},
    ]
    answers["/api/queues/%2F/a%2Fb"] = {"durable": True}
    answers["/api/policies/%2F"] = [
        {"pattern": "^a", "priority": 0, "definition": {"max-length": 1}},
        {"pattern": "b$", "priority": 2, "apply-to": "queues", "definition": {"max-length": 2}},
        {"pattern": "^a", "priority": 3, "apply-to": "exchanges", "definition": {"max-length": 3}},
        {"pattern": "c", "priority": 4, "definition": {"max-length": 4}},
    ]
    assert levels(place.findings()) == [
        ("error", "its alarm for memory is on"),
        ("warning", "90 of 100 file descriptors are used"),
        ("warning", "does not run"),
    ]
    assert place.queue("/", "a/b") == {"durable": True, "effective_policy_definition": {"max-length": 2}}
    assert place.queue("/", "other") == {}


def test_a_server_is_reached_and_its_clock_compared(api):
    _, port = api
    server = network.Server("127.0.0.1", port)
    assert levels(network.reach("s", server)) == []
    assert [finding.level for finding in network.clock_of("s", server)] == [Level.OK]
    assert one(network.reach("s", server._replace(tls=True))).level is Level.ERROR


def test_a_webhook_is_asked_as_the_service_asks_it(api):
    _, port = api
    place = sinks.sink_place(route("--sink", f"webhook+http://127.0.0.1:{port}/x"), lambda *_: iter(()))
    found = list(place.examine())
    assert [each.level for each in found[:2]] == [Level.OK, Level.OK]


def test_redis_that_is_nearly_full():
    info = {"redis_version": "7.0", "maxmemory_policy": "noeviction", "used_memory": 90, "maxmemory": 100}
    assert one(stores.redis_findings(info)).says == "90 bytes of maxmemory 100 bytes are used"
    assert levels(stores.redis_findings({**info, "maxmemory": 0})) == []


# ── search servers ──


@pytest.mark.parametrize(
    ("setting", "name", "made"),
    [
        ("true", "x", True),
        ("false", "x", False),
        ("logs-*,-*", "logs-1", True),
        ("logs-*,-*", "x", False),
        ("-x*,+*", "xy", False),
        ("-x*,+*", "y", True),
        ("a", "b", False),
    ],
)
def test_which_indices_are_made_by_themselves(setting, name, made):
    assert search.may_be_made(setting, name) is made


def test_fields_are_counted_as_the_server_does():
    mapping = {"properties": {"a": {"properties": {"b": {}}}, "c": {"fields": {"raw": {}, "x": {}}}}}
    assert search.count_fields(mapping) == 5


@pytest.mark.parametrize(
    ("index", "status", "body", "level", "says"),
    [
        ("orders", 200, {"has_all_requested": True}, Level.OK, "the credentials may write"),
        ("orders", 200, {"has_all_requested": False}, Level.ERROR, "the credentials lack the privilege"),
        ("orders", 400, {}, Level.NOTE, "not asked: OpenSearch does not answer"),
        ("orders", 403, {}, Level.NOTE, "not asked: OpenSearch does not answer"),
        ("orders-{/time:%Y.%m}", 200, {"has_all_requested": True}, Level.NOTE, "not asked: the indices"),
    ],
)
def test_rights_are_well_only_where_that_was_answered(index, status, body, level, says):
    settings = read_url(urlsplit(f"opensearch+http://u:p@h:1/{index}"))
    connection = SimpleNamespace(product="OpenSearch", post=lambda *_: Reply(status, body))
    (found,) = search._rights(connection, settings, route())
    assert (found.level, found.says[: len(says)]) == (level, says)


# ── running ──


def place(title, *findings, wait=None, fails=None):
    def look():
        yield from findings
        if wait is not None:
            wait.wait(30)
            yield ok(title, "late")
        if fails is not None:
            raise fails

    return Place(title, look)


def test_places_are_told_in_their_order_and_a_silent_one_is_given_up():
    frozen = threading.Event()
    runs = examine(
        [place("a", ok("a", "1"), wait=frozen), place("b", ok("b", "2"), ok("b", "3"))],
        SYSTEM_CLOCK, patience=0.2,
    )  # fmt: skip
    frozen.set()
    assert [run.place.title for run in runs] == ["a", "b"]
    assert levels(runs[0].findings) == [("error", "no further answer within 0.2 s")]
    assert levels(runs[1].findings) == []


def test_a_check_that_breaks_takes_no_other_with_it():
    broken = RuntimeError("amqp://user:hunter2@host is odd")
    (run, other) = examine([place("a", ok("a", "1"), fails=broken), place("b", ok("b", "2"))], SYSTEM_CLOCK)
    (says,) = [says for _, says in levels(run.findings)]
    assert says == "the examination broke off: RuntimeError: amqp://user:***@host is odd"
    assert levels(other.findings) == []


# ── telling ──


def runs():
    findings = [ok("a", "fine"), note("b", "so"), warning("c", "may", "then", "do"), error("d", "x " * 80)]
    return examine([place("somewhere", *findings), Place("this", lambda: iter([ok("e", "1")]), ("r", "s"))],
                   SYSTEM_CLOCK)  # fmt: skip


def test_plain_lines_in_a_pipe():
    stream = io.StringIO()
    show(runs(), stream)
    told = stream.getvalue().splitlines()
    assert told[:6] == [
        "somewhere",
        "  ok       a: fine",
        "  note     b: so",
        "  warning  c: may",
        "           then  then",
        "           do    do",
    ]
    assert max(map(len, told)) <= 110
    assert "this  (routes r, s)" in told
    assert told[-1] == "1 error, 1 warning, 1 note, 2 ok."
    assert worst(runs()) is Level.ERROR
    assert summary([]) == "nothing to look at"


@pytest.mark.parametrize("width", [60, 80, 150])
def test_no_line_is_wider_than_asked_unless_a_word_is(width):
    assert max(len(line.plain) for line in lines(runs(), width)) <= width


def test_json_for_programs():
    told = orjson.loads(as_json(runs()))
    assert told["worst"] == "error"
    assert told["places"][0]["findings"][2] == {
        "level": "warning", "about": "c", "says": "may", "then": "then", "do": "do",
    }  # fmt: skip
    assert told["places"][1]["routes"] == ["r", "s"]


def test_amounts():
    assert [amount(n) for n in (5, 1500, 2.35e10, 10**12)] == ["5 bytes", "1.5 kB", "23.5 GB", "1 TB"]


def test_the_command_line(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert main([]) == 0
    told = capsys.readouterr().out
    assert told.startswith("this machine\n  ok       versions: ")
    assert "broker sqlite-queue:///data/queue.db  (route default)" in told
    assert list(tmp_path.iterdir()) == [], "nothing is made"
    assert main(["--id", "none", "--format", "json"]) == 1
    assert orjson.loads(capsys.readouterr().out)["worst"] == "warning"
    assert main(["--sise", "3"]) == 2
    assert "did you mean --size?" in capsys.readouterr().err


@pytest.mark.parametrize(
    "argv", [["--format", "xml"], ["--timeout", "5"], ["--timeout", "0"], ["--management", "h:15672"]]
)
def test_wrong_flags_of_its_own(argv, capsys):
    with pytest.raises(SystemExit) as raised:
        main(argv)
    assert raised.value.code == 2
    assert f"argument {argv[0]}" in capsys.readouterr().err


def test_a_finding_shows_no_password():
    away = route("--sink", "webhook+http://u:hunter2@127.0.0.1:1/")
    found = list(sinks.sink_place(away, lambda *_: iter(())).examine())
    assert found
    assert isinstance(found[0], Finding)
    assert "hunter2" not in str(found)
