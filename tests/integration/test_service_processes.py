"""Several processes: they share the work, none of their ends loses anything, and all end together."""

from __future__ import annotations

import os
import signal
import sqlite3
from collections import Counter
from contextlib import closing

import orjson
import psutil
import pytest
import requests

from consumers.transports import register
from tests.elasticsearch_proxy import slow
from tests.servers.base import wait_for
from tests.service import outgoing, publish

pytestmark = pytest.mark.integration
#: The broker's version makes no difference.
on_one_broker = pytest.mark.parametrize("rabbitmq", ["rabbitmq4"], indirect=True)

SMALL = ("--size", "20", "--prefetch", "10", "--workers", "2")
HELD = ("--size", "1000", "--age", "60s", "--workers", "2")


def pid_of(running, number, count=1):
    """Return the process id of the latest of so many processes with this number."""
    return int(running.wait_event("process_started", count, number=number)[-1]["pid"])


def all_run(running, processes):
    for number in range(1, processes + 1):
        running.wait_event("route_runs", process=number)


def ended(running, processes):
    """Each process has stopped with everything settled."""
    numbers = {line["process"] for line in running.events("stopped", settled=True, threads_ended=True)}
    return numbers == set(range(1, processes + 1))


def test_they_share_the_work(stage):
    stage.declare("quorum")
    running = stage.start("--processes", "3", "--metrics-port", "0", *SMALL)
    all_run(running, 3)
    stage.wait_counts("six consumers", lambda counts: counts.consumers == 6)
    wait_for(lambda: running.ready() == (200, "ok\n"), "readiness")
    stage.publish(stage.numbered(range(2_000)))
    stage.publish(stage.numbered(range(2_000, 2_003), body=b"{"))
    stage.wait_written(2_000)
    stage.wait_empty()
    running.wait_metric("aggregator_deliveries_total", lambda count: count == 2_003)
    assert running.metric("aggregator_received_total") == 2_003
    assert running.metric("aggregator_deliveries_total", verdict="written") == 2_000
    assert running.metric("aggregator_dead_letters_total", reason="bad-json") == 3
    assert running.metric("aggregator_batch_messages_sum") == 2_003
    assert running.metric("aggregator_request_items_sum") == 2_000
    assert running.metric("aggregator_workers", state="consuming") == 6
    assert running.metric("aggregator_route_state", state="running") == 3
    assert running.metric("aggregator_held_messages") == 0
    assert running.metric("aggregator_processes") == 3
    assert running.stop() == 0
    assert ended(running, 3)
    assert {line["process"] for line in running.events("batch")} == {1, 2, 3}
    assert sum(size for _, size in running.batches()) == 2_003
    assert stage.numbers() == Counter(range(2_000))
    stage.wait_counts("no consumers", lambda counts: not counts.consumers)


def test_one_is_killed(stage):
    stage.declare("quorum")
    running = stage.start("--processes", "3", "--metrics-port", "0", *SMALL)
    all_run(running, 3)
    stage.publish(stage.numbered(range(1_000)))
    running.wait_event("batch", 5, process=2)
    counted = running.metric("aggregator_deliveries_total")
    os.kill(pid_of(running, 2), signal.SIGKILL)
    running.wait_event("process_died", number=2, cause="SIGKILL")
    stage.publish(stage.numbered(range(1_000, 3_000)))
    assert running.metric("aggregator_deliveries_total") >= counted
    pid_of(running, 2, 2)
    running.wait_event("route_runs", 2, process=2)
    stage.publish(stage.numbered(range(3_000, 4_000)))
    stage.wait_written(4_000)
    stage.wait_empty()
    assert running.metric("aggregator_process_restarts_total", cause="SIGKILL") == 1
    assert running.metric("aggregator_processes") == 3
    running.wait_metric("aggregator_workers", lambda workers: workers == 6, state="consuming")
    assert running.metric("aggregator_held_messages") == 0
    assert running.stop() == 0
    assert stage.numbers() == Counter(range(4_000))


