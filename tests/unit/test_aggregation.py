"""What a group becomes: lists, merged objects, own functions; ids, limits, refusals, settings."""

from __future__ import annotations

import datetime as dt
import gzip
import json
import sys
from decimal import Decimal

import orjson
import pytest

from aggregator.aggregation import Listing, Merge, Own, compile_aggregation
from aggregator.errors import ConfigurationError, MessageRefusedError
from aggregator.made import Made, Part
from aggregator.merging import DEEPEST, GREATEST_SUM, LEAST_SUM, LONGEST_ID, Rule, read_object, write_json
from aggregator.testing.memory import MemoryDelivery

PLENTY = 10**6
JSON = {"content_type": "application/json"}


def member(body, name="", **properties):
    """A delivery with a given id, or one made up here."""
    body = body if isinstance(body, bytes) else orjson.dumps(body)
    made = MemoryDelivery(body, properties={**JSON, **properties})
    made.id = name or f"made-up-{made.tag}-{id(made)}"
    made.fingerprint = hash((name, body)) or 1 if name else 0
    return made


def members(*bodies):
    return [member(body, f"m{number}") for number, body in enumerate(bodies)]


def batch(deliveries, key="k", *, complete=True, part=1):
    return key, list(deliveries)


def made(aggregation, *bodies, key="k", most=PLENTY):
    return aggregation.make(*batch(members(*bodies), key), most)


def parsed(result):
    return [orjson.loads(part.document) for part in result.parts]


def merged(rules, *bodies, **options):
    result = made(Merge(rules, **options), *bodies)
    assert not result.refused
    (one,) = parsed(result)
    return one


def refusals(result):
    return [(orjson.loads(delivery.body), error.reason) for delivery, error in result.refused]


def nested(levels):
    return b'{"a":' * levels + b"1" + b"}" * levels


# ── list ──


def test_a_list_holds_the_bytes_of_its_members():
    deliveries = members(b'{"a":1.50}', b'{ "b" : [2] }', b'{"c":123456789012345678901234567890}')
    result = Listing().make(*batch(deliveries), PLENTY)
    (part,) = result.parts
    assert part.document == (
        b'{"key":"k","messages":[{"a":1.50},{ "b" : [2] },{"c":123456789012345678901234567890}]}'
    )
    assert part.deliveries == deliveries
    assert (part.sharing, result.refused, result.repeats) == (1, [], 0)


@pytest.mark.parametrize(
    ("key", "shown"), [(None, None), ("", ""), ('a"b\n', 'a"b\n'), ("ключ", "ключ"), ("a\ud800", "a?")]
)
def test_a_list_names_its_key(key, shown):
    result = made(Listing(), {}, key=key)
    assert parsed(result) == [{"key": shown, "messages": [{}]}]
    assert b"\n" not in result.parts[0].document


def test_a_list_may_name_its_fields():
    assert parsed(made(Listing(key_field="order", messages_field="lines"), {"a": 1})) == [
        {"order": "k", "lines": [{"a": 1}]}
    ]


@pytest.mark.parametrize(
    ("limit", "count", "sizes"),
    [(None, 5, [5]), (2, 5, [2, 2, 1]), (5, 5, [5]), (6, 5, [5]), (1, 3, [1, 1, 1]), (3, 6, [3, 3])],
)
def test_the_limit_of_a_list_opens_further_ones(limit, count, sizes):
    result = made(Listing(limit), *({"n": number} for number in range(count)))
    assert [len(one["messages"]) for one in parsed(result)] == sizes
    assert [m["n"] for one in parsed(result) for m in one["messages"]] == list(range(count))
    assert len({part.id for part in result.parts}) == len(sizes)


def test_a_list_is_filled_to_the_last_byte():
    bodies = [{"n": number} for number in range(10)]
    size = len(made(Listing(), *bodies[:5]).parts[0].document)
    assert [len(p.deliveries) for p in made(Listing(), *bodies, most=size).parts] == [5, 5]
    assert [len(p.deliveries) for p in made(Listing(), *bodies, most=size - 1).parts] == [4, 4, 2]


def test_what_is_too_large_alone_is_refused_and_the_others_go_on():
    alone = len(made(Listing(), {"n": 1}).parts[0].document)
    result = made(Listing(), {"n": 1}, {"n": 22}, {"n": 3}, most=alone)
    assert [one["messages"] for one in parsed(result)] == [[{"n": 1}], [{"n": 3}]]
    ((_, error),) = result.refused
    assert str(error) == f"too-large: its document alone has {alone + 1} bytes, {alone} are allowed"


