"""What a webhook's answer says of the items that were posted to it."""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

import orjson

from aggregator.errors import (
    RequestRefusedError,
    RequestTooLargeError,
    SinkBlockedError,
    SinkUnavailableError,
)
from aggregator.sinks.base import DUPLICATE, WRITTEN, Fate, Verdict

if TYPE_CHECKING:
    from collections.abc import Mapping

_FATES: Final[Mapping[str, Verdict]] = {
    "written": WRITTEN,
    "duplicate": DUPLICATE,
    "retry": Verdict(Fate.RETRY, "retry"),
}
_LATER: Final = frozenset({408, 425, 429})
#: The request's content is at fault: maybe that of one item.
_CONTENT: Final = frozenset({400, 409, 415, 422})
_WORD: Final = re.compile(r"[\w.-]{1,100}")
_LONGEST_DETAIL: Final = 300


def verdicts(status: int, answer: bytes, count: int) -> list[Verdict] | None:
    """Return a verdict for each of ``count`` items, None where all were taken.

    Raises a ``SinkError`` where the answer is about the request as a whole.
    """
    if not HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
        raise _fault(status)
    items = _items(answer)
    if items is None:
        return None
    if len(items) != count:
        raise SinkUnavailableError(f"{count} items were posted, and the answer has verdicts for {len(items)}")
    return [_verdict(item) for item in items]


def _fault(status: int) -> Exception:
    words = f"HTTP {status}"
    if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        return RequestTooLargeError(words)
    if status in _CONTENT:
        return RequestRefusedError(f"http-{status}", "", status)
    if status in _LATER or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return SinkUnavailableError(words)
    # a redirection too: a body with its credentials is sent to nobody else
    return SinkBlockedError(words)


def _items(answer: bytes) -> list[Any] | None:
    """Return the verdicts that an answer holds; None if it is something else, and means the status alone."""
    try:
        body = orjson.loads(answer) if answer else None
    except orjson.JSONDecodeError:
        return None
    items = body.get("items") if isinstance(body, dict) else None
    return items if isinstance(items, list) else None


def _verdict(item: Any) -> Verdict:
    status = item.get("status") if isinstance(item, dict) else None
    if status == "refused":
        reason, detail = item.get("reason"), item.get("detail")
        return Verdict(
            Fate.DEAD_LETTER,
            reason if isinstance(reason, str) and _WORD.fullmatch(reason) else "refused",
            detail[:_LONGEST_DETAIL] if isinstance(detail, str) else "",
        )
    verdict = _FATES.get(status) if isinstance(status, str) else None
    if verdict is None:
        raise SinkUnavailableError("an item's status is none of written, duplicate, retry, refused")
    return verdict
