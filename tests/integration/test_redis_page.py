"""What docs/redis.md shows, run as it stands there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import orjson
import pytest
from redis import Redis as Client

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs/redis.md").read_text()


@pytest.fixture
def server(redis):
    """The server's URL without a database, of which the page takes 0 and 1: they are empty before."""
    url = redis.url.removesuffix("/0")
    for number in range(2):
        with Client.from_url(f"{url}/{number}") as client:
            client.flushdb()
    return url


@pytest.mark.skipif(not shutil.which("bash"), reason="the page shows commands of a shell")
def test_its_commands_end_as_told(tmp_path, server):
    (commands,) = re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL)
    (told,) = re.findall(r"ends with `(.*?)`", TEXT)
    own = str(Path(sys.executable).parent)
    run = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands],
        cwd=tmp_path,
        env={"PATH": f"{own}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "REDIS": server},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert told in run.stdout.splitlines()[-1], run.stdout


def test_its_program_runs(service, tmp_path, server):
    (program,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    flags = ("--broker", f"{server}/0", "--results", f"{server}/1", "--age", "50ms")
    running = service(*flags, folder=tmp_path)
    told = subprocess.run(
        [sys.executable, "-c", program.replace("redis://localhost", server)],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert told.stdout.split() == ["written", "True"]
    assert running.stop() == 0


def test_its_file_serves(service, tmp_path, server):
    example = (ROOT / "docs/examples/redis.toml").read_text()
    (tmp_path / "redis.toml").write_text(example.replace("redis://localhost:6379", server))
    from producers.jobs import Jobs

    with Jobs(f"{server}/0", "task_queue", f"{server}/1") as jobs:
        ids = [jobs.submit({"number": number}) for number in range(3)]
        assert service("--config", "redis.toml", "--until-empty", folder=tmp_path).wait() == 0
        assert [jobs.status(each).state for each in ids] == ["written"] * 3
    (file,) = (tmp_path / "data/documents").glob("*.jsonl")
    assert sorted(orjson.loads(line)["_id"] for line in file.read_text().splitlines()) == sorted(ids)


@pytest.mark.parametrize("section", ["Written before", "Jobs"])
def test_the_rights_that_it_lists_are_enough(service, tmp_path, server, section):
    (part,) = [part for part in TEXT.split("\n## ") if part.startswith(section)]
    (rights,) = re.findall(r"Rights: `([^`]*)`", part)
    prefix = "{jobs}" if section == "Jobs" else "{seen:default}"
    rules = rights.replace("{PREFIX}", prefix).split()
    flag = "--results" if section == "Jobs" else "--seen"
    with Client.from_url(server) as client:
        client.execute_command("ACL", "SETUSER", "least", "reset", "on", ">word", *rules)
        try:
            url = server.replace("//", "//least:word@")
            running = service(flag, url, "--metrics-port", "0", folder=tmp_path)
            running.wait_event("route_runs")
            assert running.stop() == 0
            assert not running.events("seen_store_away")
            assert not running.events("result_store_away")
            assert not running.events("redis_not_looked_at")
        finally:
            client.acl_deluser("least")