def test_a_member_that_is_no_document_is_refused_alone():
    deliveries = [
        member({"n": 1}, "a"),
        member(b'{"secret":', "b"),
        member(b"[1]", "c"),
        member(b"", "d"),
        member({"n": 2}, "e"),
    ]
    result = Listing().make(*batch(deliveries), PLENTY)
    assert [(delivery.id, error.reason) for delivery, error in result.refused] == [
        ("b", "bad-json"),
        ("c", "not-an-object"),
        ("d", "empty-body"),
    ]
    assert "secret" not in repr([str(error) for _, error in result.refused])
    assert all(error.__traceback__ is None for _, error in result.refused)
    assert parsed(result)[0]["messages"] == [{"n": 1}, {"n": 2}]
    assert [d.id for d in result.parts[0].deliveries] == ["a", "e"]


def test_a_message_that_nobody_foresaw_is_refused_alone():
    class Odd(MemoryDelivery):
        @property
        def properties(self):
            raise KeyError("secret")

    odd = Odd(b"{}")
    odd.id = "odd"
    result = Listing().make(*batch([odd, *members({"n": 1})]), PLENTY)
    assert [str(error) for _, error in result.refused] == ["unreadable: KeyError"]
    assert len(result.parts) == 1


def test_documents_are_read_as_single_ones_are():
    text = member(b"hello", "a", content_type="text/plain")
    packed = member(gzip.compress(b'{"n":1}'), "b", content_encoding="gzip")
    ready = member(b"not looked at", "c")
    ready.document = b'{"ready":true}'
    lines = member(b'{"n":\n2}', "d")
    result = Listing().make(*batch([text, packed, ready, lines]), PLENTY)
    assert parsed(result)[0]["messages"] == [{"message": "hello"}, {"n": 1}, {"ready": True}, {"n": 2}]
    assert b"\n" not in result.parts[0].document
    assert Listing(max_message=4).make(*batch([text]), PLENTY).refused[0][1].reason == "too-large"


def test_trusted_json_is_not_looked_at():
    assert parsed(made(Listing(trust_json=True), {"n": 1}))[0]["messages"] == [{"n": 1}]
    assert made(Listing(trust_json=True), b"{bad}").parts[0].document.endswith(b"[{bad}]}")
    assert made(Merge(trust_json=True), b"{bad}").refused[0][1].reason == "bad-json"
    called = []
    result = made(Own(lambda key, documents: called.append(key), trust_json=True), b"{bad}")
    assert ([error.reason for _, error in result.refused], called) == (["bad-json"], [])


@pytest.mark.parametrize("aggregation", [Listing(), Merge(), Own(lambda key, documents: {})])
def test_a_batch_without_members_makes_nothing(aggregation):
    assert aggregation.make(*batch([]), PLENTY) == Made([], [])
    assert aggregation.make(*batch([member(b"")]), PLENTY).parts == []


@pytest.mark.parametrize("limit", [0, -1])
def test_a_list_has_at_least_one_member(limit):
    with pytest.raises(ConfigurationError, match="at least 1"):
        Listing(limit)


@pytest.mark.parametrize("names", [("", "b"), ("a", ""), ("a", "a")])
def test_a_list_has_two_fields(names):
    with pytest.raises(ConfigurationError, match="two names"):
        Listing(key_field=names[0], messages_field=names[1])


# ── the same message again ──


@pytest.mark.parametrize(
    ("aggregation", "document"),
    [
        (Listing(), {"key": "k", "messages": [{"n": 1}, {"n": 2}]}),
        (Merge({"n": "sum"}), {"n": 3}),
        (Own(lambda key, documents: {"all": documents}), {"all": [{"n": 1}, {"n": 2}]}),
    ],
)
def test_a_message_sent_twice_counts_once_and_settles_with_the_first(aggregation, document):
    a, b, again = member({"n": 1}, "a"), member({"n": 2}, "b"), member({"n": 1}, "a")
    result = aggregation.make(*batch([a, b, again]), PLENTY)
    assert parsed(result) == [document]
    assert result.parts[0].deliveries == [a, b, again]
    assert (result.refused, result.repeats) == ([], 1)
    assert result.parts[0].id == aggregation.make(*batch([a, b]), PLENTY).parts[0].id


