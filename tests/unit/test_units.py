"""Durations and sizes: what is read, and what is refused with which words."""

from __future__ import annotations

import pytest
from pydantic import BaseModel, ValidationError

from aggregator.units import Duration, Size, format_duration, parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("500ms", 0.5),
        ("2s", 2.0),
        ("1.5s", 1.5),
        ("1h30m", 5400.0),
        (" 5m ", 300.0),
        ("1d", 86400.0),
        ("0", 0.0),
        (0, 0.0),
        (0.0, 0.0),
        ("0s", 0.0),
    ],
)
def test_durations(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["2", 2, 2.5, "-3", "nan", "inf"], ids=["text", "int", "float", "negative", "nan", "inf"]
)
def test_a_number_without_its_unit_is_refused(text):
    with pytest.raises(ValueError, match="has no unit; a number with its unit is needed, like 500ms"):
        parse_duration(text)


@pytest.mark.parametrize("text", ["", "s", "2x", "1s,,2s", "-2s", "1..2s", "2 s", "1mm", "1y", "1S"])
def test_no_durations(text):
    with pytest.raises(ValueError, match="is no duration; a number with its unit"):
        parse_duration(text)


@pytest.mark.parametrize("text", [None, True, [], b"2s"])
def test_other_types_are_no_durations(text):
    with pytest.raises(ValueError, match="a number with its unit is needed"):
        parse_duration(text)


@pytest.mark.parametrize("text", ["99999999999h", "9" * 400 + "s"])
def test_too_long(text):
    with pytest.raises(ValueError):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [("10MB", 10_000_000), ("512KiB", 524_288), ("1.5MiB", 1_572_864), ("10mb", 10_000_000), ("4096", 4096),
     (4096, 4096), ("10 MB", 10_000_000), ("0", 0)],
)  # fmt: skip
def test_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "MB", "10XB", "ten", None, True, 1.5, "1e400MB", "1..5MB", "10Mbit", "iB", "1iBx"]
)
def test_no_sizes(text):
    with pytest.raises(ValueError, match="a number of bytes is needed, like 512KiB, 10MB"):
        parse_size(text)


@pytest.mark.parametrize("size", ["-1", -1])
def test_a_size_below_zero_is_refused(size):
    with pytest.raises(ValueError):
        parse_size(size)


class Settings(BaseModel):
    age: Duration = 2.0
    bytes: Size = 10


def test_as_pydantic_types():
    assert Settings.model_validate({"age": "1m", "bytes": "1KiB"}) == Settings(age="60s", bytes=1024)
    with pytest.raises(ValidationError, match="has no unit"):
        Settings.model_validate({"age": "2"})


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0"), (0.5, "500ms"), (2, "2s"), (5400, "1h30m"), (61.25, "1m1s250ms")]
)
def test_durations_are_written_as_they_are_read(seconds, text):
    assert format_duration(seconds) == text
    assert parse_duration(text) == seconds
