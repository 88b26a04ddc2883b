"""Requests: packing, linger, the gate, retries, halving, bisection, ids that are busy."""

from __future__ import annotations

from math import inf, log2
from random import Random

import pytest

from aggregator.backoff import Backoff
from aggregator.errors import RequestRefusedError, RequestTooLargeError, SinkUnavailableError
from aggregator.gate import Gate
from aggregator.outbox import Outbox
from aggregator.request import Final
from aggregator.sinks.base import DUPLICATE, WRITTEN, Fate, Verdict
from aggregator.testing.memory import MemoryDelivery

NOW = 100.0
RETRY = Verdict(Fate.RETRY, "busy", status=429)
BLOCKED = Verdict(Fate.BLOCKED, "read-only")
DEAD = Verdict(Fate.DEAD_LETTER, "bad")
AWAY = SinkUnavailableError("away")


class Half(Random):
    """Draws the middle of every range: a pause is 3/4 of its ceiling."""

    def uniform(self, a, b):
        return (a + b) / 2


def outbox(items=100, size=10_000, **options):
    return Outbox(max_items=items, max_bytes=size, backoff=Backoff(0.4, 30.0, Half()), **options)


def item(body=b"x", id_=None):
    delivery = MemoryDelivery(body)
    delivery.id = id_ or f"made-up-{id(delivery)}"
    delivery.fingerprint = hash((id_, body)) if id_ else 0
    return delivery


def offer(box, *items, now=NOW):
    box.offer(items, sum(item.size for item in items), now)
    return items


def offered(box, count, body=b"x", now=NOW):
    return offer(box, *(item(body) for _ in range(count)), now=now)


def all_of(box, now=NOW, **options):
    found = []
    while request := box.take(now, **options):
        found.append(request)
    return found


def lengths(box, now=NOW, **options):
    return [len(request.items) for request in all_of(box, now, **options)]


def empty(box):
    return not (box.pending or box.bytes or box._busy or box.waiting())


# ── packing ──


def test_a_batch_of_exactly_the_limit_stays_one_request():
    box = outbox(items=20)
    for _ in range(3):
        offered(box, 20)
    assert lengths(box) == [20, 20, 20]


def test_ten_thousand_small_groups_are_few_requests():
    box = outbox(items=1000)
    for _ in range(10_000):
        offered(box, 1)
    assert lengths(box) == [1000] * 10


def test_whole_batches_are_packed_in_order():
    box = outbox(items=10)
    batches = [offered(box, count) for count in (6, 4, 6, 5, 1)]
    requests = all_of(box)
    assert [len(request.items) for request in requests] == [10, 6, 6]
    assert [i for request in requests for i in request.items] == [i for batch in batches for i in batch]


@pytest.mark.parametrize(
    ("sizes", "requests"),
    [([4, 4, 4], [8, 4]), ([10, 1], [10, 1]), ([11, 1], [11, 1]), ([5, 5, 5, 5], [10, 10])],
)
def test_bytes_bound_a_request(sizes, requests):
    box = outbox(size=10)
    for size in sizes:
        offered(box, 1, b"x" * size)
    assert [request.size for request in all_of(box)] == requests


def test_a_batch_too_large_is_split_by_count_and_by_bytes():
    box = outbox(items=4, size=10)
    batch = offer(box, *(item(b"x" * size) for size in (1, 1, 1, 1, 1, 30, 6, 4, 6)))
    requests = all_of(box)
    assert [[i.size for i in request.items] for request in requests] == [[1] * 4, [1], [30], [6, 4], [6]]
    assert [i for request in requests for i in request.items] == list(batch)


def test_what_is_pending_is_counted_until_it_is_final():
    box = outbox()
    offered(box, 3, b"12")
    (request,) = all_of(box)
    assert (box.pending, box.bytes) == (3, 6)
    written, others = box.resolve(request, [WRITTEN, RETRY, DUPLICATE], NOW)
    assert (len(written), [final.verdict for final in others]) == (1, [DUPLICATE])
    assert (box.pending, box.bytes, box.retries) == (1, 2, 1)
    (request,) = all_of(box, NOW + 1)
    box.resolve(request, None, NOW + 1)
    assert empty(box)


