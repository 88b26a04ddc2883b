"""The client of Tarantool, as far as no server is needed, and the Lua files that are shipped."""

from __future__ import annotations

import re
import socket

import pytest

from aggregator.errors import ConfigurationError, TarantoolUnavailableError
from consumers import install
from consumers.lua import VERSIONS, sources
from consumers.tarantool import Address, Tarantool, parse_url


def test_a_url_names_servers_and_user():
    assert parse_url("tarantool://c%40r:p%3Aw@one:3302,[::1]/?timeout=250ms") == (
        Address("one", 3302, "c@r", "p:w", 0.25),
        Address("::1", 3301, "c@r", "p:w", 0.25),
    )
    assert str(parse_url("tarantool://[::1]:7")[0]) == "[::1]:7"
    assert parse_url("tarantool://localhost")[0].user == "guest"


def test_the_password_is_not_shown():
    assert "secret" not in repr(parse_url("tarantool://me:secret@host"))


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("amqp://host", "form tarantool://"),
        ("tarantool://", "names no host"),
        ("tarantool://a,,b", "names no host"),
        ("tarantool://host:99999", "port has to be"),
        ("tarantool://host:x", "port has to be"),
        ("tarantool://host/?timeout=soon", "timeout: "),
        ("tarantool://host/?retries=3", "retries: no such parameter"),
    ],
)
def test_a_wrong_url_is_refused(url, problem):
    with pytest.raises(ConfigurationError, match=problem):
        parse_url(url)


def test_a_server_that_is_not_there_is_unavailable():
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        with pytest.raises(TarantoolUnavailableError, match="refused"):
            Tarantool(f"tarantool://127.0.0.1:{bound.getsockname()[1]}")


def test_a_server_that_says_nothing_costs_the_timeout():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(TarantoolUnavailableError, match=r"no answer within 0\.05 s"):
            Tarantool(f"tarantool://127.0.0.1:{port}/?timeout=50ms")


def test_the_versions_are_those_of_the_files():
    found = {
        name: int(re.search(r"^local M = \{version = (\d+)", source, re.MULTILINE)[1])
        for name, source in sources().items()
    }
    assert found == VERSIONS


def test_installing_without_a_password_or_a_url_is_a_wrong_call(monkeypatch, capsys):
    monkeypatch.delenv("INSTANCE_CONSUMER_PASSWORD", raising=False)
    with pytest.raises(SystemExit, match="2"):
        install.main(["tarantool://host", "--user", "consumer"])
    assert "INSTANCE_CONSUMER_PASSWORD" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        install.main([""])
    assert "tarantool://" in capsys.readouterr().err


def test_installing_where_nothing_runs_says_so(capsys):
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        assert install.main([f"tarantool://127.0.0.1:{bound.getsockname()[1]}"]) == 1
    assert "refused" in capsys.readouterr().err
