"""The user's own function as a sink: how it is found, called and distrusted."""

from __future__ import annotations

import functools
import json
import re
import sys
from asyncio import CancelledError
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
later = functools.partial(soon)
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
def test_whatever_takes_one_request_will_do(module: str, name: str) -> None:
    sink = from_url(f"function:{module}:{name}")
    assert sink.write(items("a")) is None
    assert module in sink.where()


def test_what_is_written_in_c_will_do() -> None:
    sink = from_url("function:builtins:len")
    with pytest.raises(SinkUnavailableError, match="builtins:len returned int"):
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
        ("users_own_sinks:two", "must take one request: missing a required argument: 'more'"),
        ("users_own_sinks:Pusher.push", "must take one request: missing a required argument"),
        ("users_own_sinks:none", "must take one request"),
        ("users_own_sinks:keyword", "must take one request"),
        ("users_own_sinks:soon", "a plain function is needed"),
        ("users_own_sinks:later", "a plain function is needed"),
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


@pytest.mark.parametrize(
    "error", [ValueError, SystemExit, StopIteration, GeneratorExit, CancelledError, BaseException]
)
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


@pytest.mark.parametrize(
    "answer",
    [[], [WRITTEN, WRITTEN], ["a"], 2, True, False, "ok", (), {}, pytest.param(object(), id="object")],
    ids=str,
)
def test_it_returns_nothing(answer: Any) -> None:
    problem = f"mine:push returned {type(answer).__name__}; it must return nothing, and mark"
    with pytest.raises(SinkUnavailableError, match=problem):
        FunctionSink(lambda _: answer, name="mine:push").write(items("a", "b"))


def test_what_would_run_later_is_told_by_its_kind() -> None:
    async def push(request: object) -> None: ...

    for late, kind in ((push, "coroutine"), (lambda request: (one for one in request), "generator")):
        call: Any = late
        with pytest.raises(SinkUnavailableError, match=f"returned {kind}"):
            FunctionSink(lambda request, call=call: call(request)).write(items("a"))


@pytest.mark.parametrize("concurrency", [0, -1, 65, "4", True, None, 1.0])
def test_a_number_of_threads_is_needed(concurrency: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"concurrency: it is .*; 1 to 64 is needed"):
        FunctionSink(print, concurrency=concurrency)


async def asynchronous(request: object) -> None: ...


def lazy(request: object) -> Iterator[object]:
    yield request


@pytest.mark.parametrize(
    ("function", "problem"),
    [
        (asynchronous, "asynchronous would not run when called; a plain function is needed"),
        (functools.partial(asynchronous), "a plain function is needed"),
        (lazy, "a plain function is needed"),
        (functools.partial(lazy), "a plain function is needed"),
        (FunctionSink, "FunctionSink is a class; a function of one argument is needed"),
        (None, "is NoneType; a function of one argument is needed"),
        (lambda: None, "must take one request: too many positional arguments"),
        (lambda request, more: None, "must take one request: missing a required argument: 'more'"),
        (lambda *, request: None, "must take one request"),
    ],
    ids=range(9),
)
def test_what_is_given_as_an_object_is_looked_at_as_well(function: Any, problem: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        FunctionSink(function, field="routes.r.sink")
    assert caught.value.field == "routes.r.sink"
    assert problem in str(caught.value)


def test_the_line_of_the_function_that_led_there_is_told() -> None:
    with pytest.raises(SinkUnavailableError) as caught:
        FunctionSink(lambda request: json.loads("secret"), name="mine:push").write(items("a"))
    assert re.search(
        r"raised JSONDecodeError at decoder.py:\d+, from test_sink_function.py:\d+$", str(caught.value)
    )


def test_a_person_at_the_keyboard_is_obeyed() -> None:
    def push(request: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        FunctionSink(push).write(items("a"))