def test_a_copy_goes_where_the_first_goes():
    a, b, again = member({"n": 1}, "a"), member({"n": 2}, "b"), member({"n": 1}, "a")
    assert [p.deliveries for p in Listing(1).make(*batch([a, b, again]), PLENTY).parts] == [[a, again], [b]]
    b_again = member({"n": 2}, "b")
    result = Listing(1).make(*batch([a, b, b_again, again]), PLENTY)
    assert [p.deliveries for p in result.parts] == [[a, again], [b, b_again]]
    assert result.repeats == 2
    bad, bad_too = member({"n": "x"}, "c"), member({"n": "x"}, "c")
    result = Merge({"n": "sum"}).make(*batch([a, bad, bad_too]), PLENTY)
    assert [delivery for delivery, _ in result.refused] == [bad, bad_too]
    assert result.repeats == 0


def test_another_body_under_the_same_id_is_refused():
    first, other = member({"n": 1}, "a"), member({"n": 2}, "a")
    result = Listing().make(*batch([first, other]), PLENTY)
    assert parsed(result)[0]["messages"] == [{"n": 1}]
    assert [(d, e.reason) for d, e in result.refused] == [(other, "bad-id")]


def test_of_a_refused_one_the_next_copy_is_taken():
    first, second = member(b"", "a"), member({"n": 1}, "a")
    result = Listing().make(*batch([first, second]), PLENTY)
    assert [p.deliveries for p in result.parts] == [[second]]
    assert [d for d, _ in result.refused] == [first]


def test_ids_made_at_receipt_are_no_sign_of_a_repetition():
    one, other = member({"n": 1}), member({"n": 1})
    other.id = one.id
    assert len(parsed(Listing().make(*batch([one, other]), PLENTY))[0]["messages"]) == 2


# ── ids ──


def id_of(deliveries, key="k", aggregation=None, **options):
    (part,) = (aggregation or Listing()).make(*batch(deliveries, key, **options), PLENTY).parts
    return part.id


def test_the_same_members_have_the_same_id_in_any_order_and_part():
    deliveries = members({"n": 1}, {"n": 2}, {"n": 3})
    expected = id_of(deliveries)
    assert expected.startswith("default:k:")
    assert id_of(reversed(deliveries)) == expected
    assert id_of(deliveries, part=7, complete=False) == expected
    assert id_of(deliveries, aggregation=Merge()) == expected


def test_other_members_have_another_id():
    deliveries = members({"n": 1}, {"n": 2}, {"n": 3})
    found = {id_of(deliveries), id_of(deliveries[:2]), id_of(deliveries[:1]), id_of(deliveries[1:])}
    found |= {id_of(deliveries, "other"), id_of(deliveries, None), id_of(deliveries, "")}
    found.add(id_of(deliveries, aggregation=Listing(route="other")))
    assert len(found) == 8


def test_an_id_is_of_the_members_that_are_in_the_document():
    good = members({"n": 1}, {"n": 2})
    assert id_of([*good, member(b"", "bad")]) == id_of(good)


def test_another_cut_is_never_taken_for_the_first():
    """A crash after the first of two parts, and the members come again in another order."""
    a, b, c = members({"n": 1}, {"n": 2}, {"n": 3})
    before = Listing(2).make(*batch([a, b, c]), PLENTY).parts
    after = Listing(2).make(*batch([c, a, b]), PLENTY).parts
    assert not {part.id for part in before} & {part.id for part in after}


def test_an_id_made_at_receipt_makes_the_group_new():
    given, own = member({"n": 1}, "a"), member({"n": 2})
    (part,) = Listing().make(*batch([given, own]), PLENTY).parts
    assert part.fingerprint == 0
    assert f":{own.id}." in part.id
    assert Listing().make(*batch([given]), PLENTY).parts[0].fingerprint != 0
    # cut elsewhere, it is another document
    parts = Listing(1).make(*batch([own, given]), PLENTY).parts
    assert parts[0].id != part.id


def test_members_ids_are_not_run_together():
    assert id_of([member({}, "a"), member({}, "b,c")]) != id_of([member({}, "a,b"), member({}, "c")])
    assert id_of([member({}, 'a","b')]) != id_of([member({}, "a"), member({}, "b")])


KEYS = ["k" * 600, "я" * 300, "a\nb", "a\0b", "\u202e", "a\ud800", "\udcff", "~x", "a:b", " ", "👪" * 130]


@pytest.mark.parametrize("route", ["orders", "r" * 600, "r\n"])
@pytest.mark.parametrize("key", KEYS, ids=ascii)
@pytest.mark.parametrize("name", ["a", "i" * 1000, "a\ud800"], ids=ascii)
def test_any_key_makes_an_id_that_stores_take(route, key, name):
    deliveries = [member({}, name)]
    found = id_of(deliveries, key, Listing(route=route))
    assert 0 < len(found.encode()) <= LONGEST_ID
    assert found.isprintable()
    assert found == id_of(deliveries, key, Listing(route=route))
    made_up = member({})
    made_up.id = name
    assert len(id_of([made_up], key, Listing(route=route)).encode()) <= LONGEST_ID


