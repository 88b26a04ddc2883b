"""The user's own function as a sink: how it is found, called and distrusted."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest

from aggregator.errors import ConfigurationError, RequestTooLargeError, SinkUnavailableError
from aggregator.sinks import from_url
from aggregator.sinks.base import WRITTEN
from aggregator.sinks.function import FunctionSink
from aggregator.testing.memory import MemoryDelivery

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MODULE = '''
import functools
seen = []

def push(items):
    """Docstring."""
    seen.append([(item.id, item.document, len(item.deliveries)) for item in items])

def two(items, more): ...
def none(): ...
def keyword(*, items): ...
def optional(items, more=None): ...
async def soon(items): ...
def lazily(items): yield

class Pusher:
    def __call__(self, items): ...
    async def soon(self, items): ...
    def push(self, items): ...

class Asynchronous:
    async def __call__(self, items): ...

pusher = Pusher()
asynchronous = Asynchronous()
partial = functools.partial(two, 1)
text = "push"
'''


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A module of the user's, in the working folder, which is not on the path."""
    name = "users_own_sinks"
    (tmp_path / f"{name}.py").write_text(MODULE)
    (tmp_path / "users_broken.py").write_text("raise RuntimeError('line one\\nline two')\n")
    (tmp_path / "users_syntax.py").write_text("def push(items)\n")
    (tmp_path / "users_exit.py").write_text("raise SystemExit(3)\n")
    (tmp_path / "users_needs.py").write_text("import not_installed_anywhere\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield name
    for loaded in [loaded for loaded in sys.modules if loaded.startswith("users_")]:
        del sys.modules[loaded]


def items(*names: str) -> list[Any]:
    made = [MemoryDelivery(b"") for _ in names]
    for one, name in zip(made, names, strict=True):
        one.id, one.document = name, b"{}"
    return made


def test_it_is_called_with_the_items(module: str) -> None:
    sink = from_url(f"function:{module}:push")
    sink.open()
    assert sink.write(items("a", "b")) is None
    sink.close()
    assert sys.modules[module].seen == [[("a", b"{}", 1), ("b", b"{}", 1)]]
    assert sink.where() == f"{module}:push in {sys.modules[module].__file__}:5"


@pytest.mark.parametrize("name", ["optional", "pusher", "pusher.push", "partial"])
def test_whatever_takes_one_list_will_do(module: str, name: str) -> None:
    sink = from_url(f"function:{module}:{name}")
    assert sink.write(items("a")) is None
    assert module in sink.where()


def test_what_is_written_in_c_will_do() -> None:
    sink = from_url("function:builtins:max")
    with pytest.raises(SinkUnavailableError, match="builtins:max returned MemoryDelivery"):
        sink.write(items("a"))


@pytest.mark.parametrize(
    ("rest", "problem"),
    [
        ("", "write function:package.module:name"),
        ("users_own_sinks", "write function:package.module:name"),
        ("users_own_sinks:", "write function:package.module:name"),
        (":push", "write function:package.module:name"),
        ("//users_own_sinks:1", "write function:package.module:name"),
        ("users_own_sinks:push#x", "write function:package.module:name"),
        ("users_own_sinks:absent", "users_own_sinks has no absent"),
        ("users_own_sinks:pusher.absent", "users_own_sinks has no pusher.absent"),
        ("users_absent:push", "cannot be imported: ModuleNotFoundError: No module named 'users_absent'"),
        (".users_own_sinks:push", "cannot be imported: TypeError"),
        ("users_needs:push", "No module named 'not_installed_anywhere'"),
        ("users_broken:push", "RuntimeError: line one line two"),
        ("users_syntax:push", "users_syntax.py, line 1"),
        ("users_exit:push", "SystemExit: 3"),
        ("users_own_sinks:text", "is str; a function of one argument is needed"),
        ("users_own_sinks:Pusher", "is a class; a function of one argument is needed"),
        ("users_own_sinks:two", "must take one list of items: missing a required argument: 'more'"),
        ("users_own_sinks:Pusher.push", "must take one list of items: missing a required argument"),
        ("users_own_sinks:none", "must take one list of items"),
        ("users_own_sinks:keyword", "must take one list of items"),
        ("users_own_sinks:soon", "a plain function is needed"),
        ("users_own_sinks:lazily", "a plain function is needed"),
        ("users_own_sinks:pusher.soon", "a plain function is needed"),
        ("users_own_sinks:asynchronous", "a plain function is needed"),
        ("users_own_sinks:push?concurrency=0", "concurrency: "),
        ("users_own_sinks:push?threads=2", "'threads' is not among its options: concurrency"),
    ],
)
@pytest.mark.usefixtures("module")
def test_what_will_not_do_is_told_in_one_line(rest: str, problem: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        from_url(f"function:{rest}")
    assert caught.value.field == "sink"
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)


def test_it_runs_in_one_thread_unless_told(module: str) -> None:
    assert from_url(f"function:{module}:push").limits.concurrency == 1
    assert from_url(f"function:{module}:push?concurrency=8").limits.concurrency == 8


@pytest.mark.parametrize("error", [ValueError, SystemExit, StopIteration])
def test_whatever_it_raises_the_items_come_again(error: type[BaseException]) -> None:
    def push(request: object) -> None:
        raise error("secret document")

    with pytest.raises(SinkUnavailableError) as caught:
        FunctionSink(push, name="mine:push").write(items("a"))
    assert f"mine:push raised {error.__name__} at test_sink_function.py:" in str(caught.value)
    assert "secret" not in str(caught.value)
    assert isinstance(caught.value.__cause__, error)


def test_a_sink_error_keeps_its_meaning() -> None:
    def push(request: object) -> None:
        raise RequestTooLargeError("halve it")

    with pytest.raises(RequestTooLargeError):
        FunctionSink(push).write(items("a", "b"))


@pytest.mark.parametrize("answer", [[WRITTEN, WRITTEN], (WRITTEN, WRITTEN)])
def test_its_verdicts_are_taken(answer: Any) -> None:
    assert FunctionSink(lambda _: answer).write(items("a", "b")) == answer


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        ([], "0 verdicts for 2 items"),
        ([WRITTEN], "1 verdicts for 2 items"),
        ([WRITTEN] * 3, "3 verdicts for 2 items"),
        (2, "returned int"),
        (True, "returned bool"),
        ("ok", "returned str"),
        ([WRITTEN, None], "returned list"),
        ({WRITTEN}, "returned set"),
        (WRITTEN, "returned Verdict"),
    ],
    ids=str,
)
def test_any_other_answer_counts_as_none(answer: Any, problem: str) -> None:
    with pytest.raises(SinkUnavailableError, match=problem):
        FunctionSink(lambda _: answer).write(items("a", "b"))
