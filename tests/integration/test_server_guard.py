"""No server outlives its tests, whatever they died of."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.servers.base import program, wait_for
from tests.servers.local import LocalHost

pytestmark = pytest.mark.integration

# a daemon that leaves its parent, its session and its group, as epmd does
DETACHED = "setsid sleep 600 & sleep 600"

# a shell without job control has its background commands ignore SIGINT, and their children with them
OWNER = f"""
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)
from pathlib import Path
from tests.servers.local import LocalHost
host = LocalHost("sleeper", Path(sys.argv[1]), ["sh", "-c", {DETACHED!r}], {{"PATH": "/usr/bin:/bin"}})
host.start()
time.sleep(600)
"""


def sleepers(root: psutil.Process) -> list[psutil.Process]:
    return [child for child in root.children(recursive=True) if child.name() == "sleep"]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_servers_end_with_their_owner(tmp_path: Path, how: signal.Signals) -> None:
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, tmp_path], cwd=root, stderr=subprocess.DEVNULL
    ) as owner:
        process = psutil.Process(owner.pid)
        wait_for(lambda: len(sleepers(process)) == 2, "the server and its daemon")
        started = sleepers(process)
        owner.send_signal(how)
    gone, alive = psutil.wait_procs(started, timeout=30)
    assert (len(gone), alive) == (2, [])


def test_a_killed_server_leaves_nothing_and_starts_again(tmp_path: Path) -> None:
    host = LocalHost("sleeper", tmp_path, [program("sh"), "-c", DETACHED], {"PATH": "/usr/bin:/bin"})
    for _ in range(2):
        host.start()
        wait_for(lambda: len(sleepers(psutil.Process())) == 2, "the server and its daemon")
        host.kill()
        assert not host.running()
        assert sleepers(psutil.Process()) == []
    host.close()


def test_pause_freezes_every_process_and_resume_lets_them_go_on(tmp_path: Path) -> None:
    host = LocalHost("sleeper", tmp_path, [program("sh"), "-c", DETACHED], {"PATH": "/usr/bin:/bin"})
    host.start()
    wait_for(lambda: len(sleepers(psutil.Process())) == 2, "the server and its daemon")
    host.pause()
    assert {process.status() for process in sleepers(psutil.Process())} == {psutil.STATUS_STOPPED}
    host.resume()
    assert psutil.STATUS_STOPPED not in {process.status() for process in sleepers(psutil.Process())}
    host.close()
