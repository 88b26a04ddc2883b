"""What Elasticsearch's answers mean: a verdict for each item, an exception for a whole request.

Elasticsearch quotes the document in its errors (``Preview of field's value: …``). Of such words
only those are kept that name the fault and the field.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from aggregator.errors import (
    RequestRefusedError,
    RequestTooLargeError,
    SinkBlockedError,
    SinkError,
    SinkUnavailableError,
)
from aggregator.sinks.base import DUPLICATE, WRITTEN, Fate, Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

FILTER_PATH = "errors,items.*._id,items.*.status,items.*.error,items.*.failure_store"
"""``_id`` is asked for so that an answer in another order can be told; each item keeps a status."""

_WRITTEN = (HTTPStatus.OK, HTTPStatus.CREATED)
_NO_ACCESS = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)
_LATER = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS)
_GOOD = frozenset((status, 2) for status in _WRITTEN)  # its status, and no member but that and the id
_WORD = re.compile(r"[a-z][a-z0-9_]{0,99}")
_FIELD = r"\[(@?[A-Za-z_][\w.-]{0,127})\]"
_SAYINGS = (
    (re.compile(rf"failed to parse field {_FIELD} of type \[(\w{{1,40}})\]"), "field [{}] of type [{}]"),
    (re.compile(rf"object mapping for {_FIELD} tried to parse"), "object field [{}] got a plain value"),
    (re.compile(rf"mapping set to strict, dynamic introduction of {_FIELD} within"), "unknown field [{}]"),
    (
        re.compile(r"(?:failed to parse: )?Limit of ([a-z ]{1,40}) \[(\d+)\] has been exceeded"),
        "limit of {} [{}]",
    ),
    (re.compile(r"(?:failed to parse: )?[Mm]alformed content, must start with an object"), "not an object"),
    (re.compile(r"failed to parse, document is empty"), "the document is empty"),
)
# these speak of the cluster, an index or a user, and quote no document
_ABOUT_THE_CLUSTER = frozenset({
    "circuit_breaking_exception",
    "cluster_block_exception",
    "es_rejected_execution_exception",
    "index_closed_exception",
    "index_not_found_exception",
    "invalid_index_name_exception",
    "media_type_header_exception",
    "security_exception",
    "unavailable_shards_exception",
    "validation_exception",
})  # fmt: skip
_LONGEST_DETAIL = 300


@dataclass(frozen=True, slots=True)
class Rules:
    """How one sink reads an answer.

    ``op``: the operation of all items. ``versioned``: each carries an external version. ``known``:
    the index is named by the configuration. ``pipeline``: the ingest pipeline, if one is named.
    ``refuse_failure_store``: a document that went to the failure store is dead-lettered.
    """

    op: str = "create"
    versioned: bool = False
    known: bool = True
    pipeline: str | None = None
    refuse_failure_store: bool = False

    def verdicts(self, answer: Any, ids: Sequence[str]) -> list[Verdict] | None:
        """Return a verdict for each of ``ids``, in order; None if all were written.

        Raises ``SinkUnavailableError`` where the answer does not fit the request: what was
        written is unknown then.
        """
        entries = self._entries(answer, len(ids))
        if answer["errors"] is False and self._all_good(entries):
            return None
        return [self._verdict(entry, name) for entry, name in zip(entries, ids, strict=True)]

    @staticmethod
    def _entries(answer: Any, count: int) -> list[Any]:
        if not isinstance(answer, dict):
            raise SinkUnavailableError("the answer is no JSON object")
        entries = answer.get("items")
        if not isinstance(entries, list) or not isinstance(answer.get("errors"), bool):
            raise SinkUnavailableError("the answer is not that of a bulk request")
        if len(entries) != count:
            raise SinkUnavailableError(f"{count} items were sent, {len(entries)} were answered")
        return entries

    def _all_good(self, entries: list[Any]) -> bool:
        op = self.op
        try:
            return {(e[op]["status"], len(e[op])) for e in entries} <= _GOOD
        except (KeyError, TypeError):
            return False

    def _verdict(self, entry: Any, name: str) -> Verdict:
        result = entry.get(self.op) if isinstance(entry, dict) else None
        status = result.get("status") if isinstance(result, dict) else None
        if not isinstance(result, dict) or not isinstance(status, int):
            raise SinkUnavailableError("an answered item is of another operation, or has no status")
        if result.get("_id") != name:
            raise SinkUnavailableError("the items were answered in another order than they were sent")
        return self.classify(status, result)

    def classify(self, status: int, result: dict[str, Any]) -> Verdict:
        """Return the verdict on one item from its status and its part of the answer."""
        error = result.get("error")
        kind = error_type(error)
        if status in _WRITTEN and not error:
            return self._stored(status, result.get("failure_store"))
        if (
            status == HTTPStatus.CONFLICT
            and kind == "version_conflict_engine_exception"
            and (self.op == "create" or self.versioned)
        ):
            return DUPLICATE
        fate = self._fate(status, kind, error)
        if fate is None:
            raise SinkUnavailableError(f"an item was answered with the status {status}")
        return Verdict(fate, kind, describe(error), status)

    def _stored(self, status: int, failure_store: Any) -> Verdict:
        if failure_store != "used":
            return WRITTEN
        fate = Fate.DEAD_LETTER if self.refuse_failure_store else Fate.WRITTEN
        return Verdict(fate, "failure_store", "kept in the data stream's failure store, not indexed", status)

    def _fate(self, status: int, kind: str, error: Any) -> Fate | None:
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            return Fate.RETRY
        if status in _NO_ACCESS or kind in {"cluster_block_exception", "security_exception"}:
            return Fate.BLOCKED
        if status in _LATER:
            return Fate.RETRY
        if status < HTTPStatus.BAD_REQUEST:
            return None
        return Fate.BLOCKED if self._concerns_all(kind, _reason(error)) else Fate.DEAD_LETTER

    def _concerns_all(self, kind: str, reason: str) -> bool:
        """Tell whether the fault is in the configuration or the cluster, though one item met it."""
        if kind in {"index_not_found_exception", "invalid_index_name_exception", "index_closed_exception"}:
            return self.known
        if kind == "validation_exception":  # no shard may be added any more
            return "maximum" in reason and "shards open" in reason
        return self.pipeline is not None and reason == f"pipeline with id [{self.pipeline}] does not exist"


def request_fault(status: int, body: Any) -> SinkError:
    """Return the exception for a request that was refused as a whole.

    ``body``: the decoded answer, of any shape; proxies answer too.
    """
    error = body.get("error") if isinstance(body, dict) else None
    kind = error_type(error)
    words = f"HTTP {status} {kind}: {describe(error)}".removesuffix(": ")
    if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        return RequestTooLargeError(words)
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return SinkUnavailableError(words)
    if kind in {"cluster_block_exception", "media_type_header_exception"}:
        return SinkBlockedError(words)
    if status in _LATER or status < HTTPStatus.MULTIPLE_CHOICES:
        return SinkUnavailableError(words)
    if status == HTTPStatus.BAD_REQUEST:
        # only Elasticsearch's own word may cost a message its place; a proxy's may not
        known = isinstance(error, dict) and "type" in error
        return RequestRefusedError(kind, describe(error), status) if known else SinkUnavailableError(words)
    return SinkBlockedError(words)


def error_type(error: Any) -> str:
    """Return Elasticsearch's name of the error; ``unknown`` where there is none that looks like one."""
    kind = error.get("type") if isinstance(error, dict) else None
    return kind if isinstance(kind, str) and _WORD.fullmatch(kind) else "unknown"


def describe(error: Any) -> str:
    """Return what may be said about the error without quoting a document."""
    said = []
    if error_type(error) in _ABOUT_THE_CLUSTER:
        said.append("".join(c if c.isprintable() else " " for c in _reason(error)[:_LONGEST_DETAIL]))
    else:
        reason = re.sub(r"^\[\d+:\d+\] ", "", _reason(error))
        said += [form.format(*match.groups()) for saying, form in _SAYINGS if (match := saying.match(reason))]
    cause = error.get("caused_by") if isinstance(error, dict) else None
    if cause:
        said.append(f"caused by {error_type(cause)}")
    return ", ".join(said)


def _reason(error: Any) -> str:
    reason = error.get("reason") if isinstance(error, dict) else None
    return reason if isinstance(reason, str) else ""
