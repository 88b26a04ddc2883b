"""The programs of docs/api.md, run as they stand there, on the embedded queue."""

from __future__ import annotations

import json
import os
import re
import runpy
import sys
from pathlib import Path

import pytest
from kombu.connection import Connection
from kombu.entity import Queue

from aggregator.consume import main
from consumers.transports import register

TEXT = (Path(__file__).parents[2] / "docs/api.md").read_text()
PROGRAMS = {
    code.partition("\n")[0].removeprefix("# "): code
    for code in re.findall(r"```python\n(# .*?)```", TEXT, re.DOTALL)
}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    for name in list(os.environ):
        if name.upper().startswith("AGGREGATOR_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name, code in PROGRAMS.items():
        (tmp_path / name).write_text(code)
    (tmp_path / "data").mkdir()
    register()
    yield tmp_path
    for name in PROGRAMS:
        sys.modules.pop(name.removesuffix(".py"), None)


def publish(queue, *documents, exchange="", routing_key="", headers=None, **properties):
    with Connection("sqlite-queue:///data/queue.db") as connection, connection.channel() as channel:
        Queue(queue)(channel).declare()
        for document in documents:
            message = channel.prepare_message(
                json.dumps(document).encode(),
                content_type="application/json",
                headers=headers or {},
                properties=properties,
            )
            channel.basic_publish(message, exchange, routing_key or queue)


def run(name, *flags):
    return main(["--app", f"{name}:app", "--until-empty", "--log-level", "warning", *flags])


def test_all_programs_are_here():
    assert list(PROGRAMS) == ["clicks.py", "shop.py", "baskets.py", "test_baskets.py", "embedded.py"]


def test_clicks(capsys):
    publish("clicks", *({"page": f"/{number}"} for number in range(3)))
    assert run("clicks") == 0
    assert "3 clicks, the last one on /2\n" in capsys.readouterr().out


def test_shop(folder):
    assert run("shop", "--check") == 0
    assert run("shop") == 0  # declares
    for number in range(2):
        order = {"exchange": "shop", "routing_key": "order.new", "headers": {"order-id": "o1"}}
        publish("x", {"n": number}, message_id=f"m{number}", **order)
    publish(
        "x",
        {},
        exchange="shop",
        routing_key="order.end",
        headers={"order-id": "o1", "members": 2},
        type="end",
    )
    publish("clicks", {"page": "/"})
    assert run("shop") == 0
    (file,) = (folder / "orders").glob("*.jsonl")
    (line,) = file.read_text().splitlines()
    assert '"messages":[{"n":0},{"n":1}]' in line.replace(" ", ""), line
    assert (folder / "clicks.db").is_file()


def test_baskets(capsys):
    publish("baskets", *({"shopper": "eve", "price": price} for price in (60, 50)))
    assert run("baskets") == 0
    assert "{'shopper': 'eve', 'total': 110}\n" in capsys.readouterr().out


def test_the_test_of_baskets(folder):
    runpy.run_path(str(folder / "test_baskets.py"))["test_a_full_basket_is_billed"]()


def test_embedded(folder):
    publish("clicks", *({"page": f"/{number}"} for number in range(3)))
    assert runpy.run_path(str(folder / "embedded.py"))["done"].is_set()
