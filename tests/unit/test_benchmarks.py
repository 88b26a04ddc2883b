"""What the benchmark beside the peers makes of what it saw: figures, tables, the page."""

from __future__ import annotations

import json
import math

import orjson
import pytest

from benchmarks import compare, figures, page, report
from benchmarks.catalogue import CATALOGUE, OURS, QUICK, Settings
from benchmarks.figures import Spread
from benchmarks.filling import MEMBERS, outgoing
from benchmarks.machine import pinned, properties
from benchmarks.process import cpu_clock
from benchmarks.watch import read

# ── what the broker told ──


def test_what_the_broker_held_is_read_as_seconds():
    assert read("[[1700000000000000,5],\n [1700000000250000,0]]") == [(1.7e9, 5.0), (1.7e9 + 0.25, 0.0)]


def test_acks_never_fall_when_a_queue_fills():
    assert figures.acked([(0, 10), (1, 4), (2, 6), (3, 0)], 10) == [(0, 0), (1, 6), (2, 6), (3, 10)]


def test_a_value_that_was_never_reached_is_said():
    with pytest.raises(ValueError, match="20 was never reached: 7 at the end"):
        figures.reached([(0, 0), (1, 7)], 20)


# ── figures of a run ──


def test_only_what_lies_between_warm_up_and_tail_counts():
    acks = [(0.0, 0.0), (10.0, 1000.0), (12.0, 3000.0), (30.0, 4000.0)]
    cpu = [(0.0, 0.0), (10.0, 50.0), (12.0, 52.0), (30.0, 90.0)]
    assert figures.throughput(acks, cpu, 1000, 2000) == {"messages_per_s": 1000.0, "cpu_s_per_100k": 100.0}


def test_an_ack_that_passed_the_mark_is_no_gain():
    acks = [(0.0, 0.0), (10.0, 1500.0), (11.0, 3000.0)]
    cpu = [(0.0, 0.0), (11.0, 11.0)]
    found = figures.throughput(acks, cpu, 1000, 2000)
    assert found == {"messages_per_s": 1500.0, "cpu_s_per_100k": pytest.approx(1 / 1500 * 100_000)}


def test_cpu_between_two_looks_is_a_line():
    curve = [(1.0, 10.0), (3.0, 20.0)]
    assert [figures.at(curve, time) for time in (0, 1, 2, 3, 9)] == [10, 10, 15, 20, 20]


def test_the_clock_of_a_process_is_its_own():
    import os
    import time

    spent = time.process_time()
    assert spent <= time.clock_gettime(cpu_clock(os.getpid())) <= time.process_time()


# ── latency ──


def test_the_nth_ack_is_that_of_the_nth_message():
    published = [(0.0, 0.1, 2), (1.0, 1.1, 4)]
    held = [(0.1, 2), (0.5, 1), (1.1, 3), (2.0, 0)]
    assert figures.latencies(published, held) == [0.5, 2.0, 1.0, 1.0]


def test_a_message_that_is_held_before_it_is_confirmed_takes_no_ack_back():
    published = [(0.0, 0.1, 1), (1.0, 1.1, 2)]
    held = [(0.1, 1), (0.5, 0), (1.05, 1), (1.2, 0)]
    assert figures.latencies(published, held) == [0.5, pytest.approx(0.2)]


def test_what_was_never_acked_took_for_ever():
    assert figures.latencies([(0.0, 0.1, 2)], [(0.1, 2), (0.2, 1)]) == [0.2, math.inf]


def test_percentiles_are_values_that_were_seen():
    values = [float(n) for n in range(1, 101)]
    assert [figures.percentile(values, share) for share in (0.5, 0.99, 1.0)] == [50, 99, 100]
    assert figures.percentile([7.0], 0.5) == 7


# ── tables ──


def run(peer, number, cpu, pace, *, faults=(), kind="throughput"):
    return {
        "kind": kind, "peer": peer, "round": number, "cpu_s_per_100k": cpu, "messages_per_s": pace,
        "peak_mb": 50.0, "faults": list(faults),
    }  # fmt: skip


RESULT = {
    "target": "null",
    "count": 1000,
    "rounds": 2,
    "machine": {"cores": "2", "memory": "8 GiB", "system": "Linux x86_64", "python": "3.11"},
    "versions": {"kombu": "5.7.0", "rabbitmq": "3.10"},
    "missing": {"telegraf": "go is not installed\nlong output"},
    "runs": [
        run(OURS, 0, 1.0, 1000.0),
        run("go", 0, 0.5, 3000.0),
        run("kombu", 0, 4.0, 100.0, faults=["3 of 4 came\nand more"]),
        run(OURS, 1, 2.0, 1000.0),
        run("go", 1, 2.0, 2000.0),
        run("kombu", 1, 6.0, 200.0),
        {"kind": "latency", "peer": "go", "round": 0, "p50_ms": 55.0, "p99_ms": 110.0, "faults": []},
    ],
}


