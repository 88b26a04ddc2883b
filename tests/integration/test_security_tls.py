"""TLS on both legs, end to end: who does not prove to be the host of the URL gets nothing, and is told of.

The certificates are made here. In front of Elasticsearch stands a proxy that ends TLS and asks for
credentials, as its owners do who keep Elasticsearch itself in a private network.
"""

from __future__ import annotations

import base64
import re
import ssl
from collections import Counter
from datetime import UTC, datetime, timedelta

import psutil
import pytest
import trustme

from producers.network import free_port
from tests.elasticsearch_proxy import JSON, proxy
from tests.relay import relay

pytestmark = [
    pytest.mark.integration,
    pytest.mark.parametrize("rabbitmq", ["rabbitmq4"], indirect=True),
]
REFUSED = b'{"error":{"type":"security_exception","reason":"missing authentication credentials"}}'


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture
def ca(authority, tmp_path):
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(path)
    return path


def wrong_certificates(authority):
    """Return certificates that must not be taken, each with what OpenSSL says of it."""
    return {
        "another's": (authority.issue_cert("elsewhere.example"), "IP address mismatch|doesn't match"),
        "of an unknown authority": (trustme.CA().issue_cert("127.0.0.1"), "unable to get local issuer"),
        "expired": (
            authority.issue_cert("127.0.0.1", not_after=datetime.now(UTC) - timedelta(days=1)),
            "certificate has expired",
        ),
        "of itself": (trustme.CA().create_child_ca().issue_cert("127.0.0.1"), "unable to get"),
    }


CASES = ("another's", "of an unknown authority", "expired", "of itself")


def context_of(certificate):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    certificate.configure_cert(context)
    return context


@pytest.mark.parametrize("amqp_input", ["batched", "standard"])
@pytest.mark.parametrize("case", CASES)
def test_a_broker_with_a_wrong_certificate(stage, authority, ca, case, amqp_input):
    certificate, words = wrong_certificates(authority)[case]
    stage.publish(stage.numbered(range(3)))
    with relay(stage.rabbitmq.url, context_of(certificate)) as wire:
        flags = ("--broker-ca", str(ca), "--amqp-input", amqp_input)
        running = stage.start(*flags, broker=wire.url)
        (said, *_) = running.wait_event("broker_away", 2)
        assert re.search(words, said["problem"])
        assert running.stop() == 0
    assert stage.counts().ready == 3


def test_the_second_of_two_brokers_is_checked_too(stage, authority, ca):
    stage.publish(stage.numbered(range(3)))
    with relay(stage.rabbitmq.url, context_of(authority.issue_cert("elsewhere.example"))) as wire:
        away = wire.url.replace(f":{wire.port}/", f":{free_port()}/")
        running = stage.start("--broker-ca", str(ca), broker=f"{away};{wire.url}")
        running.wait_event("broker_away", 3)
        assert any("IP address mismatch" in line["problem"] for line in running.events("broker_away"))
        assert running.stop() == 0
    assert stage.counts().ready == 3


@pytest.mark.parametrize("case", CASES)
def test_an_elasticsearch_with_a_wrong_certificate(stage, authority, ca, case):
    """It is sent nothing: no document, and no password."""
    certificate, words = wrong_certificates(authority)[case]
    stage.publish(stage.numbered(range(3)))
    with proxy(certificate=certificate) as made:
        address = made.url.replace("://", "://u:hunter2@")
        running = stage.start(sink=stage.sink(address, f"?ca={ca}"))
        (said, *_) = running.wait_event("sink_away", 2)
        assert re.search(words, said["problem"])
        assert "hunter2" not in running.last_words()
        assert running.stop() == 0
        assert made.seen == []
    assert stage.counts().ready == 3


@pytest.mark.parametrize("kind", ["basic", "api key"])
def test_a_proxy_that_ends_tls_and_asks_for_credentials(stage, authority, ca, kind, tmp_path):
    (tmp_path / "secret").write_text("id:k3y" if kind == "api key" else "p/w@rd")
    options, user, wanted = {
        "basic": (f"&password_file={tmp_path}/secret", "us%40er@", "Basic " + encoded("us@er:p/w@rd")),
        "api key": (f"&api_key_file={tmp_path}/secret", "", "ApiKey " + encoded("id:k3y")),
    }[kind]
    stage.publish(stage.numbered(range(40)))
    with proxy(stage.elasticsearch.url, certificate=authority.issue_cert("127.0.0.1")) as made:
        made.authorization, made.refusal = wanted, (401, JSON, REFUSED)
        address = made.url.replace("://", f"://{user}")
        running = stage.start("--size", "20", "--until-empty", sink=stage.sink(address, f"?ca={ca}{options}"))
        assert running.wait() == 0
        assert "k3y" not in running.last_words() + running.output
        assert "p/w@rd" not in running.last_words() + running.output
    assert stage.numbers() == Counter(range(40))
    assert {headers["authorization"] for _, _, headers, _ in made.seen} == {wanted}


def encoded(text):
    return base64.b64encode(text.encode()).decode()


def test_credentials_that_are_revoked_while_it_runs(stage, authority, ca, tmp_path):
    """The route pauses and says so; the new key, in the same file, is taken when it is there."""
    key = tmp_path / "key"
    key.write_text("id:old")
    with proxy(stage.elasticsearch.url, certificate=authority.issue_cert("127.0.0.1")) as made:
        made.authorization, made.refusal = "ApiKey " + encoded("id:old"), (401, JSON, REFUSED)
        sink = stage.sink(made.url, f"?ca={ca}&api_key_file={key}")
        running = stage.start("--size", "1", "--ack-deadline", "20s", "--retry-max", "500ms", sink=sink)
        running.wait_event("route_runs")
        made.authorization = "ApiKey " + encoded("id:new")
        stage.publish(stage.numbered(range(3)))
        (said, *_) = running.wait_event("sink_refuses")
        assert "missing authentication credentials" in said["problem"]
        assert "id:old" not in running.last_words()
        key.write_text("id:new")
        stage.wait_written(3)
        stage.wait_empty()
        assert running.stop() == 0
    assert stage.numbers() == Counter(range(3))


@pytest.mark.parametrize("processes", ["1", "2"])
def test_metrics_are_served_on_loopback_alone(stage, processes):
    """No process of the service listens anywhere else."""
    running = stage.start("--metrics-port", "0", "--processes", processes)
    port = int(running.address.rpartition(":")[2])
    running.wait_event("route_runs")
    process = psutil.Process(running.process.pid)
    tree = (process, *process.children(recursive=True))
    listening = {each.laddr for one in tree for each in one.net_connections() if each.status == "LISTEN"}
    assert listening == {("127.0.0.1", port)}
    assert running.stop() == 0
