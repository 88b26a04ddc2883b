"""A proxy before Elasticsearch that notes what was attempted and what was done, and answers as it is told."""

from __future__ import annotations

import random
import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import orjson
import requests

from tests.elasticsearch_proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import Callable

#: What an item gets that is not passed on, by its status.
_ERRORS = {
    429: {"type": "es_rejected_execution_exception", "reason": "rejected execution"},
    400: {"type": "document_parsing_exception", "reason": "failed to parse field [number] of type [long]"},
}


@dataclass
class Recorder(Proxy):
    """``attempted``: how often the service sent each id; ``repeats``: how often it stood in the index before.

    ``fate`` gives an item its status by its id: what is not 201 is not passed on. A ``share`` of the
    answers goes through ``change``; ``slow`` is how many seconds each of them takes longer; a request of
    more than ``most_bytes`` gets 413.
    """

    attempted: Counter = field(default_factory=Counter)
    repeats: int = 0
    answers: int = 0
    fate: Callable[[str], int] | None = None
    share: float = 1.0
    slow: float = 0.0
    most_bytes: int = 10**9
    chance: random.Random = field(default_factory=random.Random)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, method, path, headers, body):
        if "_bulk" in path:
            with self.lock:
                self.attempted.update(_ids(body))

    def reply(self, method, path, headers, body):
        try:
            if "_bulk" not in path:
                return self.forward(method, path, headers, body)
            if len(body) > self.most_bytes:
                return (
                    413,
                    "application/json",
                    b'{"error":{"type":"content_too_long_exception"},"status":413}',
                )
            answer = self._bulk(method, path, headers, body)
        except requests.RequestException:  # it is away: the connection breaks off, as it would there
            return None
        if self.slow:
            threading.Event().wait(self.slow)
        changed = self.change is not None and self.chance.random() < self.share
        return self.change(*answer) if changed else answer

    def _bulk(self, method, path, headers, body):
        if self.fate is None:
            answer = self.forward(method, path, headers, body)
        else:
            answer = self._sorted(method, path, headers, body)
        if answer[0] == requests.codes.ok:
            statuses = Counter(status for _, status, _ in _items(answer[2]))
            with self.lock:
                self.answers += 1
                self.repeats += statuses[requests.codes.conflict]
        return answer

    def _sorted(self, method, path, headers, body):
        lines = body.split(b"\n")[:-1]
        ids = _ids(body)
        fates = [self.fate(name) for name in ids]
        passed = [number for number, status in enumerate(fates) if status == requests.codes.created]
        told = iter(())
        content = "application/json"
        if passed:
            rest = b"".join(line + b"\n" for n in passed for line in lines[2 * n : 2 * n + 2])
            status, content, answered = self.forward(method, path, headers, rest)
            if status != requests.codes.ok:
                return status, content, answered
            told = iter(orjson.loads(answered)["items"])
        made = [
            next(told) if status == requests.codes.created else _refused(name, status)
            for name, status in zip(ids, fates, strict=True)
        ]
        return 200, content, orjson.dumps({"errors": True, "items": made})


def _ids(body):
    return [orjson.loads(line)["create"]["_id"] for line in body.split(b"\n")[:-1:2]]


def _items(content):
    """Yield id, status and error of each item of an answer."""
    for item in orjson.loads(content)["items"]:
        for word in item.values():
            yield word["_id"], word["status"], word.get("error")


def _refused(name, status):
    return {"create": {"_id": name, "status": status, "error": _ERRORS[status]}}
