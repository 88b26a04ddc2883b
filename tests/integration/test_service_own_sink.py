"""The user's own sink in the service itself: its threads, and what becomes of a call at shutdown."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from consumers import transports
from tests.servers.base import wait_for
from tests.service import outgoing, publish

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.service import Service

    Start = Callable[..., Service]

pytestmark = pytest.mark.integration

QUEUE = "task_queue"
MODULE = '''
import threading
from pathlib import Path

barrier = threading.Barrier(3)

def hang(request):
    """Return once somebody has opened the other end."""
    Path("called").touch()
    open("fifo").close()

def meet(request):
    """Return once three calls are under way at the same time."""
    barrier.wait(50)
    note(request)

def note(request):
    Path(threading.current_thread().name).touch()
    with open("ids", "a") as file:
        file.writelines(f"{item.id}\\n" for item in request)
'''


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "own.py").write_text(MODULE)
    (tmp_path / "data").mkdir()
    os.mkfifo(tmp_path / "fifo")
    return tmp_path


def fill(folder: Path, count: int) -> None:
    transports.register()
    broker = f"sqlite-queue:///{folder}/data/queue.db"
    publish(broker, QUEUE, [outgoing(QUEUE, number) for number in range(count)])


def start(service: Start, folder: Path, name: str, *flags: str, **more: Any) -> Service:
    return service("--sink", f"function:own:{name}", "--size", "10", *flags, folder=folder, **more)


def threads(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.glob("default-flush-*"))


def written(folder: Path) -> list[str]:
    return (folder / "ids").read_text().split()


def test_a_call_that_returns_within_the_grace_is_acked(service: Start, folder: Path) -> None:
    fill(folder, 10)
    running = start(service, folder, "hang")
    wait_for((folder / "called").exists, "the call")
    running.send()
    with (folder / "fifo").open("w"):
        assert running.wait() == 0
    assert running.events("stopped", settled=True)
    again = start(service, folder, "note", "--until-empty")
    assert again.wait() == 0
    assert "no messages" in again.output


def test_a_call_that_outlasts_the_grace_is_left_behind(service: Start, folder: Path) -> None:
    fill(folder, 10)
    running = start(service, folder, "hang", "--grace", "100ms")
    wait_for((folder / "called").exists, "the call")
    running.send()
    running.wait()
    assert running.events("grace_over")
    assert start(service, folder, "note", "--until-empty").wait() == 0
    assert len(set(written(folder))) == len(written(folder)) == 10


def test_by_default_all_calls_are_on_one_thread(service: Start, folder: Path) -> None:
    fill(folder, 60)
    assert start(service, folder, "note", "--concurrency", "3", "--until-empty").wait() == 0
    assert threads(folder) == ["default-flush-1"]
    assert len(written(folder)) == 60


def test_as_many_calls_at_once_as_are_asked_for(service: Start, folder: Path) -> None:
    fill(folder, 60)
    running = start(service, folder, "meet?concurrency=8", "--concurrency", "3", "--until-empty")
    assert running.wait() == 0
    assert threads(folder) == ["default-flush-1", "default-flush-2", "default-flush-3"]
    assert len(written(folder)) == 60