def test_ratios_are_of_the_same_round():
    found = report.ratios(RESULT, "cpu_s_per_100k")
    assert found["go"] == Spread(0.75, 0.5, 1.0)
    assert found[OURS] == Spread(1.0, 1.0, 1.0)


def test_a_run_with_faults_is_no_figure():
    assert report.summary(RESULT)["kombu"]["cpu_s_per_100k"] == Spread(6.0, 6.0, 6.0)
    assert report.ratios(RESULT, "cpu_s_per_100k")["kombu"] == Spread(3.0, 3.0, 3.0)
    assert report.failures(RESULT) == [f"{CATALOGUE['kombu'].title}, throughput, round 0: 3 of 4 came"]


def test_the_table_begins_with_who_costs_least():
    rows = report.table(RESULT).splitlines()
    cells = ["1.25 (0.50-2.00)", "2,500 (2,000-3,000)", "50", "0.75 (0.50-1.00)", "2.50 (2.00-3.00)"]
    assert rows[2].replace("\u2013", "-") == f"| Go, hand-written | {' | '.join(cells)} |"
    assert [row.split(" | ")[0] for row in rows[2:]] == [
        "| Go, hand-written", "| ours, everything on", f"| {CATALOGUE['kombu'].title}",
    ]  # fmt: skip


def test_where_a_peer_is_better_is_said_and_ours_is_no_peer():
    plain = {**RESULT, "runs": [*RESULT["runs"], run("ours-plain", 0, 0.1, 9000.0)]}
    assert report.better(plain) == [
        "Go, hand-written: CPU s / 100,000 1.25 against 1.50 ~, messages/s 2,500 against 1,000",
    ]


def test_what_looks_equal_is_not_better():
    same = {**RESULT, "runs": [run(OURS, 0, 1.0, 5.0), run("go", 0, 0.999, 5.0)]}
    assert report.better(same) == []


def test_the_page_is_made_of_the_json_file(tmp_path):
    drawn = []
    results = [json.loads(json.dumps(RESULT))]

    def draw(path, _head, rows, _decimals):
        drawn.append((path.name, [name for _, name, _ in rows]))

    page.write(results, tmp_path, draw, note="Other work ran beside.")
    text = (tmp_path / "benchmarks.md").read_text()
    assert report.table(RESULT) in text
    assert report.table(RESULT, report.STEADY) in text
    assert "- Telegraf: go is not installed\n" in text
    assert "\n> Other work ran beside.\n" in text
    assert "| rabbitmq | 3.10 |" in text
    assert drawn == [
        ("benchmarks-null-cpu_s_per_100k.svg", ["go", OURS, "kombu"]),
        ("benchmarks-null-messages_per_s.svg", ["kombu", OURS, "go"]),
        ("benchmarks-null-p99_ms.svg", ["go"]),
    ]
    assert all(f"]({name})" in text for name, _ in drawn)


# ── who takes part, and with what ──


def test_every_peer_takes_every_place():
    peers = list(CATALOGUE.values())[:3]
    places = [[peer.name for peer in compare.rotated(peers, number)] for number in range(3)]
    assert len({order[0] for order in places}) > 1
    assert all(sorted(order) == sorted(peer.name for peer in peers) for order in places)


def test_the_quick_ones_are_in_the_catalogue():
    assert set(QUICK) <= set(CATALOGUE)


def test_a_consumer_is_told_where_to_read_and_write(tmp_path):
    settings = Settings("amqp://guest:guest@127.0.0.1:5/%2F", "q", "http://127.0.0.1:9", 1000, 100, tmp_path)
    command = CATALOGUE[OURS].command(settings)
    assert command[command.index("--broker") + 1] == settings.broker
    assert command[command.index("--sink") + 1] == "elasticsearch+http://127.0.0.1:9/bench"
    assert settings.environment()["BENCH_AGE_MS"] == "100"


def test_celerys_messages_hold_the_same_documents():
    count = 2 * MEMBERS
    plain = [orjson.loads(message.body) for message in outgoing(count)]
    tasks = [orjson.loads(message.body) for message in outgoing(count, tasks=True)]
    assert [arguments for (arguments, _, _) in tasks] == [[document] for document in plain]
    assert [document["number"] for document in plain] == list(range(count))


def test_versions_are_read_where_they_are_pinned():
    assert (
        pinned(
            "require (\n\tgithub.com/a/b v1.2.3\n\tgithub.com/a/bc v4.0.0 // indirect\n)", "github.com/a/b"
        )
        == "1.2.3"
    )
    assert pinned("celery==5.6.3 \\\n    --hash=x\ncelery-batches==0.11 \\\n", "celery-batches") == "0.11"
    assert pinned("", "celery") == "?"
    assert properties("<camel.version>4.17.0</camel.version><x>1</x>") == {"camel": "4.17.0"}
