"""Any group: nothing of it is lost, doubled or too large, and merged it is what a slow reference says."""

from __future__ import annotations

import json
from itertools import count, pairwise
from math import isfinite

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.aggregation import Listing, Merge, Own
from aggregator.errors import MessageRefusedError
from aggregator.merging import LONGEST_ID, Fold, Rule, make_plan, read_object
from aggregator.testing.memory import MemoryDelivery

PLENTY = 10**6
SERIAL = count()
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
KEYS = st.none() | TEXTS | st.sampled_from(["k" * 600, "a\nb", "a\ud800", "\U0001f46a" * 200])
ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)


def deliver(body, name=""):
    made = MemoryDelivery(body, properties={"content_type": "application/json"})
    made.id = name or f"made-up-{next(SERIAL)}"
    made.fingerprint = hash((name, body)) or 1 if name else 0
    return made


def batch(deliveries, key="k"):
    return key, list(deliveries)


# ── merge, against a reference that looks at all values of a field at once ──


NUMBERS = st.integers(-3, 3) | st.sampled_from([0.5, 1.0, -0.0, 1e308, 2**63, 2**64 - 1, -(2**63), 10**25])
VALUES = NUMBERS | st.sampled_from(
    [None, True, False, "a", "b", "", [], ["a", 1], {"x": 1, "y": 2}, {"y": 2}]
)
INNER = st.dictionaries(st.sampled_from(["x", "y", "p"]), VALUES, max_size=3)
DOCUMENTS = st.fixed_dictionaries(
    {}, optional={"a": NUMBERS, "b": VALUES, "c": VALUES, "o": INNER | st.none() | NUMBERS}
)
RULES = st.fixed_dictionaries(
    {}, optional={name: st.sampled_from(Rule) for name in ["a", "b", "/o/x", "/o/p/y", "*"]}
)


class Impossible(Exception):  # noqa: N818
    pass


def leaves(document, opened, path=()):
    """Yield each field that a rule holds for, and its value; an opened object as itself."""
    for name, value in document.items():
        here = (*path, name)
        if here not in opened:
            yield here, value
        elif isinstance(value, dict):
            yield here, ...
            yield from leaves(value, opened, here)
        elif value is not None:
            raise Impossible(name)


def number(value):
    return isinstance(value, int | float) and not isinstance(value, bool)


def summed(values):
    if not all(map(number, values)):
        raise Impossible
    total = values[0]
    for value in values[1:]:
        total += value
    if any(isinstance(value, int) and not -(2**63) <= value < 2**64 for value in [*values, total]):
        raise Impossible
    if not isfinite(total):
        raise Impossible
    return total


def reduced(rule, values):
    """Return what a rule makes of all values of a field, in a list of none or one."""
    present = [value for value in values if value is not None]
    flat = [one for value in values for one in (value if isinstance(value, list) else [value])]
    if rule in {"sum", "min", "max"} and not present:
        return []
    if rule == "sum":
        return [summed(present)]
    if rule in {"min", "max"}:
        if not (all(map(number, present)) or all(isinstance(value, str) for value in present)):
            raise Impossible
        return [min(present) if rule == "min" else max(present)]
    if rule == "count":
        return [len(present)] if present else []
    if rule == "set":
        texts = [json.dumps(one, sort_keys=True) for one in flat]
        return [[one for place, one in enumerate(flat) if texts.index(texts[place]) == place]]
    return [{"first": values[0], "last": values[-1], "append": flat}[rule]]


def reference(documents, rules):
    """Return the merged object. Raises ``Impossible``."""
    paths = {
        tuple(name[1:].split("/")) if name[0] == "/" else (name,): rule
        for name, rule in rules.items()
        if name != "*"
    }
    opened = {path[:end] for path in paths for end in range(1, len(path))}
    fields = {}
    for document in documents:
        for path, value in leaves(document, opened):
            fields.setdefault(path, []).append(value)
    result = {}
    for path, values in fields.items():
        rule = paths.get(path, rules.get("*", "last"))
        found = [{}] if path in opened else reduced(rule, values)
        where = result
        for step in path[:-1]:
            where = where[step]
        for value in found:
            where[path[-1]] = value
    return result


