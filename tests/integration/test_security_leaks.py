"""Nothing that is secret, and nothing of a message, is in what the service says: logs, output, metrics.

Words that stand nowhere else are put into passwords, bodies, ids and headers, and looked for in all
that can be read of a service that meets one fault after the other.
"""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote
from uuid import uuid4

import orjson
import psutil
import pytest
import requests
import trustme

from consumers.publisher import Outgoing
from tests.elasticsearch_proxy import JSON, proxy
from tests.relay import relay
from tests.service import LOGS, ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from tests.elasticsearch_proxy import Proxy
    from tests.service import Service, Stage

pytestmark = pytest.mark.integration
on_4 = pytest.mark.parametrize("rabbitmq", ["rabbitmq4"], indirect=True)

PASSWORD, BODY, NAME, HEADER = "canary/passw@rd", "canarybody", "canaryid", "canaryheader"
SECRETS = (PASSWORD, quote(PASSWORD, safe=""), "canary/pass", "canary%2F")
OF_MESSAGES = (BODY, NAME, HEADER)
MAPPING = {
    "mappings": {"dynamic": "strict", "properties": {"number": {"type": "long"}, "text": {"type": "text"}}},
    "settings": {"number_of_replicas": 0},
}
OWN_CODE = '''
class OwnError(Exception):
    """A stranger's words hold what they please."""

def write(request):
    raise OwnError(f"{[item.document for item in request]} {[item.id for item in request]}")

def join(key, documents):
    raise OwnError(f"{key} {documents}")

def full(group, newest):
    raise OwnError(f"{group} {newest.body} {newest.headers}")
'''


def messages(queue: str, count: int = 30) -> list[Outgoing]:
    """Good and bad ones; all that a publisher can write holds a word that is looked for."""
    wrong: list[tuple[bytes, dict[str, Any]]] = [
        (b'{"text": %b' % BODY.encode(), {}),
        (b'["%b"]' % BODY.encode(), {}),
        (b'{"text":"%b\\ud800"}' % BODY.encode(), {}),
        (BODY.encode() + b"\xff", {"content_type": "text/plain"}),
        (BODY.encode(), {"content_type": "image/png"}),
        (BODY.encode(), {"content_encoding": "gzip"}),
        (BODY.encode(), {"content_encoding": "punycode"}),
        (b'{"number":"%b"}' % BODY.encode(), {}),
        (b'{"%b":1}' % BODY.encode(), {}),
        (b"", {}),
    ]
    bodies = [(orjson.dumps({"number": n, "text": BODY}), {}) for n in range(count)] + wrong
    return [
        Outgoing(
            "",
            queue,
            body,
            {
                "delivery_mode": 2,
                "content_type": "application/json",
                "message_id": f"{NAME}-{number}",
                "headers": {"h": HEADER, HEADER: 1},
                "correlation_id": HEADER,
                "reply_to": HEADER,
                "app_id": HEADER,
                "type": HEADER,
                **more,
            },
        )
        for number, (body, more) in enumerate(bodies)
    ]


@dataclass
class Watched:
    """A service; ``said`` gathers what can be read of it from outside but for its log and output."""

    service: Service
    said: list[str] = field(default_factory=list)

    def look(self) -> None:
        """Read its pages, and the list of processes."""
        for path in ("/metrics", "/healthz", "/readyz", f"/{BODY}"):
            answer = requests.get(self.service.address + path, timeout=30)
            self.said.append(answer.text.replace(f"/{BODY}", ""))
        parent = psutil.Process(self.service.process.pid)
        for each in (parent, *parent.children(recursive=True)):
            self.said += [*each.cmdline(), each.name()]

    def all_said(self) -> str:
        """Return it all; the service has ended."""
        # batch_key tells the keys of batches, to those who ask for details
        log = [str(line) for line in self.service.log if line["event"] != "batch_key"]
        return "\n".join([*log, *self.service.noise, self.service.output, *self.said])


def assert_silent(text: str) -> None:
    lines = [line for line in text.splitlines() if any(word in line for word in (*SECRETS, *OF_MESSAGES))]
    assert lines == []


def own_headers(letter: Any) -> str:
    """Return what the service has added to a dead letter."""
    return str({k: v for k, v in letter.headers.items() if k.startswith("x-aggregator-")})


@pytest.fixture
def user(stage: Stage) -> Iterator[str]:
    """A user of the broker with the password that is looked for; the URL of the broker for it."""
    name = f"u{uuid4().hex[:8]}"
    stage.rabbitmq.ctl("add_user", name, PASSWORD)
    stage.rabbitmq.ctl("set_permissions", name, ".*", ".*", ".*")
    yield stage.rabbitmq.url.replace("guest:guest", f"{name}:{quote(PASSWORD, safe='')}")
    stage.rabbitmq.heal()
    stage.rabbitmq.ctl("delete_user", name)


