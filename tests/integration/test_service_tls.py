"""amqps: the broker has to prove by its certificate that it is the host of the URL."""

from __future__ import annotations

import ssl
from collections import Counter

import pytest
import trustme

from tests.relay import relay

pytestmark = [
    pytest.mark.integration,
    pytest.mark.parametrize("rabbitmq", ["rabbitmq4"], indirect=True),
]


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture
def ca(authority, tmp_path):
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(path)
    return str(path)


def serving(authority, *names):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(*names).configure_cert(context)
    return context


@pytest.mark.parametrize(
    "case",
    [
        (["127.0.0.1"], "127.0.0.1", ()),
        (["localhost"], "localhost", ()),
        (["broker.example"], "127.0.0.1", ("--server-hostname", "broker.example")),
    ],
    ids=["address", "localhost", "the name that was given"],
)
def test_the_right_name(stage, authority, ca, case):
    names, host, flags = case
    stage.publish(stage.numbered(range(40)))
    # the dead letters take the same precautions: the body is in them
    stage.publish(stage.numbered([40], body=b"{"))
    with relay(stage.rabbitmq.url, serving(authority, *names)) as wire:
        broker = wire.url.replace("127.0.0.1", host)
        running = stage.start("--size", "20", "--until-empty", "--broker-ca", ca, *flags, broker=broker)
        assert running.wait() == 0
    assert stage.numbers() == Counter(range(40))
    assert len(stage.dead()) == 1


@pytest.mark.parametrize(
    "case",
    [
        (["other.example"], (), True),
        (["127.0.0.1"], ("--server-hostname", "broker.example"), True),
        (["127.0.0.1"], (), False),
    ],
    ids=["of another", "not the name that was given", "of an unknown authority"],
)
def test_the_wrong_certificate_is_refused_and_said(stage, authority, ca, case):
    names, flags, trusted = case
    stage.publish(stage.numbered(range(3)))
    context = serving(authority if trusted else trustme.CA(), *names)
    with relay(stage.rabbitmq.url, context) as wire:
        running = stage.start("--broker-ca", ca, *flags, broker=wire.url)
        (said, *_) = running.wait_event("broker_away", 2)
        assert "CERTIFICATE_VERIFY_FAILED" in said["problem"]
        assert "guest:guest" not in said["problem"]
        assert running.stop() == 0
    counts = stage.counts()
    assert (counts.ready, counts.unacked) == (3, 0)