def test_odd_keys_stay_different():
    deliveries = members({})
    assert len({id_of(deliveries, key) for key in [*KEYS, "", None, "k" * 601]}) == len(KEYS) + 3


def test_keys_with_colons_stay_different():
    deliveries = members({})
    assert id_of(deliveries, "b:c", Listing(route="a")) != id_of(deliveries, "c", Listing(route="a:b"))


# ── merge ──


@pytest.mark.parametrize(
    ("rule", "values", "expected"),
    [
        ("first", [3, 1, 2], 3),
        ("first", [None, 1], None),
        ("last", [3, 1, 2], 2),
        ("last", [3, None], None),
        ("sum", [3, 1, 2], 6),
        ("sum", [1, 0.5], 1.5),
        ("sum", [2.0, 1], 3.0),
        ("sum", [None, 4, None], 4),
        ("sum", [LEAST_SUM, 1, -1], LEAST_SUM),
        ("sum", [GREATEST_SUM, 0], GREATEST_SUM),
        ("min", [3, 1, 2], 1),
        ("min", [1, 0.5], 0.5),
        ("max", [3, 1, 3.5, None], 3.5),
        ("max", [2, 2.0], 2),
        ("min", [2.0, 2], 2.0),
        ("min", ["2024-02-01", "2024-01-09"], "2024-01-09"),
        ("max", ["b", "a", "ä"], "ä"),
        ("max", [10**30, 1], 10**30),
        ("count", [3, "x", None, False], 3),
        ("append", [1, "x", None], [1, "x", None]),
        ("append", [[1, 2], 3, [], [[4]]], [1, 2, 3, [4]]),
        ("append", [[]], []),
        ("set", ["b", "a", "b"], ["b", "a"]),
        ("set", [["b", "a"], ["a", "c"], "b"], ["b", "a", "c"]),
        ("set", [1, True, 1.0, "1", None, 1, True], [1, True, 1.0, "1", None]),
        ("set", [{"a": 1, "b": 2}, {"b": 2, "a": 1}, [[1], [1]]], [{"a": 1, "b": 2}, [1]]),
        ("set", [{"a": 10**30}, {"a": 10**30}], [{"a": 10**30}]),
    ],
)
def test_what_a_rule_makes_of_its_values(rule, values, expected):
    found = made(Merge({"v": rule}), *(json.dumps({"v": value}).encode() for value in values))
    assert not found.refused
    value = json.loads(found.parts[0].document)["v"]
    assert (repr(value), type(value)) == (repr(expected), type(expected))


def test_fields_without_a_rule_have_that_of_all_others():
    bodies = {"a": 1, "b": 1}, {"b": 2, "c": 2}
    assert merged({"a": "count"}, *bodies) == {"a": 1, "b": 2, "c": 2}
    assert merged({"a": "count", "*": "first"}, *bodies) == {"a": 1, "b": 1, "c": 2}
    assert merged({"a": Rule.COUNT}, *bodies, default=Rule.SUM) == {"a": 1, "b": 3, "c": 2}
    assert merged({"/*": "sum"}, {"*": 1, "x": 1}, {"*": 2, "x": 2}) == {"*": 3, "x": 2}


def test_missing_fields_are_skipped_and_absent_where_nobody_has_them():
    assert merged({"v": "sum", "w": "count"}, {"v": 1}, {}, {"v": 2}, {"v": None}) == {"v": 3}
    assert merged({"v": "sum"}, {"v": None}) == {}


def test_fields_stand_in_the_order_of_their_first_value():
    (part,) = made(Merge({"a": "sum"}), {"b": 1, "a": None}, {"c": 1}, {"a": 1, "b": 2}).parts
    assert part.document == b'{"b":2,"c":1,"a":1}'


def test_a_pointer_leads_into_objects():
    rules = {"/user/visits": "sum", "/user/home/city": "first", "total": "count", "/a~1b/~0": "sum"}
    assert merged(
        rules,
        {"user": {"visits": 1, "name": "x", "home": {"city": "A", "zip": 1}}, "total": 5, "a/b": {"~": 1}},
        {"user": {"visits": 2, "name": "y", "home": {"city": "B", "zip": 2}}, "a/b": {"~": 2}},
        {"user": None},
        {"user": {"home": None}},
    ) == {
        "user": {"visits": 3, "name": "y", "home": {"city": "A", "zip": 2}},
        "total": 1,
        "a/b": {"~": 3},
    }


