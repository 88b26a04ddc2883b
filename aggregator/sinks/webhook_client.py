"""requests, held so that it decides nothing by itself: no retries, no redirections, no words."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import requests

from aggregator.errors import ConfigurationError, SinkBlockedError, SinkError, SinkUnavailableError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from aggregator.sinks.url_options import Secret

#: Of an answer, more is not read: verdicts of 10,000 items are a tenth of it.
_LONGEST_ANSWER = 16 * 1024 * 1024
_REFUSED_CREDENTIALS = (401, 403)


class Client:
    """A session for each thread that writes. Raises ``SinkBlockedError`` for credentials that are gone."""

    def __init__(
        self,
        url: str,
        *,
        user: str,
        password: Secret | None,
        token: Secret | None,
        ca: Path | None,
        timeout: float,
    ) -> None:
        self._url = url
        self._timeout = timeout
        self._verify = str(ca) if ca else True
        try:
            self._auth = (user, password.read()) if password else None
            self._bearer = f"Bearer {token.read()}" if token else None
        except ConfigurationError as exc:  # it was right at the start: a file has changed since
            raise SinkBlockedError(exc.problem) from None
        self._local = threading.local()
        self._sessions: list[requests.Session] = []
        self._lock = threading.Lock()

    def probe(self) -> None:
        """Prove that somebody answers there, and takes these credentials; what it says else is no matter."""
        status, _ = self._send("OPTIONS", b"", {})
        if status in _REFUSED_CREDENTIALS:
            raise SinkBlockedError(f"HTTP {status}: the credentials are refused")
        if status // 100 == 5:  # noqa: PLR2004
            raise SinkUnavailableError(f"HTTP {status}")

    def post(self, body: bytes, headers: Mapping[str, str]) -> tuple[int, bytes]:
        """Return status and body of the answer; raises ``SinkError`` where there is none."""
        return self._send("POST", body, headers)

    def close(self) -> None:
        """Close all connections."""
        with self._lock:
            sessions, self._sessions = self._sessions, []
        for session in sessions:
            session.close()

    def _session(self) -> requests.Session:
        session = getattr(self._local, "session", None)
        if session is None:
            session = self._local.session = requests.Session()
            session.trust_env = False  # no .netrc and no proxy that nobody named
            session.auth = self._auth
            session.verify = self._verify
            if self._bearer:
                session.headers["authorization"] = self._bearer
            with self._lock:
                self._sessions.append(session)
        return session

    def _send(self, method: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, bytes]:
        fault: SinkError
        try:
            with self._session().request(
                method,
                self._url,
                data=body,
                headers=dict(headers),
                timeout=self._timeout,
                allow_redirects=False,
                stream=True,
            ) as answer:
                text = answer.raw.read(_LONGEST_ANSWER + 1, decode_content=True)
                status = answer.status_code
        except requests.exceptions.SSLError as exc:
            fault = SinkBlockedError(f"TLS with {self._url}: {type(exc).__name__}")
        except requests.exceptions.Timeout:
            fault = SinkUnavailableError(f"no answer from {self._url} in time")
        except (requests.RequestException, OSError) as exc:
            fault = SinkUnavailableError(f"no answer from {self._url}: {type(exc).__name__}")
        except Exception as exc:  # noqa: BLE001  urllib3's own, while the answer is read
            fault = SinkUnavailableError(f"no whole answer from {self._url}: {type(exc).__name__}")
        else:
            if len(text) > _LONGEST_ANSWER:
                raise SinkUnavailableError(f"the answer of {self._url} has no end")
            return status, text
        try:
            raise fault
        finally:
            del fault  # its traceback knows this frame, and the body in it