@on_one_broker
def test_what_they_hold_is_written_at_the_end(stage):
    stage.declare()
    running = stage.start("--processes", "2", "--metrics-port", "0", *HELD)
    stage.wait_counts("four consumers", lambda counts: counts.consumers == 4)
    stage.publish(stage.numbered(range(50)))
    running.wait_metric("aggregator_held_messages", lambda held: held == 50)
    assert running.stop() == 0
    assert ended(running, 2)
    assert {trigger for trigger, _ in running.batches()} == {"shutdown"}
    assert sum(size for _, size in running.batches()) == 50
    assert stage.numbers() == Counter(range(50))


@on_one_broker
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["TERM", "INT"])
def test_a_signal_to_the_group_is_one_signal(stage, number):
    """As by Ctrl-C in a terminal, or from a service manager: parent and children get it."""
    stage.publish(stage.numbered(range(50)))
    running = stage.start("--processes", "2", "--metrics-port", "0", *HELD, session=True)
    running.wait_metric("aggregator_held_messages", lambda held: held == 50)
    os.killpg(running.process.pid, number)
    assert running.wait() == 0
    assert ended(running, 2)
    assert "stopped at once" not in running.last_words()
    assert stage.numbers() == Counter(range(50))


@on_one_broker
def test_a_signal_to_the_group_while_they_start(stage):
    stage.publish(stage.numbered(range(5)))
    running = stage.start("--processes", "2", *HELD, session=True)
    running.wait_event("process_started", 2)
    os.killpg(running.process.pid, signal.SIGINT)
    assert running.wait() == 0
    assert not running.noise


@on_one_broker
def test_the_second_signal_ends_all_at_once(stage):
    stage.publish(stage.numbered(range(40)))
    with slow(stage.elasticsearch.url) as sink:
        running = stage.start("--processes", "2", *SMALL, "--grace", "50s", sink=stage.sink(sink.url))
        assert sink.asked.wait(60)
        running.send()
        running.wait_event("stopping")
        running.send()
        assert running.wait(40) == 1
        sink.answer.set()
    assert "unacked messages go back to the broker" in running.last_words()
    stage.wait_counts("all given back", lambda counts: counts.ready == 40 and not counts.unacked)


@on_one_broker
def test_children_do_not_outlive_their_parent(stage, tmp_path):
    stage.publish(stage.numbered(range(50)))
    place = {"TMPDIR": str(tmp_path)}
    running = stage.start("--processes", "2", "--metrics-port", "0", *HELD, environment=place)
    running.wait_metric("aggregator_held_messages", lambda held: held == 50)
    children = [psutil.Process(pid_of(running, number)) for number in (1, 2)]
    running.process.kill()
    gone, alive = psutil.wait_procs(children, timeout=30)
    for child in alive:
        child.kill()
    assert (len(gone), alive) == (2, [])
    running.kill()  # waits until all that they said is read
    assert len(running.events("parent_gone")) == 2
    assert list(tmp_path.iterdir()) == []
    assert ended(running, 2)
    stage.wait_empty()
    assert stage.numbers() == Counter(range(50))


@on_one_broker
def test_a_signal_forces_the_groups_of_all(stage):
    running = stage.start("--processes", "2", "--metrics-port", "0", *HELD)
    stage.wait_counts("four consumers", lambda counts: counts.consumers == 4)
    stage.publish(stage.numbered(range(50)))
    running.wait_metric("aggregator_held_messages", lambda held: held == 50)
    running.send(signal.SIGUSR1)
    stage.wait_written(50)
    batches = running.wait_event("batch", 2, trigger="forced")
    assert {line["process"] for line in batches} == {1, 2}
    assert running.stop() == 0


