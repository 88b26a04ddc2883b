"""Reaching a server: what a failed connection means, certificates that are about to end, a server's clock."""

from __future__ import annotations

import http.client
import socket
import ssl
from contextlib import closing
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, NamedTuple

from aggregator.clock import SYSTEM_CLOCK
from aggregator.doctor.finding import WAIT_SECONDS, clock_finding, error, note, ok, warning

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from aggregator.doctor.finding import Finding

#: Days before its end from which on a certificate is worth a warning, and a note.
SOON_DAYS, MONTH_DAYS = 14.0, 30.0
_DAY = 86_400.0


class Server(NamedTuple):
    """Where something listens. ``ca``: certificates to trust; ``name``: whose it must be."""

    host: str
    port: int
    tls: bool = False
    ca: Path | None = None
    name: str | None = None

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def unreachable(about: str, exc: BaseException, where: str, *, tls: str = "the sink's ca=…") -> Finding:
    """Return what a failed connection to ``where`` means; ``tls`` is the setting that names certificates."""
    then = "nothing is taken or written until it answers"
    if isinstance(exc, socket.gaierror):
        says, do = f"{where}: no such host", "correct the name in the URL, or the DNS that resolves it"
    elif isinstance(exc, ConnectionRefusedError):
        says = f"{where}: nothing listens there"
        do = "start the server, or correct host and port in the URL"
    elif isinstance(exc, ssl.SSLCertVerificationError):
        says = f"{where}: its certificate is not trusted: {exc.verify_message}"
        do = f"name the certificates that it descends from ({tls}), or the host that it is made out to"
    elif isinstance(exc, ssl.SSLError):
        says = f"{where}: no TLS is spoken there ({getattr(exc, 'reason', '') or type(exc).__name__})"
        do = "name the TLS port, or the scheme without encryption"
    elif isinstance(exc, TimeoutError):
        says = f"{where}: no answer within {WAIT_SECONDS:g} s"
        do = "look whether a firewall drops packets, and whether the server is frozen"
    elif isinstance(exc, ConnectionError):
        says = f"{where}: it hung up ({type(exc).__name__})"
        do = "look whether this port expects TLS (amqps://, https://), and what the server's log says"
    else:
        says, do = f"{where}: {type(exc).__name__}: {exc}", "look what the server's log says"
    return error(about, says, then, do)


def connect(server: Server) -> socket.socket:
    """Return a connected socket, verified where it is encrypted. Raises ``OSError``."""
    plain = socket.create_connection((server.host, server.port), WAIT_SECONDS)
    if not server.tls:
        return plain
    context = ssl.create_default_context(cafile=str(server.ca) if server.ca else None)
    try:
        return context.wrap_socket(plain, server_hostname=server.name or server.host)
    except BaseException:
        plain.close()
        raise


def reach(about: str, server: Server) -> Iterator[Finding]:
    """Connect once, and look at the certificate. Yields one error where that fails."""
    began = SYSTEM_CLOCK.monotonic()
    try:
        with closing(connect(server)) as link:
            took = (SYSTEM_CLOCK.monotonic() - began) * 1000
            encrypted = ", TLS verified" if server.tls else ""
            yield ok(about, f"{server} answers in {took:.0f} ms{encrypted}")
            if isinstance(link, ssl.SSLSocket):
                yield from certificate(about, link)
    except OSError as exc:
        yield unreachable(about, exc, str(server))


def certificate(about: str, link: ssl.SSLSocket) -> Iterator[Finding]:
    """Say for how many days the peer's certificate is valid."""
    ends = (link.getpeercert() or {}).get("notAfter")
    if not isinstance(ends, str):
        return
    days = (ssl.cert_time_to_seconds(ends) - SYSTEM_CLOCK.time()) / _DAY
    yield valid_for(about, "its certificate", days)


def valid_for(about: str, what: str, days: float) -> Finding:
    """Judge the days that a certificate or a key has left."""
    says = f"{what} is valid for {days:.0f} more days"
    then = "from then on nobody can connect"
    do = "have it renewed, and automatically"
    if days < 0:
        return error(about, f"{what} has ended {-days:.0f} days ago", then, do)
    if days < SOON_DAYS:
        return warning(about, says, then, do)
    return note(about, says, then, do) if days < MONTH_DAYS else ok(about, says)


def clock_of(about: str, server: Server, path: str = "/") -> Iterator[Finding]:
    """Compare our clock with the ``Date`` of an answer to HEAD; nothing where there is none."""
    plain = http.client.HTTPConnection(server.host, server.port, timeout=WAIT_SECONDS)
    began = SYSTEM_CLOCK.time()
    try:
        plain.sock = connect(server)
        plain.request("HEAD", path or "/")
        said = plain.getresponse().headers.get("date")
        ended = SYSTEM_CLOCK.time()
        if said:
            yield clock_finding(about, *skew(said, began, ended))
    except (OSError, http.client.HTTPException, ValueError):
        return
    finally:
        plain.close()


def skew(date: str, began: float, ended: float) -> tuple[float, float]:
    """Return how far a ``Date`` header is ahead of our clock, and how exactly that is known, in seconds."""
    theirs = parsedate_to_datetime(date).timestamp() + 0.5  # it is cut to whole seconds
    return theirs - (began + ended) / 2, 0.5 + (ended - began) / 2
