"""The application object: the same settings as a file's, the same errors, and its runs."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from datetime import timedelta

import pytest
import structlog
from kombu.connection import Connection
from kombu.entity import Exchange, Queue, binding

from aggregator import (
    Aggregator,
    ConfigurationError,
    ConfigurationErrors,
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
from aggregator.assembly import make_intake
from aggregator.check import check
from aggregator.config import load
from aggregator.consume import build_route, main
from aggregator.metrics import Metrics
from aggregator.testing.memory import MemoryDelivery
from consumers.transports import register

PATIENCE = 20


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path):
    """No setting from outside, and a folder of its own."""
    for name in list(os.environ):
        if name.upper().startswith("AGGREGATOR_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


# ruff: noqa: ISC004 - a file's text over several lines
# ── a file and the code ──

SAME = {
    "little": ('[routes.q]\nqueue = "q"', lambda app: app.route("q")),
    "process": (
        'broker = "amqp://u:p@h//"\ngrace = "5s"\nmetrics_port = 0\nworkers = 3\n[routes.q]\nqueue = "q"',
        lambda app: app.route("q"),
    ),
    "keys": (
        '[routes.r]\nqueue = "q"\ncorrelate = "header:shop + /order/id + message_id + property:x"',
        lambda app: app.route(
            "q", name="r", correlate=header("shop") + pointer("/order/id") + property_("message_id")
            + property_("x"),
        ),
    ),
    "constants": (
        '[routes.q]\nqueue = "q"\ncorrelate = "routing_key + exchange + constant:c"',
        lambda app: app.route("q", correlate=routing_key + exchange + constant("c")),
    ),
    "functions by name": (
        '[routes.q]\nqueue = "q"\ncorrelate = "function:os.path:basename"\npredicate = "operator:contains"',
        lambda app: app.route(
            "q", correlate=function("os.path:basename"), complete=predicate("operator:contains")
        ),
    ),
    "times": (
        '[routes.q]\nqueue = "q"\nage = "1500ms"\nidle = "1s"\ninterval = "1m"\ncrontab = "0 6 * * *"\n'
        'time_zone = "Europe/Berlin"\ndeadline_share = 0.25\ncorrelate = "type"\n'
        'close_on = "age,interval,crontab"\nack_deadline = "1h"\nretry_max = "250ms"',
        lambda app: app.route(
            "q",
            correlate="type",
            complete=crontab("0 6 * * *", "Europe/Berlin", closes=True)
            | interval(timedelta(minutes=1), closes=True) | idle(1) | age(1.5, closes=True)
            | deadline_share(0.25),
            ack_deadline=timedelta(hours=1),
            retry_max=0.25,
        ),
    ),
    "counts": (
        '[routes.q]\nqueue = "q"\nsize = 7\nbytes = "1MiB"\nage = "none"\ncorrelate = "type"\n'
        'sequence = "header:n"\nsentinel = "header:end=true"\nsentinel_count = "n"\nsentinel_grace = "2s"',
        lambda app: app.route(
            "q",
            correlate="type",
            complete=size(7) | max_bytes(2**20) | age(None) | sequence(header("n"))
            | sentinel(header("end"), "true", count="n", grace=2),
        ),
    ),
    "sentinel as text": (
        '[routes.q]\nqueue = "q"\nsentinel = "type=end"\npredicate = "operator:contains"\n'
        "predicate_early = true",
        lambda app: app.route(
            "q", complete=sentinel("type=end") | predicate("operator:contains", early=True)
        ),
    ),
    "writing": (
        '[routes.q]\nqueue = "q"\nsink = "jsonl:///out"\nid = "none"\naggregate = "merge"\n'
        'merge = {total = "sum"}\nprefetch = 5000\ndead_letter = "exchange:x"',
        lambda app: app.route(
            "q", sink="jsonl:///out", id=None, aggregate="merge", merge={"total": "sum"}, prefetch=5000,
            dead_letter="exchange:x",
        ),
    ),
    "two": (
        'broker = "amqp://h"\n[routes.a]\nqueue = "a"\n'
        '[routes.b]\nqueue = "b"\nbroker = "redis://h"\nsize = 3',
        lambda app: (app.route("a"), app.route("b", broker="redis://h", complete=size(3))),
    ),
}  # fmt: skip
TOLD = {"process": {"broker": "amqp://u:p@h//", "grace": 5, "metrics_port": 0, "workers": 3},
        "two": {"broker": "amqp://h"}}  # fmt: skip


@pytest.mark.parametrize("case", SAME)
def test_a_file_and_the_code_build_the_same(case, tmp_path):
    text, build = SAME[case]
    (tmp_path / "routes.toml").write_text(text)
    app = Aggregator(**TOLD.get(case, {}))
    build(app)
    from_file = load(["--config", "routes.toml"])
    assert app.routes == from_file.routes
    assert app.settings() == from_file.model_copy(update={"config": None})


# a value that is wrong, in a file and in code: the same line
WRONG = {
    "size = 0": lambda app: app.route("q", complete=size(0)),
    'age = "2 parsecs"': lambda app: app.route("q", complete=age("2 parsecs")),
    'workers = "x"': lambda app: app.route("q", workers="x"),
    'correlate = "oddity"': lambda app: app.route("q", correlate="oddity"),
    'correlate = "function:no.such:f"': lambda app: app.route("q", correlate=function("no.such:f")),
    'sentinel_count = "n"\nclosed_keys = 5': lambda app: app.route(
        "q", complete=sentinel("type=x", count="n") | sequence("type"), closed_keys=5
    ),
    'late = "alone"': lambda app: app.route("q", late="alone"),
    'sink = "elastic://h/x"': lambda app: app.route("q", sink="elastic://h/x"),
    'broker = "amqp:h"': lambda app: app.route("q", broker="amqp:h"),
    'aggregate = "lst"': lambda app: app.route("q", aggregate="lst"),
    'predicate = "operator"': lambda app: app.route("q", complete=predicate("operator")),
    "wokers = 5": lambda app: app.route("q", wokers=5),
    'grace = "5s"': lambda app: app.route("q", grace="5s"),
}  # fmt: skip


def lines(call):
    with pytest.raises(ConfigurationErrors) as refused:
        call()
    return str(refused.value).splitlines()


@pytest.mark.parametrize("text", WRONG)
def test_the_errors_are_the_files(text, tmp_path):
    app = Aggregator()
    WRONG[text](app)
    added = "sentinel = 'type=x'\nsequence = 'type'\n" if text.startswith("sentinel_count") else ""
    (tmp_path / "routes.toml").write_text(f"[routes.q]\nqueue = 'q'\n{added}{text}\n")
    assert lines(app.settings) == lines(lambda: load(["--config", "routes.toml"]))


def test_all_faults_at_once_and_no_password():
    app = Aggregator("amqp://u:HIDDEN/@h", grace="soon", metrics_port=-1)
    app.route("a", complete=size(0) | age(-1))
    app.route("b", correlate="x", sink="elastic://u:HIDDEN@h")
    told = lines(app.settings)
    assert [line.partition(":")[0] for line in told] == [
        "grace", "metrics_port", "routes.a.size", "routes.a.age", "routes.b.correlate", "broker",
        "routes.b.sink",
    ]  # fmt: skip
    assert "HIDDEN" not in "".join(told)
    assert "HIDDEN" not in repr(app.process | {"broker": ""})


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (lambda app: size(1) | age(1) | size(2), "size: said twice in one completion"),
        (lambda app: app.route("there"), "routes.there: there is one of this name"),
        (lambda app: app.route("q", complete=size(1), size=2), "routes.q.size: it is said twice"),
        (lambda app: app.route("q", id=header("a") + header("b")), "id: 2 expressions are given; one is"),
        (lambda app: pointer("user/id"), "pointer: 'user/id' is none; one like /user/id is needed"),
    ],
)
def test_what_is_refused_at_once(call, line):
    app = Aggregator()
    app.route("there")
    with pytest.raises(ConfigurationError) as refused:
        call(app)
    assert str(refused.value).startswith(line)


def test_an_application_without_routes_or_with_a_name_that_is_none():
    app = Aggregator()
    assert lines(app.settings) == ["routes: the application has none; app.route(…) makes one"]
    app.route("orders/eu")
    assert lines(app.settings)[0].startswith("routes.orders/eu: letters, digits, - _ and . are allowed")
    app = Aggregator()
    app.route("orders/eu", name="eu")
    assert app.routes["eu"].queue == "orders/eu"


# ── functions and sinks themselves ──


def parity(members, delivery):
    return len(members) % 2 == 0


def test_functions_are_given_themselves():
    def tenant(delivery):
        return delivery.headers["tenant"]

    def digest(key, documents):
        return {"key": key, "n": len(documents)}

    app = Aggregator()
    app.route(
        "q", correlate=function(tenant) + header("a + b"), complete=predicate(parity)
        | sentinel(lambda delivery: delivery.body == b"end"), aggregate=digest, id=lambda delivery: "1",
        sink=print,
    )  # fmt: skip
    route = app.routes["q"]
    assert (route.correlate, route.predicate, route.sink) == ((tenant, "header:a + b"), parity, print)
    assert (route.aggregate, route.concurrency) == (digest, 1), "nobody said that it may run in two threads"
    register()
    built = build_route(route, app.settings(), Metrics())
    intake = built.pipeline._intake
    delivery = MemoryDelivery(b"end", headers={"tenant": "t", "a + b": 5})
    assert intake.key(delivery) == '["t","5"]'
    assert intake.id(delivery) == "1"
    assert intake.is_sentinel(delivery)
    assert not intake.is_sentinel(MemoryDelivery(b"more"))
    shown = str(check(app.settings()))
    assert "tenant + header:a + b" in shown
    assert f"predicate {__name__}:parity" in shown
    assert "function:builtins:print" in shown
    for worker in built.workers:
        worker.close()


def test_a_name_that_a_text_would_cut_stays_whole():
    app = Aggregator()
    app.route("q", correlate=header("a + b"), complete=sentinel(header("x=y"), "z"))
    intake = make_intake(app.routes["q"])
    assert intake.key(MemoryDelivery(b"", headers={"a + b": "k"})) == "k"
    assert intake.is_sentinel(MemoryDelivery(b"", headers={"x=y": "z"}))
    shown = str(check(app.settings()))
    assert "header:a + b" in shown
    assert "sentinel header:x=y=z" in shown


@pytest.mark.parametrize(
    ("say", "line"),
    [
        ({"correlate": parity}, "correlate: test_application:parity must take one delivery"),
        (
            {"complete": predicate(len)},
            "predicate: builtins:len must take the group's deliveries and the new",
        ),
        ({"complete": sentinel(parity)}, "sentinel: test_application:parity must take one delivery"),
        ({"sink": parity}, "sink: test_application:parity must take one request"),
        ({"sink": dict}, "sink: builtins:dict is a class; a function of one argument is needed"),
        ({"sink": 5}, "sink: a text is needed"),
        ({"aggregate": len}, "aggregate: builtins:len must take a key and a list of documents"),
        ({"id": parity}, "id: test_application:parity must take one delivery"),
    ],
)
def test_functions_are_looked_at(say, line):
    app = Aggregator()
    app.route("q", **say)
    (told,) = lines(app.settings)
    assert told.replace("tests.unit.", "").startswith(f"routes.q.{line}")


def test_a_sink_itself():
    class Store:
        limits = None

        def open(self): ...
        def write(self, items): ...
        def close(self): ...
        def where(self):
            return "in the attic"

    app = Aggregator()
    app.route("q", sink=(store := Store()))
    assert app.routes["q"].sink is store
    assert "in the attic" in str(check(app.settings()))


# ── the environment and the command line ──


def test_the_environment_is_above_the_code(monkeypatch):
    monkeypatch.setenv("AGGREGATOR_BROKER", "amqp://from.outside//")
    monkeypatch.setenv("AGGREGATOR_GRACE", "7s")
    app = Aggregator()
    app.route("q")
    assert app.routes["q"].broker.get_secret_value() == "amqp://from.outside//"
    app = Aggregator("amqp://h", grace=5)
    app.route("q")
    assert (app.settings().grace, str(app.routes["q"].broker)) == (7.0, "amqp://from.outside//")
    app = Aggregator("amqp://h", grace=5, environment=False)
    app.route("q")
    assert (app.settings().grace, str(app.routes["q"].broker)) == (5.0, "amqp://h")


def test_the_queue_is_the_codes_and_no_file_stands_beside_it(monkeypatch):
    monkeypatch.setenv("AGGREGATOR_QUEUE", "other")
    monkeypatch.setenv("AGGREGATOR_CONFIG", "file.toml")
    app = Aggregator()
    app.route("q")
    assert sorted(lines(app.settings)) == [
        "AGGREGATOR_CONFIG: an application takes the place of a file; remove one of them",
        "AGGREGATOR_QUEUE: the application says it for each of its routes; remove it here",
    ]


@pytest.fixture
def module(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    name = f"app_{tmp_path.name}".replace("-", "_")
    yield name, tmp_path / f"{name}.py"
    sys.modules.pop(name, None)


APP = """
from aggregator import Aggregator, size
app = Aggregator("sqlite-queue:///q.db")
seen = []
@app.batch("q", complete=size(2))
def save(batch):
    seen.extend(item.document for item in batch)
    assert app.force("q") == 0  # a group of its own is none of the open ones
