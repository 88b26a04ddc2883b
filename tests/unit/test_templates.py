"""Texts by type, language and number."""

from __future__ import annotations

import pytest

from aggregator.errors import ConfigurationError, MessageRefusedError
from aggregator.templates import LONGEST_VALUE, Templates, Text

ENGLISH = """
[types.letter]
collapse_id = "letters"
[types.letter.texts.en]
title = "Mail for {name}"
one = "{sender} wrote you a letter"
other = "{count} new letters"
"""
RUSSIAN = """
[types.letter.texts.ru]
one = "{count} новое письмо"
few = "{count} новых письма"
many = "{count} новых писем"
other = "{count} письма"
"""


@pytest.fixture
def load(tmp_path):
    def make(text):
        (path := tmp_path / "templates.toml").write_text(text)
        return Templates(path)

    return make


EVENT = {"sender": "Ann", "name": "Bob"}


def test_one_and_many(load):
    templates = load(ENGLISH)
    assert templates.render("letter", "en", 1, EVENT) == Text("Mail for Bob", "Ann wrote you a letter")
    assert templates.render("letter", "en", 3, EVENT).body == "3 new letters"
    assert templates.render("letter", "en", 12_345, EVENT).body == "12,345 new letters"


@pytest.mark.parametrize(
    ("count", "text"),
    [(1, "1 новое письмо"), (2, "2 новых письма"), (5, "5 новых писем"), (11, "11 новых писем"),
     (21, "21 новое письмо"), (22, "22 новых письма"), (1_000, "1\N{NO-BREAK SPACE}000 новых писем")],
)  # fmt: skip
def test_forms_of_a_language_with_several(load, count, text):
    assert load(ENGLISH + RUSSIAN).render("letter", "ru", count, EVENT).body == text


@pytest.mark.parametrize("language", ["de", None, "", "en-GB", "en_GB", "no such"])
def test_what_is_not_there_is_the_default(load, language):
    assert load(ENGLISH + RUSSIAN).render("letter", language, 2, EVENT).body == "2 new letters"


def test_the_region_is_dropped_before_the_language_is(load):
    assert load(ENGLISH + RUSSIAN).render("letter", "ru-RU", 2, EVENT).body == "2 новых письма"


def test_a_value_is_shortened_and_never_read_as_a_text(load):
    body = load(ENGLISH).render("letter", "en", 1, {"sender": "{count}" + "x" * 5_000, "name": 7}).body
    assert body.startswith("{count}xxx")
    assert len(body.removesuffix(" wrote you a letter")) == LONGEST_VALUE


@pytest.mark.parametrize("event", [{}, {"sender": None}, {"sender": True}, {"sender": ["Ann"]}])
def test_a_field_that_the_event_lacks(load, event):
    with pytest.raises(MessageRefusedError, match="bad-value: its text needs the field sender"):
        load(ENGLISH).render("letter", "en", 1, {"name": "Bob", **event})


@pytest.mark.parametrize("event", [{}, {"type": "parcel"}, {"type": 7}, {"type": ["letter"]}])
def test_an_unknown_type(load, event):
    with pytest.raises(MessageRefusedError, match="unknown-type"):
        load(ENGLISH).type_of(event)


def test_where_type_and_language_stand(load):
    templates = load('type = "/what/kind"\nlanguage = "/who/0"\n' + ENGLISH)
    assert templates.type_of({"what": {"kind": "letter"}}) == "letter"
    assert templates.language_of({"who": ["ru"]}) == "ru"
    assert templates.language_of({"language": "ru"}) is None


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("types = 1", "types: Input should be a valid dictionary"),
        ('type = "kind"\n' + ENGLISH, "type: 'kind' is no JSON pointer; one like /user/type is needed"),
        ('devices = "devices"\n' + ENGLISH, "devices: 'devices' is no JSON pointer"),
        ("[types]", "types: Dictionary should have at least 1 item"),
        ("nonsense", "Expected '='"),
        ("[types.letter.texts.en]\none = 'a'", "types.letter.texts.en.other: Field required"),
        ("[types.letter.texts.en]\nother = 'a'", "en: the language needs a text for one"),
        ("[types.letter.texts.de]\none = 'a'\nother = 'b'", "texts.en is missing, the default language"),
        (ENGLISH + "[types.letter.texts.xx]\nother = 'a'", "xx: no language of CLDR"),
        (ENGLISH + "[types.letter.texts.ru]\none='a'\nother='a'", "the language needs a text for few, many"),
        (ENGLISH.replace("{sender}", "{sender.__class__}"), "one: {sender.__class__} is no field"),
        (ENGLISH.replace("{sender}", "{}"), "one: {} is no field; a plain name"),
        (ENGLISH.replace("{sender}", "{sender!r}"), "one: {sender} is no field"),
        (ENGLISH.replace("{sender}", "{sender"), "a brace is written twice"),
        (ENGLISH.replace("collapse_id", "colapse_id"), "types.letter.colapse_id: Extra inputs"),
        (ENGLISH.replace('"letters"', f'"{"x" * 65}"'), "letter.collapse_id: String should have at most 64"),
        (ENGLISH.replace("collapse_id", "ttl"), "types.letter.ttl: Value error, 'letters' is no duration"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_at_the_start(load, text, fault):
    with pytest.raises(ConfigurationError, match=r"^aggregate: .*templates\.toml: ") as caught:
        load(text)
    assert fault in str(caught.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ConfigurationError, match=r"nowhere\.toml: No such file"):
        Templates(tmp_path / "nowhere.toml")
