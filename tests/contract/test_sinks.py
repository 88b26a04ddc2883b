"""The sinks on this machine, under the contract."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from aggregator.sinks import from_url
from aggregator.sinks.function import BulkRequest, FunctionSink
from aggregator.testing.faults import Faults
from aggregator.testing.script import ScriptedSink
from aggregator.testing.sink import MemorySink
from tests.contract.read_back import lines, rows
from tests.contract.sink_contract import SinkContract

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from aggregator.sinks.base import Sink

    ReadBack = Callable[[], list[tuple[Any, Any]]]


class TestSqlite(SinkContract):
    options = ""

    @pytest.fixture
    def sink_factory(self, tmp_path: Path) -> Callable[[], Sink]:
        return lambda: from_url(f"sqlite:///{tmp_path}/new/documents.db{self.options}")

    @pytest.fixture
    def read_back(self, tmp_path: Path) -> ReadBack:
        return lambda: rows(tmp_path / "new" / "documents.db")


@pytest.mark.integration
class TestSqliteWithoutSearch(TestSqlite):
    options = "?search=false"


class TestJsonl(SinkContract):
    knows_ids = False

    @pytest.fixture
    def sink_factory(self, tmp_path: Path) -> Callable[[], Sink]:
        return lambda: from_url(f"jsonl:///{tmp_path}/new/folder?fsync=false")

    @pytest.fixture
    def read_back(self, tmp_path: Path) -> ReadBack:
        return lambda: lines(tmp_path / "new" / "folder")


class Store:
    """A user's own store: a dictionary, first come, first kept."""

    def __init__(self) -> None:
        self.documents: dict[str, bytes] = {}
        self.lock = threading.Lock()

    def put(self, request: BulkRequest) -> None:
        with self.lock:
            for item in request:
                if item.id in self.documents:
                    request.duplicate(item)
                else:
                    self.documents[item.id] = item.document


class TestFunction(SinkContract):
    @pytest.fixture
    def store(self) -> Store:
        return Store()

    @pytest.fixture
    def sink_factory(self, store: Store) -> Callable[[], Sink]:
        return lambda: FunctionSink(store.put, concurrency=4)

    @pytest.fixture
    def read_back(self, store: Store) -> ReadBack:
        return lambda: [(name, orjson.loads(body)) for name, body in store.documents.items()]


class TestMemory(SinkContract):
    @pytest.fixture
    def store(self) -> dict[str, bytes]:
        return {}

    @pytest.fixture
    def sink_factory(self, store: dict[str, bytes]) -> Callable[[], Sink]:
        return lambda: MemorySink(store=store)

    @pytest.fixture
    def read_back(self, store: dict[str, bytes]) -> ReadBack:
        return lambda: [(name, orjson.loads(body)) for name, body in store.items()]


class TestScripted(TestMemory):
    """The harness's sink, while nothing is scripted."""

    @pytest.fixture
    def sink_factory(self, store: dict[str, bytes]) -> Callable[[], Sink]:
        return lambda: ScriptedSink(MemorySink(store=store), Faults(), lambda *_: None)