@pytest.fixture
def watch(stage: Stage, user: str, tmp_path: Any) -> Callable[..., Watched]:
    """A factory of services, told their URLs as it is advised: by variables."""
    (tmp_path / "own.py").write_text(OWN_CODE)

    def start(address: str = "", *flags: str, options: str = "", broker: str = "", **more: Any) -> Watched:
        secret = f"elasticsearch+http://u:{quote(PASSWORD, safe='')}@{address.partition('//')[2]}"
        variables = {
            "AGGREGATOR_BROKER": broker or user,
            "AGGREGATOR_SINK": more.pop(
                "sink", f"{secret}/{'' if 'allow' in options else stage.index}{options}"
            ),
            "PYTHONPATH": f"{ROOT}:{tmp_path}",
        }
        ends = ("--queue", stage.queue, "--metrics-port", "0", "--breaker-window", "0", "--size", "10")
        retries = ("--retry-max", "300ms", "--grace", "2s", "--processes", more.pop("processes", "1"))
        return Watched(stage._start(*ends, *retries, *flags, environment=variables, folder=tmp_path))

    return start


def quoting(status: int, kind: str, made: Proxy) -> Callable[..., Any]:
    """Answer a bulk request with an error that quotes all that was sent, password and documents."""

    def change(*_: Any) -> Any:
        _, _, headers, body = made.seen[-1]
        words = f"{headers} {body.decode()} {PASSWORD}"
        error = {"type": kind, "reason": words, "caused_by": {"type": words, "reason": words}}
        return status, JSON, orjson.dumps({"error": error, "status": status})

    return change


def items_quoting(status: int, kind: str, made: Proxy) -> Callable[..., Any]:
    """Answer each item with an error that quotes its document."""

    def change(*_: Any) -> Any:
        lines = made.seen[-1][3].split(b"\n")[:-1]
        pairs = zip(map(orjson.loads, lines[::2]), lines[1::2], strict=True)
        items = [
            {"create": {"_id": action["create"]["_id"], "status": status,
                        "error": {"type": kind, "reason": f"{body.decode()} {action}"}}}
            for action, body in pairs
        ]  # fmt: skip
        return 200, JSON, orjson.dumps({"errors": True, "items": items})

    return change


def page(made: Proxy) -> Callable[..., Any]:
    return lambda *_: (200, "text/html", b"<html>" + made.seen[-1][3] + PASSWORD.encode())


PARSING, ANY = "document_parsing_exception", "own_exception"
ANSWERS = {
    "500": (lambda made: quoting(500, "internal_exception", made), "sink_refuses"),
    "400": (lambda made: quoting(400, "parsing_exception", made), "dead_letters_published"),
    "401": (lambda made: quoting(401, "authentication_exception", made), "sink_refuses"),
    "403": (lambda made: quoting(403, ANY, made), "sink_refuses"),
    "a page": (page, "sink_refuses"),
    "items 400": (lambda made: items_quoting(400, PARSING, made), "dead_letters_published"),
    "items 409": (lambda made: items_quoting(409, ANY, made), "dead_letters_published"),
    "items 500": (lambda made: items_quoting(500, ANY, made), "sink_refuses"),
    "cut": (lambda _: lambda *_: None, "sink_refuses"),
}  # fmt: skip


@on_4
@pytest.mark.parametrize("case", ANSWERS)
def test_what_elasticsearch_quotes_is_not_repeated(stage, watch, case):
    make, event = ANSWERS[case]
    stage.publish(messages(stage.queue))
    with proxy() as made:
        made.change = make(made)
        running = watch(made.url)
        running.service.wait_event(event)
        running.look()
        assert running.service.stop() == 0
    assert_silent(running.all_said())
    assert_silent("\n".join(map(own_headers, stage.dead())))


@on_4
def test_what_is_refused_is_named_by_its_reason_alone(stage, watch):
    """The dead letter carries all as it came; what we add says no more than a field's name."""
    stage.elasticsearch.call("PUT", f"/{stage.index}", MAPPING)
    stage.publish(messages(stage.queue))
    running = watch(stage.elasticsearch.url, processes="2")
    running.service.wait_metric("aggregator_deliveries_total", lambda value: value == 40)
    running.look()
    assert running.service.stop() == 0
    assert_silent(running.all_said())
    dead = stage.dead(decode=False)
    assert len(dead) == 10
    for letter in dead:
        assert_silent(own_headers(letter).replace(f"unknown field [{BODY}]", ""))
        assert letter.headers["h"] == HEADER
        assert letter.properties["correlation_id"] == HEADER
    assert sum(BODY in str(letter.body) for letter in dead) == 9


