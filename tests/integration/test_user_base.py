"""Users in a real server: loaded by the command, counted, forgotten."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import closing

import orjson
import pytest

from aggregator.errors import TarantoolError
from producers.campaigns.users import FIELDS
from tests.service import ROOT
from tests.shard import user

pytestmark = pytest.mark.integration


@pytest.fixture
def base(tarantool):
    tarantool.eval("box.space.users:truncate()")
    yield tarantool
    tarantool.eval("box.space.users:truncate()")


@pytest.fixture
def producer(base):
    with closing(base.client("producer")) as client:
        yield client


def load(*flags, **environment):
    return subprocess.run(
        [sys.executable, "-m", "producers.campaigns", "load", *map(str, flags)],
        capture_output=True, text=True, cwd=ROOT, timeout=90, check=False,
        env={"PATH": os.environ["PATH"], **environment},
    )  # fmt: skip


def test_load_counts_and_zones(producer):
    rows = [user(number) for number in range(400)]
    assert producer.call("users.load", rows) == [{"loaded": 400, "updated": 0}]
    assert producer.call("users.load", [[*row[:1], "new" * 10, *row[2:]] for row in rows[:5]]) == [
        {"loaded": 5, "updated": 5}
    ]
    assert producer.call("users.count", {}) == [400]
    assert producer.call("users.count", {"platform": "apns", "tz": "Asia/Kolkata"}) == [0]
    assert producer.call("users.count", {"platform": "fcm", "tz": "Asia/Kolkata"}) == [100]
    assert producer.call("users.count", {"language": ["de"], "version_to": 3_000_002}) == [1]
    assert producer.call("users.zones") == [
        {"Europe/Berlin": 100, "America/New_York": 100, "Asia/Kolkata": 100, "+03:00": 100}
    ]


def test_one_bad_row_spoils_its_call_and_nothing_else(producer):
    with pytest.raises(TarantoolError):
        producer.call("users.load", [user(1), ["u2", 5]])
    assert producer.call("users.count", {}) == [0]


def test_a_device_is_forgotten_only_with_its_token_and_after_its_registration(producer):
    rows = [user(number) for number in range(4)]
    producer.call("users.load", rows)
    dead = [
        [rows[0][0], rows[0][1], rows[0][9] + 1],
        [rows[1][0], "another token", rows[1][9] + 1],
        [rows[2][0], rows[2][1], rows[2][9]],
        ["nobody", "token", 2_000_000_000],
    ]
    assert producer.call("users.forget", dead) == [1]
    assert producer.call("users.forget", dead) == [0]
    assert producer.call("users.count", {}) == [3]


def test_the_command_loads_what_is_right_and_tells_the_rest(base, tmp_path):
    file, rejects = tmp_path / "users.csv", tmp_path / "rejects.jsonl"
    rows = [",".join("" if value is None else str(value) for value in user(n)) for n in range(7000)]
    rows[10] = rows[10].replace("Asia/Kolkata", "Asia/Nowhere")
    rows[20] = "too,short"
    file.write_bytes("\n".join([",".join(FIELDS), *rows]).encode() + b"\nu\xff,x,apns,,,,,,,\n")
    done = load(file, "--server", base.url_of("producer"), "--rejects", rejects)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("6998 users loaded (0 were there before)")
    assert "3 rows refused: " in done.stdout
    assert "row 12: tz is no time zone" in done.stderr
    assert "row 22: row has 2 fields, the header 10" in done.stderr
    refused = [orjson.loads(line) for line in rejects.read_bytes().splitlines()]
    assert [each["row"] for each in refused] == [12, 22, 7002]
    assert refused[1]["record"] == ["too", "short"]
    assert rejects.stat().st_mode & 0o077 == 0
    assert base.eval("return box.space.users:len()") == [6998]


def test_the_command_makes_users_up(base):
    flags = ["--generate", 3000, "--seed", 5, "--zones", "Asia/Tokyo,UTC", "--platforms", "apns=1"]
    for before in (0, 3000):
        done = load(*flags, CAMPAIGNS_SHARDS=base.url_of("producer"))
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(f"3000 users loaded ({before} were there before)")
    with closing(base.client("producer")) as client:
        assert client.call("users.count", {"platform": "apns"}) == [3000]
        assert set(client.call("users.zones")[0]) == {"Asia/Tokyo", "UTC"}


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        (["missing.csv", "--server", "tarantool://x@127.0.0.1:1"], 2, "cannot be read"),
        (["--generate", "5"], 2, "--server: is missing"),
        (["--server", "tarantool://x@127.0.0.1:1"], 2, "either a file or --generate"),
        (["--generate", "5", "--zones", "Mars/Olympus"], 2, "no time zone"),
        (["--generate", "5", "--platforms", "ios=1"], 2, "neither apns nor fcm"),
        (["--generate", "5", "--server", "http://x"], 2, "tarantool://"),
        (
            ["--generate", "5", "--server", "tarantool://a:hidden@127.0.0.1:1", "--patience", "0"],
            1,
            "no server",
        ),
    ],
)
def test_what_is_wrong_is_one_line(flags, code, words):
    done = load(*flags)
    assert (done.returncode, done.stdout) == (code, "")
    assert words in done.stderr.splitlines()[-1]
    assert "hidden" not in done.stderr