def test_one_that_is_put_off_for_a_time_waits_alone():
    box = outbox(patience=60.0)
    items = offered(box, 4)
    (request,) = all_of(box)
    off = [Verdict(Fate.RETRY, "busy", after=after) for after in (5.0, 3600.0)]
    box.resolve(request, [WRITTEN, RETRY, *off], NOW)
    found = [(when, request.items) for when in (NOW + 1, NOW + 5, NOW + 60) for request in all_of(box, when)]
    assert found == [(NOW + 1, [items[1]]), (NOW + 5, [items[2]]), (NOW + 60, [items[3]])]


def test_what_its_source_keeps_is_final():
    box = outbox()
    offered(box, 2)
    (request,) = all_of(box)
    off = Verdict(Fate.RETRY, "busy", after=5.0)
    kept, left = request.items
    assert box.resolve(request, [off, off], NOW, {kept}).others == [
        Final(kept, Verdict(Fate.BLOCKED, "busy", after=5.0))
    ]
    assert not box.gate.shut
    assert (box.pending, box.waiting()) == (1, [left])


# ── linger ──


def test_a_request_that_is_not_full_waits_for_more():
    box = outbox(items=10, linger=2.0)
    offered(box, 4)
    offered(box, 4, now=NOW + 1)
    assert box.wake_at() == NOW + 2, "of the oldest"
    assert lengths(box, NOW + 1.999) == []
    assert lengths(box, NOW + 2) == [8]
    assert box.wake_at() == inf


def test_a_full_request_waits_for_nothing():
    box = outbox(items=10, linger=2.0)
    offered(box, 10)
    assert box.wake_at() == -inf
    assert lengths(box) == [10]


def test_in_a_hurry_nothing_lingers():
    box = outbox(items=10, linger=2.0)
    offered(box, 4)
    assert lengths(box, hurry=True) == [4]


def test_retries_do_not_linger():
    box = outbox(items=10, linger=2.0)
    offered(box, 10)
    (request,) = all_of(box)
    box.resolve(request, [RETRY] + [WRITTEN] * 9, NOW)
    assert box.wake_at() == NOW + 0.3
    assert lengths(box, NOW + 0.3) == [1]


# ── the gate ──


def test_after_a_failure_one_request_goes_as_a_trial():
    box = outbox(items=1)
    offered(box, 3)
    first = box.take(NOW)
    box.fail(first, AWAY, NOW)
    assert box.gate.shut
    assert box.take(NOW + 0.299) is None
    assert box.wake_at() == NOW + 0.3
    trial = box.take(NOW + 0.3)
    assert trial is not None
    assert box.take(NOW + 50) is None, "a second one would not be a trial"
    assert box.wake_at() == inf
    box.resolve(trial, None, NOW + 1)
    assert not box.gate.shut
    assert lengths(box, NOW + 1) == [1, 1]


def test_each_failed_trial_doubles_the_pause():
    box = outbox()
    offered(box, 1)
    now, pauses = NOW, []
    for _ in range(12):
        request = box.take(now)
        box.fail(request, AWAY, now)
        pauses.append(round(box.wake_at() - now, 6))
        now = box.wake_at()
    assert pauses == [min(22.5, 0.3 * 2**n) for n in range(12)]


def test_requests_that_left_together_fail_as_one():
    box = outbox(items=1)
    offered(box, 3)
    requests = all_of(box)
    for request in requests:
        box.fail(request, AWAY, NOW)
    assert box.gate.wake_at == NOW + 0.3


def test_a_trial_of_which_nothing_is_left_makes_room_for_another():
    box = outbox(items=1)
    offered(box, 3)
    box.fail(box.take(NOW), AWAY, NOW)
    trial = box.take(NOW + 1)
    box.refuse(trial, [Final(trial.items[0], DEAD)], NOW + 1)
    assert trial.items == []
    assert box.take(NOW + 1) is not None


def test_one_throttled_item_does_not_shut_the_gate_and_a_blocked_one_does():
    for verdict, shut in ((RETRY, False), (BLOCKED, True)):
        box = outbox()
        offered(box, 2)
        box.resolve(box.take(NOW), [WRITTEN, verdict], NOW)
        assert box.gate.shut is shut


def test_a_request_of_which_nothing_was_taken_shuts_the_gate():
    box = outbox()
    offered(box, 2)
    box.resolve(box.take(NOW), [RETRY, RETRY], NOW)
    assert box.gate.shut


def test_a_refusal_is_an_answer():
    box = outbox(items=1)
    offered(box, 2)
    box.fail(box.take(NOW), AWAY, NOW)
    box.fail(box.take(NOW + 1), RequestRefusedError("bad"), NOW + 1)
    assert not box.gate.shut


