"""Groups as documents, from the queue to the ack: lists, merges, own functions, refusals, crashes."""

from __future__ import annotations

from threading import Event, Thread

import pytest
import structlog

from aggregator.errors import ConfigurationErrors, SinkUnavailableError
from aggregator.settlement import SENTINEL_SECONDS
from aggregator.testing import Harness
from aggregator.testing.memory import MemoryDelivery, MemoryLink
from aggregator.testing.sink import MemorySink

COUNTED = {
    "correlate": "header:order", "aggregate": "list", "sentinel": "type=end", "sentinel_count": "members",
    "size": "none", "age": "none", "idle": "5s",
}  # fmt: skip


def several(key, documents):
    return [{"key": key}, *documents]


def failing(key, documents):
    raise ValueError(documents)


def lonely(key):
    return {"key": key}


def publish(route, *numbers, key="a", **options):
    for number in numbers:
        route.publish({"n": number}, id=f"{key}{number}", headers={"order": key}, **options)


def end(route, members, key="a", **options):
    route.publish(b"", id=f"end-{key}", type="end", headers={"order": key, "members": members}, **options)


# ── the plain way ──


def test_a_group_is_one_document_and_is_acked_after_it():
    with Harness(correlate="header:order", aggregate="list", size=2) as route:
        publish(route, 1, 2)
        assert route.documents == [{"key": "a", "messages": [{"n": 1}, {"n": 2}]}]
        assert route.totals == {"written": 2}
        assert route.queue == []
        assert [len(batch.messages) for batch in route.batches] == [2]


def test_nothing_is_acked_while_its_document_waits():
    with Harness(aggregate="list", size=2) as route:
        route.sink.retry(lambda document: True)
        publish(route, 1, 2)
        assert len(route.queue) == 2
        route.settle()
        assert (len(route.documents), route.queue) == (1, [])


def test_a_merge():
    rules = {"n": "sum", "*": "last"}
    with Harness(correlate="header:order", aggregate="merge", merge=rules, size=3) as route:
        publish(route, 1, 2, 3)
        assert route.documents == [{"n": 6}]


def test_many_small_groups_share_a_request():
    with Harness(correlate="header:order", aggregate="list", size=2, prefetch=100, linger="5ms") as route:
        for number in range(20):
            publish(route, 1, key=f"k{number}")
        for number in range(20):
            publish(route, 2, key=f"k{number}")
        route.advance(1)
        assert [len(ids) for ids in route.sink.requests] == [20]


def test_a_list_with_a_limit_is_cut():
    with Harness(aggregate="list:2", size=5) as route:
        publish(route, *range(5))
        assert [len(document["messages"]) for document in route.documents] == [2, 2, 1]


# ── what is refused ──


def test_a_member_that_is_no_json_goes_alone():
    with Harness(aggregate="list", size=3) as route:
        publish(route, 1, 2)
        route.publish(b"{", id="bad", content_type="application/json")
        assert [len(document["messages"]) for document in route.documents] == [2]
        assert [(letter.reason, letter.delivery.id) for letter in route.dead_letters] == [("bad-json", "bad")]


def test_a_group_of_bad_members_alone_makes_no_request():
    with Harness(aggregate="list", size=2) as route:
        for name in "ab":
            route.publish(b"{", id=name, content_type="application/json")
        assert route.sink.requests == []
        assert len(route.dead_letters) == 2


def test_a_refused_document_takes_all_of_its_members():
    with Harness(aggregate="list", size=2) as route:
        route.sink.refuse(lambda document: True, "mapping")
        publish(route, 1, 2)
        assert [letter.reason for letter in route.dead_letters] == ["mapping", "mapping"]


def test_members_of_several_documents_settle_with_the_last_by_the_worst_word():
    with Harness(aggregate=f"function:{__name__}:several", size=2) as route:
        route.sink.retry(lambda document: "key" in document)
        route.sink.refuse(lambda document: document.get("n") == 2, "mapping")
        publish(route, 1, 2)
        assert len(route.queue) == 2, "one of the documents is still on its way"
        route.settle()
        assert [letter.reason for letter in route.dead_letters] == ["mapping", "mapping"]
        assert sorted(map(str, route.documents)) == ["{'key': None}", "{'n': 1}"]


