"""The service over the transport that takes many deliveries at a time, whatever the suite runs on."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

pytestmark = pytest.mark.integration


def test_a_message_that_cannot_be_read_is_dead_lettered_and_the_link_goes_on(stage):
    good = stage.numbered(range(60))
    large = stage.numbered([60], body=b'{"number": 60, "text": "' + b"x" * 300_000 + b'"}')
    (bad,) = stage.numbered([61])
    bad = replace(bad, properties={**bad.properties, "message_id": b"\xff"})
    stage.publish([*good[:30], bad, *large, *good[30:]])
    broker = stage.rabbitmq.url.replace("amqp://", "amqp-batched://")
    running = stage.start("--size", "20", "--id", "message_id", "--until-empty", broker=broker)
    assert running.wait() == 0
    assert stage.numbers() == Counter(range(61))
    (letter,) = stage.dead()
    assert letter.headers["x-aggregator-reason"] == "bad-properties"
    assert b'"number":' in bytes(letter.body)
    # one link from the start to the end
    assert not running.events("link_lost")
    stage.wait_empty()