@on_one_broker
def test_a_signal_to_one_is_no_end(stage):
    stage.declare()
    running = stage.start("--processes", "2", "--metrics-port", "0", *SMALL)
    all_run(running, 2)
    os.kill(pid_of(running, 1), signal.SIGTERM)
    running.wait_event("process_died", number=1, cause="SIGTERM")
    running.wait_event("route_runs", 2, process=1)
    assert running.metric("aggregator_process_restarts_total", cause="SIGTERM") == 1
    assert running.stop() == 0


@on_one_broker
def test_health_is_that_of_all(stage):
    stage.declare()
    running = stage.start("--processes", "2", "--metrics-port", "0", *SMALL)
    wait_for(lambda: running.ready()[0] == 200, "readiness")
    frozen = psutil.Process(pid_of(running, 2))
    frozen.suspend()
    try:
        health = requests.get(f"{running.address}/healthz", timeout=30)
        assert (health.status_code, health.text) == (503, "process 2: it does not answer\n")
        assert running.ready() == (503, "process 2: it does not answer\n")
    finally:
        frozen.resume()
    wait_for(lambda: running.ready()[0] == 200, "readiness")
    assert requests.get(f"{running.address}/healthz", timeout=30).text == "ok\n"
    stage.rabbitmq.kill()
    running.wait_event("link_lost", 4)
    status, text = running.ready()
    assert status == 503
    assert text.splitlines() == [f"process {n}: default: no worker consumes" for n in (1, 2)]
    assert requests.get(f"{running.address}/healthz", timeout=30).status_code == 200
    stage.rabbitmq.start()
    wait_for(lambda: running.ready()[0] == 200, "readiness")
    assert running.stop() == 0


@on_one_broker
def test_what_no_process_can_do_ends_all(stage):
    stage.publish(stage.numbered(range(5)))
    running = stage.start("--processes", "2", *SMALL, "--dead-letter", "exchange:absent")
    assert running.wait() == 1
    assert running.events("process_ended", code=1)
    assert running.events("route_stopped")
    stage.wait_counts("all still there", lambda counts: counts.ready == 5)


#: As a sink it is well; in a child it ends the process while it is imported.
DEADLY = """
import os, sys
if "aggregator.processes.child" in sys.orig_argv:
    os.kill(os.getpid(), 9)
def write(request):
    pass
"""


def test_who_dies_at_once_each_time_ends_the_service(service, tmp_path):
    (tmp_path / "deadly.py").write_text(DEADLY)
    flags = ("--processes", "2", "--sink", "function:deadly:write")
    running = service(*flags, folder=tmp_path, environment={"PYTHONDONTWRITEBYTECODE": "1"})
    assert running.wait() == 1
    (line,) = running.noise
    assert "died 5 times before it took a message" in line
    assert "SIGKILL" in line


# ── without a server ──


def numbers(folder):
    with closing(sqlite3.connect(folder / "data" / "documents.db")) as base:
        return Counter(orjson.loads(body)["number"] for (body,) in base.execute("SELECT body FROM documents"))


def fill(folder, numbers):
    (folder / "data").mkdir(exist_ok=True)
    register()
    publish(
        f"sqlite-queue:///{folder}/data/queue.db",
        "task_queue",
        [outgoing("task_queue", number) for number in numbers],
    )


def test_the_embedded_queue_until_it_is_empty(service, tmp_path):
    fill(tmp_path, range(3_000))
    running = service("--size", "100", "--until-empty", "--processes", "3", folder=tmp_path)
    assert running.wait() == 0
    assert numbers(tmp_path) == Counter(range(3_000))
    assert running.output.startswith("default: 3000 written\nLook at them: ")
    assert len(running.events("process_finished")) == 3


#: The end of a user's sink: what it has written stands in a file, as :func:`noted` reads it.
NOTE = """
    with open("written", "ab") as notes:
        notes.write(b"".join(item.document + b"\\n" for item in items))
"""
#: It says that it has a request, and writes it once it may.
PATIENT = (
    """
import os, pathlib, time

def write(items):
    pathlib.Path(f"held-{os.getpid()}").touch()
    while not pathlib.Path("go").exists():
        time.sleep(0.01)
"""
    + NOTE
)