def test_a_function_that_raises_refuses_its_batch_only():
    with Harness(aggregate=f"function:{__name__}:failing", size=1) as route:
        publish(route, 1)
        letter = route.dead_letters[0]
        assert (letter.reason, letter.detail) == (
            "aggregation-failed",
            f"{__name__}:failing raised ValueError",
        )


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"aggregate": "lists"}, "aggregate"),
        ({"aggregate": "list:0"}, "aggregate"),
        ({"aggregate": "function:nowhere:at_all"}, "aggregate"),
        ({"aggregate": f"function:{__name__}:lonely"}, "aggregate"),
        ({"aggregate": "merge"}, "merge"),
        ({"aggregate": "merge", "merge": {"n": "total"}}, "merge"),
        ({"merge": {"n": "sum"}}, "merge"),
        ({"aggregate": "list", "correlate": "message_id"}, "id"),
    ],
)
def test_wrong_settings_are_refused_by_name(settings, field):
    with pytest.raises(ConfigurationErrors) as caught:
        Harness(**settings)
    assert {fault.field.partition(".")[0] for fault in caught.value.faults} == {field}


# ── what is too large ──


def test_a_group_beyond_a_requests_bytes_is_made_in_parts():
    sink = MemorySink()
    with Harness(aggregate="list", size=10, request_bytes=100, sink=sink) as route:
        publish(route, *range(10))
        sizes = [len(document["messages"]) for document in route.documents]
        assert sum(sizes) == 10
        assert len(sizes) > 1
        assert all(len(document) <= 100 for document in sink.stored.values())


def test_a_document_that_the_sink_finds_too_large_is_made_again_as_several():
    with Harness(aggregate="list", size=8) as route:
        route.sink.too_large(size=80)
        publish(route, *range(8))
        route.settle()
        numbers = [one["n"] for document in route.documents for one in document["messages"]]
        assert sorted(numbers) == list(range(8))
        assert route.queue == []


def test_a_single_member_that_is_too_large_is_refused():
    with Harness(aggregate="list", size=2, request_bytes=100) as route:
        publish(route, 1)
        route.publish({"text": "x" * 200}, id="big")
        assert [letter.reason for letter in route.dead_letters] == ["too-large"]
        assert len(route.documents) == 1


# ── redeliveries and crashes ──


def test_a_group_written_before_a_crash_is_known():
    with Harness(correlate="header:order", aggregate="list", size=2) as route:
        route.sink.kill(written=True)
        publish(route, 2, 1)
        assert len(route.documents) == 1
        assert route.totals == {"duplicate": 2}


def test_a_lost_link_while_the_document_waits_duplicates_nothing():
    with Harness(correlate="header:order", aggregate="list", size=2, links=2) as route:
        route.sink.retry(lambda document: True)
        publish(route, 1, link=0)
        publish(route, 2, link=1)
        route.lose_link(0)
        route.settle()
        assert (len(route.documents), route.queue) == (1, [])


def test_of_one_key_an_older_group_goes_first():
    """A publisher that says all of it again, with other bodies: the first of the ids stands."""
    with Harness(correlate="header:order", aggregate="list", size=1, concurrency=4) as route:
        seen = []
        route.sink.before = lambda items: seen.append([item.id for item in items])
        for number in range(3):
            route.publish({"n": number}, id="same", headers={"order": "a"})
        route.settle()
        assert len(route.documents) == 1
        assert route.totals == {"written": 1, "duplicate": 2}


# ── counted sentinels ──


def test_a_counted_group_is_complete_whichever_comes_first():
    with Harness(**COUNTED) as route:
        publish(route, 1)
        end(route, 3)
        publish(route, 2, 3)
        assert [len(document["messages"]) for document in route.documents] == [3]
        assert route.batches[0].complete
        route.settle()
        assert route.totals == {"written": 3, "control": 1}


def mute(route, number):
    """Have a link send nothing; return what ends that."""
    link = route._process.workers[number].link
    perform, link.perform = link.perform, lambda on_lag: 0

    def unmute():
        link.perform = perform

    return unmute