def test_a_gate_of_its_own():
    gate = Gate(Backoff(0.4, 30.0, Half()))
    assert gate.passes(-inf)
    gate.leave()
    gate.failed(NOW)
    assert not gate.passes(NOW)
    assert gate.passes(NOW + 0.3)
    gate.leave()
    assert not gate.passes(inf)
    gate.succeeded(0.0)
    assert gate.passes(NOW)


# ── retries ──


def test_only_what_may_be_retried_is_sent_again_with_the_same_items():
    box = outbox()
    items = offered(box, 4)
    verdicts = [RETRY, WRITTEN, DEAD, RETRY]
    written, others = box.resolve(box.take(NOW), verdicts, NOW)
    assert (written, others) == ([items[1]], [(items[2], DEAD)])
    again = box.take(NOW + 0.3)
    assert again.items == [items[0], items[3]]
    assert (again.attempts, again.first_failed) == (1, NOW)
    box.resolve(again, [RETRY, RETRY], NOW + 0.3)
    last = box.take(NOW + 5)
    assert (last.attempts, last.first_failed) == (2, NOW), "the first failure stays the first"


def test_an_unknown_exception_tells_nothing_of_the_items():
    box = outbox()
    items = offered(box, 3)
    assert box.fail(box.take(NOW), OSError("reset"), NOW) == ([], [])
    assert box.take(NOW + 1).items == list(items)


def test_fresh_items_do_not_wait_for_a_retry():
    box = outbox()
    offered(box, 2)
    box.resolve(box.take(NOW), [RETRY, WRITTEN], NOW)
    offered(box, 1)
    assert lengths(box) == [1]


# ── too large, refused ──


def answer(box, judge, now=NOW, most=100_000):
    """Send everything to a sink that ``judge`` plays; return requests, written and dead items."""
    sent, written, dead = [], [], []
    while request := box.take(now):
        sent.append(len(request.items))
        assert len(sent) < most
        error = judge(request)
        outcome = box.resolve(request, None, now) if error is None else box.fail(request, error, now)
        written += outcome.written
        dead += outcome.others
    return sent, written, dead


def test_a_request_too_large_is_halved_until_it_fits():
    box = outbox(items=64, size=10_000)
    offered(box, 64, b"x" * 100)
    sent, written, dead = answer(
        box, lambda request: RequestTooLargeError("413") if request.size > 1600 else None
    )
    assert (len(written), dead) == (64, [])
    assert sorted(sent) == [16] * 4 + [32] * 2 + [64]
    offered(box, 64, b"x" * 100)
    assert max(lengths(box)) <= 16, "it was learned"


def test_what_was_too_large_once_need_not_be_so_for_ever():
    box = outbox(items=1000, size=6400)
    offered(box, 64, b"x" * 100)
    answer(box, lambda request: RequestTooLargeError("a mishap") if len(request.items) > 1 else None)
    assert box.max_bytes < 200
    requests = 0
    while box.max_bytes < 6400:
        offered(box, 100, b"x" * 100)
        sent, *_ = answer(box, lambda request: None)
        requests += len(sent)
        assert requests < 5000
    offered(box, 64, b"x" * 100)
    assert lengths(box) == [64]


def test_a_limit_that_stays_is_hardly_ever_touched():
    box = outbox(items=1000, size=6400)
    refused, requests = 0, 0

    def judge(request):
        return RequestTooLargeError("413") if request.size > 1600 else None

    for _ in range(200):
        offered(box, 64, b"x" * 100)
        sent, *_ = answer(box, judge)
        requests += len(sent)
        refused += sum(count > 16 for count in sent)
    assert refused < requests / 50


def test_one_item_too_large_is_dead_lettered_alone():
    box = outbox()
    small, large = item(b"x" * 10), item(b"x" * 1000)
    offer(box, small, large, item(b"x" * 10))
    _, written, dead = answer(
        box, lambda request: RequestTooLargeError("413") if request.size >= 1000 else None
    )
    assert len(written) == 2
    ((found, verdict),) = dead
    assert found is large
    assert (verdict.fate, verdict.reason, verdict.status) == (Fate.DEAD_LETTER, "too-large", 413)
    assert empty(box)


@pytest.mark.parametrize("count", [1, 2, 3, 100, 1000, 1024])
@pytest.mark.parametrize("where", [0.0, 0.37, 1.0])
def test_bisection_finds_exactly_the_bad_one(count, where):
    box = outbox(items=2000)
    items = offered(box, count)
    bad = items[round((count - 1) * where)]
    sent, written, dead = answer(
        box, lambda request: RequestRefusedError("bad", "why", 400) if bad in request.items else None
    )
    assert dead == [(bad, Verdict(Fate.DEAD_LETTER, "bad", "why", 400))]
    assert set(written) == set(items) - {bad}
    assert len(sent) <= 2 * log2(count) + 3
    assert empty(box)


