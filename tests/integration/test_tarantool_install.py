"""Installation into servers that were started bare, and replacement of running code."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from aggregator.errors import TarantoolError, TarantoolUnavailableError
from consumers.install import install, main
from consumers.lua import VERSIONS, sources
from producers.network import free_port
from tests.servers.base import program
from tests.servers.local import LocalHost, new_folder
from tests.servers.tarantool import PASSWORD, Tarantool

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.integration

BARE = """
box.cfg{listen = '127.0.0.1:%d', memtx_memory = 64 * 2 ^ 20, wal_mode = 'write', feedback_enabled = false}
box.schema.user.passwd('admin', '%s')
"""


@pytest.fixture
def bare(tarantool: Tarantool) -> Iterator[Tarantool]:
    """A server that knows nothing of this project (where there is one that does)."""
    folder, port = new_folder("tarantool"), free_port()
    (folder / "bare.lua").write_text(BARE % (port, PASSWORD))
    url = f"tarantool://admin:{PASSWORD}@127.0.0.1:{port}"
    server = Tarantool("bare", url, LocalHost("bare", folder, [program("tarantool"), "bare.lua"], {}))
    server.start()
    yield server
    server.close()


def test_a_bare_server_is_installed_and_again_after_its_restart(
    bare: Tarantool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with (
        closing(bare.client()) as admin,
        pytest.raises(TarantoolError, match=r"consumers\.install") as caught,
    ):
        admin.require(VERSIONS)
    assert caught.value.code == "not-installed"
    monkeypatch.setenv("INSTANCE_CONSUMER_PASSWORD", PASSWORD)
    assert main([bare.url, "--user", "consumer"]) == 0
    assert "tubes 1" in capsys.readouterr().out
    with closing(bare.client("consumer")) as consumer:
        consumer.require(VERSIONS)
        assert bare.eval("tubes.create('t') return tubes.put('t', 1)")
        assert consumer.call("tubes.take", ["t"], 0, 1)[0][0][3] == 1
        with pytest.raises(TarantoolError, match="module tubes is version 1, 9 is needed"):
            consumer.require({"tubes": 9})
        with pytest.raises(TarantoolError, match="module campaigns is missing"):
            consumer.require({"campaigns": 1})
    bare.kill()
    bare.start()
    with closing(bare.client("consumer")) as consumer:
        with pytest.raises(TarantoolError, match="not-installed"):
            consumer.require(VERSIONS)
        assert install(bare.url) == {f"127.0.0.1:{bare.port}": VERSIONS}
        consumer.require(VERSIONS)
        assert consumer.call("tubes.take", ["t"], 0, 1)[0][0][2:] == [1, 1]


def test_running_code_is_replaced_under_those_who_use_it(tarantool: Tarantool) -> None:
    with closing(tarantool.client("consumer")) as consumer:
        tarantool.eval("tubes.create('hot') tubes.put_many('hot', {{1}, {2}})")
        (row,) = consumer.call("tubes.take", ["hot"], 0, 1)[0]
        install(tarantool.url)
        assert consumer.call("tubes.stats", "hot")[0]["tasks"]["taken"] == 1
        assert consumer.call("tubes.ack", "hot", [row[1]]) == [[]]
        assert len(consumer.call("tubes.take", ["hot"], 0, 5)[0]) == 1


def test_modules_start_in_the_order_of_their_needs(tarantool: Tarantool) -> None:
    module = """
    local M = {version = 3, needs = {%s}, functions = {producer = {'hello'}}}
    function M.hello() return 'hello of %s' end
    function M.start() rawset(_G, 'test_order', (rawget(_G, 'test_order') or '') .. '%s') end
    return M
    """
    install(
        tarantool.url, {"test_a": module % ("'test_b'", "a", "a"), "test_b": module % ("'tubes'", "b", "b")}
    )
    assert tarantool.eval("return test_order") == ["ba"]
    with closing(tarantool.client("producer")) as producer:
        assert producer.call("test_a.hello") == ["hello of a"]
        producer.require({"test_a": 3})


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("return {", "unexpected symbol|expected"),
        ("return 7", "has to return a table with a version"),
        ("return {version = 1, needs = {'nothing'}}", "needs module nothing"),
        ("return {version = 1, needs = {'test_bad'}}", "needs itself"),
    ],
)
def test_a_bad_module_is_refused_and_nothing_is_touched(
    tarantool: Tarantool, source: str, problem: str
) -> None:
    with pytest.raises(TarantoolError, match=problem) as caught:
        install(tarantool.url, {"test_bad": source})
    assert caught.value.code == "bad-module"
    assert tarantool.eval("tubes.create('fine') return tubes.stats('fine').tasks.total") == [0]


def test_older_code_does_not_touch_a_newer_schema(tarantool: Tarantool) -> None:
    tarantool.eval("box.space._aggregator_schema:replace({'tubes_store', 99})")
    try:
        with pytest.raises(TarantoolError, match="load the newer code") as caught:
            install(tarantool.url)
        assert caught.value.code == "newer-schema"
        assert tarantool.eval("tubes.create('old') return tubes.stats('old').tasks.total") == [0]
    finally:
        tarantool.eval("box.space._aggregator_schema:replace({'tubes_store', 1})")


def test_a_connection_belongs_to_one_thread_and_another_may_end_it(tarantool: Tarantool) -> None:
    from concurrent.futures import ThreadPoolExecutor

    client = tarantool.client()
    tarantool.eval("tubes.create('idle')")
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.call, "tubes.take", ["idle"], 60, 1, wait=60)
        while not tarantool.eval("return tubes.stats('idle').waiting")[0]:
            pass
        with pytest.raises(RuntimeError, match="one thread"):
            client.call("tubes.stats", "idle")
        client.abort()
        with pytest.raises(TarantoolUnavailableError):
            waiting.result(timeout=30)
    assert client.closed
    assert sources()["tubes"]
