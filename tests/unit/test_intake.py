"""The first look at a delivery: guard, id, key, sentinel, and what is wrong with one alone."""

from __future__ import annotations

import gzip
from concurrent.futures import ThreadPoolExecutor

import pytest

from aggregator.correlation import compile_expression, compile_match
from aggregator.intake import Intake
from aggregator.testing.clock import VirtualClock
from aggregator.testing.memory import MemoryDelivery

NOW = 100.0


def intake(**options):
    return Intake(options.pop("clock", VirtualClock()), **options)


def message(body=b'{"k": "v"}', **given):
    return MemoryDelivery(body, **given)


def sorted_(reader, *deliveries):
    return reader.sort(deliveries)


def reasons(result):
    return [entry.reason for entry in result.refused]


def test_without_settings_everything_is_a_member_of_one_group():
    delivery = message(b"\xff")
    result = sorted_(intake(), delivery)
    assert result.entries == [(delivery, None, False, None)]
    assert result.refused == []
    assert delivery.fingerprint == 0
    assert not delivery.parsed, "no body is looked at before it has to be"


# ── ids ──


def test_ids_made_here_are_unique_and_in_order_of_time():
    clock = VirtualClock()
    first, second = intake(clock=clock), intake(clock=clock)
    ids = []
    for _ in range(5):
        batch = [message() for _ in range(100)]
        first.sort(batch)
        ids.append([delivery.id for delivery in batch])
        clock.advance(0.001)
    flat = [id_ for batch in ids for id_ in batch]
    assert flat == sorted(flat)
    other = [message() for _ in range(100)]
    second.sort(other)
    assert len({*flat, *(delivery.id for delivery in other)}) == 600


def test_ids_made_by_several_threads_at_once_are_unique():
    reader = intake()
    batches = [[message() for _ in range(500)] for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(reader.sort, batches))
    assert len({delivery.id for batch in batches for delivery in batch}) == 4000


def test_a_given_id_is_taken_as_it_is():
    reader = intake(id=compile_expression("message_id"))
    same, other_body, none, empty = (
        message(properties={"message_id": "a"}),
        message(b"other", properties={"message_id": "a"}),
        message(),
        message(properties={"message_id": ""}),
    )
    sorted_(reader, same, other_body, none, empty)
    assert same.id == other_body.id == "a"
    assert same.fingerprint
    assert other_body.fingerprint not in {0, same.fingerprint}
    assert none.fingerprint == empty.fingerprint == 0
    assert none.id
    assert none.id != empty.id
    again = message(properties={"message_id": "a"})
    sorted_(reader, again)
    assert again.fingerprint == same.fingerprint


def test_an_id_that_is_no_text_concerns_its_message_alone():
    reader = intake(id=compile_expression("header:id"))
    good = message(headers={"id": "a"})
    result = sorted_(reader, message(headers={"id": ["list"]}), good)
    assert reasons(result) == ["bad-value"]
    assert [entry[0] for entry in result.entries] == [good]


# ── the delivery limit ──


@pytest.mark.parametrize(("count", "redelivered", "refused"), [(14, True, 0), (15, True, 1), (99, False, 0)])
def test_what_comes_too_often_is_refused_before_anything_else(count, redelivered, refused):
    def explode(_delivery):
        raise AssertionError("it was looked at")

    delivery = message(headers={"x-delivery-count": count}, redelivered=redelivered)
    result = sorted_(intake(id=explode if refused else None), delivery)
    assert reasons(result) == ["delivery-limit"] * refused
    if refused:
        assert str(count) in result.refused[0].detail


@pytest.mark.parametrize("headers", [{}, {"x-delivery-count": "many"}, {"x-delivery-count": None}])
def test_without_a_count_nothing_is_guarded(headers):
    assert reasons(sorted_(intake(), message(headers=headers, redelivered=True))) == []


# ── keys ──


def test_a_message_without_its_key_is_refused_alone():
    reader = intake(key=compile_expression("/k"))
    good, without, text = (
        message(),
        message(b"{}"),
        message(b"no json", properties={"content_type": "text/plain"}),
    )
    result = sorted_(reader, without, good, text)
    assert reasons(result)[0] == "no-key"
    assert len(result.refused) == 2
    assert [(entry[0], entry[1]) for entry in result.entries] == [(good, "v")]


def test_a_body_that_was_parsed_is_a_document_and_nothing_more():
    delivery = message(b'{"k":\n"v"}')
    sorted_(intake(key=compile_expression("/k")), delivery)
    assert delivery.document == b'{"k": "v"}'
    assert not delivery.parsed


def test_a_compressed_body_has_its_key_within():
    body = gzip.compress(b'{"k": "v"}')
    delivery = message(body, properties={"content_type": "application/json", "content_encoding": "gzip"})
    result = sorted_(intake(key=compile_expression("/k")), delivery)
    assert reasons(result) == []
    assert result.entries[0][1] == "v"
    assert delivery.document == b'{"k": "v"}'


def test_what_nobody_foresaw_concerns_its_message_alone():
    def explode(delivery):
        if delivery.body == b"bad":
            raise ZeroDivisionError("with the body in it")
        return "k"

    good = message()
    result = sorted_(intake(key=explode), message(b"bad"), good)
    assert reasons(result) == ["unreadable"]
    assert result.refused[0].detail == "ZeroDivisionError"
    assert [entry[0] for entry in result.entries] == [good]


def test_a_refusal_tells_when():
    clock = VirtualClock(time=5000.0)
    result = sorted_(intake(clock=clock, key=compile_expression("header:k")), message())
    assert (result.refused[0].first, result.refused[0].last, result.refused[0].error_type) == (
        5000.0,
        5000.0,
        "message",
    )


# ── sentinels ──


@pytest.mark.parametrize(
    ("header", "expected"),
    [(3, 3), (0, 0), ("12", 12), (None, None), (True, None), (1.5, None), ([3], None)],
)
def test_what_a_sentinel_says(header, expected):
    reader = intake(is_sentinel=compile_match("type=end"), sentinel_count="n")
    delivery = message(properties={"type": "end"}, headers={} if header is None else {"n": header})
    assert sorted_(reader, delivery).entries == [(delivery, None, True, expected)]


@pytest.mark.parametrize("header", ["three", "", -1, "-1"])
def test_a_sentinel_that_counts_nonsense_is_refused(header):
    reader = intake(is_sentinel=compile_match("type=end"), sentinel_count="n")
    result = sorted_(reader, message(properties={"type": "end"}, headers={"n": header}))
    assert reasons(result) == ["bad-sentinel"]


def test_without_a_header_to_count_by_a_sentinel_says_nothing():
    reader = intake(is_sentinel=compile_match("type=end"))
    (entry,) = sorted_(reader, message(properties={"type": "end"}, headers={"n": 3})).entries
    assert entry[2:] == (True, None)


def test_members_and_sentinels_keep_their_order():
    reader = intake(is_sentinel=compile_match("type=end"))
    deliveries = [message(), message(properties={"type": "end"}), message()]
    assert [entry[0] for entry in sorted_(reader, *deliveries).entries] == deliveries


def test_a_sentinel_needs_its_key_too():
    reader = intake(key=compile_expression("header:k"), is_sentinel=compile_match("type=end"))
    assert reasons(sorted_(reader, message(properties={"type": "end"}))) == ["no-key"]
