"""Small messages that would cost a naive reader gigabytes or minutes: each is refused by itself, at once."""

from __future__ import annotations

import bz2
import re
import zlib
from collections import Counter
from pathlib import Path

import pytest

from consumers.publisher import Outgoing
from tests.servers.base import wait_for

pytestmark = pytest.mark.integration

MEGABYTE = 1024 * 1024


def inflated(size):
    """Return zlib's form of an object with so much white space in it: a thousandth of that."""
    stream = zlib.compressobj()
    parts = [stream.compress(b"{")]
    parts += [stream.compress(b" " * MEGABYTE) for _ in range(size // MEGABYTE)]
    return b"".join([*parts, stream.compress(b"}"), stream.flush()])


def bombs():
    gzipped = inflated(1024 * MEGABYTE)
    json = {"content_type": "application/json"}
    return [
        ("compressed", gzipped, {**json, "headers": {"compression": "application/x-gzip"}}),
        ("compressed", gzipped, {**json, "content_encoding": "deflate"}),
        ("compressed", bz2.compress(b" " * 200 * MEGABYTE), {**json, "headers": {"compression": "bzip2"}}),
        ("compressed", b"\x28\xb5\x2f\xfd", {**json, "headers": {"compression": "application/zstd"}}),
        ("compressed", b"\x0b", {**json, "content_encoding": "br"}),
        ("bad-charset", b"a" * 400_000, {"content_type": "text/plain", "content_encoding": "punycode"}),
        ("bad-charset", gzipped, {"content_type": "text/plain", "content_encoding": "zlib_codec"}),
        ("bad-json", b'{"a":' * 200_000, json),
        ("bad-json", b'{"a":' + b"[" * 5_000 + b"]" * 5_000 + b"}", json),
        ("bad-json", b'{"a":1' + b"0" * 5_000 + b"}", json),
        ("bad-json", b'{"a":NaN}', json),
        ("bad-json", b'{"a":"\\ud800"}', json),
        ("too-large", b'{"a":"' + b"x" * 3 * MEGABYTE + b'"}', json),
    ]


def peak(pid):
    """Return the most bytes of memory that a process has ever held."""
    (kilobytes,) = re.findall(r"^VmHWM:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return int(kilobytes) * 1024


@pytest.mark.parametrize("kind", ["batched", "standard"])
def test_bombs(stage, kind):
    made = bombs()
    stage.publish(stage.numbered(range(20)))
    stage.publish(
        Outgoing("", stage.queue, body, {"message_id": f"{reason}-{number}", **more})
        for number, (reason, body, more) in enumerate(made)
    )
    stage.publish(stage.numbered(range(20, 40)))
    flags = ("--amqp-input", kind, "--max-message", "2MB", "--breaker-window", "0", "--size", "20")
    running = stage.start(*flags)
    settled = 40 + len(made)
    wait_for(
        lambda: sum(line["messages"] for line in running.events("batch")) == settled,
        f"{settled} messages",
        timeout=60,
        detail=running.last_words,
    )
    most = peak(running.process.pid)
    assert running.stop() == 0
    assert most < 250 * MEGABYTE
    assert stage.numbers() == Counter(range(40))
    reasons = Counter(
        # not by the codec that one of them names: it would need 10 s
        letter.headers["x-aggregator-reason"]
        for letter in stage.dead(decode=False)
    )
    assert reasons == Counter(reason for reason, *_ in made)