def test_a_pointer_of_one_step_is_the_name():
    assert merged({"/v": "sum"}, {"v": 1}, {"v": 2}) == {"v": 3}


@pytest.mark.parametrize(
    ("rules", "body", "detail"),
    [
        ({"v": "sum"}, {"v": "secret"}, "'v' is a text; a sum is of numbers"),
        ({"v": "sum"}, {"v": True}, "'v' is true or false; a sum is of numbers"),
        ({"v": "sum"}, {"v": [1]}, "'v' is a list; a sum is of numbers"),
        ({"v": "sum"}, {"v": {"a": 1}}, "'v' is an object; a sum is of numbers"),
        ({"v": "sum"}, {"v": GREATEST_SUM}, "'v' takes the sum beyond 64 bits"),
        ({"v": "sum"}, b'{"v":%d}' % (LEAST_SUM - 2), "'v' takes the sum beyond 64 bits"),
        ({"v": "min"}, {"v": False}, "'v' is true or false; the least and the greatest are"),
        ({"v": "max"}, {"v": "secret"}, "'v' is a text, where others are not"),
        ({"/v/w": "sum"}, {"v": {"w": "secret"}}, "'/v/w' is a text; a sum is of numbers"),
        ({"/v/w": "first"}, {"v": "secret"}, "'v' is a text; an object is needed"),
        ({"/v/w/x": "first"}, {"v": {"w": 1}}, "'/v/w' is a number; an object is needed"),
        ({"*": "sum"}, {"v": 1, "x\n": "secret"}, r"'x\n' is a text"),
        ({"*": "sum"}, {"v": 1, "x" * 500: "secret"}, "x…' is a text; a sum"),
    ],
)
def test_a_member_that_a_rule_cannot_take_is_refused_by_its_fields_name(rules, body, detail):
    good = {"v": {"w": 1}} if any(name.startswith("/v/w") for name in rules) else {"v": 1}
    if "/v/w/x" in rules:
        good = {"v": {"w": {"x": 1}}}
    deliveries = [member({**good, "k": 1}, "a"), member(body, "b"), member({**good, "k": 3}, "c")]
    result = Merge(rules).make(*batch(deliveries), PLENTY)
    ((refused, error),) = result.refused
    assert refused is deliveries[1]
    assert error.reason == "bad-value"
    assert detail in error.detail
    assert "secret" not in str(error)
    assert "\n" not in str(error)
    assert len(str(error)) < 200
    assert result.parts[0].deliveries == [deliveries[0], deliveries[2]]
    assert result.parts[0].id == id_of([deliveries[0], deliveries[2]])


@pytest.mark.parametrize("values", [[1e308, 1e308], [-1e308, -1e308], [1.5, 10**300], [10**300, 1.5]])
def test_a_sum_stays_within_a_double(values):
    # of the last two pairs the whole number is refused: it is beyond 64 bits itself
    result = made(Merge({"v": "sum"}), *(json.dumps({"v": value}).encode() for value in values))
    assert [error.reason for _, error in result.refused] == ["bad-value"]
    assert len(result.parts[0].deliveries) == 1


def test_of_a_refused_member_nothing_is_taken():
    assert parsed(made(Merge({"bad": "sum", "v": "append"}), {"v": 1}, {"v": 2, "bad": "x"}, {"v": 3})) == [
        {"v": [1, 3]}
    ]
    inner = made(Merge({"/o/bad": "sum", "/o/v": "append"}), {"o": {"v": 1, "bad": "x"}}, {"p": 1})
    assert parsed(inner) == [{"p": 1}]


def test_where_all_are_refused_there_is_no_document():
    result = made(Merge({"v": "sum"}), {"v": "a"}, {"v": "b"})
    assert (result.parts, len(result.refused)) == ([], 2)


def test_long_numbers_keep_their_digits():
    numbers = b'"a":123456789012345678901234567890,"b":-9223372036854775809,"c":18446744073709551616'
    text = b'{%b,"t":"\xc3\xa4"}' % numbers
    assert made(Merge(), text).parts[0].document == text


def test_members_that_are_too_deep_are_refused():
    deep = members(nested(DEEPEST + 1), nested(DEEPEST), {"b": 1})
    result = Merge({"a": "append"}).make(*batch(deep), PLENTY)
    assert [(d, e.reason) for d, e in result.refused] == [(deep[0], "bad-value")]
    assert result.parts[0].deliveries == deep[1:]
    many = {"list": [[] for _ in range(1000)]}
    assert merged({}, many) == many