def canonical(result):
    """JSON in which only the order of an object's fields is left out."""
    return json.dumps(result, sort_keys=True)


@given(st.lists(DOCUMENTS, min_size=1, max_size=6), RULES)
def test_a_merge_is_what_the_reference_says(documents, rules):
    kept, expected = [], None
    for position, document in enumerate(documents):
        try:
            expected = reference([*(documents[k] for k in kept), document], rules)
        except Impossible:
            continue
        kept.append(position)
    deliveries = [deliver(json.dumps(doc).encode(), f"m{place}") for place, doc in enumerate(documents)]
    result = Merge(rules).make(*batch(deliveries), PLENTY)
    assert [d for d, _ in result.refused] == [d for n, d in enumerate(deliveries) if n not in kept]
    assert {error.reason for _, error in result.refused} <= {"bad-value"}
    found = [canonical(json.loads(part.document)) for part in result.parts]
    assert found == ([canonical(expected)] if kept else [])


@given(st.lists(DOCUMENTS, max_size=4), DOCUMENTS, RULES)
def test_a_refused_member_leaves_no_trace(documents, last, rules):
    rules = dict(rules)
    fold = Fold(make_plan({n: r for n, r in rules.items() if n != "*"}, rules.get("*", "last")))
    for document in documents:
        if not fold.fault(document):
            fold.add(document)
    before = repr(fold.result())
    if fold.fault(last):
        with pytest.raises(MessageRefusedError, match="bad-value"):
            fold.add(last)
        assert repr(fold.result()) == before


@given(st.dictionaries(TEXTS, ANY, max_size=4))
def test_one_member_merged_is_itself(document):
    body = json.dumps(document, ensure_ascii=False).encode()
    (part,) = Merge().make(*batch([deliver(body, "a")]), PLENTY).parts
    assert canonical(json.loads(part.document)) == canonical(document)
    assert b"\n" not in part.document
    assert read_object(part.document) == document


# ── list ──


@given(
    st.lists(st.dictionaries(TEXTS, ANY, max_size=3), max_size=8),
    KEYS,
    st.none() | st.integers(1, 4),
    st.integers(30, 200),
    st.sampled_from([None, 1]),
)
def test_a_list_is_exactly_its_members(values, key, limit, most, indent):
    bodies = [json.dumps(value, indent=indent).encode() for value in values]
    deliveries = [deliver(body, f"m{place}") for place, body in enumerate(bodies)]
    result = Listing(limit).make(*batch(deliveries, key), most)
    position = {id(delivery): place for place, delivery in enumerate(deliveries)}
    for part in result.parts:
        assert len(part.document) <= most
        found = json.loads(part.document)
        assert list(found) == ["key", "messages"]
        assert len(found["messages"]) == len(part.deliveries) <= (limit or len(values))
        assert found["messages"] == [values[position[id(d)]] for d in part.deliveries]
    assert {error.reason for _, error in result.refused} <= {"too-large"}
    # no two neighbours would have gone into one
    for part, following in pairwise(result.parts):
        lone = Listing().make(*batch([following.deliveries[0]], key), PLENTY).parts[0].document
        frame = len(Listing().make(*batch([deliver(b"{}", "x")], key), PLENTY).parts[0].document) - 2
        full = len(part.document) + 1 + len(lone) - frame > most
        assert full or len(part.deliveries) == limit


# ── whatever it is made by ──


def several(key, documents):
    return documents


def explode(key, documents):
    if any(document.get("n") == 13 for document in documents):
        raise ValueError(documents)
    return {"all": documents}


AGGREGATIONS = st.sampled_from(
    [
        Listing(),
        Listing(2),
        Merge({"n": "append"}),
        Merge({"n": "sum", "pad": "set"}),
        Own(several),
        Own(explode),
    ]
)
MESSAGES = st.tuples(
    st.sampled_from(["", "", "a", "b", "c", "d", "e"]),
    st.sampled_from([b'{"n":1}', b'{"n":2}', b'{"n":13}', b'{"n":"x","pad":"yyyyyyyyyyyyyyyyyyyyyy"}'])
    | st.sampled_from([b"", b"[1]", b'{"pad":"%b"}' % (b"z" * 90)]),
)


