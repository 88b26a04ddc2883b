"""The drawings of docs/pictures: as ``make pictures`` draws them, each shown once, nothing cut off."""

from __future__ import annotations

import re
from itertools import pairwise
from xml.etree import ElementTree as ET

import pytest

from aggregator.completion import Trigger
from docs.pictures.__main__ import HERE, drawn
from docs.pictures.timelines import read, written, xs_of

DRAWN = drawn()
PAGES = {page.name: page.read_text() for page in HERE.parent.glob("*.md")}
PICTURE = re.compile(r"!\[([^\]]*)\]\(pictures/([\w-]+\.svg)\)")


def test_they_are_up_to_date():
    files = {path.name: path.read_text() for path in HERE.glob("*.svg")}
    assert files.keys() == DRAWN.keys(), "make pictures"
    assert [name for name, text in files.items() if text != DRAWN[name]] == [], "make pictures"


def test_each_is_shown_once_and_told():
    shown = [name for text in PAGES.values() for _, name in PICTURE.findall(text)]
    assert sorted(shown) == sorted(DRAWN.keys() - {"icon.svg"})
    told = [words for text in PAGES.values() for words, _ in PICTURE.findall(text)]
    assert all(told)


@pytest.mark.parametrize("name", DRAWN)
def test_nothing_lies_outside_of_it(name):
    root = ET.fromstring(DRAWN[name])
    left, top, width, height = map(float, root.attrib["viewBox"].split())
    for shape in root.iter():
        for attribute, most in {"x": width, "cx": width, "y": height, "cy": height}.items():
            assert 0 <= float(shape.attrib.get(attribute, 0)) <= most, ET.tostring(shape)
        for x, y in (map(float, pair.split(",")) for pair in shape.attrib.get("points", "").split()):
            assert 0 <= x <= width, ET.tostring(shape)
            assert 0 <= y <= height, ET.tostring(shape)
    assert (left, top) == (0, 0)


def test_each_trigger_has_a_section_with_its_timelines():
    page = PAGES["timelines.md"]
    assert set(re.findall(r"^## (\w+)$", page, re.MULTILINE)) == {trigger.value for trigger in Trigger}
    for section in page.split("\n## ")[1:]:
        trigger = section.partition("\n")[0]
        names = [name for _, name in PICTURE.findall(section)]
        assert sorted(names) == sorted(name for name in DRAWN if name.startswith(f"timeline-{trigger}-"))


@pytest.mark.parametrize("timeline", list(read(written())), ids=str)
def test_moments_stand_in_their_order_with_room_between(timeline):
    xs = xs_of(timeline)
    assert all(then - now >= 35 for now, then in pairwise(xs)), xs