def test_the_deepest_with_long_numbers_are_written_too():
    body = nested(DEEPEST).replace(b"1", b"1" * 40)
    assert made(Merge({"a": "set"}), body).parts[0].document.count(b"1" * 40) == 1


@pytest.mark.parametrize("document", [b"[1]", b"1", b"null"])
def test_only_objects_are_merged(document):
    with pytest.raises(MessageRefusedError, match="not-an-object"):
        read_object(document)


def test_a_merge_that_would_be_too_large_is_cut():
    bodies = [{"v": "x" * 10, "n": 1} for _ in range(100)]
    result = made(Merge({"v": "append", "n": "sum"}), *bodies, most=300)
    assert sum(one["n"] for one in parsed(result)) == 100
    assert max(len(part.document) for part in result.parts) <= 300
    assert len(result.parts) <= 8
    assert [d.id for part in result.parts for d in part.deliveries] == [f"m{n}" for n in range(100)]


def test_one_giant_does_not_cut_the_others_apart():
    bodies = [{"v": number} for number in range(50)]
    bodies[20] = {"v": "x" * 2000}
    result = made(Merge({"v": "append"}), *bodies, most=1000)
    assert [len(part.deliveries) for part in result.parts] == [49]
    assert [error.reason for _, error in result.refused] == ["too-large"]


def test_a_giant_that_becomes_small_is_taken():
    bodies = [{"v": "x" * 2000, "w": "y" * 50}, {"w": "z" * 60}]
    assert len(made(Merge({"v": "count", "w": "append"}), *bodies, most=200).parts) == 1
    result = made(Merge({"v": "count", "w": "append"}), *bodies, most=100)
    assert [len(part.deliveries) for part in result.parts] == [1, 1]
    assert not result.refused


@pytest.mark.parametrize(
    ("rules", "field", "problem"),
    [
        ({"v": "avg"}, "merge.v", "'avg' is no rule; first, last, sum, min, max, count, append, set are"),
        ({"v": "summ"}, "merge.v", "did you mean sum?"),
        ({"v": 3}, "merge.v", "'3' is no rule"),
        ({"v": ["sum"]}, "merge.v", "is no rule"),
        ({"*": "all"}, "merge.*", "'all' is no rule"),
        ({"": "sum"}, "merge", "names no field"),
        ({"/a~2": "sum"}, "merge./a~2", "~ is written ~0"),
        ({"a": "sum", "/a": "first"}, "merge./a", "already"),
        ({"a": "sum", "/a/b": "first"}, "merge./a/b", "has a rule of its own"),
        ({"/a/b": "first", "a": "sum"}, "merge.a", "already"),
        ({"/a/b": "first", "/a/b/c": "sum"}, "merge./a/b/c", "has a rule of its own"),
    ],
)
def test_rules_that_are_none_or_contradict_are_told(rules, field, problem):
    with pytest.raises(ConfigurationError) as caught:
        Merge(rules)
    assert caught.value.field == field
    assert problem in caught.value.problem


# ── the user's own function ──


def test_a_function_gets_key_and_documents():
    seen = []

    def combine(key, documents):
        seen.append((key, documents))
        return {"count": len(documents)}

    deliveries = members({"n": 1}, {"n": 2})
    (part,) = Own(combine).make(*batch(deliveries), PLENTY).parts
    assert seen == [("k", [{"n": 1}, {"n": 2}])]
    assert part.document == b'{"count":2}'
    assert (part.deliveries, part.sharing) == (deliveries, 1)
    assert part.id == id_of(deliveries)


def test_several_documents_share_their_deliveries():
    deliveries = members({"n": 1}, {"n": 2}, {"n": 3})
    result = Own(lambda key, documents: documents[:2]).make(*batch(deliveries), PLENTY)
    assert parsed(result) == [{"n": 1}, {"n": 2}]
    assert [part.sharing for part in result.parts] == [2, 2]
    assert result.parts[0].deliveries is result.parts[1].deliveries
    assert result.parts[0].deliveries == deliveries
    assert result.repeats == 0


def test_of_several_documents_each_keeps_its_id_in_any_order():
    deliveries = members({"n": 1}, {"n": 2})
    one = Own(lambda key, documents: documents).make(*batch(deliveries), PLENTY).parts
    other = Own(lambda key, documents: documents).make(*batch(reversed(deliveries)), PLENTY).parts
    assert {p.id: p.document for p in one} == {p.id: p.document for p in other}
    same = Own(lambda key, documents: [{"n": 1}] * 3).make(*batch(deliveries), PLENTY).parts
    assert len({part.id for part in same}) == 3


