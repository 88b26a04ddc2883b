"""Results: which words are told, in bulk, and what happens while the store is away."""

from __future__ import annotations

from random import Random

import orjson
import pytest
from structlog.testing import capture_logs

from aggregator import results
from aggregator.backoff import Backoff
from aggregator.errors import SinkUnavailableError, StoreUnavailableError, UnrecoverableError
from aggregator.ports import Refused
from aggregator.results import Results, Word
from aggregator.sinks.base import DUPLICATE, WRITTEN, Fate, Verdict
from aggregator.sinks.function import FunctionSink
from aggregator.sinks.results import ResultSink
from aggregator.testing.clock import VirtualClock
from aggregator.testing.memory import MemoryDelivery
from aggregator.testing.sink import MemorySink


class Store:
    """Notes what it is told."""

    def __init__(self):
        self.posts = []
        self.up = True
        self.opened = 0

    def open(self):
        self._answer()
        self.opened += 1

    def post(self, words):
        self._answer()
        self.posts.append(list(words))

    def close(self):
        pass

    def _answer(self):
        if not self.up:
            raise StoreUnavailableError("away")


@pytest.fixture
def store():
    return Store()


@pytest.fixture
def clock():
    return VirtualClock()


@pytest.fixture
def told(store, clock):
    return Results(store, backoff=Backoff(1.0, 8.0, Random(1)), clock=clock)


def message(name):
    made = MemoryDelivery(b"{}", properties={"message_id": name} if name else {})
    made.id, made.document = name or "made-up", b"{}"
    return made


def test_of_one_job_the_latest_word_is_told(told, store):
    a, b = message("a"), message("b")
    told.taken([a, b])
    told.answered([a, b], [WRITTEN, Verdict(Fate.RETRY, "throttled")])
    told.step()
    assert store.posts == [[Word("a", "written"), Word("b", "taken")]]
    assert told.pending == 0


@pytest.mark.parametrize(
    ("verdict", "word"),
    [
        (DUPLICATE, ("duplicate", "", "", None)),
        (Verdict(Fate.REFUSED, "Unregistered", "gone", 410), ("refused", "Unregistered", "gone", 410)),
        (Verdict(Fate.EXPIRED, "expired"), ("expired", "expired", "", None)),
    ],
)
def test_each_final_word_of_a_sink(told, store, verdict, word):
    told.answered([message("a")], [verdict])
    told.step()
    assert store.posts == [[Word("a", *word)]]


def test_a_dead_letter_is_told_when_it_is_safe(told, store):
    told.answered([message("a")], [Verdict(Fate.DEAD_LETTER, "bad")])
    told.step()
    assert store.posts == []
    told.dead_lettered([Refused(message("a"), "bad", "a field", 400)])
    told.step()
    assert store.posts == [[Word("a", "dead-lettered", "bad", "a field", 400)]]


def test_what_has_no_id_is_nobodys_job(told):
    told.answered([message("")], None)
    assert told.pending == 0


def test_while_the_store_is_away_words_wait_within_bounds(told, store, clock, monkeypatch):
    monkeypatch.setattr(results, "MOST_PENDING", 3)
    store.up = False
    with capture_logs() as logs:
        for number in range(5):
            told.answered([message(str(number))], None)
            told.step()
        store.up = True
        clock.advance(20.0)
        told.step()
    assert [line["event"] for line in logs] == ["result_store_away", "result_store_back"]
    assert logs[1]["given_up"] == 2
    assert [word.job for words in store.posts for word in words] == ["2", "3", "4"]


def test_many_words_take_few_calls(told, store):
    told.answered([message(str(number)) for number in range(2500)], None)
    while told.step() == float("-inf"):
        pass
    assert [len(words) for words in store.posts] == [1000, 1000, 500]


def test_around_a_sink_the_verdicts_are_its_own(store):
    inner = MemorySink()
    sink = ResultSink(inner, store)
    sink.open()
    answer = [DUPLICATE, Verdict(Fate.DEAD_LETTER, "bad")]
    inner.decide = lambda _items: answer
    assert sink.write([message("a"), message("b")]) == answer
    inner.decide = lambda _items: [WRITTEN]  # one too few: whose it is nobody knows
    assert sink.write([message("c"), message("d")]) == [WRITTEN]

    def fail(_items):
        raise SinkUnavailableError("away")

    inner.decide = fail
    with pytest.raises(SinkUnavailableError):
        sink.write([message("e")])
    sink.close()
    states = {word.job: word.state for words in store.posts for word in words}
    assert states == {"a": "duplicate", "b": "taken", "c": "taken", "d": "taken", "e": "taken"}


def test_around_a_sink_it_knows_what_that_knows(store):
    knowing = MemorySink()
    knowing.write([message("a")])
    assert set(ResultSink(knowing, store).known(["a", "b"])) == {"a"}
    assert not ResultSink(FunctionSink(lambda _request: None), store).known(["a"])


def test_an_unfit_store_is_refused_at_the_start(store):
    def unfit():
        raise UnrecoverableError("results: maxmemory-policy")

    store.open = unfit
    with pytest.raises(UnrecoverableError):
        ResultSink(MemorySink(), store).open()


def test_words_can_be_sent():
    assert orjson.dumps([*Word("é", "written")])
