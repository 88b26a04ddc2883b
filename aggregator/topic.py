"""Patterns of topic exchanges: words between dots, ``*`` for one word, ``#`` for any number, even none."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

MAX_BYTES: Final = 255
"""AMQP's limit on a routing key and on a binding's pattern, in bytes of UTF-8."""


@lru_cache(maxsize=4096)
def matches(pattern: str, key: str) -> bool:
    """Tell whether a topic's binding takes ``key``, as RabbitMQ does."""
    words = key.split(".")
    reached = {0}  # how many words the pattern's beginning can have used up
    for part in pattern.split("."):
        if part == "#":
            reached = set(range(min(reached), len(words) + 1)) if reached else reached
        else:
            reached = {at + 1 for at in reached if at < len(words) and part in ("*", words[at])}
    return len(words) in reached


def overlap(one: str, other: str) -> bool:
    """Tell whether there is a routing key that both patterns take."""
    ours, theirs = one.split("."), other.split(".")
    # reached[j]: what has been read of ours and j words of theirs can stand for the same words
    reached = _skipping([j == 0 for j in range(len(theirs) + 1)], theirs)
    for word in ours:
        following = [False] * (len(theirs) + 1)
        for j, is_reached in enumerate(reached):
            if not is_reached:
                continue
            if word == "#":
                # it stands for nothing, or for all that the other one has from here on
                following[j:] = [True] * (len(theirs) + 1 - j)
                break
            if j < len(theirs) and theirs[j] == "#":
                following[j] = True  # their # takes our word, and may take more
            if j < len(theirs) and (theirs[j] in ("*", "#", word) or word == "*"):
                following[j + 1] = True
        reached = _skipping(following, theirs)
    return reached[-1]


def _skipping(reached: list[bool], words: list[str]) -> list[bool]:
    """Add what is reached by taking a ``#`` for no word."""
    for j, word in enumerate(words):
        if reached[j] and word == "#":
            reached[j + 1] = True
    return reached


def pattern_problem(pattern: str) -> str | None:
    """Return what is wrong with a topic's pattern and what would be right, or None."""
    if not pattern:
        return "the pattern is empty; words with dots between them are needed, like video.*, or # for all"
    if (size := len(pattern.encode())) > MAX_BYTES:
        return f"the pattern has {size} bytes; AMQP allows {MAX_BYTES}"
    for word in pattern.split("."):
        sign = next((sign for sign in "*#" if sign in word), None)
        if sign is not None and word != sign:
            return f"{pattern!r}: {sign} stands for whole words, not for a part of {word!r}; write it alone"
    return None