def test_what_the_function_changes_is_its_own():
    def combine(key, documents):
        total = sum(document.pop("n") for document in documents)
        return {"total": total, "pad": "x" * total}

    deliveries = members(*({"n": 10} for _ in range(8)))
    own = Own(combine)
    first = own.make(*batch(deliveries), 60)
    assert sum(one["total"] for one in parsed(first)) == 80
    assert max(len(part.document) for part in first.parts) <= 60
    assert own.make(*batch(deliveries), 60) == first


def test_what_the_function_makes_too_large_of_one_is_refused():
    result = made(Own(lambda key, documents: {"pad": "x" * 100}), {"n": 1}, {"n": 2}, most=50)
    assert [error.reason for _, error in result.refused] == ["too-large"] * 2
    assert not result.parts


class SecretError(Exception):
    pass


@pytest.mark.parametrize("error", [SecretError, SystemExit, KeyError, RecursionError, StopIteration])
def test_whatever_the_function_raises_its_members_are_refused(error):
    def combine(key, documents):
        raise error(documents)

    result = Own(combine, name="mine:combine").make(
        *batch([*members({"n": "secret"}, {"n": 2}), member(b"", "z")]), PLENTY
    )
    assert [str(e) for _, e in result.refused] == [
        "empty-body",
        *[f"aggregation-failed: mine:combine raised {error.__name__}"] * 2,
    ]
    assert not result.parts
    assert all(e.__cause__ is e.__context__ is e.__traceback__ is None for _, e in result.refused)


def test_a_wish_to_stop_is_not_held_back():
    def combine(key, documents):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        made(Own(combine), {})


CIRCULAR: dict = {}
CIRCULAR["self"] = CIRCULAR


@pytest.mark.parametrize(
    ("answer", "detail"),
    [
        (None, "returned NoneType; a dict or a list of dicts is needed"),
        ("text", "returned str"),
        (b"{}", "returned bytes"),
        (1, "returned int"),
        ([{}, None], "returned list"),
        ({"a"}, "returned set"),
        pytest.param(iter([{}]), "returned list_iterator", id="iterator"),
        ([], "returned an empty list; at least one dict is needed"),
        pytest.param({"secret": object()}, "returned a dict that is no JSON (TypeError)", id="object"),
        ({"v": Decimal(1)}, "no JSON (TypeError)"),
        ({1: 2}, "no JSON (TypeError)"),
        ({"a": "\ud800"}, "no JSON (TypeError)"),
        ({"n": 10**30, "v": float("nan")}, "no JSON (ValueError)"),
        ({"n": 10**30, "v": "\ud800"}, "no JSON (UnicodeEncodeError)"),
        (CIRCULAR, "no JSON (TypeError)"),
    ],
    ids=ascii,
)
def test_whatever_else_the_function_returns_its_members_are_refused(answer, detail):
    result = made(Own(lambda key, documents: answer), {"n": 1})
    ((_, error),) = result.refused
    assert error.reason == "aggregation-failed"
    assert detail in error.detail
    assert "secret" not in str(error)


@pytest.mark.parametrize(
    ("answer", "document"),
    [
        ({}, b"{}"),
        ({"n": 10**30}, b'{"n":1000000000000000000000000000000}'),
        ({"t": dt.datetime(2024, 1, 2, tzinfo=dt.UTC)}, b'{"t":"2024-01-02T00:00:00+00:00"}'),
        ({"v": float("nan")}, b'{"v":null}'),
        ({"text": "a\nb"}, b'{"text":"a\\nb"}'),
        (({"n": 1},), b'{"n":1}'),
    ],
)
def test_what_a_function_may_return(answer, document):
    assert made(Own(lambda key, documents: answer), {}).parts[0].document == document


def test_an_unnamed_function_is_told_by_its_own_name():
    class Combiner:
        def __call__(self, key, documents):
            raise ValueError

    ((_, error),) = made(Own(Combiner()), {}).refused
    assert error.detail.endswith(".Combiner raised ValueError")


def test_numbers_beyond_64_bits_are_written_sorted_too():
    assert write_json({"b": 10**20, "a": 1}, sort_keys=True) == b'{"a":1,"b":100000000000000000000}'


# ── settings ──


