"""Provider tokens: made once for a key, renewed in time, the same for all threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from threading import Barrier

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from aggregator.errors import SinkUnavailableError
from aggregator.sinks.apns_credentials import provider_token
from aggregator.sinks.push_tokens import BearerToken
from aggregator.testing.clock import VirtualClock


@pytest.fixture
def key():
    return ec.generate_private_key(ec.SECP256R1())


@pytest.fixture
def file(tmp_path, key):
    path = tmp_path / "AuthKey.p8"
    form = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    path.write_bytes(key.private_bytes(serialization.Encoding.PEM, *form))
    return path


def test_it_says_who_we_are(file, key):
    clock = VirtualClock()
    line = provider_token(file, "KEY", "TEAM", clock).line()
    name, _, token = line.partition(b": bearer ")
    assert name == b"authorization"
    assert jwt.get_unverified_header(token) == {"alg": "ES256", "kid": "KEY", "typ": "JWT"}
    options = {"verify_iat": False}
    told = jwt.decode(token, key.public_key(), algorithms=["ES256"], options=options)
    assert told == {"iss": "TEAM", "iat": int(clock.time())}


def test_it_is_renewed_between_20_and_60_minutes(file):
    clock = VirtualClock()
    token = provider_token(file, "KEY", "TEAM", clock)
    seen = []
    for _ in range(6 * 60):
        line = token.line()
        if not seen or seen[-1][1] != line:
            seen.append((clock.time(), line))
        clock.advance(60)
    ages = [later - earlier for (earlier, _), (later, _) in pairwise(seen)]
    assert len(ages) >= 5
    assert all(20 * 60 <= age <= 60 * 60 for age in ages)


def test_a_process_has_one_for_a_key(file):
    first = provider_token(file, "KEY", "TEAM")
    assert provider_token(file, "KEY", "TEAM") is first
    assert provider_token(file, "OTHER", "TEAM") is not first


def test_threads_that_come_together_get_the_same_one(file):
    clock = VirtualClock()
    token = provider_token(file, "KEY", "TEAM", clock)
    for _ in range(3):
        barrier = Barrier(8)

        def ask(_number, barrier=barrier):
            barrier.wait()
            return token.line()

        with ThreadPoolExecutor(8) as pool:
            lines = set(pool.map(ask, range(8)))
        assert len(lines) == 1
        clock.advance(3600)


class Fetched(BearerToken):
    youngest = 60.0

    def __init__(self, clock):
        super().__init__(clock)
        self.made = 0
        self.fails = False

    def make(self, now):
        if self.fails:
            raise SinkUnavailableError("no token")
        self.made += 1
        return b"%d" % self.made, 1000.0


def test_one_that_cannot_be_renewed_is_used_on():
    clock = VirtualClock()
    token = Fetched(clock)
    first = token.line()
    token.fails = True
    clock.advance(1000)
    assert token.line() == first
    token.fails = False
    assert token.line() == first, "not at each push"
    clock.advance(31)
    assert token.line() != first


def test_the_first_one_has_to_be_had():
    token = Fetched(VirtualClock())
    token.fails = True
    with pytest.raises(SinkUnavailableError):
        token.line()


def test_a_refused_one_is_replaced_once_for_all():
    clock = VirtualClock()
    token = Fetched(clock)
    first = token.line()
    assert [token.replace(first) for _ in range(3)] == [True] * 3
    assert token.made == 2
    assert not token.replace(token.line())
    clock.advance(60)
    assert token.replace(token.line())
