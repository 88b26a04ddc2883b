"""Pushes to Apple's devices: ``apns+https://api.push.apple.com/?key=AuthKey.p8&key_id=…&team_id=…&topic=…``.

The sandbox is ``apns+https://api.sandbox.push.apple.com/``. Every device has a verdict of its own, by
the table in :mod:`aggregator.sinks.apns_verdicts`. Several threads may write, each has connections of
its own.

========================  =============================================================================
``key``                   the ``.p8`` file from Apple, for tokens; with ``key_id`` and ``team_id``
``certificate``           instead: a PEM file with the push certificate and its key
``topic``                 the app's bundle id, where the notification has none of its own; for a
                          certificate it may be left away
``engine``                ``curl`` or ``aioapns``
``connections``           of one write, each carries as many streams as the gateway allows: 1
``streams``               pushes under way at once, of one write: 500
``concurrency``           writes at once, at most: 4
``items``                 pushes in a write: 1000
``timeout``               of one push, and of silence: ``10s``
``ca``                    a file of certificates in PEM to trust, instead of the machine's
``feedback``              a URL that is told of dead tokens
``feedback_token_env``    the environment variable, or with ``feedback_token_file`` the file, that holds
                          a bearer token for it
========================  =============================================================================
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import orjson

from aggregator.clock import SYSTEM_CLOCK
from aggregator.errors import SinkBlockedError, SinkUnavailableError
from aggregator.sinks.apns_credentials import provider_token, read_certificate
from aggregator.sinks.apns_requests import Prepared, prepare
from aggregator.sinks.apns_verdicts import FATES, REASONS, Concern, meaning
from aggregator.sinks.base import WRITTEN, Fate, Verdict
from aggregator.sinks.push_batch import Request, Ruling, Scope
from aggregator.sinks.push_feedback import Feedback
from aggregator.sinks.push_hold import LONGEST, Hold
from aggregator.sinks.push_options import (
    PushOptions,
    feedback_token,
    read_endpoint,
    read_options,
    require,
)
from aggregator.sinks.push_sink import OWN_REASONS, PushSink
from aggregator.sinks.url_options import fault

if TYPE_CHECKING:
    from urllib.parse import SplitResult

    from aggregator.push import Address, Notification
    from aggregator.sinks.push_batch import Reply
    from aggregator.sinks.push_engine import Endpoint, Engine
    from aggregator.sinks.push_tokens import BearerToken

PREFIX = b"/3/device/"
#: Seconds without pushes after APNs has counted too many provider tokens; it counts for 20 minutes.
TOKENS_PAUSE = 60.0
#: Seconds without a push to a device that gets too many, where APNs says nothing of that.
DEVICE_PAUSE = 10.0
_LONGEST_TOKEN = 200
_WRITTEN = Ruling(WRITTEN)


class Options(PushOptions):
    """What stands behind the ``?``."""

    key: Path | None = None
    key_id: str | None = None
    team_id: str | None = None
    certificate: Path | None = None
    topic: str | None = None
    engine: Literal["curl", "aioapns"] = "curl"


def from_url(url: SplitResult, base: Path = Path(), app: str = "") -> ApnsSink:
    """Return the sink that ``url`` names. Raises ``ConfigurationError`` for the field ``sink``."""
    require("jwt")
    require("requests")
    options = read_options(url, Options, base)
    require("pycurl" if options.engine == "curl" else "aioapns")
    if options.certificate and (options.key or options.key_id or options.team_id):
        raise fault("certificate: either a certificate or a key, not both")
    if options.certificate:
        topic = options.topic or read_certificate(options.certificate)
        if options.topic:
            read_certificate(options.certificate)
        token = None
    else:
        if not options.key:
            raise fault("key: it is missing; the .p8 file from Apple is needed, or certificate=file.pem")
        for name in ("key_id", "team_id", "topic"):
            if not getattr(options, name):
                raise fault(f"{name}: it is missing; a key needs key_id, team_id and topic")
        token = provider_token(options.key, options.key_id or "", options.team_id or "")
        topic = options.topic or ""
    if not topic.isprintable() or " " in topic or not topic:
        raise fault("topic: it is the app's bundle id, like com.example.app")
    endpoint = read_endpoint(url, options, options.certificate)
    return ApnsSink(endpoint, options, token=token, topic=topic, app=app)


class ApnsSink(PushSink):
    """One app at APNs. ``token`` is None where the certificate says who we are."""

    gateway_name = "apns"

    def __init__(
        self, endpoint: Endpoint, options: Options, *, token: BearerToken | None, topic: str, app: str = ""
    ) -> None:
        feedback = Feedback(options.feedback, feedback_token(options)) if options.feedback else None
        hold = Hold(SYSTEM_CLOCK)
        known = frozenset(REASONS) | OWN_REASONS
        super().__init__(endpoint, options, hold=hold, feedback=feedback, app=app, known_reasons=known)
        self._token = token
        self._topic = topic
        self._kind = options.engine

    def connect(self) -> Engine:
        """Return a new engine."""
        if self._kind == "aioapns":
            from aggregator.sinks.apns_aioapns_client import AioapnsEngine  # noqa: PLC0415

            return AioapnsEngine(self._endpoint)
        from aggregator.sinks.push_curl_client import CurlEngine  # noqa: PLC0415

        return CurlEngine(self._endpoint)

    def prove(self, engine: Engine) -> None:
        """Ask for a push without a device: the network, TLS and HTTP/2 work, and what the answer tells.

        APNs looks at the key with the first push alone: one that it refuses blocks the route then.
        """
        gateway = self.gateway()
        reply = engine.ask(
            Request(PREFIX, [*gateway.identity(), b"apns-topic: " + self._topic.encode()], b"{}")
        )
        reason = str(_body(reply.body).get("reason", ""))
        if reply.status == 403:  # noqa: PLR2004 - HTTP's own
            raise SinkBlockedError(f"{self._endpoint.url} says {reason or reply.status}")
        if reply.status >= 500:  # noqa: PLR2004 - HTTP's own
            raise SinkUnavailableError(f"{self._endpoint.url} says {reason or reply.status}")

    def gateway(self) -> ApnsGateway:
        """Return what one batch needs."""
        return ApnsGateway(self._token, self._topic, self._hold, self._feedback)

    def described(self) -> str:
        """Return the topic."""
        return self._topic


class ApnsGateway:
    """APNs for one batch: requests out of addresses, rulings out of replies."""

    def __init__(self, token: BearerToken | None, topic: str, hold: Hold, feedback: Feedback | None) -> None:
        self._token = token
        self._topic = topic
        self._hold = hold
        self._feedback = feedback
        self._notification: Notification | None = None
        self._prepared: Prepared | Verdict | None = None
        self._line = token.line() if token else b""

    def identity(self) -> tuple[bytes, ...]:
        """Return the header that says who we are; none where a certificate does."""
        return (self._line,) if self._line else ()

    def request(self, address: Address) -> Request | Verdict:
        """Return the request for one device."""
        if address.notification is not self._notification:
            self._notification = address.notification
            self._prepared = prepare(address.notification, self._topic)
        prepared = self._prepared
        if not isinstance(prepared, Prepared):
            return prepared or Verdict(Fate.DEAD_LETTER, "bad-push")
        if address.platform != "apns":
            return Verdict(Fate.DEAD_LETTER, "wrong-platform", f"{address.platform} is not apns")
        token = address.token
        if not (token.isascii() and token.isalnum()) or len(token) > _LONGEST_TOKEN:
            self._report(address, "BadDeviceToken", None)
            return Verdict(Fate.REFUSED, "BadDeviceToken", "no hexadecimal digits; not sent")
        name = b"apns-id: " + address.apns_id.encode()
        return Request(PREFIX + token.encode(), [*self.identity(), *prepared.lines, name], prepared.body)

    def ruling(self, address: Address, request: Request, reply: Reply) -> Ruling:
        """Return what a reply means."""
        status = reply.status
        if status == 200:  # noqa: PLR2004 - HTTP's OK
            self._hold.eased()
            return _WRITTEN
        body = _body(reply.body)
        reason = _word(body.get("reason"), status)
        meant = meaning(reason, status)
        concern = meant.concern
        if concern is Concern.TOKEN:
            if self._token and self._renew(self._token, request.headers[0]):
                return Ruling(Verdict(Fate.RETRY, reason, status=status), Scope.AGAIN)
            concern = Concern.EVERYTHING
        if concern is Concern.TOPIC:
            own = isinstance(self._prepared, Prepared) and bool(address.notification.topic)
            concern = Concern.NOTIFICATION if own else Concern.EVERYTHING
        if meant.dead:
            self._report(address, reason, _seconds(body.get("timestamp")))
        if concern is Concern.THROTTLED:
            return self._wait_all(reason, reply, TOKENS_PAUSE)
        if concern is Concern.BUSY:
            return self._busy(reason, reply)
        self._hold.eased()
        scope = Scope.ALL if concern is Concern.EVERYTHING else Scope.ONE
        return Ruling(Verdict(FATES[concern], reason, status=status), scope)

    def _busy(self, reason: str, reply: Reply) -> Ruling:
        """Put one push off, or all once most are."""
        # what one device gets too often is no matter of the others
        of_device = reason == "TooManyRequests"
        if reply.retry_after and not of_device and self._hold.strained():
            return self._wait_all(reason, reply)
        after = reply.retry_after or (DEVICE_PAUSE if of_device else 0.0)
        return Ruling(Verdict(Fate.RETRY, reason, status=reply.status, after=min(after, LONGEST)))

    def _wait_all(self, reason: str, reply: Reply, pause: float = 0.0) -> Ruling:
        self._hold.wait(reply.retry_after or pause, f"APNs says {reason} and wants a pause")
        return Ruling(Verdict(Fate.RETRY, reason, status=reply.status), Scope.ALL)

    def pause(self) -> float:
        """Return 0: APNs has no quota but its streams."""
        return 0.0

    def _renew(self, token: BearerToken, refused: bytes) -> bool:
        if not token.replace(refused):
            return False
        self._line = token.line()
        return True

    def _report(self, address: Address, reason: str, since: float | None) -> None:
        if self._feedback:
            self._feedback.report(address, reason, since)


def _body(body: bytes) -> dict[str, object]:
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    return found if isinstance(found, dict) else {}


def _word(reason: object, status: int) -> str:
    known = isinstance(reason, str) and reason.isascii() and reason.isalnum() and len(reason) <= 50  # noqa: PLR2004
    return str(reason) if known else f"http-{status}"


def _seconds(timestamp: object) -> float | None:
    """Return APNs' milliseconds as unix seconds."""
    return (
        timestamp / 1000 if isinstance(timestamp, int | float) and not isinstance(timestamp, bool) else None
    )
