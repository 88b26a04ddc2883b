"""The JSON lines sink: days, torn lines, full disks, several writers."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from aggregator.errors import ConfigurationError, SinkBlockedError, SinkUnavailableError, UnrecoverableError
from aggregator.sinks import from_url
from aggregator.sinks.base import Fate
from aggregator.sinks.jsonl import JsonlSink
from aggregator.testing.memory import MemoryDelivery

if TYPE_CHECKING:
    from collections.abc import Iterator

NAME = "documents-2026-11-21.jsonl"


class SetClock:
    """The last second of 2026-11-21, UTC, until it is set."""

    def __init__(self) -> None:
        self.now = 1795305599.5

    def monotonic(self) -> float:
        return 0.0

    def time(self) -> float:
        return self.now


def item(name: str, document: bytes = b"{}") -> MemoryDelivery:
    made = MemoryDelivery(b"")
    made.id = name
    made.document = document
    return made


def line(name: str) -> bytes:
    return b'{"_id": "%b", "_source": {}}\n' % name.encode()


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
def sink(tmp_path: Path, clock: SetClock) -> Iterator[JsonlSink]:
    sink = JsonlSink(tmp_path, clock=clock)
    sink.open()
    yield sink
    sink.close()


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("url", "path"),
    [("jsonl:///data/out", "data/out"), ("jsonl:////var/out?fsync=no&prefix=a.b", "/var/out")],
)
def test_slashes_tell_relative_from_absolute(url: str, path: str) -> None:
    sink = from_url(url)
    assert isinstance(sink, JsonlSink)
    assert sink._folder == Path(path).absolute()


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("jsonl://data", "write jsonl:///relative"),
        ("jsonl:///", "names no path"),
        ("jsonl:///data?prefix=a/b", "prefix: "),
        ("jsonl:///data?prefix=", "prefix: "),
        ("jsonl:///data?prefix=../x", "prefix: "),
        ("jsonl:///data?prefix=a%0A", "prefix: "),
        ("jsonl:///data?sync=true", "'sync' is not among its options: prefix, fsync, envelope"),
    ],
)
def test_a_wrong_url_is_told_in_one_line(url: str, problem: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        from_url(url)
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_line_holds_id_and_document(sink: JsonlSink, tmp_path: Path) -> None:
    sink.write([item('a"b\n\u2028', b'{ "x":1.10 }'), item("")])
    assert content(tmp_path)[NAME] == (
        '{"_id": "a\\"b\\n\u2028", "_source": { "x":1.10 }}\n{"_id": null, "_source": {}}\n'.encode()
    )


def test_without_envelope_a_line_is_the_document(tmp_path: Path, clock: SetClock) -> None:
    sink = JsonlSink(tmp_path, envelope=False, prefix="bare", clock=clock)
    sink.open()
    assert sink.write([item("a\udc00", b'{"x":1}'), item("b")]) is None
    sink.close()
    assert content(tmp_path) == {"bare-2026-11-21.jsonl": b'{"x":1}\n{}\n'}


def test_an_id_that_is_no_unicode_does_not_harm_its_neighbours(sink: JsonlSink, tmp_path: Path) -> None:
    verdicts = sink.write([item("a"), item("b\ud800"), item("c")])
    assert verdicts is not None
    assert [verdict.fate for verdict in verdicts] == [Fate.WRITTEN, Fate.DEAD_LETTER, Fate.WRITTEN]
    assert content(tmp_path)[NAME] == line("a") + line("c")


def test_each_day_has_its_file(sink: JsonlSink, tmp_path: Path, clock: SetClock) -> None:
    sink.write([item("a")])
    clock.now += 1
    sink.write([item("b")])
    clock.now -= 1  # a clock that steps back
    sink.write([item("c")])
    assert content(tmp_path) == {NAME: line("a") + line("c"), "documents-2026-11-22.jsonl": line("b")}


def test_a_verdict_waits_for_the_disk(
    sink: JsonlSink, monkeypatch: pytest.MonkeyPatch, clock: SetClock
) -> None:
    calls: list[str] = []
    write, fsync = os.write, os.fsync
    monkeypatch.setattr(os, "write", lambda *given: calls.append("write") or write(*given))
    monkeypatch.setattr(
        os, "fsync", lambda fd: calls.append("folder" if is_folder(fd) else "file") or fsync(fd)
    )
    sink.write([item("a"), item("b")])
    assert calls == ["write", "file"]
    clock.now += 1
    sink.write([item("a"), item("b")])
    assert calls[2:] == ["folder", "write", "file"]


def is_folder(handle: int) -> bool:
    return Path(f"/proc/self/fd/{handle}").is_dir()


TORN = [
    b'{"_id": "torn", "_sou',
    b'{"_id": "whole, but without its end", "_source": {}}',
    b"\x00" * 100,
    b'{"_id": "large", "_source": {"x": "' + b"x" * 200_000,
]


@pytest.mark.parametrize("torn", TORN, ids=["cut", "whole", "zeros", "large"])
@pytest.mark.parametrize("before", [b"", line("a"), line("a") + line("b" * 100_000)], ids=["", "one", "two"])
def test_a_torn_line_is_cut_off(tmp_path: Path, clock: SetClock, torn: bytes, before: bytes) -> None:
    (tmp_path / NAME).write_bytes(before + torn)
    sink = JsonlSink(tmp_path, clock=clock)
    sink.open()
    assert content(tmp_path)[NAME] == before
    sink.write([item("c")])
    sink.close()
    assert content(tmp_path)[NAME] == before + line("c")


def test_torn_lines_of_earlier_days_are_cut_off_and_other_files_are_not(
    tmp_path: Path, clock: SetClock
) -> None:
    torn = line("a") + b"{"
    ours = ["documents-2026-11-20.jsonl", "documents-2026-11-20.1.jsonl"]
    others = ["documents-2026.jsonl", "documents.jsonl", "xdocuments-2026-11-20.jsonl", "notes.txt"]
    for name in ours + others:
        (tmp_path / name).write_bytes(torn)
    sink = JsonlSink(tmp_path, clock=clock)
    sink.open()
    sink.close()
    expected = dict.fromkeys(ours, line("a")) | dict.fromkeys(others, torn) | {NAME: b""}
    assert content(tmp_path) == expected


def test_a_file_that_somebody_writes_to_is_left_alone(tmp_path: Path, clock: SetClock) -> None:
    with (tmp_path / NAME).open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        other.write(b'{"half a li')
        other.flush()
        sink = JsonlSink(tmp_path, clock=clock)
        sink.open()
        sink.write([item("a")])
        other.write(b'ne":1}\n')
    sink.close()
    assert content(tmp_path) == {NAME: b'{"half a line":1}\n', "documents-2026-11-21.1.jsonl": line("a")}
    sink.open()
    sink.write([item("b")])
    assert content(tmp_path)[NAME].endswith(line("b")), "the first that is free is taken"


def test_short_writes_are_continued(sink: JsonlSink, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda handle, data: write(handle, data[:7]))
    sink.write([item("a"), item("b")])
    assert content(tmp_path)[NAME] == line("a") + line("b")


@contextmanager
def at_most(size: int) -> Iterator[None]:
    """Let no file of this process grow beyond ``size``: a real write then stops in its middle."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_request_that_does_not_fit_leaves_no_trace(sink: JsonlSink, tmp_path: Path) -> None:
    sink.write([item("a")])
    with at_most(1000), pytest.raises(SinkUnavailableError, match="File too large"):
        sink.write([item(f"{number}") for number in range(1000)])
    assert content(tmp_path)[NAME] == line("a")
    sink.write([item("b")])
    assert content(tmp_path)[NAME] == line("a") + line("b")


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (errno.ENOSPC, SinkUnavailableError),
        (errno.EIO, SinkUnavailableError),
        (errno.EROFS, SinkBlockedError),
        (errno.EPERM, SinkBlockedError),
    ],
)
def test_what_fails_is_cut_off_again(
    sink: JsonlSink, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, error: type[Exception]
) -> None:
    def fail(*_: Any) -> None:
        raise OSError(code, os.strerror(code))

    for call in ("write", "fsync"):
        with monkeypatch.context() as patch:
            patch.setattr(os, call, fail)
            with pytest.raises(error):
                sink.write([item("a")])
        assert content(tmp_path) == {NAME: b""}
    sink.write([item("a")])
    assert content(tmp_path) == {NAME: line("a")}


