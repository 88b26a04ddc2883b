"""The Python API as an application uses it, for the type checkers alone; nothing runs it.

``make lint`` reads it with mypy and pyright, both strict: what has to be an error is marked, and a
mark that is not needed is an error as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, assert_type

from kombu.entity import Exchange, Queue

from aggregator import (
    Aggregator,
    BulkRequest,
    Completion,
    Delivery,
    Key,
    Route,
    Settings,
    Sink,
    age,
    constant,
    crontab,
    deadline_share,
    exchange,
    function,
    header,
    idle,
    interval,
    max_bytes,
    pointer,
    predicate,
    property_,
    routing_key,
    sentinel,
    sequence,
    size,
)
from aggregator.delivery import Item
from aggregator.sinks.base import DUPLICATE, WRITTEN, Limits, Verdict

# ── values ──

assert_type(size(100) | age("2s") | idle(1.5, closes=True) | max_bytes("10MB"), Completion)
assert_type(interval(timedelta(minutes=1)) | crontab("0 6 * * *", "Europe/Berlin"), Completion)
assert_type(deadline_share(0.5) | sequence(header("count")) | size(None) | age(None), Completion)
assert_type(sentinel("header:end=true", count="n", grace=1) | sentinel(header("end"), "true"), Completion)
assert_type(header("shop") + pointer("/order/id") + property_("type") + constant("x"), Key)
assert_type(routing_key + exchange, Key)
assert_type(function("package.module:name") + function(lambda delivery: delivery.routing_key), Key)


def tenth(members: Sequence[Delivery], delivery: Delivery) -> bool:
    return len(members) == 10 and delivery.redelivered


def tenant(delivery: Delivery) -> str | None:
    return delivery.routing_key or None


assert_type(predicate(tenth, early=True) | predicate("package.module:name"), Completion)
assert_type(sentinel(lambda delivery: delivery.body == b"end"), Completion)

# ── routes ──

app = Aggregator("amqp://localhost//", grace="30s", heartbeat=20, metrics_port=9464, broker_ca=Path("ca.pem"))
orders = Queue("orders", Exchange("shop", type="topic"), routing_key="order.#")
app.route(
    orders,
    name="orders",
    correlate=header("order-id"),
    complete=size(100) | age("2s"),
    sink="elasticsearch+http://localhost:9200/orders",
    id=property_("message_id"),
    dead_letter="exchange:refused",
    closed_for=timedelta(hours=1),
    late="alone",
    workers=5,
)
app.route("plain", correlate=tenant, sink=print, id=None, aggregate="merge", merge={"total": "sum"})


def digest(key: str | None, documents: list[dict[str, Any]]) -> dict[str, Any]:
    return {"key": key, "count": len(documents)}


app.route("digests", correlate="routing_key", aggregate=digest)


class Store:
    limits = Limits()

    def open(self) -> None: ...
    def write(self, items: Sequence[Item]) -> Sequence[Verdict] | None:
        return [WRITTEN if item.document else DUPLICATE for item in items]

    def close(self) -> None: ...
    def where(self) -> str:
        return "nowhere"


store: Sink = Store()
app.route("stored", sink=store)


@app.batch("clicks", complete=size(1000) | age(2), concurrency=4, broker="redis://localhost")
def save(batch: BulkRequest) -> None:
    for item in batch:
        assert_type(item.id, str)
        assert_type(item.document, bytes)
        batch.refuse(item, "no-such-account")


@app.batch(Queue("views"))
def remember(batch: BulkRequest, seen: int = 0) -> None: ...


def again(batch: BulkRequest) -> None:
    remember(batch, seen=1)  # decorated, it stays what it is


assert_type(app.settings(), Settings)
assert_type(app.routes, Mapping[str, Route])
assert_type(app.run(until_empty=True), int)
assert_type(app.force("orders", "key", ("two", "parts"), None), int)
app.stop()

# ── what has to be an error ──

size("100")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
size(1) | 2  # type: ignore[operator]  # pyright: ignore[reportOperatorIssue, reportUnusedExpression]
size(1) & age(1)  # type: ignore[operator]  # pyright: ignore[reportOperatorIssue, reportUnusedExpression]
header("a") + "b"  # type: ignore[operator]  # pyright: ignore[reportOperatorIssue, reportUnusedExpression]
age("2s", True)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
predicate(tenant)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
Aggregator(grase="30s")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
Aggregator("amqp://", metrics_port="9464")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
app.route("q", workerz=5)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
app.route("q", size=5)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
app.route("q", late="sometimes")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
app.route("q", complete=header("x"))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
app.route("q", sink=5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
app.route("q", correlate=tenth)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


@app.batch("q")  # type: ignore[type-var]  # pyright: ignore[reportArgumentType, reportUntypedFunctionDecorator]
def of_two(batch: BulkRequest, more: int) -> None: ...


@app.batch("q")  # type: ignore[type-var]  # pyright: ignore[reportArgumentType, reportUntypedFunctionDecorator]
async def later(batch: BulkRequest) -> None: ...
