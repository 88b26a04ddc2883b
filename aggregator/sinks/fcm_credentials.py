"""Who we are to FCM: a service account, whose access token is fetched from Google by OAuth 2."""

from __future__ import annotations

import re
from datetime import UTC
from functools import partial
from threading import Lock
from typing import TYPE_CHECKING, Any

import orjson

from aggregator.clock import SYSTEM_CLOCK
from aggregator.errors import SinkBlockedError, SinkUnavailableError
from aggregator.sinks.push_options import read_file
from aggregator.sinks.push_tokens import BearerToken
from aggregator.sinks.url_options import fault

if TYPE_CHECKING:
    from pathlib import Path

    from aggregator.clock import Clock

SCOPE = "https://www.googleapis.com/auth/firebase.messaging"
#: Seconds before its end at which a token is replaced; within which Google has to answer; between two
#: tokens that were refused.
MARGIN, TIMEOUT, YOUNGEST = 300.0, 10.0, 60.0
#: What no sentence holds, and each part of a signed assertion does.
_LONG = re.compile(r"[\w-]{30}")


class AccessToken(BearerToken):
    """The access token of a service account. Make it by :func:`access_token`."""

    youngest = YOUNGEST

    def __init__(self, account: dict[str, Any], ca: Path | None, clock: Clock) -> None:
        super().__init__(clock)
        self._account = account
        self._ca = ca

    def make(self, now: float) -> tuple[bytes, float]:
        """Fetch a token. Raises ``SinkUnavailableError`` or ``SinkBlockedError``."""
        import requests  # noqa: PLC0415
        from google.auth.exceptions import GoogleAuthError, RefreshError, TransportError  # noqa: PLC0415
        from google.auth.transport.requests import Request  # noqa: PLC0415
        from google.oauth2 import service_account  # noqa: PLC0415

        credentials = service_account.Credentials.from_service_account_info(self._account, scopes=[SCOPE])
        # named at each request: else the environment's REQUESTS_CA_BUNDLE would be taken instead
        more = {"verify": str(self._ca)} if self._ca else {}
        with requests.Session() as session:
            try:
                credentials.refresh(partial(Request(session), timeout=TIMEOUT, **more))
                problem = ""
            except TransportError as exc:
                if exc.args and isinstance(exc.args[0], requests.exceptions.SSLError):
                    raise SinkBlockedError("no access token: TLS with Google's token endpoint") from None
                raise SinkUnavailableError(
                    "no access token: Google's token endpoint does not answer"
                ) from None
            except RefreshError as exc:
                problem = _told(exc)
                if exc.retryable:
                    raise SinkUnavailableError(f"no access token: {problem}") from None
            except GoogleAuthError as exc:
                problem = type(exc).__name__
        if problem:
            raise SinkBlockedError(f"no access token for the service account: {problem}")
        # Google's library tells times without a zone, in UTC
        ends = credentials.expiry.replace(tzinfo=UTC).timestamp() if credentials.expiry else now + 2 * MARGIN
        lifetime = ends - now
        return str(credentials.token).encode(), max(lifetime - MARGIN, lifetime / 2)


def _told(exc: Exception) -> str:
    """Say why a token was refused: the answer's own words, unless they quote what was sent.

    That is an assertion which is as good as a password for some minutes. No word of a language is as long
    as its parts; a page of a proxy is not told at all.
    """
    answer = exc.args[1] if len(exc.args) > 1 else None
    told = [answer.get("error"), answer.get("error_description")] if isinstance(answer, dict) else []
    plain = [text for text in told if isinstance(text, str) and text.isprintable() and not _LONG.search(text)]
    return ": ".join(plain)[:200] or "refused"


_known: dict[tuple[bytes, Path | None], AccessToken] = {}
_lock = Lock()


def access_token(file: Path, ca: Path | None, clock: Clock = SYSTEM_CLOCK) -> tuple[AccessToken, str]:
    """Return the token of a service account and its project; one token for each who has that account.

    ``ca``: certificates to trust at the token endpoint. Raises ``ConfigurationError``.
    """
    content = read_file("credentials", file)
    account = _read_account(content, file)
    with _lock:
        token = _known.setdefault((content, ca), AccessToken(account, ca, clock))
    return token, str(account.get("project_id") or "")


def _read_account(content: bytes, file: Path) -> dict[str, Any]:
    from google.oauth2 import service_account  # noqa: PLC0415

    try:
        account = orjson.loads(content)
    except orjson.JSONDecodeError:
        raise fault(f"credentials: {file} is no JSON; the key file of a service account is needed") from None
    if not isinstance(account, dict) or account.get("type") != "service_account":
        raise fault(f"credentials: {file} is no key file of a service account")
    try:
        service_account.Credentials.from_service_account_info(account, scopes=[SCOPE])
    except ValueError:  # its words may quote the key
        words = "client_email, token_uri or a readable private_key is missing"
        raise fault(f"credentials: {file} is incomplete: {words}") from None
    return account