other = 5
"""


def test_the_command_line_takes_an_application(module, capsys):
    name, path = module
    path.write_text(APP)
    assert main(["--app", name, "--check", "--workers", "3"]) == 0
    shown = capsys.readouterr().out
    assert f"function:{name}:save" in shown
    assert "3 workers" in shown
    publish("q", [1, 2, 3, 4])
    assert main(["--app", f"{name}:app", "--until-empty", "--log-level", "error"]) == 0
    assert sorted(json.loads(document)["n"] for document in sys.modules[name].seen) == [1, 2, 3, 4]
    assert "q: 4 written" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("reference", "line"),
    [
        (
            "no_such_module_at_all:app",
            "error: --app: no_such_module_at_all cannot be imported: ModuleNotFoundError",
        ),
        ("{}:nothing", "error: --app: {} has no nothing"),
        ("{}:other", "error: --app: {}:other is a int; an aggregator.Aggregator is needed"),
    ],
)
def test_what_is_no_application(reference, line, module, capsys):
    name, path = module
    path.write_text(APP)
    assert main(["--app", reference.format(name)]) == 2
    assert capsys.readouterr().err.startswith(line.format(name))


# ── queues ──

ORDERS = Queue(
    "orders",
    Exchange("shop", type="topic"),
    routing_key="order.#",
    max_priority=5,
    queue_arguments={"x-queue-type": "quorum"},
)


def test_a_queue_stays_as_it_is_given():
    app = Aggregator("amqp://h")
    app.route(ORDERS)
    app.route("plain")
    assert app.routes["orders"].queue == "orders"
    assert app.routes["orders"].entity is ORDERS
    assert app.routes["plain"].entity is None
    shown = str(check(app.settings()))
    declared = "durable; x-max-priority 5, x-queue-type quorum; bound to topic exchange 'shop' by 'order.#'"
    assert declared in shown


@pytest.mark.parametrize(
    ("queue", "line"),
    [
        (Queue("q", no_ack=True), "queue: no_ack: the broker would forget messages before they are written"),
        (Queue("q", auto_delete=True), "queue: auto_delete: a lost connection would delete it"),
        (Queue("q", exclusive=True), "queue: exclusive: a lost connection would delete it"),
        (Queue("q", queue_arguments={"x-queue-type": "stream"}), "queue: a stream takes nothing back"),
        (
            Queue("q", queue_arguments={"x-delivery-limit": 15}),
            "delivery_limit: the queue's x-delivery-limit 15",
        ),
        (
            Queue("q", queue_arguments={"x-consumer-timeout": 60_000}),
            "ack_deadline: the queue's x-consumer-tim",
        ),
    ],
)
def test_a_queue_that_would_lose_messages_is_refused(queue, line):
    app = Aggregator("amqp://h")
    app.route(queue)
    (told,) = lines(app.settings)
    assert told.removeprefix("routes.q.").startswith(line)


def test_a_queue_without_a_name_is_refused():
    app = Aggregator("amqp://h")
    app.route(Queue(), name="r")
    assert lines(app.settings) == ["routes.r.queue: the name is empty; give the name of a queue"]


@pytest.mark.parametrize(
    "queue",
    [
        Queue("q", queue_arguments={"x-delivery-limit": 16}),
        Queue("q", queue_arguments={"x-delivery-limit": -1}),
        Queue("q", queue_arguments={"x-delivery-limit": 3, "x-dead-letter-exchange": "dlx"}),
        Queue("q", queue_arguments={"x-consumer-timeout": 1_800_000}),
    ],
)
def test_a_queue_that_loses_nothing_is_taken(queue):
    app = Aggregator("amqp://h")
    app.route(queue)
    assert not [w for w in check(app.settings()).warnings if "queue" in w]


def test_what_a_queue_may_not_mean_is_a_warning():
    app = Aggregator("amqp://h")
    arguments = {"x-single-active-consumer": True}
    app.route(Queue("q", durable=False, expires=60, queue_arguments=arguments))
    told = [warning for warning in check(app.settings()).warnings if ".queue: " in warning]
    assert [line.removeprefix("routes.q.queue: ").partition(":")[0] for line in told] == [
        "not durable", "expires", "x-single-active-consumer",
    ]  # fmt: skip


# ── running ──


NUMBERS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


@pytest.fixture(autouse=True)
def _signals():
    before = [signal.getsignal(number) for number in NUMBERS]
    yield
    for number, handler in zip(NUMBERS, before, strict=True):
        signal.signal(number, handler)


def publish(queue, numbers, exchange="", routing_key=""):
    register()
    with Connection("sqlite-queue:///q.db") as connection, connection.channel() as channel:
        if not exchange:
            channel.queue_declare(queue, durable=True, auto_delete=False)
        for number in numbers:
            message = channel.prepare_message(
                json.dumps({"n": number}).encode(), content_type="application/json"
            )
            channel.basic_publish(message, exchange, routing_key or queue)


def queue_length(queue):
    with Connection("sqlite-queue:///q.db") as connection, connection.channel() as channel:
        return channel.queue_declare(queue, passive=True).message_count


def test_a_run_declares_the_queue_with_its_exchange_and_bindings():
    seen = []
    app = Aggregator("sqlite-queue:///q.db", log_level="error")
    shop, news = Exchange("shop", type="topic"), Exchange("news", type="fanout")
    bindings = [binding(shop, routing_key="order.#"), binding(news)]
    app.batch(Queue("orders", bindings=bindings), complete=size(2))(
        lambda batch: seen.extend(json.loads(item.document)["n"] for item in batch)
    )
    assert app.run(until_empty=True) == 0
    publish("orders", [1, 2], "shop", "order.new")
    publish("orders", [3, 4], "news", "whatever")
    assert app.run(until_empty=True) == 0
    assert sorted(seen) == [1, 2, 3, 4]


def test_a_queue_that_declares_nothing_is_taken_as_it_stands():
    publish("orders", [1])
    seen = []
    app = Aggregator("sqlite-queue:///q.db", log_level="error")
    app.batch(Queue("orders", durable=False, max_priority=3, no_declare=True))(seen.extend)
    assert "not at all: it has to be there" in str(check(app.settings()))
    assert app.run(until_empty=True) == 0
    assert len(seen) == 1


def test_a_queue_that_stands_there_declared_otherwise_ends_the_run(capsys):
    publish("orders", [1])
    app = Aggregator("sqlite-queue:///q.db", log_format="json")
    app.route(Queue("orders", durable=True, queue_arguments={"x-max-priority": 3}), sink=print)
    assert app.run() == 1
    told = capsys.readouterr().err
    assert "queue 'orders' cannot be declared as it is written: PRECONDITION_FAILED" in told
    assert "x-max-priority" in told
    assert "give its name alone to take it as it is" in told


def test_a_run_in_a_thread_takes_no_signals_and_is_stopped_by_code():
    publish("q", [1, 2, 3])
    app = Aggregator("sqlite-queue:///q.db", log_level="error")
    written, codes = threading.Event(), []
    app.batch("q", complete=size(3))(lambda batch: written.set())
    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=lambda: codes.append(app.run()))
    thread.start()
    assert written.wait(PATIENCE)
    assert signal.getsignal(signal.SIGTERM) is before
    with pytest.raises(RuntimeError, match="running already"):
        app.run()
    with pytest.raises(LookupError, match="no route 'p'; there are q"):
        app.force("p")
    app.stop()
    thread.join(PATIENCE)
    assert codes == [0]
    assert app.force() == 0


def test_groups_are_forced_by_code():
    register()
    publish("q", [1, 2, 3])
    app = Aggregator("sqlite-queue:///q.db", log_level="error")
    batches, codes = [], []
    changed = threading.Condition()

    def save(batch):
        with changed:
            batches.append(sorted(json.loads(item.document)["n"] for item in batch))
            changed.notify_all()

    held = threading.Semaphore(0)

    def seen(members, delivery):
        held.release()
        return False

    def key(delivery):
        return delivery.json()["n"]

    app.route(
        "q", correlate=function(key) + constant("c"), complete=age(None) | predicate(seen), linger=0,
        sink=save,
    )  # fmt: skip
    thread = threading.Thread(target=lambda: codes.append(app.run()))
    thread.start()
    for _ in range(3):
        assert held.acquire(timeout=PATIENCE)
    with changed:
        # the predicate is asked under the lock of the route: force comes after it
        forced = app.force("q", ("2", "c"))
        assert changed.wait_for(lambda: batches, PATIENCE)
    assert (forced, batches) == (1, [[2]])
    assert app.force("q", ("9", "c")) == 0
    assert app.force("q") == 2
    with changed:
        assert changed.wait_for(lambda: sum(map(len, batches)) == 3, PATIENCE)
    app.stop()
    thread.join(PATIENCE)
    assert codes == [0]


def test_a_stop_that_comes_too_early_is_kept():
    app = Aggregator("sqlite-queue:///q.db", log_level="error")
    app.route("q", sink=print)
    app.stop()
    assert app.run() == 0
    publish("q", [1])
    assert app.run(until_empty=True) == 0, "and is over then"
    assert queue_length("q") == 0


def test_signals_end_a_run_on_the_main_thread_and_are_given_back():
    publish("q", [1])
    before = [signal.getsignal(number) for number in NUMBERS]
    app = Aggregator("sqlite-queue:///q.db", log_level="error")
    app.batch("q", complete=size(1))(lambda batch: signal.raise_signal(signal.SIGTERM))
    assert app.run() == 0
    assert [signal.getsignal(number) for number in NUMBERS] == before


def test_a_program_that_has_set_up_its_logs_keeps_them():
    told = []
    structlog.configure(processors=[lambda logger, name, event: told.append(event["event"]) or ""])
    app = Aggregator("sqlite-queue:///q.db", log_level="error")
    app.route("q", sink=print)
    app.stop()
    assert app.run() == 0
    assert "stopped" in told


def test_a_wrong_broker_is_told_before_anything_runs():
    app = Aggregator("ampq://h//")
    app.route("q")
    assert lines(app.run) == ["broker: unknown scheme 'ampq'; did you mean amqp?"]


def test_several_processes_are_started_by_the_command_line_alone():
    app = Aggregator("sqlite-queue:///data/queue.db", environment=False, processes=2)
    app.route("q")
    with pytest.raises(ConfigurationErrors) as refused:
        app.run()
    (fault,) = refused.value.faults
    assert fault.field == "processes"
    assert "--app MODULE:NAME" in fault.problem
