"""What every sink owes, whatever it writes to: one suite, inherited once for each sink.

A subclass in ``test_*.py`` gives two fixtures:

``sink_factory``: a function without arguments that returns a new, unopened sink, each time on the
same store. ``read_back``: a function without arguments that returns all that stands in the store
now, as a list of ``(id, document)``, the document parsed.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from aggregator.errors import RequestRefusedError, SinkUnavailableError
from aggregator.sinks.base import Fate
from aggregator.testing.memory import MemoryDelivery

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from aggregator.delivery import Item
    from aggregator.sinks.base import Sink

    SinkFactory = Callable[[], Sink]
    ReadBack = Callable[[], list[tuple[Any, Any]]]

ODD_IDS = {
    "space": "a b",
    "quotes": 'it\'s "quoted" `so` \\',
    "umlauts": "äöü-ß",
    "emoji": "🐇🕳",
    "combining": "e\u0301",
    "slashes": "../../etc/a?b=c#d",
    "percent": "%2F%00",
    "line-break": "one\ntwo\r\nthree",
    "line-separator": "one\u2028two",
    "json": '{"_id": "1"}',
    "control": "\x01\x1f\x7f",
    "nul": "a\x00b",
    "underscore": "_id",
    "number": "00042",
    "long": "x" * 512,
    "lone-surrogate": "a\ud800b",
}
ODD_DOCUMENTS = {
    "empty": b"{}",
    "escapes": rb'{"text":"\u00e4\n\t\"\\\u0001\ud83d\udc07"}',
    "unicode": '{"text":"äöü 🐇 \u2028 \u0085"}'.encode(),
    "numbers": b'{"a":1.10,"b":-0,"c":1e-7,"d":9007199254740993}',
    "looks-like-an-action": b'{"index":{"_index":"other","_id":"1"}}',
    "nested": b'{"a":{"b":{"c":[[1,2],[{"d":null}]]}}}',
    "spaces": b'{ "a" : 1 ,  "b" : [ ] }',
}


def item(name: str, document: bytes | None = None) -> Item:
    """Return an item as a route makes it: a delivery with its id and its document."""
    made = MemoryDelivery(b"")
    made.id = name
    made.document = orjson.dumps({"name": name}) if document is None else document
    return made


def items(*names: str) -> list[Item]:
    return [item(name) for name in names]


def fates(sink: Sink, request: Sequence[Item]) -> list[Fate]:
    """Write a request; return the fate of each item."""
    verdicts = sink.write(request)
    if verdicts is None:
        return [Fate.WRITTEN] * len(request)
    assert len(verdicts) == len(request)
    return [verdict.fate for verdict in verdicts]


def opened(sink: Sink, patience: float = 30.0) -> None:
    """Open as the service does, which tries again: a busy machine's server may be silent for a while."""
    until = time.monotonic() + patience
    while True:
        try:
            return sink.open()
        except SinkUnavailableError:
            if time.monotonic() > until:
                raise
            time.sleep(0.2)