def left_after_a_crash(route):
    """Have the process killed when only the acks of the first link have got through."""
    publish(route, 1, 2, link=0)
    publish(route, 3, 4, link=1)
    mute(route, 1)
    end(route, 4, link=1)
    assert [message.id for message in route.queue] == ["a3", "a4", "end-a"]
    route.crash()


def test_what_a_crash_left_of_a_group_is_recognised():
    with Harness(**COUNTED, links=2) as route:
        left_after_a_crash(route)
        route.settle()
        assert [len(document["messages"]) for document in route.documents] == [4]
        assert route.queue == []
        assert route.totals["duplicate"] == 2


def test_while_the_sink_does_not_answer_it_waits():
    sink = MemorySink()
    with Harness(**COUNTED, links=2, sink=sink, stored=lambda: sink.stored) as route:
        left_after_a_crash(route)
        known, asked = sink.known, []

        def away(ids):
            asked.append(ids)
            if len(asked) < 3:
                raise SinkUnavailableError("away")
            return known(ids)

        sink.known = away
        route.settle()
        assert len(asked) == 3
        assert (len(sink.stored), route.queue) == (1, [])


def test_what_is_really_incomplete_is_written_as_a_part():
    """Redelivered, with its sentinel, and not all there: but nothing of it was ever written."""
    with Harness(**COUNTED) as route:
        publish(route, 1, 2)
        end(route, 3)
        route.crash()
        route.settle()
        assert [len(document["messages"]) for document in route.documents] == [2]
        assert not route.batches[-1].complete
        publish(route, 3)
        route.settle()
        numbers = [one["n"] for document in route.documents for one in document["messages"]]
        assert sorted(numbers) == [1, 2, 3]


def test_the_sentinel_is_acked_long_after_its_members():
    with Harness(**COUNTED) as route:
        publish(route, 1)
        end(route, 1)
        assert [message.id for message in route.queue] == ["end-a"]
        route.advance(SENTINEL_SECONDS - 0.1)
        assert len(route.queue) == 1
        route.advance(0.1)
        assert route.queue == []


def test_a_stop_waits_for_the_sentinel():
    with Harness(**COUNTED) as route:
        publish(route, 1)
        end(route, 1)
        assert route.stop(grace="30s")
        assert route.queue == []


def test_a_sentinel_whose_link_is_lost_is_acked_when_it_comes_again():
    with Harness(**COUNTED) as route:
        publish(route, 1)
        end(route, 1)
        route.lose_link()
        route.settle()
        assert route.queue == []
        assert len(route.documents) == 1


def test_after_a_crash_the_sentinel_alone_is_acked():
    with Harness(**COUNTED) as route:
        publish(route, 1)
        end(route, 1)
        route.crash()
        route.settle()
        assert (len(route.documents), route.queue) == (1, [])


def numbers_of(route):
    return sorted(one["n"] for document in route.documents for one in document["messages"])


def test_a_sentinel_that_a_crash_left_does_not_name_what_comes_after_it():
    """The key is used again: its members are no duplicate of the document that stands there."""
    with Harness(**COUNTED) as route:
        publish(route, 1)
        end(route, 1)
        route.crash()
        publish(route, 2)
        route.settle()
        assert numbers_of(route) == [1, 2]


def test_a_sentinel_does_not_wait_beside_new_members_of_its_key():
    with Harness(**COUNTED) as route:
        publish(route, 1)
        end(route, 2)
        publish(route, 2)
        assert [message.id for message in route.queue] == ["end-a"]
        publish(route, 3)
        assert [message.id for message in route.queue] == ["a3"]
        route.crash()
        route.settle()
        assert numbers_of(route) == [1, 2, 3]


def test_what_comes_for_the_first_time_completed_nothing_before():
    """A sentinel that is published twice, and a key that is used again."""
    with Harness(**COUNTED) as route:
        publish(route, 1)
        end(route, 1)
        route.settle()
        publish(route, 2)
        route.crash()
        end(route, 2)
        route.settle()
        assert numbers_of(route) == [1, 2]


