"""What comes from strangers, mutated: nothing escapes but the documented errors, and all is bounded.

The same targets are driven by coverage in ``make fuzz``.
"""

from __future__ import annotations

import random
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.targets import BOUND, EXAMPLES, WORDS, answer, message, properties, push, stream

MUTATIONS = ("flip", "set", "delete", "repeat", "insert", "word", "length", "join", "swap")


@st.composite
def mutated(draw, target):
    """An example of a target, changed in some places; by a seed, as each choice drawn would be too many."""
    chance = random.Random(draw(st.integers(0, 2**32)))
    data = bytearray(chance.choice(EXAMPLES[target]))
    for _ in range(chance.choice([1, 1, 2, 4, 16])):
        at, size = chance.randrange(len(data) + 1), chance.choice([1, 2, 4, 40])
        kind = chance.choice(MUTATIONS)
        if kind == "flip" and at < len(data):
            data[at] ^= 1 << chance.randrange(8)
        elif kind == "set":
            data[at : at + size] = bytes([chance.choice([0, 1, 127, 128, 206, 255])]) * size
        elif kind == "delete":
            del data[at : at + size]
        elif kind == "repeat":
            data[at:at] = data[at : at + size] * chance.choice([1, 2, 100])
        elif kind == "insert":
            data[at:at] = chance.randbytes(size)
        elif kind == "word":
            data[at:at] = chance.choice(WORDS)
        elif kind == "length":  # where a length may stand: more than there is
            data[at : at + 4] = chance.choice([2**31, 2**32 - 1, 2**16, len(data)]).to_bytes(4, "big")
        elif kind == "join":
            data += chance.choice(EXAMPLES[target])[:2_000]
        else:
            data[at:] = data[at + size :] + data[at : at + size]
    return bytes(data[:20_000])


@given(mutated(stream))
def test_a_broker_that_is_none(data):
    stream(data)


@given(mutated(properties) | st.binary(max_size=60))
def test_properties_of_any_kind(data):
    properties(data)


@given(mutated(message) | st.binary(max_size=200))
@settings(max_examples=3 * settings().max_examples)
def test_messages_of_any_kind(data):
    message(data)


@given(mutated(answer) | st.binary(max_size=60))
def test_answers_of_any_kind(data):
    answer(data)


@given(mutated(push) | st.binary(max_size=60))
@settings(max_examples=2 * settings().max_examples)
def test_push_messages_of_any_kind(data):
    push(data)


@pytest.mark.parametrize("target", EXAMPLES, ids=lambda target: target.__name__)
def test_the_examples_are_what_is_meant(target):
    """They reach what is behind the first look: some are read to their end."""
    words = {target(example) for example in EXAMPLES[target]}
    assert (
        words
        >= {
            "stream": {"OSError"},
            "properties": {"read"},
            "message": {"document", "bad-charset"},
            "answer": {"verdicts", "unknown"},
            "push": {"sent", "refused", "bad-push"},
        }[target.__name__]
    )


@pytest.mark.parametrize("size", [2**32 - 1, 2**31, 2**24])
def test_no_length_is_believed_before_its_bytes_are_there(size):
    """A frame, a body or a table that claims gigabytes costs what was received."""
    claims = [
        b"\xff" + b"\x01\x00\x01" + size.to_bytes(4, "big") + b"x" * 50_000,
        b"\xff" + EXAMPLES[stream][-1][1:].replace((4).to_bytes(8, "big"), size.to_bytes(8, "big"), 1),
    ]
    tracemalloc.start()
    try:
        for claim in claims:
            stream(claim)
        properties(b"\x20\x00" + size.to_bytes(4, "big") + b"\x01aS" + size.to_bytes(4, "big") + b"x" * 50)
        assert tracemalloc.get_traced_memory()[1] < 2 * BOUND
    finally:
        tracemalloc.stop()