def noted(folder):
    return [orjson.loads(line)["number"] for line in (folder / "written").read_bytes().splitlines()]


def test_until_empty_though_one_is_killed(service, tmp_path):
    (tmp_path / "patient.py").write_text(PATIENT)
    fill(tmp_path, range(1_000))
    flags = ("--size", "50", "--prefetch", "50", "--sink", "function:patient:write")
    running = service(*flags, "--until-empty", "--processes", "2", folder=tmp_path)
    pids = [pid_of(running, number) for number in (1, 2)]
    wait_for(lambda: all((tmp_path / f"held-{pid}").exists() for pid in pids), "a request in each process")
    os.kill(pids[0], signal.SIGKILL)
    running.wait_event("process_died", number=1, cause="SIGKILL")
    (tmp_path / "go").touch()
    assert running.wait() == 0
    assert len(running.events("process_finished")) == 2
    assert Counter(noted(tmp_path)) == Counter(range(1_000))
    assert running.output.startswith("default: 1000 written\n")


#: It dies of one message, each time.
MORTAL = (
    """
import os

def write(items):
    for item in items:
        if b'"number":7,' in item.document:
            os.kill(os.getpid(), 9)
"""
    + NOTE
)


def test_a_message_that_kills_is_found_while_the_others_go_on(service, tmp_path):
    (tmp_path / "mortal.py").write_text(MORTAL)
    fill(tmp_path, range(300))
    flags = ("--sink", "function:mortal:write", "--isolate-at", "2", "--delivery-limit", "4")
    running = service(*flags, "--size", "20", "--until-empty", "--processes", "2", folder=tmp_path)
    assert running.wait() == 0
    written = set(noted(tmp_path))
    assert written == set(range(300)) - {7}
    assert "1 dead_lettered" in running.output
    assert 2 <= len(running.events("process_died", cause="SIGKILL")) <= 8


def test_lines_of_several_processes_in_files_of_their_own(service, tmp_path):
    fill(tmp_path, range(1_000))
    running = service(
        "--size", "50", "--until-empty", "--processes", "2", "--sink", "jsonl:///data/lines", folder=tmp_path
    )  # fmt: skip
    assert running.wait() == 0
    lines = [
        orjson.loads(line)["_source"]["number"]
        for path in (tmp_path / "data" / "lines").iterdir()
        for line in path.read_bytes().splitlines()
    ]
    assert Counter(lines) == Counter(range(1_000))


def test_a_start_from_an_application(service, tmp_path):
    """Each process makes its own: its function may stop them all."""
    (tmp_path / "mine.py").write_text(APPLICATION)
    fill(tmp_path, range(100))
    running = service("--app", "mine:app", "--processes", "2", folder=tmp_path)
    assert running.wait() == 0
    assert running.events("process_ended", code=0)


APPLICATION = """
import aggregator

app = aggregator.Aggregator()

@app.batch("task_queue", complete=aggregator.size(10))
def write(request):
    app.stop()
"""


def test_files_of_metrics_are_removed(service, tmp_path):
    place = tmp_path / "temporary"
    place.mkdir()
    environment = {"TMPDIR": str(place)}
    running = service("--processes", "2", "--metrics-port", "0", folder=tmp_path, environment=environment)
    wait_for(lambda: running.ready()[0] == 200, "readiness")
    (folder,) = place.iterdir()
    gauges = [f"gauge_{kind}_{number}.db" for kind in ("livemax", "livesum") for number in (1, 2)]
    assert sorted(path.name for path in folder.glob("gauge*")) == gauges
    files = len(list(folder.iterdir()))
    os.kill(pid_of(running, 1), signal.SIGKILL)
    running.wait_event("process_died")
    running.wait_event("route_runs", 2, process=1)
    assert len(list(folder.iterdir())) == files
    assert running.stop() == 0
    assert list(place.iterdir()) == []
