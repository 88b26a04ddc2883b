"""What Elasticsearch really stores is what was meant: nothing in a message becomes an index, id or action.

Documents, ids, routing values and names of indices are made of what could break out of a line or a
string; a document that stands there all the time must stay, and no index may come into being.
"""

from __future__ import annotations

import json
import uuid
from itertools import count
from urllib.parse import urlsplit

import orjson
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from aggregator.documents import make_document
from aggregator.errors import MessageRefusedError
from aggregator.sinks import from_url
from aggregator.sinks.base import WRITTEN, Fate
from aggregator.testing.memory import MemoryDelivery
from consumers.publisher import Outgoing

pytestmark = pytest.mark.integration

#: Actions on the document that has to stay.
DELETE = '{"delete":{"_index":"VICTIM","_id":"v"}}'
OVERWRITE = '{"index":{"_index":"VICTIM","_id":"v"}}\n{"n":2}'
BREAKS = [
    "\n",
    "\r\n",
    "\r",
    "\u2028",
    "\u2029",
    "\x85",
    "\0",
    "\\n",
    '"',
    '"}}',
    "\\",
    "\\u000a",
    "\ufeff",
    "\ud800",
]
words = st.sampled_from([*BREAKS, DELETE, OVERWRITE, '","_index":"VICTIM', "VICTIM", "v", "\U0001f600"])
nasty = st.lists(words | st.text(max_size=3), max_size=5).map("".join)
keys = st.sampled_from(["_index", "_id", "_source", "_routing", "delete", "create", "op_type", "n"]) | nasty
values = st.recursive(
    nasty | st.integers(-9, 9) | st.none() | st.booleans(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=6,
)
layouts = st.sampled_from([{}, {"indent": 1}, {"indent": "\r\n"}, {"separators": (",\r", ":\n")}])


@st.composite
def bodies(draw):
    """Bodies: objects however they are laid out, and such with more lines behind, before or within."""
    text = json.dumps(
        draw(st.dictionaries(keys, values, max_size=4)), ensure_ascii=draw(st.booleans()), **draw(layouts)
    )
    more = draw(
        st.sampled_from(
            ["", "", "", f"\n{DELETE}", f"\n{DELETE}\n{{}}", f"\r{OVERWRITE}", f"\n\n{OVERWRITE}\n"]
        )
    )
    return (text + more if draw(st.booleans()) or not more else more + text).encode("utf-8", "surrogatepass")


#: Body, id, routing value, name of the index (None: one that is allowed), whether JSON is trusted.
messages = st.tuples(bodies(), nasty, nasty, st.none() | nasty | st.just("VICTIM"), st.booleans())


class Store:
    """Two indices that are allowed, and one with the document that has to stay."""

    def __init__(self, elasticsearch, prefix):
        self.elasticsearch = elasticsearch
        self.prefix = prefix
        self.allowed, self.victim = f"{prefix}-allowed", f"{prefix}-victim"
        for name in (self.allowed, self.victim):
            # what is in a document is stored and not looked at
            body = {
                "mappings": {"enabled": False},
                "settings": {"number_of_replicas": 0, "number_of_shards": 2},
            }
            elasticsearch.call("PUT", f"/{name}", body)
        elasticsearch.call("PUT", f"/{self.victim}/_doc/v?refresh=true", {"n": 1})
        self.sink = from_url(
            urlsplit(
                f"elasticsearch+{elasticsearch.url}/?index_from=header:index&allow={self.allowed}"
                "&routing=header:routing"
            ).geturl()
        )
        self.sink.open()
        self.serial = count()
        self.written = 0

    def named(self, text):
        return text.replace("VICTIM", self.victim)

    def stored(self, items):
        """Return the sources of items by their position, None where there is no such document."""
        docs = [{"_index": self.allowed, "_id": i.id, **routing(i)} for i in items]
        found = self.elasticsearch.call("POST", "/_mget", {"docs": docs})["docs"] if docs else []
        return [doc["_source"] if doc.get("found") else None for doc in found]

    def untouched(self):
        """Say whether the document still stands as it was, with no other beside it, and no other index."""
        call = self.elasticsearch.call
        doc = call("GET", f"/{self.victim}/_doc/v")
        indices = [each["index"] for each in call("GET", "/_cat/indices?format=json&expand_wildcards=all")]
        ours = sorted(name for name in indices if name.startswith(self.prefix))
        return (doc["_source"], doc["_version"]) == ({"n": 1}, 1) and ours == [self.allowed, self.victim]


def routing(item):
    value = item.headers["routing"]
    return {"routing": value} if value else {}


@pytest.fixture(scope="module")
def indices(fleet):
    elasticsearch = fleet.get("elasticsearch")
    made = Store(elasticsearch, f"test-{uuid.uuid4().hex}")
    before = {each["index"] for each in elasticsearch.call("GET", "/_cat/indices?format=json")}
    yield made
    made.sink.close()
    after = {each["index"] for each in elasticsearch.call("GET", "/_cat/indices?format=json")}
    for name in (made.allowed, made.victim):
        elasticsearch.call("DELETE", f"/{name}")
    assert after <= before


@given(st.lists(messages, min_size=1, max_size=12))
@example(
    [(b'{"_index":"x","_id":"y","delete":{"_index":"VICTIM","_id":"v"}}', '\n"}}', "\u2028\0", None, True)]
)
@example([(b'{"a":1}\n' + DELETE.encode() + b"\n{}", "\n" + DELETE + "\n", '"', None, True)])
@settings(max_examples=min(60, settings().max_examples), suppress_health_check=list(HealthCheck))
def test_what_is_stored_is_what_was_meant(elasticsearch, indices, given_messages):
    items, meant = [], []
    for body, name, route, index, trust in given_messages:
        headers = {"index": indices.allowed if index is None else indices.named(index), "routing": route}
        delivery = MemoryDelivery(
            indices.named(body.decode("utf-8", "surrogatepass")).encode("utf-8", "surrogatepass"),
            headers=headers,
            properties={"content_type": "application/json"},
        )
        delivery.id = f"{indices.named(name)}#{next(indices.serial)}"
        try:
            delivery.document = make_document(delivery, trust_json=trust, max_bytes=10**6)
        except MessageRefusedError:
            continue
        items.append(delivery)
        meant.append(None if index is not None else delivery.document)
    verdicts = (indices.sink.write(items) if items else ()) or [WRITTEN] * len(items)
    for verdict in verdicts:
        assert verdict is WRITTEN or verdict.fate is Fate.DEAD_LETTER, verdict
    sendable = [
        n for n, item in enumerate(items) if is_unicode(item.id) and is_unicode(item.headers["routing"])
    ]
    for n, found in zip(sendable, indices.stored([items[n] for n in sendable]), strict=True):
        if verdicts[n] is WRITTEN:
            assert meant[n] is not None, "its index is not allowed"
            assert found == json.loads(meant[n].decode(), strict=True) or not whole(meant[n])
        else:
            assert found is None
    assert {n for n, verdict in enumerate(verdicts) if verdict is WRITTEN} <= set(sendable)
    indices.written += sum(verdict is WRITTEN for verdict in verdicts)
    assert indices.elasticsearch.count(indices.allowed) == indices.written
    assert indices.untouched()


def whole(document):
    """Say whether it is one object; what was trusted may be more, or none."""
    try:
        return type(orjson.loads(document)) is dict
    except orjson.JSONDecodeError:
        return False


def is_unicode(text):
    return not any("\ud800" <= character <= "\udfff" for character in text)


def test_through_the_service(stage, indices):
    """By way of either broker: ids, headers and bodies as a publisher can write them."""
    texts = [
        "\n",
        "\r\n",
        "\u2028",
        "\0",
        '"',
        '","_index":"VICTIM',
        "\n" + DELETE + "\n",
        OVERWRITE,
        "\\u000a",
    ]
    meant, sent = {}, []
    for number, text in enumerate(map(indices.named, texts)):
        document = {text: text, "_index": indices.victim, "_id": "v", "n": number}
        name = f"{text}#{stage.queue}"
        meant[name] = document
        sent.append((name, json.dumps(document, indent="\r\n"), indices.allowed, text))
        more = indices.named(f"\n{DELETE}\n{{}}")
        sent.append((f"bad{name}", json.dumps(document) + more, indices.allowed, text))
    sent.append(("v", '{"n":2}', indices.victim, ""))
    stage.publish(
        Outgoing(
            "",
            stage.queue,
            body.encode(),
            {
                "content_type": "application/json",
                "message_id": name,
                "headers": {"index": index, "routing": route},
            },
        )
        for name, body, index, route in sent
    )
    options = f"?index_from=header:index&allow={indices.allowed}&routing=header:routing"
    sink = f"elasticsearch+{stage.elasticsearch.url}/{options}"
    running = stage.start("--size", "10", "--breaker-window", "0", "--until-empty", sink=sink)
    assert running.wait() == 0
    found = stage.elasticsearch.documents(indices.allowed)
    assert {name: found[name] for name in meant} == meant
    indices.written += len(meant)
    assert indices.elasticsearch.count(indices.allowed) == indices.written
    reasons = [letter.headers["x-aggregator-reason"] for letter in stage.dead()]
    assert sorted(reasons) == ["bad-index", *["bad-json"] * len(meant)]
    assert indices.untouched()
