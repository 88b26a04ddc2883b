"""Users in files: what is taken, what is refused with which reason, and made-up ones."""

from __future__ import annotations

import pytest

from aggregator.errors import ConfigurationError
from producers.campaigns.made_up import MadeUp
from producers.campaigns.users import FIELDS, BadRowError, check, read_csv, read_jsonl, user_of
from producers.campaigns.writing import shard_of

GOOD = {
    "id": "u1", "token": "ab" * 32, "platform": "apns", "app_version": "3.2.1", "language": "pt-BR",
    "resolution": "1170x2532", "tz": "Europe/Berlin", "hour_from": "9", "hour_to": "18",
    "registered": "1700000000",
}  # fmt: skip
ROW = ["u1", "ab" * 32, "apns", 3_002_001, "pt-BR", "1170x2532", "Europe/Berlin", 9, 18, 1_700_000_000]


def test_a_full_row():
    assert user_of(GOOD) == ROW
    assert check([GOOD[name] for name in FIELDS]) == ROW


def test_what_is_missing_has_a_default():
    assert user_of({"id": 7, "token": "x" * 140, "platform": "fcm"}) == [
        7, "x" * 140, "fcm", 0, "", "", "UTC", None, None, 0,
    ]  # fmt: skip
    assert user_of({**GOOD, "hour_from": "", "hour_to": ""})[7:9] == [None, None]


@pytest.mark.parametrize(
    ("field", "value", "row"),
    [
        ("app_version", "4", 4_000_000),
        ("app_version", "4.1", 4_001_000),
        ("app_version", 3_002_001, 3_002_001),
        ("app_version", "3002001", 3_002_001),
        ("tz", "+05:30", "+05:30"),
        ("registered", "2023-11-14T22:13:20Z", 1_700_000_000),
        ("registered", "1700000000.5", 1_700_000_000.5),
        ("hour_to", "24", 24),
    ],
)
def test_ways_to_write_it(field, value, row):
    assert user_of({**GOOD, field: value})[FIELDS.index(field)] == row


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("id", ""), ("id", None), ("id", -1), ("id", 1.5), ("id", "x" * 129), ("id", "a\x00"),
        ("id", "\udc80"),
        ("token", "ab" * 31), ("token", "ab" * 101), ("token", "a" * 65), ("token", "g" * 64),
        ("token", None),
        ("token", 5), ("platform", "ios"), ("platform", None), ("app_version", "three"),
        ("app_version", "1.2.3.4"),
        ("app_version", -1), ("app_version", "1.1000"), ("language", "d"), ("language", "de;en"),
        ("resolution", "a b"), ("resolution", "x" * 33), ("tz", "Mars/Olympus"), ("tz", "+25:00"), ("tz", 3),
        ("tz", "\udc80"), ("hour_from", "24"), ("hour_from", "-1"), ("hour_from", ""), ("hour_to", "25"),
        ("hour_to", "noon"), ("registered", "yesterday"), ("registered", -1), ("registered", "nan"),
        ("registered", 1_700_000_000_000),
    ],
)  # fmt: skip
def test_what_is_refused_names_its_field_and_shows_no_value(field, value):
    with pytest.raises(BadRowError) as caught:
        user_of({**GOOD, field: value})
    assert caught.value.field in {field, "hour_from"}
    assert str(caught.value).startswith(caught.value.field)
    assert GOOD["token"] not in str(caught.value)


@pytest.mark.parametrize("token", ["short", "x" * 4097, "with space" * 5, "ü" * 30])
def test_tokens_of_the_other_gateway(token):
    with pytest.raises(BadRowError) as caught:
        user_of({**GOOD, "platform": "fcm", "token": token})
    assert caught.value.field == "token"


def lines(text):
    return text.splitlines(keepends=True)


def test_csv_rows_with_their_numbers():
    token = "ab" * 32
    text = (
        f"Platform,id,token,note\napns,one,{token},x\n\nios,two,{token},x\napns,three\n"
        f'"apns","four\n","{token}",x\napns,"five"x,{token},\napns,six,{token},\n'
    )
    found = list(read_csv(lines(text), ["note"]))
    assert [(read.number, str(read.fault).partition(" ")[0]) for read in found if read.fault] == [
        (4, "platform"), (5, "row"), (7, "id"), (8, "row"),
    ]  # fmt: skip
    assert [read.user[0] for read in found if read.user] == ["one", "six"]
    assert found[1].record == ["ios", "two", token, "x"]


@pytest.mark.parametrize(
    ("header", "word"),
    [
        ("", "id"),
        ("id,token", "platform"),
        ("id,token,platform,zone", "zone"),
        ("id,token,platform,id", "twice"),
    ],
)
def test_a_header_that_is_none(header, word):
    with pytest.raises(ConfigurationError, match=word):
        list(read_csv([header + "\n"]))


def test_jsonl_rows_with_their_numbers():
    token = b"ab" * 32
    text = [
        b'{"id":1,"token":"%s","platform":"apns","more":[]}\n' % token, b"\n", b"{nonsense\n", b"[1]\n",
        b'{"id":2,"token":"%s","platform":"fcm","tz":"Mars"}\n' % token, b"\xff\n",
    ]  # fmt: skip
    found = list(read_jsonl(text))
    assert [read.user[0] for read in found if read.user] == [1]
    assert [(read.number, read.fault.field) for read in found if read.fault] == [
        (3, "row"), (4, "row"), (5, "tz"), (6, "row"),
    ]  # fmt: skip


def test_made_up_users_are_users_and_the_same_each_time():
    rows = list(MadeUp(seed=3).users(1500))
    assert rows == list(MadeUp(seed=3).users(2100))[:1500]
    assert rows != list(MadeUp(seed=4).users(1500))
    assert [check(row) for row in rows] == rows
    assert len({row[0] for row in rows}) == len({row[1] for row in rows}) == 1500


def test_made_up_users_keep_to_their_shares():
    made = MadeUp(zones={"Asia/Tokyo": 3, "UTC": 1}, platforms={"fcm": 1}).users(4000)
    rows = list(made)
    assert {row[2] for row in rows} == {"fcm"}
    assert 2800 < sum(row[6] == "Asia/Tokyo" for row in rows) < 3200


def test_a_shard_is_that_of_the_id():
    assert {shard_of(f"u{n}", 3) for n in range(50)} == {0, 1, 2}
    assert shard_of(7, 3) == shard_of("7", 3)
    assert shard_of("anything", 1) == 0