MODULE = """
calls = []
def combine(key, documents): return {"key": key, "sum": sum(d["n"] for d in documents)}
def one(documents): ...
def three(key, documents, more): ...
def optional(key, documents, more=None): ...
async def soon(key, documents): ...
def lazily(key, documents): yield
class Combiner:
    def __call__(self, key, documents): return {}
combiner = Combiner()
text = "combine"
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module of the user's, in the working folder, which is not on the path."""
    (tmp_path / "users_own_aggregations.py").write_text(MODULE)
    (tmp_path / "users_broken_aggregation.py").write_text("1 / 0\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield "users_own_aggregations"
    for loaded in [loaded for loaded in sys.modules if loaded.startswith("users_")]:
        del sys.modules[loaded]


def test_documents_are_no_aggregation():
    assert compile_aggregation() is None
    assert compile_aggregation("documents") is None


def test_what_settings_name():
    common = {"route": "orders", "trust_json": True, "max_message": 5}
    assert compile_aggregation("list", **common) == Listing(**common)
    assert compile_aggregation("list:100", **common) == Listing(100, **common)
    rules = {"total": "sum", "tags": "set", "*": "first"}
    merge = compile_aggregation("merge", rules)
    assert parsed(made(merge, {"total": 1, "tags": ["a"], "x": 1}, {"total": 2, "tags": ["b"], "x": 2})) == [
        {"total": 3, "tags": ["a", "b"], "x": 1}
    ]
    assert rules == {"total": "sum", "tags": "set", "*": "first"}


@pytest.mark.parametrize("name", ["combine", "optional", "combiner"])
def test_a_function_is_found(module, name):
    own = compile_aggregation(f"function:{module}:{name}", route="orders")
    assert (own.name, own.route) == (f"{module}:{name}", "orders")
    if name == "combine":
        result = own.make(*batch(members({"n": 1}, {"n": 2})), PLENTY)
        assert parsed(result) == [{"key": "k", "sum": 3}]
        ((_, error),) = made(own, {}).refused
        assert error.detail == f"{module}:combine raised KeyError"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "'' is unknown; documents, list, list:100, merge, push, push:templates.toml or function"),
        ("lists", "'lists' is unknown; documents, list, list:100, merge, push"),
        ("lists", "did you mean list?"),
        ("documents:1", "is unknown"),
        ("x" * 500, "is unknown"),
        ("list:", "list: has no limit of messages; a whole number from 1 is needed, like list:100"),
        ("list:0", "list:0 has no limit"),
        ("list:-1", "list:-1 has no limit"),
        ("list:1.5", "list:1.5 has no limit"),
        ("list:ten", "list:ten has no limit"),
        ("list:²", "list:² has no limit"),
        ("list:" + "9" * 5000, "has no limit"),
        ("function", "write function:package.module:name"),
        ("function:module", "write function:package.module:name"),
        ("function::name", "write function:package.module:name"),
        ("function:users_absent:combine", "No module named 'users_absent'"),
        ("function:users_broken_aggregation:combine", "ZeroDivisionError: division by zero"),
        ("function:users_own_aggregations:absent", "users_own_aggregations has no absent"),
        ("function:users_own_aggregations:text", "is str; a function of two arguments is needed"),
        ("function:users_own_aggregations:Combiner", "is a class; a function of two arguments is needed"),
        ("function:users_own_aggregations:one", "must take a key and a list of documents: too many"),
        ("function:users_own_aggregations:three", "missing a required argument: 'more'"),
        ("function:users_own_aggregations:soon", "a plain function is needed"),
        ("function:users_own_aggregations:lazily", "a plain function is needed"),
    ],
    ids=lambda text: text[:50],
)
@pytest.mark.usefixtures("module")
def test_settings_that_name_nothing_are_told_in_one_line(text, problem):
    with pytest.raises(ConfigurationError) as caught:
        compile_aggregation(text, field="routes.orders.aggregate")
    assert caught.value.field == "routes.orders.aggregate"
    assert problem in caught.value.problem
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("rules", [None, {}])
def test_a_merge_needs_rules(rules):
    with pytest.raises(ConfigurationError, match="rules are needed, like") as caught:
        compile_aggregation("merge", rules)
    assert caught.value.field == "merge"


@pytest.mark.parametrize("text", ["documents", "list", "list:5", "nonsense"])
def test_rules_belong_to_a_merge(text):
    with pytest.raises(ConfigurationError, match="rules are for aggregate = merge") as caught:
        compile_aggregation(text, {"v": "sum"})
    assert caught.value.field == "merge"


def test_a_part_is_its_three_fields_by_default():
    assert Part("id", b"{}", []) == ("id", b"{}", [], 0, 1, None)
