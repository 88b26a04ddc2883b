"""The campaign service as a process, from servers that are installed by it to the last push."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import orjson
import pytest

from producers.campaigns import cli
from tests.campaign_service import TOKEN, client, spec
from tests.conftest import missing
from tests.page_run import replaced
from tests.pages import blocks_of
from tests.servers import Unavailable
from tests.servers.base import wait_for
from tests.servers.tarantool import MODULES, PASSWORD, replica_set
from tests.service import ROOT
from tests.shard import Consumers, user

pytestmark = pytest.mark.integration


@pytest.fixture
def bare():
    """Two replicas with tubes, but without campaigns."""
    try:
        servers = replica_set(1, modules=MODULES[:1])
    except Unavailable as why:
        missing(why)
    yield servers
    for server in servers:
        server.close()


@contextmanager
def process(url, tmp_path):
    token = tmp_path / "token"
    token.write_text(TOKEN)
    command = [sys.executable, "-m", "producers.campaigns", "serve", "--shards", url, "--port", "0"]
    running = subprocess.Popen(
        [*command, "--token-file", str(token), "--log-format", "json"], stderr=subprocess.PIPE, cwd=ROOT
    )
    try:
        yield running, orjson.loads(running.stderr.readline())["url"].rstrip("/")
    finally:
        running.kill()
        running.wait()
        running.stderr.close()


def test_install_status_serve_and_stop(bare, tmp_path, capsys):
    uris = ",".join(server.uri for server in bare)
    assert cli.main(["install", "--shards", f"tarantool://admin:{PASSWORD}@{uris}/"]) == 0
    assert "campaigns 1" in capsys.readouterr().out
    bare[0].eval("users.load(...)", [user(number) for number in range(500)])
    url = f"tarantool://producer:{PASSWORD}@{uris}/"
    assert cli.main(["status", "--shards", url]) == 0
    assert "500" in capsys.readouterr().out
    with process(url, tmp_path) as (running, address), client(address) as api:
        assert api.post("/campaigns", json=spec()).json()["expected"] == {"apns": 250, "fcm": 250}
        with Consumers(bare).running():
            assert api.post("/campaigns/sale/start").json()["unanswered"] == []

            def done():
                return api.get("/campaigns/sale/progress").json()["done"] == 500

            wait_for(done, "500 pushes", detail=lambda: api.get("/campaigns/sale/progress").text)
        running.send_signal(signal.SIGTERM)
        assert running.wait(60) == 0
    assert PASSWORD not in capsys.readouterr().out


# ── the page ──

#: Of a stream that goes on, what comes in a second is enough; an answer of 400 or more is a failure.
CURL = """
set -euo pipefail
curl() {
  case "$*" in
    */events) command timeout 1 curl -sSN "$@" || [ $? = 124 ] ;;
    *) command curl -sSf "$@"; echo ;;
  esac
}
"""


def shell(script, folder):
    own = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    ran = subprocess.run(
        ["bash", "-c", f"{CURL}{script}"],
        cwd=folder, env={"PATH": own, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@pytest.mark.skipif(not (shutil.which("bash") and shutil.which("curl")), reason="the page shows both")
def test_the_examples_of_the_page(bare, tmp_path):
    shown, two = "…@10.0.0.1:3301,10.0.0.2:3301", ",".join(server.uri for server in bare)
    pieces = [
        replaced(block.code, {shown: f"{PASSWORD}@{two}"})
        for block in blocks_of(ROOT / "docs/campaigns.md")
        if block.language == "sh"
    ]
    *before, serve = pieces[0].splitlines()
    told = shell("\n".join(before), tmp_path)
    assert "campaigns 1" in told
    rows = [user(number) for number in range(300)]
    for row in rows:
        row[3] = 3_002_000  # 3.2.0, as its filter asks for
    bare[0].eval("users.load(...)", rows)
    with process(f"tarantool://producer:{PASSWORD}@{two}/", tmp_path) as (_, url):
        (tmp_path / "campaigns.token").write_text(TOKEN)
        assert shlex.split(serve)[:4] == ["python", "-m", "producers.campaigns", "serve"]
        answers = shell(pieces[1].replace("http://127.0.0.1:8620", url), tmp_path)
    assert '"expected":{' in answers.replace(" ", "")
    assert "event: progress" in answers
    assert '"paused"' in answers