def test_a_refused_member_of_a_group_that_is_written_reaches_the_dead_letter_queue():
    with Harness(**COUNTED) as route:
        route.lose_dead_letter_queue()
        publish(route, 1)
        bad = route.publish(b"\xff\xfe\xff", id="bad", headers={"order": "a"})
        end(route, 2)
        assert len(route.documents) == 1
        route.crash()
        route.lose_dead_letter_queue(lost=False)
        route.settle()
        assert bad.fates == {"dead_lettered": 1}
        assert route.queue == []


def test_sentinels_that_wait_do_not_fill_the_prefetch():
    with Harness(**COUNTED, links=1, prefetch=8) as route:
        for number in range(20):
            publish(route, 1, key=f"k{number}")
            end(route, 1, key=f"k{number}")
        assert len(route.documents) == 20
        assert len(route.queue) == 2


def test_a_store_that_answers_with_an_exception_is_asked_again():
    sink = MemorySink()
    with Harness(**COUNTED, links=2, sink=sink) as route:
        left_after_a_crash(route)
        known, asked = sink.known, []

        def strange(ids):
            asked.append(ids)
            if len(asked) < 3:
                raise ValueError(ids)
            return known(ids)

        sink.known = strange
        route.settle()
        assert (len(asked), len(sink.stored), route.queue) == (3, 1, [])


def test_the_report_tells_what_became_of_it():
    with Harness(aggregate="list:2", size=4) as route:
        publish(route, 1, 2, 3)
        route.publish(b"{", id="bad", content_type="application/json")
        (report,) = route._process.pipeline.history.last()
        assert (report.documents, report.fill, report.messages) == (2, 1.0, 4)
        assert report.verdicts == {"written": 3, "dead_lettered": 1}


entered, go_on = Event(), Event()


def slow_at_first(key, documents):
    if not entered.is_set():
        entered.set()
        assert go_on.wait(30)
    return documents[0]


def test_two_flush_threads_make_one_key_in_order():
    """The second group of a key waits until the documents of the first are known."""
    entered.clear()
    go_on.clear()
    function = f"function:{__name__}:slow_at_first"
    with Harness(correlate="header:order", aggregate=function, size=1) as route:
        pipeline = route._process.pipeline
        first = Thread(target=lambda: publish_same(route, 1))
        first.start()
        assert entered.wait(30)
        other = MemoryDelivery(
            b'{"n": 2}', properties={"message_id": "same"}, headers={"order": "a"}, link=MemoryLink()
        )
        pipeline.accept([other])
        assert not pipeline.step(), "nothing to do: its key is being made"
        go_on.set()
        first.join()
        route.settle()
        assert route.documents == [{"n": 1}]


def publish_same(route, number):
    route.publish({"n": number}, id="same", headers={"order": "a"})


def test_a_key_that_comes_again_is_no_remnant():
    """The same sentinel's id, a new group: what was not handed out before is never taken for written."""
    with Harness(**COUNTED) as route:
        publish(route, 1, 2)
        end(route, 2)
        publish(route, 3)
        end(route, 2)
        route.settle()
        numbers = [one["n"] for document in route.documents for one in document["messages"]]
        assert numbers == [1, 2, 3]


def test_requests_keep_their_bytes_though_documents_are_larger_than_bodies():
    sink = MemorySink()
    options = {"correlate": "header:order", "aggregate": "list", "size": 2, "prefetch": 100}
    with Harness(**options, linger="5ms", request_bytes=100, sink=sink) as route:
        for key in "abcdef":
            publish(route, 1, 2, key=key)
        route.settle()
        assert len(sink.stored) == 6
        sizes = [sum(len(sink.stored[name]) for name in ids) for ids in sink.requests]
        assert max(sizes) <= 100
        assert len(sizes) < 6


def test_a_host_that_logs_its_own_way_is_told_too():
    seen = []
    structlog.configure(
        wrapper_class=structlog.BoundLogger, processors=[lambda _, __, event: seen.append(event) or ""]
    )
    try:
        with Harness(aggregate="list", size=1) as route:
            publish(route, 1)
    finally:
        structlog.reset_defaults()
    assert [event["messages"] for event in seen if event["event"] == "batch"] == [1]
