"""What the reasons of dead letters mean, and what can be done: for the page that a reason leads to."""

from __future__ import annotations

from typing import Final, NamedTuple


class Explanation(NamedTuple):
    """``means``: what was wrong. ``mend``: what helps before the letters are sent again."""

    means: str
    mend: str


_PUBLISHER = "Mend the publisher; letters can be mended on their way back with --edit."
_SINK = (
    "Mend what the sink says (a mapping, a rule of its own) or the documents, then send the letters again."
)
_OWN = "It is the user's own code: mend it, start the service again, then send the letters again."

UNKNOWN: Final = Explanation(
    "The sink, or the user's own code, has refused these messages by this word.",
    "The detail and the headers of a letter say more. Once the cause is mended, send them again.",
)
EXPLANATIONS: Final = {
    "aggregation-failed": Explanation("No document could be made of the group.", _OWN),
    "bad-charset": Explanation(
        "The content type names a charset that is not taken, or the body is not in it.", _PUBLISHER
    ),
    "bad-date": Explanation("The value that the index, or a time, is made of is no date.", _PUBLISHER),
    "bad-expires": Explanation(
        "The moment after which the message is worth nothing cannot be read.", _PUBLISHER
    ),
    "bad-id": Explanation("The document's id is missing, too long, or not Unicode.", _PUBLISHER),
    "bad-index": Explanation(
        "The index that the message asks for is not on the list of those allowed.", _PUBLISHER
    ),
    "bad-json": Explanation("The body is no JSON: cut off, not strict, or nested too deep.", _PUBLISHER),
    "bad-properties": Explanation("The message's properties or headers cannot be decoded.", _PUBLISHER),
    "bad-push": Explanation("What is to be pushed is not as docs/push.md says.", _PUBLISHER),
    "bad-sentinel": Explanation(
        "The message ends a group, and does not say correctly how many members it has.", _PUBLISHER
    ),
    "bad-sequence": Explanation(
        "Members of one group say different numbers of members, or none.", _PUBLISHER
    ),
    "bad-task": Explanation("The message is no task of Celery.", _PUBLISHER),
    "bad-value": Explanation(
        "A value that a setting refers to is not of the kind that is needed.", _PUBLISHER
    ),
    "bad-version": Explanation("The document's version is no number.", _PUBLISHER),
    "compressed": Explanation("The body is compressed by a method that is not taken, or broken.", _PUBLISHER),
    "delivery-limit": Explanation(
        "The broker has handed it out too often without a verdict: it may be what kills the process.",
        "docs/poison.md tells how to find out. Look at a letter before it is sent again.",
    ),
    "document_parsing_exception": Explanation(
        "A field of the document does not fit the index's mapping.", _SINK
    ),
    "empty-body": Explanation("The message has no body.", _PUBLISHER),
    "eta-in-future": Explanation(
        "The task is to run at a later time, which is not waited for.", "Publish it when it is due."
    ),
    "failure_store": Explanation(
        "Elasticsearch has put the document into the data stream's failure store.", _SINK
    ),
    "function-failed": Explanation("A function of the user's own raised for this message.", _OWN),
    "late": Explanation(
        "The group of its key was complete when it came.",
        "closed_for, late and sentinel_grace say what is late.",
    ),
    "mapper_parsing_exception": Explanation(
        "A field of the document does not fit the index's mapping.", _SINK
    ),
    "no-key": Explanation(
        "What correlates messages is missing in this one.", "on_missing_key may name a key for such messages."
    ),
    "not-an-object": Explanation(
        "The body is JSON, but no object, and only objects can be written.", _PUBLISHER
    ),
    "not-unicode": Explanation("Its id or its document is no valid Unicode.", _PUBLISHER),
    "outside-window": Explanation("Its time lies outside of what the route takes.", _PUBLISHER),
    "predicate-failed": Explanation("The predicate of the user's own raised for this message.", _OWN),
    "retries-exhausted": Explanation(
        "It was tried again and again while the sink took others.",
        "See what the sink says of it; the step may be repeated with --retry. Then send the letters again.",
    ),
    "strict_dynamic_mapping_exception": Explanation(
        "The document has a field that the strict mapping does not know.", _SINK
    ),
    "too-large": Explanation(
        "The message is larger than max_message, or than the sink takes.",
        "Raise the limit (max_message, or the sink's own), or split the documents.",
    ),
    "unknown-app": Explanation(
        "The push is for an app that no sink was set up for.", "Set the app up, then send the letters again."
    ),
    "unknown-type": Explanation("The content type is none that is taken.", _PUBLISHER),
    "unreadable": Explanation("The body cannot be read as what its properties say.", _PUBLISHER),
    "unroutable": Explanation(
        "The exchange has no queue for it.", "Bind a queue, then send the letters again."
    ),
    "unsupported-canvas": Explanation(
        "The task has callbacks or a chain, which nobody would run.", _PUBLISHER
    ),
    "unsupported-serializer": Explanation("The task is serialised by something other than JSON.", _PUBLISHER),
    "wrong-platform": Explanation("The push is for another platform than its sink serves.", _PUBLISHER),
}


def explain(reason: str) -> Explanation:
    """Return what a reason means."""
    return EXPLANATIONS.get(reason, UNKNOWN)