@given(AGGREGATIONS, st.lists(MESSAGES, max_size=10), KEYS, st.integers(1, 400))
def test_each_delivery_is_in_one_part_or_refused_and_no_part_too_large(aggregation, messages, key, most):
    deliveries = [deliver(body, name) for name, body in messages]
    result = aggregation.make(*batch(deliveries, key), most)
    shares = {}
    for part in result.parts:
        assert len(part.document) <= most
        assert b"\n" not in part.document
        assert type(orjson.loads(part.document)) is dict
        assert 0 < len(part.id.encode()) <= LONGEST_ID
        assert bool(part.fingerprint) == all(delivery.fingerprint for delivery in part.deliveries)
        shares.setdefault(id(part.deliveries), []).append(part)
    assert all(len(parts) == parts[0].sharing for parts in shares.values())
    settled = [id(delivery) for parts in shares.values() for delivery in parts[0].deliveries]
    settled += [id(delivery) for delivery, _ in result.refused]
    assert sorted(settled) == sorted(map(id, deliveries))
    place = {id(delivery): number for number, delivery in enumerate(deliveries)}
    for part in result.parts:
        places = [place[id(delivery)] for delivery in part.deliveries]
        assert places == sorted(places) != []
    assert len({part.id for part in result.parts}) == len(result.parts)
    assert 0 <= result.repeats <= len(deliveries)


@given(AGGREGATIONS, st.lists(MESSAGES, max_size=8), KEYS, st.integers(1, 400))
def test_made_again_it_is_the_same(aggregation, messages, key, most):
    whole = batch([deliver(body, name) for name, body in messages], key)
    first, second = aggregation.make(*whole, most), aggregation.make(*whole, most)
    assert first.parts == second.parts
    assert [(d, str(e)) for d, e in first.refused] == [(d, str(e)) for d, e in second.refused]


NUMBERED = st.sampled_from([Listing(), Listing(2), Listing(3), Merge({"n": "append"}), Own(several)])


@given(
    st.lists(st.booleans(), min_size=1, max_size=8),
    st.data(),
    NUMBERED,
    st.integers(40, 120),
    st.integers(40, 120),
)
def test_after_a_crash_in_the_middle_nothing_is_lost(given_ids, data, aggregation, before, after):
    """Some of the documents were written, nothing was acked; all members come again in another order."""
    numbers = list(range(len(given_ids)))

    def arrive(order):
        return [deliver(b'{"n":%d}' % n, f"m{n}" if given_ids[n] else "") for n in order]

    stored = {}
    first = aggregation.make(*batch(arrive(data.draw(st.permutations(numbers)))), before)
    for part in first.parts:
        if data.draw(st.booleans()):
            stored.setdefault(part.id, part.document)  # create: the first wins
    cut = data.draw(st.integers(0, len(numbers)))
    order = data.draw(st.permutations(numbers))
    for some in (order[:cut], order[cut:]):
        result = aggregation.make(*batch(arrive(some)), after)
        assert not result.refused
        for part in result.parts:
            stored.setdefault(part.id, part.document)
    found = {n for document in stored.values() for n in _numbers(orjson.loads(document))}
    assert found == set(numbers)


def _numbers(document):
    for message in document.get("messages", [document]):
        yield from message["n"] if isinstance(message["n"], list) else [message["n"]]


@given(
    st.lists(st.sets(st.sampled_from("abcdefgh"), min_size=1, max_size=4), min_size=2, max_size=8),
    st.lists(TEXTS | st.none(), min_size=1, max_size=3),
)
def test_an_id_tells_route_key_and_members_and_nothing_else(groups, keys):
    by_id, by_group = {}, {}
    for route in ("a", "a:b"):
        for key in keys:
            for names in groups:
                members = [deliver(b"{}", name) for name in names]
                (part,) = Listing(route=route).make(*batch(members, key), PLENTY).parts
                group = (route, key, frozenset(names))
                assert by_id.setdefault(part.id, group) == group
                assert by_group.setdefault(group, part.id) == part.id