def test_an_error_of_the_folder_leaves_no_lock_behind(
    sink: JsonlSink, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise OSError(errno.EIO, "broken")

    with monkeypatch.context() as patch:
        patch.setattr("aggregator.sinks.jsonl_file.sync_folder", fail)
        with pytest.raises(SinkUnavailableError):
            sink.open()
    sink.open()
    assert content(tmp_path) == {NAME: b""}


def test_where_locks_are_unknown_it_does_not_write(sink: JsonlSink, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", fail)
    with pytest.raises(SinkUnavailableError, match="No locks available"):
        sink.open()


def test_what_could_not_be_cut_off_is_cut_off_later(
    sink: JsonlSink, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise OSError(errno.EIO, "broken")

    with monkeypatch.context() as patch:
        patch.setattr(os, "ftruncate", fail)
        with at_most(10), pytest.raises(SinkUnavailableError):
            sink.write([item("a")])
    assert content(tmp_path)[NAME] == line("a")[:10]
    sink.write([item("b")])
    assert content(tmp_path)[NAME] == line("b")


@pytest.mark.parametrize("rotate", ["move", "delete", "delete folder"])
def test_a_file_that_was_moved_or_deleted_is_made_anew(sink: JsonlSink, tmp_path: Path, rotate: str) -> None:
    sink.write([item("a")])
    if rotate == "move":
        (tmp_path / NAME).rename(tmp_path / "rotated")
    else:
        (tmp_path / NAME).unlink()
    if rotate == "delete folder":
        tmp_path.rmdir()
    sink.write([item("b")])
    assert content(tmp_path)[NAME] == line("b")
    assert rotate != "move" or content(tmp_path)["rotated"] == line("a")


def test_a_file_in_place_of_the_folder_cannot_be_recovered(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UnrecoverableError, match="file"):
        JsonlSink(tmp_path / "file").open()
    with pytest.raises(UnrecoverableError):
        JsonlSink(tmp_path / "file" / "below").open()


def test_old_files_that_may_only_be_read_do_not_stop_it(
    tmp_path: Path, clock: SetClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    from aggregator.sinks.jsonl_file import LineFile

    take = LineFile.take
    (tmp_path / "documents-2026-11-20.jsonl").write_bytes(b"{")

    def refuse(path: Path, flags: int = 0) -> Any:
        if "11-20" in path.name:
            raise PermissionError(errno.EACCES, "no")
        return take(path, flags)

    monkeypatch.setattr(LineFile, "take", refuse)
    sink = JsonlSink(tmp_path, clock=clock)
    sink.open()
    sink.write([item("a")])
    sink.close()
    assert content(tmp_path)[NAME] == line("a")


def test_it_lets_go_of_its_lock(sink: JsonlSink, tmp_path: Path) -> None:
    with (tmp_path / NAME).open("ab") as other:
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        sink.close()
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


@pytest.mark.parametrize("name", ["out", 'it\'s a "folder" $HOME *'])
def test_where_is_a_command_that_works(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sink = JsonlSink(Path(name))
    sink.open()
    sink.write([item("a")])
    sink.close()
    shown = subprocess.run(sink.where(), shell=True, capture_output=True, check=True)
    assert shown.stdout == line("a")
