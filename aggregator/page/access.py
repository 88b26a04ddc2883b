"""Who may look, and who may do something: names of hosts, the token, sessions, where a request comes from.

Whoever reaches the port may look. It listens on loopback, and a page of somebody else's can lead a browser on
the machine there: by a name that resolves to 127.0.0.1 (the host is checked), or by a form (its origin is).
"""

from __future__ import annotations

import hmac
import socket
from dataclasses import dataclass
from hashlib import sha256
from ipaddress import ip_address
from secrets import token_urlsafe
from threading import Lock
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aggregator.clock import Clock

    Environ = dict[str, Any]

#: How long somebody stays signed in, in seconds, and how many may be at once.
SESSION_SECONDS, MOST_SESSIONS = 12 * 3_600, 64


@dataclass(slots=True)
class Session:
    """Somebody who has signed in; ``said``: what became of the last action, shown once."""

    until: float
    said: str = ""


class Access:
    """Judges requests. ``token``: None, and nobody may do anything. ``hosts``: names beside the usual ones.

    Its sessions are forgotten when the process ends.
    """

    def __init__(self, token: str | None, hosts: Iterable[str], clock: Clock) -> None:
        # digests of one length: the comparison tells nothing of the token's own
        self._digest = None if token is None else sha256(token.encode()).digest()
        own = {"localhost", socket.gethostname().lower()}
        self._hosts = own | {host.strip().lower() for host in hosts if host.strip()}
        self._clock = clock
        self._sessions: dict[str, Session] = {}
        self._changing = Lock()

    @property
    def guarded(self) -> bool:
        """Whether there is a token with which something may be done."""
        return self._digest is not None

    def knows(self, host: str) -> bool:
        """Whether a request is for us: by an address, this machine's name, or a name that was set."""
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if name in self._hosts or name.endswith(".localhost"):
            return True
        try:
            ip_address(name)
        except ValueError:
            return False
        return True

    def fits(self, token: str) -> bool:
        """Whether this is the token; takes as long for every other."""
        given = sha256(token.encode("utf-8", "replace")).digest()
        return self._digest is not None and hmac.compare_digest(given, self._digest)

    def sign_in(self) -> str:
        """Return the word of a new session; the oldest goes where there are too many."""
        word = token_urlsafe(32)
        with self._changing:
            while len(self._sessions) >= MOST_SESSIONS:
                del self._sessions[next(iter(self._sessions))]
            self._sessions[word] = Session(self._clock.monotonic() + SESSION_SECONDS)
        return word

    def sign_out(self, environ: Environ) -> None:
        """Forget the session that a request names."""
        with self._changing:
            self._sessions.pop(_word(environ), None)

    def session(self, environ: Environ) -> Session | None:
        """Return the session that a request names, if there is one still."""
        word = _word(environ)
        with self._changing:
            found = self._sessions.get(word)
            if found is not None and found.until <= self._clock.monotonic():
                del self._sessions[word]
                return None
            return found

    def bearer(self, environ: Environ) -> bool | None:
        """Whether a request's header has the token; None: it has none at all."""
        scheme, _, value = environ.get("HTTP_AUTHORIZATION", "").partition(" ")
        if scheme.lower() != "bearer":
            return None
        return self.fits(value.strip())


def cookie_name(environ: Environ) -> str:
    """Return the name of our cookie: browsers send those of one port to all others of the host."""
    return f"aggregator-{environ.get('SERVER_PORT', '')}"


def _word(environ: Environ) -> str:
    # not by the library: at a cookie of somebody else that is none it would give up all of them
    pairs = (pair.partition("=") for pair in environ.get("HTTP_COOKIE", "").split(";"))
    ours = cookie_name(environ)
    return next((value.strip() for name, _, value in pairs if name.strip() == ours), "")


def is_own(environ: Environ) -> bool | None:
    """Whether a browser says that a request comes from a page of ours; None: it says nothing of it."""
    origin = environ.get("HTTP_ORIGIN")
    if origin is not None:
        host: str = environ.get("HTTP_HOST", "")
        return origin.lower() in {f"http://{host.lower()}", f"https://{host.lower()}"}
    site: str | None = environ.get("HTTP_SEC_FETCH_SITE")
    return None if site is None else site == "same-origin"