OWN = {
    "sink": (("--id", "none"), {"sink": "function:own:write"}, "sink_refuses"),
    "aggregate": (("--aggregate", "function:own:join", "--correlate", "type"), {}, "dead_letters_published"),
    "predicate": (("--predicate", "own:full", "--size", "30"), {}, "dead_letters_published"),
    "routing": ((), {"options": "?routing=header:h&version=header:h"}, "dead_letters_published"),
    "index": ((), {"options": "?index_from=header:h&allow=other"}, "dead_letters_published"),
    "key": (("--correlate", "/text"), {}, "dead_letters_published"),
}  # fmt: skip


@on_4
@pytest.mark.parametrize("case", OWN)
def test_own_code_and_expressions_tell_nothing_either(stage, watch, case):
    flags, more, event = OWN[case]
    stage.elasticsearch.call("PUT", f"/{stage.index}", MAPPING)
    stage.publish(messages(stage.queue))
    running = watch(stage.elasticsearch.url, *flags, **more)
    running.service.wait_event(event)
    running.look()
    assert running.service.stop() in {0, 1}
    assert_silent(running.all_said())
    assert_silent("\n".join(map(own_headers, stage.dead())))


@contextmanager
def changed_password(stage: Stage, name: str) -> Iterator[None]:
    stage.rabbitmq.ctl("change_password", name, "another")
    stage.rabbitmq.close_all_connections()
    yield
    stage.rabbitmq.ctl("change_password", name, PASSWORD)


def test_faults_of_the_broker(stage, watch, user):
    """Closed, restarted, another password, no room for dead letters: URLs are told without passwords."""
    stage.declare(kind="classic")
    stage.elasticsearch.call("PUT", f"/{stage.index}", MAPPING)
    full = f"{stage.queue}.dead"
    stage.rabbitmq.policy(full, f"^{full}$", {"max-length": 1, "overflow": "reject-publish"})
    try:
        stage.publish(messages(stage.queue))
        running = watch(stage.elasticsearch.url)
        running.service.wait_event("dead_letters_refused")
        name = user.partition("://")[2].partition(":")[0]
        with changed_password(stage, name):
            running.service.wait_event("link_lost", 10)
            running.look()
        stage.rabbitmq.kill()
        stage.rabbitmq.start()
        running.look()
        running.service.send()
        running.service.wait_event("stopping")
        running.service.wait()
    finally:
        stage.rabbitmq.heal()
        stage.rabbitmq.ctl("clear_policy", full)
    assert "ACCESS_REFUSED" in str(running.service.log)
    assert_silent(running.all_said())


@on_4
def test_faults_at_the_start(stage, watch, user, tmp_path):
    """Neither side is to be had, or proves who it is."""
    authority = trustme.CA()
    with proxy(certificate=authority.issue_cert("elsewhere.example")) as made:
        sink = f"elasticsearch+https://u:{quote(PASSWORD, safe='')}@{made.url.partition('//')[2]}/i"
        running = watch(sink=sink)
        running.service.wait_event("sink_away", 2)
        running.look()
        assert running.service.stop() == 0
        assert_silent(running.all_said())
        assert made.seen == []
    context = trustme_context(authority)
    with relay(user, context) as wire:
        running = watch(stage.elasticsearch.url, broker=wire.url)
        running.service.wait_event("broker_away", 2)
        running.look()
        assert running.service.stop() == 0
    assert_silent(running.all_said())


def trustme_context(authority: trustme.CA) -> Any:
    import ssl

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


def checked(tmp_path: Any, *flags: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment: Mapping[str, str] = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **variables}
    command = [sys.executable, "-m", "aggregator.consume", *LOGS, "--check", *flags]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False)


def test_what_check_shows(tmp_path):
    password = quote(PASSWORD, safe="")
    broker, sink = f"amqp://u:{password}@h//", f"elasticsearch+http://u:{password}@h/i"
    shown = checked(tmp_path, AGGREGATOR_BROKER=broker, AGGREGATOR_SINK=sink)
    assert shown.returncode == 0
    assert "amqp://u:***@h" in shown.stdout
    assert_silent(shown.stdout + shown.stderr)
    noticed = checked(tmp_path, "--broker", broker, "--sink", sink)
    assert "can be read in the list of processes" in noticed.stdout
    assert_silent(noticed.stdout + noticed.stderr)
    (tmp_path / "wrong.toml").write_text(
        f'broker = "{broker}"\nsize = "{broker}"\n[routes.a]\nsink="{sink}?x=1"\n'
    )
    wrong = checked(tmp_path, "--config", "wrong.toml")
    assert wrong.returncode == 2
    assert_silent(wrong.stdout + wrong.stderr)