class SinkContract:
    """Inherit, and give the fixtures ``sink_factory`` and ``read_back``."""

    #: Whether the store knows its ids: an item that stands there is a duplicate, and the first wins.
    knows_ids = True
    #: What must not show in ``where()``.
    secrets: tuple[str, ...] = ()

    @pytest.fixture
    def sink(self, sink_factory: SinkFactory) -> Iterator[Sink]:
        sink = sink_factory()
        opened(sink)
        yield sink
        sink.close()

    def test_connects_to_nothing_before_it_is_opened(self, sink_factory: SinkFactory) -> None:
        sink = sink_factory()
        assert sink.limits.concurrency >= 1
        assert sink.limits.bytes >= 1
        assert sink.limits.items is None or sink.limits.items >= 1
        sink.close()

    def test_opens_again_and_again(self, sink: Sink, read_back: ReadBack) -> None:
        assert fates(sink, items("one")) == [Fate.WRITTEN]
        sink.open()
        sink.open()
        assert fates(sink, items("two")) == [Fate.WRITTEN]
        assert sorted(name for name, _ in read_back()) == ["one", "two"]

    def test_a_probe_writes_nothing(self, sink: Sink, read_back: ReadBack) -> None:
        sink.open()
        assert read_back() == []

    def test_gives_a_verdict_for_each(self, sink: Sink, read_back: ReadBack) -> None:
        assert fates(sink, items("a", "b", "c")) == [Fate.WRITTEN] * 3
        assert sorted(read_back(), key=str) == [(name, {"name": name}) for name in "abc"]

    def test_takes_a_request_without_items(self, sink: Sink, read_back: ReadBack) -> None:
        assert fates(sink, []) == []
        assert read_back() == []

    def test_tells_what_stood_there_from_what_is_new(self, sink: Sink, read_back: ReadBack) -> None:
        sink.write(items("b", "d"))
        second = [item(name, b'{"second":true}') for name in "abcd"]
        if self.knows_ids:
            expected = [Fate.WRITTEN, Fate.DUPLICATE, Fate.WRITTEN, Fate.DUPLICATE]
            assert fates(sink, second) == expected
            first = {"name": "b"}
            assert dict(read_back())["b"] == first, "the first wins"
            assert len(read_back()) == 4
        else:
            assert fates(sink, second) == [Fate.WRITTEN] * 4
            assert Counter(name for name, _ in read_back()) == {"a": 1, "b": 2, "c": 1, "d": 2}

    def test_an_id_twice_in_a_request_is_written_once(self, sink: Sink, read_back: ReadBack) -> None:
        request = [item("a", b'{"n":1}'), item("b"), item("a", b'{"n":2}')]
        told = fates(sink, request)
        if self.knows_ids:
            assert told == [Fate.WRITTEN, Fate.WRITTEN, Fate.DUPLICATE]
            assert sorted(read_back(), key=str) == [("a", {"n": 1}), ("b", {"name": "b"})]
        else:
            assert told == [Fate.WRITTEN] * 3
            assert len(read_back()) == 3

    def test_a_request_that_comes_again(self, sink: Sink, read_back: ReadBack) -> None:
        request = items(*(f"id-{number}" for number in range(50)))
        assert fates(sink, request) == [Fate.WRITTEN] * 50
        again = Fate.DUPLICATE if self.knows_ids else Fate.WRITTEN
        assert fates(sink, request) == [again] * 50
        assert len(read_back()) == (50 if self.knows_ids else 100)

    @pytest.mark.parametrize("name", ODD_IDS.values(), ids=ODD_IDS)
    def test_an_odd_id_is_kept_or_refused(self, sink: Sink, read_back: ReadBack, name: str) -> None:
        try:
            told = fates(sink, [item("before"), item(name, b'{"odd":true}'), item("after")])
        except RequestRefusedError:
            assert fates(sink, items("before", "after")) == [Fate.WRITTEN] * 2  # what a bisection does
            told = [Fate.WRITTEN, Fate.DEAD_LETTER, Fate.WRITTEN]
        found = dict(read_back())
        assert told[0] == told[2] == Fate.WRITTEN
        assert {"before", "after"} <= found.keys()
        if told[1] is Fate.WRITTEN:
            assert found[name] == {"odd": True}
            assert len(found) == 3
        else:
            assert told[1] is Fate.DEAD_LETTER
            assert len(found) == 2

    @pytest.mark.parametrize("document", ODD_DOCUMENTS.values(), ids=ODD_DOCUMENTS)
    def test_a_document_stays_as_it_is(self, sink: Sink, read_back: ReadBack, document: bytes) -> None:
        assert fates(sink, [item("one", document), item("two")]) == [Fate.WRITTEN] * 2
        assert dict(read_back()) == {"one": orjson.loads(document), "two": {"name": "two"}}

    def test_takes_many_items(self, sink: Sink, read_back: ReadBack) -> None:
        count = min(sink.limits.items or 5000, 5000)
        names = [f"{number:05}" for number in range(count)]
        assert fates(sink, items(*names)) == [Fate.WRITTEN] * count
        assert sorted(name for name, _ in read_back()) == names

    def test_takes_a_request_of_the_size_that_it_names(self, sink: Sink, read_back: ReadBack) -> None:
        size = min(sink.limits.bytes, 16 * 1024 * 1024) // 8
        document = b'{"text":"%b"}' % (b"word " * ((size - 20) // 5))
        assert fates(sink, [item(f"{n}", document) for n in range(8)]) == [Fate.WRITTEN] * 8
        found = dict(read_back())
        assert len(found) == 8
        assert found["7"] == orjson.loads(document)

    def test_writes_on_another_thread_than_it_was_opened_on(self, sink: Sink, read_back: ReadBack) -> None:
        told: list[Fate] = []
        thread = threading.Thread(target=lambda: told.extend(fates(sink, items("a"))))
        thread.start()
        thread.join()
        assert told == [Fate.WRITTEN]
        assert len(read_back()) == 1

    def test_writes_as_many_requests_at_once_as_it_allows(self, sink: Sink, read_back: ReadBack) -> None:
        requests = [items(*(f"{request}-{number}" for number in range(20))) for request in range(12)]
        with ThreadPoolExecutor(sink.limits.concurrency) as pool:
            told = list(pool.map(lambda request: fates(sink, request), requests))
        assert told == [[Fate.WRITTEN] * 20] * 12
        assert len(read_back()) == 240

    def test_closes_twice_and_before_it_was_opened(self, sink_factory: SinkFactory) -> None:
        unopened = sink_factory()
        unopened.close()
        unopened.close()
        sink = sink_factory()
        sink.open()
        sink.close()
        sink.close()

    def test_opens_after_it_was_closed(self, sink: Sink, read_back: ReadBack) -> None:
        sink.write(items("one"))
        sink.close()
        sink.open()
        assert fates(sink, items("two")) == [Fate.WRITTEN]
        assert len(read_back()) == 2

    def test_a_later_sink_finds_what_an_earlier_one_wrote(
        self, sink: Sink, sink_factory: SinkFactory, read_back: ReadBack
    ) -> None:
        sink.write(items("one"))
        sink.close()
        later = sink_factory()
        later.open()
        expected = Fate.DUPLICATE if self.knows_ids else Fate.WRITTEN
        assert fates(later, items("one", "two")) == [expected, Fate.WRITTEN]
        later.close()
        assert {name for name, _ in read_back()} == {"one", "two"}

    def test_says_where_to_look_in_one_line(self, sink: Sink) -> None:
        where = sink.where()
        assert where.strip()
        assert len(where.splitlines()) == 1
        assert not [secret for secret in self.secrets if secret in where]
