"""Dead tokens told to a webhook, many at once: ``POST [{"token", "device", …}]``.

A thread of its own sends them, so that a write never waits. What the webhook does not take is kept
and sent again after a pause; of more than fit the oldest are dropped, and their number is logged.
"""

from __future__ import annotations

from collections import deque
from threading import Condition, Thread
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import structlog

from aggregator.backoff import Backoff
from aggregator.clock import monotonic

if TYPE_CHECKING:
    from aggregator.push import Address

_log = structlog.get_logger("aggregator.push")
#: Tokens of one request; tokens that are kept.
BATCH, MOST = 500, 100_000
#: Seconds: a request is not full and waits for more; a request's timeout; what a close may take.
LINGER, TIMEOUT, LAST = 1.0, 10.0, 5.0


class Feedback:
    """A bounded buffer and the thread that empties it. ``token``: a bearer token, empty for none."""

    def __init__(
        self,
        url: str,
        token: str = "",
        *,
        linger: float = LINGER,
        most: int = MOST,
        backoff: Backoff | None = None,
    ) -> None:
        self._url = url
        self._token = token
        self._linger = linger
        self._backoff = backoff or Backoff(0.5, 60.0)
        self._waiting: deque[dict[str, Any]] = deque(maxlen=most)
        self._changed = Condition()
        self._thread: Thread | None = None
        self._closing = False
        self._until = 0.0
        self._dropped = 0

    def report(self, address: Address, reason: str, unregistered_at: float | None) -> None:
        """Tell of a dead token; never blocks. ``unregistered_at``: unix seconds, as the gateway says."""
        entry = {
            "token": address.token,
            "device": address.device,
            "platform": address.platform,
            "app": address.app,
            "reason": reason,
            "unregistered_at": unregistered_at,
        }
        with self._changed:
            if len(self._waiting) == self._waiting.maxlen:
                self._dropped += 1
            self._waiting.append(entry)
            if self._thread is None:
                self._closing = False
                self._thread = Thread(target=self._run, name="push-feedback", daemon=True)
                self._thread.start()
            elif len(self._waiting) == BATCH:
                self._changed.notify()

    def close(self) -> None:
        """Send what is left, for some seconds at most. It starts again with the next report."""
        with self._changed:
            thread, self._thread = self._thread, None
            self._closing = True
            self._until = monotonic() + LAST
            self._changed.notify()
        if thread:
            thread.join(LAST + TIMEOUT)
            if self._waiting:
                _log.warning("feedback_lost", tokens=len(self._waiting), to=self._where())
                self._waiting.clear()

    def _run(self) -> None:
        import requests  # noqa: PLC0415

        failures = 0
        with requests.Session() as session:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._closing or len(self._waiting) >= BATCH, self._linger)
                    batch = [self._waiting[n] for n in range(min(BATCH, len(self._waiting)))]
                    dropped, self._dropped = self._dropped, 0
                    if not batch and self._closing:
                        return
                if dropped:
                    _log.warning("feedback_lost", tokens=dropped, to=self._where())
                problem = self._post(session, batch) if batch else ""
                with self._changed:
                    failures = failures + 1 if problem else 0
                    if not problem:
                        self._taken(batch)
                    elif self._closing and monotonic() >= self._until:
                        return
                    else:
                        self._changed.wait_for(lambda: self._closing, self._pause(failures))
                if failures == 1:
                    _log.warning("feedback_fails", problem=problem, to=self._where())

    def _pause(self, failures: int) -> float:
        return min(self._backoff.pause(failures), 0.2 if self._closing else 3600.0)

    def _taken(self, batch: list[dict[str, Any]]) -> None:
        # the oldest may have been dropped meanwhile
        for entry in batch:
            if self._waiting and self._waiting[0] is entry:
                self._waiting.popleft()

    def _post(self, session: Any, batch: list[dict[str, Any]]) -> str:
        """Return what went wrong, empty for nothing."""
        import requests  # noqa: PLC0415

        headers = {"authorization": f"Bearer {self._token}"} if self._token else None
        try:
            answer = session.post(
                self._url, json=batch, headers=headers, timeout=TIMEOUT, allow_redirects=False
            )
        except requests.RequestException as exc:
            return type(exc).__name__
        return "" if answer.status_code // 100 == 2 else f"HTTP {answer.status_code}"  # noqa: PLR2004

    def _where(self) -> str:
        parts = urlsplit(self._url)
        return f"{parts.scheme}://{parts.hostname}"