def test_bisection_finds_several_bad_ones():
    box = outbox(items=1024)
    items = offered(box, 1024)
    bad = set(items[::200])
    sent, written, dead = answer(
        box, lambda request: RequestRefusedError("bad") if bad.intersection(request.items) else None
    )
    assert {final.item for final in dead} == bad
    assert len(written) == 1024 - len(bad)
    assert len(sent) <= len(bad) * (2 * log2(1024) + 1)


# ── ids ──


def test_two_requests_under_way_never_hold_the_same_id():
    box = outbox(items=1)
    first, second, other = offer(box, item(b"1", "a"), item(b"2", "a"), item(b"3", "b"))
    requests = all_of(box)
    assert [request.items for request in requests] == [[first], [other]]
    box.resolve(requests[0], None, NOW)
    assert [request.items for request in all_of(box)] == [[second]]


def test_the_same_id_twice_in_one_batch_is_two_requests():
    box = outbox()
    first, second, third = offer(box, item(b"1", "a"), item(b"2", "a"), item(b"3", "a"))
    found = []
    while request := box.take(NOW):
        found.append(request.items)
        assert box.take(NOW) is None
        box.resolve(request, None, NOW)
    assert found == [[first], [second], [third]]
    assert empty(box)


def test_a_retried_item_is_not_overtaken_by_a_newer_one():
    box = outbox(items=1)
    old, new = offer(box, item(b"1", "a"), item(b"2", "a"))
    order = []
    now = NOW
    for verdict in (RETRY, RETRY, WRITTEN, WRITTEN):
        now = max(now, box.wake_at())
        request = box.take(now)
        order += request.items
        box.resolve(request, [verdict], now)
    assert order == [old, old, old, new]
    assert empty(box)


def test_ids_that_were_made_up_are_never_busy():
    box = outbox(items=1)
    first, second = item(b"1"), item(b"2")
    second.id = first.id
    offer(box, first, second)
    assert lengths(box) == [1, 1]
    assert not box._busy


def test_halves_keep_their_ids():
    box = outbox()
    offer(box, item(b"1", "a"), item(b"2", "b"))
    newer = item(b"3", "a")
    offer(box, newer)
    box.fail(box.take(NOW), RequestRefusedError("bad"), NOW)
    halves = all_of(box)
    assert [len(half.items) for half in halves] == [1, 1]
    assert newer not in [i for half in halves for i in half.items]
    box.resolve(halves[0], [DEAD], NOW)
    assert box.take(NOW).items == [newer]


# ── what goes back to the broker ──


@pytest.mark.parametrize("where", ["ready", "later", "behind"])
def test_what_is_dropped_leaves_nothing_behind(where):
    box = outbox(items=1)
    gone, kept = item(b"12", "a"), item(b"345", "a")
    if where == "behind":
        offer(box, kept, gone)
        (request,) = all_of(box)
    elif where == "later":
        offer(box, gone, kept)
        (request,) = all_of(box)
        box.fail(request, AWAY, NOW)
    else:
        offer(box, gone)
        offer(box, kept)
    box.drop([gone])
    assert gone not in box.waiting()
    assert (box.pending, box.bytes) == (1, 3)
    if where != "behind":
        request = box.take(NOW + 60)
    assert request.items == [kept]
    box.resolve(request, None, NOW)
    assert all_of(box, NOW + 60) == []
    assert empty(box)


def test_dropping_a_part_of_a_request_keeps_the_rest():
    box = outbox()
    items = offered(box, 4, b"12")
    box.drop(items[1:3])
    (request,) = all_of(box)
    assert (request.items, request.size) == ([items[0], items[3]], 4)


def test_nothing_dropped_is_nothing_done():
    box = outbox()
    items = offered(box, 2)
    box.drop([])
    assert box.waiting() == list(items)


def test_what_is_refused_before_it_is_sent_frees_its_id():
    box = outbox()
    bad, good = item(b"1", "a"), item(b"2", "a")
    offer(box, bad, good)
    request = box.take(NOW)
    assert box.refuse(request, [Final(bad, DEAD)], NOW).others == [(bad, DEAD)]
    assert box.take(NOW).items == [good]
