"""Stores of seen ids under one contract: the one of the tests, and Redis."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import pytest

from aggregator.errors import StoreUnavailableError
from aggregator.seen import HERE
from aggregator.stores.redis_url import SeenOptions, read_url
from aggregator.stores.seen_redis_client import RedisSeen
from tests.seen_store import MemorySeen, Server

if TYPE_CHECKING:
    from collections.abc import Callable

    from aggregator.seen import SeenStore
    from tests.servers import Redis

ODD = ["é", "a b", 'quote"', "back\\slash", "nul\0", "/", "", "\U0001f600", "x" * 5000]


def all_of(store, span):
    found, cursor = set(), 0
    while True:
        cursor, ids = store.piece(span, cursor)
        found.update(ids)
        if not cursor:
            return found


class SeenStoreContract:
    """``make(most)`` returns another process's way to the same store, which keeps so many ids at all."""

    @pytest.fixture
    def make(self) -> Callable[[int], SeenStore]:
        raise NotImplementedError

    @pytest.fixture
    def store(self, make):
        store = make(100_000)
        store.open()
        store.open()
        yield store
        store.close()

    def test_it_knows_what_was_entered(self, store, make):
        assert store.known(["a", "b"]) == set()
        store.enter(["a"])
        assert store.known(["a", "b"]) == {"a"}
        assert make(100_000).known(["a"]) == {"a"}

    def test_ids_may_be_any_text(self, store):
        store.enter(ODD)
        assert store.known([*ODD, "none"]) == set(ODD)
        assert all_of(store, store.news(HERE).span) == set(ODD)

    def test_to_enter_twice_is_to_enter_once(self, store):
        store.enter(["a"])
        span, _ = store.enter(["a"])
        assert sorted(all_of(store, span)) == ["a"]

    def test_a_thousand_at_once(self, store):
        ids = [str(number) for number in range(1000)]
        span, forgot = store.enter(ids)
        assert not forgot
        assert store.known([*ids, "x"]) == set(ids)
        assert all_of(store, span) == set(ids)

    def test_news_are_what_others_entered(self, store, make):
        other = make(100_000)
        here = store.news(HERE)
        assert not here.entries
        other.enter(["a"])
        store.enter(["mine"])
        other.enter(["b", "c"])
        found, after = [], here.last
        while True:
            news = store.news(after)
            assert not news.missed
            assert news.run == here.run
            found += [ids for _, ids in news.entries]
            after = news.last
            if not news.more:
                break
        assert found == [["a"], ["b", "c"]]
        assert not store.news(after).entries

    def test_full_spans_are_forgotten_one_after_the_other(self, make):
        store = make(3_000)
        store.open()
        forgot = [store.enter([f"{entry}-{number}" for number in range(1000)]).forgot for entry in range(5)]
        assert forgot == [False, False, False, True, True]
        assert store.known(["0-1", "1-1", "2-1", "4-1"]) == {"2-1", "4-1"}


class TestMemory(SeenStoreContract):
    @pytest.fixture
    def make(self):
        server = Server()

        def make(most):
            server.most = most // 3
            return MemorySeen(server)

        return make


@pytest.mark.integration
class TestRedis(SeenStoreContract):
    @pytest.fixture
    def make(self, redis: Redis):
        prefix = uuid.uuid4().hex

        def make(most):
            return RedisSeen(
                *read_url(f"{redis.url}?prefix={prefix}&most={most}&ttl=1h", SeenOptions, "seen")
            )

        return make

    def test_scripts_that_the_server_has_forgotten_are_sent_again(self, store):
        store.enter(["a"])
        store.client.script_flush()
        assert store.known(["a"]) == {"a"}

    def test_all_keys_have_an_end(self, store):
        store.enter(["a"])
        keys = list(store.client.scan_iter(f"{{{store._options.prefix}}}*"))
        assert len(keys) == 3
        assert all(0 < store.client.ttl(key) <= 3 * 5400 for key in keys)

    def test_an_id_lasts_its_time(self, redis):
        url = f"{redis.url}?prefix={uuid.uuid4().hex}&ttl=1h"
        store = RedisSeen(*read_url(url, SeenOptions, "seen"))
        store.open()
        span, _ = store.enter(["old"])
        # half of the ttl is over: a new span begins, and the old one is known still
        store.client.hincrby(store._meta, "since", -1_800_000)
        assert store.enter(["new"]).span == span + 1
        assert store.known(["old", "new"]) == {"old", "new"}
        assert store.client.ttl(f"{store._ids}{span}") > 3600

    def test_the_feed_is_bounded_and_says_so(self, make, monkeypatch):
        monkeypatch.setattr("aggregator.stores.seen_redis_client.FEED", 10)
        store, other = make(100_000), make(100_000)
        store.open()
        here = store.news(HERE)
        for number in range(300):
            other.enter([str(number)])
        news = store.news(here.last)
        assert news.missed
        assert not store.news(news.last).missed

    def test_another_life_has_another_name(self, store):
        before = store.news(HERE).run
        store.client.delete(store._meta)
        store.enter(["a"])
        after = store.news(HERE)
        assert after.run != before
        assert store.news(after.last).missed is False

    def test_a_frozen_server_is_not_waited_for(self, redis):
        store = RedisSeen(*read_url(f"{redis.url}?prefix=frozen&timeout=100ms", SeenOptions, "seen"))
        store.open()
        redis.pause()
        try:
            with pytest.raises(StoreUnavailableError):
                store.known(["a"])
        finally:
            redis.heal()
        assert store.known(["a"]) == set()
