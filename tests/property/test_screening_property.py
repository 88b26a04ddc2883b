"""Whatever is revoked, and whenever: each delivery ends once, the counts add up, and groups complete."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.testing import Harness

KEYS = st.sampled_from("ab")
IDS = st.integers(0, 9)
STEPS = st.one_of(
    st.tuples(st.just("publish"), KEYS, IDS),
    st.tuples(st.just("revoke"), KEYS, IDS),
    st.tuples(st.just("revoke_key"), KEYS, IDS),
    st.tuples(st.just("lose"), KEYS, st.integers(0, 1)),
    st.tuples(st.just("fail"), KEYS, IDS),
    st.tuples(st.just("pause"), KEYS, IDS),
    st.tuples(st.just("resume"), KEYS, IDS),
    st.tuples(st.just("advance"), KEYS, IDS),
)


def play(route, steps):
    """Do the steps; return the ids that were revoked before they were published."""
    published, early, revoked = set(), set(), set()
    for what, key, number in steps:
        name = f"{key}{number}"
        if what == "publish":
            early |= {name} if name not in published and {name, key} & revoked else set()
            published.add(name)
            route.publish({"id": name}, id=name, headers={"k": key})
        elif what == "revoke":
            revoked.add(name)
            route.revoke(name)
        elif what == "revoke_key":
            revoked.add(key)
            route.revoke(keys=[key])
        elif what == "lose":
            route.lose_link(number)
        elif what == "fail":
            route.sink.fail()
        elif what in {"pause", "resume"}:
            getattr(route, what)()
        else:
            route.advance(number / 4)
    route.resume()
    route.settle()
    return published, early


@settings(max_examples=150)
@given(
    steps=st.lists(STEPS, max_size=40),
    keyed=st.booleans(),
    form=st.sampled_from(["documents", "list"]),
    size=st.integers(1, 4),
)
def test_the_counts_add_up(steps, keyed, form, size):
    if not keyed:
        steps = [step for step in steps if step[0] != "revoke_key"]
    options = {"correlate": "header:k"} if keyed else {}
    with Harness(size=size, links=2, aggregate=form, **options) as route:
        published, early = play(route, steps)
        received = sum(message.deliveries for message in route.acked)
        assert sum(route.totals.values()) == received
        assert route.queue == []
        documents = route.documents
        if form == "list":
            documents = [member for document in documents for member in document["messages"]]
        written = Counter(document["id"] for document in documents)
        assert not early & set(written), "revoked before it came, and written"
        assert set(written) <= published
        ended = Counter(message.id for message in route.acked)
        assert set(ended) == published


@settings(max_examples=100)
@given(
    members=st.integers(1, 5),
    revoked=st.sets(st.integers(0, 4)),
    when=st.integers(0, 6),
    by_key=st.booleans(),
)
def test_a_counted_group_completes_whatever_is_revoked(members, revoked, when, by_key):
    names = [f"m{n}" for n in range(members)]
    gone = names if by_key else [names[n] for n in revoked if n < members]
    with Harness(
        correlate="header:k", aggregate="list", sentinel="type=end", sentinel_count="n", size="none",
        age="none", idle="1h",
    ) as route:  # fmt: skip
        for at, name in enumerate([*names, "end"]):
            if at == min(when, members):
                route.revoke(*gone, keys=["k"] if by_key else [])
            more = {"type": "end"} if name == "end" else {}
            route.publish({"id": name}, id=name, headers={"k": "k", "n": members}, **more)
        assert [(batch.trigger, batch.complete) for batch in route.batches] == [("sentinel", True)]
        route.advance("10s")
        assert route.queue == []
        kept = [{"id": name} for name in names if name not in gone]
        assert route.documents == ([{"key": "k", "messages": kept}] if kept else [])
        expected = {"written": len(kept), "revoked": len(gone), "control": 1}
        assert route.totals == {word: number for word, number in expected.items() if number}
