"""Pushes by Firebase: ``fcm+https://fcm.googleapis.com/?credentials=service-account.json``.

HTTP v1, over HTTP/2: one device a request, many at once. Every device has a verdict of its own, by the
table in :mod:`aggregator.sinks.fcm_verdicts`. Several threads may write, each has connections of its
own; the rate is theirs together.

========================  =============================================================================
``credentials``           the key file of a service account
``project``               the project's id; that of the account unless given
``rate``                  pushes a second, of one process: 10000, the quota of a project
``dry_run``               ``true``: FCM looks at each message and delivers none
``connections``           of one write, each carries as many streams as the gateway allows: 1
``streams``               pushes under way at once, of one write: 500
``concurrency``           writes at once, at most: 4
``items``                 pushes in a write: 1000
``timeout``               of one push, and of silence: ``10s``
``ca``                    a file of certificates in PEM to trust, instead of the machine's; at the token
                          endpoint too
``feedback``              a URL that is told of dead tokens
``feedback_token_env``    the environment variable, or with ``feedback_token_file`` the file, that holds
                          a bearer token for it
========================  =============================================================================
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from aggregator.backoff import Backoff
from aggregator.clock import SYSTEM_CLOCK
from aggregator.errors import SinkBlockedError, SinkError, SinkUnavailableError
from aggregator.sinks.base import WRITTEN, Fate, Verdict
from aggregator.sinks.fcm_credentials import access_token
from aggregator.sinks.fcm_message import Prepared, prepare
from aggregator.sinks.fcm_verdicts import FATES, REASONS, Concern, meaning, reason_of
from aggregator.sinks.push_batch import Request, Ruling, Scope
from aggregator.sinks.push_feedback import Feedback
from aggregator.sinks.push_hold import LONGEST, Hold, Pace
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

    from aggregator.clock import Clock
    from aggregator.push import Address, Notification
    from aggregator.sinks.push_batch import Reply
    from aggregator.sinks.push_engine import Endpoint, Engine
    from aggregator.sinks.push_tokens import BearerToken

#: The pause for a quota without Retry-After: a minute at least, by Google's advice.
QUOTA_PAUSES = Backoff(120.0, 3600.0)
#: The same for one push: where others get through, it is the quota of its device.
DEVICE_PAUSE = 60.0
#: Seconds that a write at the full rate may last; fewer pushes make one where the rate is small.
_LONGEST_WRITE = 5.0
_TYPE = b"content-type: application/json"
_ONE_WRITTEN = Ruling(WRITTEN)


class Options(PushOptions):
    """What stands behind the ``?``."""

    credentials: Path | None = None
    project: str | None = None
    rate: float = Field(10_000.0, gt=0, le=1_000_000, allow_inf_nan=False)
    dry_run: bool = False


def from_url(url: SplitResult, base: Path = Path(), app: str = "") -> FcmSink:
    """Return the sink that ``url`` names. Raises ``ConfigurationError`` for the field ``sink``."""
    for module in ("google.auth", "requests", "pycurl"):
        require(module)
    options = read_options(url, Options, base)
    endpoint = read_endpoint(url, options)
    if options.credentials is None:
        raise fault("credentials: they are missing; the key file of a service account is needed")
    token, project = access_token(options.credentials, options.ca)
    project = options.project or project
    if not re.fullmatch(r"[a-z0-9.:-]{1,100}", project):
        raise fault(f"project: {project!r} is no id of a project" if project else "project: it is missing")
    return FcmSink(endpoint, options, token=token, project=project, app=app)


class FcmSink(PushSink):
    """One project at FCM."""

    gateway_name = "fcm"

    def __init__(
        self, endpoint: Endpoint, options: Options, *, token: BearerToken, project: str, app: str = ""
    ) -> None:
        few = max(1, int(options.rate * _LONGEST_WRITE / options.concurrency))
        super().__init__(
            endpoint,
            options.model_copy(update={"items": min(options.items, few)}),
            hold=Hold(SYSTEM_CLOCK),
            feedback=Feedback(options.feedback, feedback_token(options)) if options.feedback else None,
            app=app,
            known_reasons=frozenset(REASONS) | OWN_REASONS,
        )
        self._token = token
        self._project = project
        self._dry_run = options.dry_run
        self._path = f"/v1/projects/{project}/messages:send".encode()
        self._pace = Pace(options.rate, SYSTEM_CLOCK)
        self._quota = Quota(self._hold)

    def connect(self) -> Engine:
        """Return a new engine."""
        from aggregator.sinks.push_curl_client import CurlEngine  # noqa: PLC0415

        return CurlEngine(self._endpoint)

    def prove(self, engine: Engine) -> None:
        """Fetch an access token, and have FCM look at a message without a device: it is delivered to none."""
        gateway = self.gateway()
        question = Request(self._path, [gateway.line, _TYPE], b'{"validate_only":true,"message":{}}')
        reply = engine.ask(question)
        if reply.status == 401 and self._token.replace(gateway.line):  # noqa: PLR2004 - HTTP's own
            reply = engine.ask(question._replace(headers=[self._token.line(), _TYPE]))
        reason, _ = reason_of(reply.body, reply.status)
        concern = meaning(reason, reply.status).concern
        if reply.status == 200 or concern in (Concern.NOTIFICATION, Concern.DEVICE):  # noqa: PLR2004
            return
        if concern in (Concern.EVERYTHING, Concern.TOKEN):
            raise SinkBlockedError(f"{self._endpoint.url} says {reason} for project {self._project}")
        raise SinkUnavailableError(f"{self._endpoint.url} says {reason}")

    def gateway(self) -> FcmGateway:
        """Return what one batch needs."""
        return FcmGateway(
            self._token,
            self._path,
            pace=self._pace,
            quota=self._quota,
            hold=self._hold,
            feedback=self._feedback,
            dry_run=self._dry_run,
        )

    def described(self) -> str:
        """Return the project."""
        return f"project {self._project}{', dry run' if self._dry_run else ''}"


class Quota:
    """Pauses after 429, longer each time until pushes get through again."""

    def __init__(self, hold: Hold, backoff: Backoff = QUOTA_PAUSES) -> None:
        self._hold = hold
        self._backoff = backoff
        self._times = 0

    def exceeded(self, retry_after: float) -> None:
        """Let no push leave for as long as FCM says, or else for a minute at least."""
        if self._hold.held:  # of many that were under way one counts
            return
        self._times += 1
        self._hold.wait(retry_after or self._backoff.pause(self._times), "FCM's quota is used up")

    def kept(self) -> None:
        """Note that a push got through."""
        self._times = 0


class FcmGateway:
    """FCM for one batch: requests out of addresses, rulings out of replies."""

    def __init__(
        self,
        token: BearerToken,
        path: bytes,
        *,
        pace: Pace,
        quota: Quota,
        hold: Hold,
        feedback: Feedback | None,
        dry_run: bool,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._token = token
        self._path = path
        self._quota = quota
        self._hold = hold
        self._feedback = feedback
        self._dry_run = dry_run
        self._clock = clock
        self._notification: Notification | None = None
        self._prepared: Prepared | Verdict | None = None
        self._use(token.line())
        self.pause = pace.pause

    def request(self, address: Address) -> Request | Verdict:
        """Return the request for one device."""
        if address.notification is not self._notification:
            self._notification = address.notification
            now = self._clock.time()
            self._prepared = prepare(address.notification, dry_run=self._dry_run, now=now)
        prepared = self._prepared
        if not isinstance(prepared, Prepared):
            return prepared or Verdict(Fate.DEAD_LETTER, "bad-push")
        if address.platform != "fcm":
            return Verdict(Fate.DEAD_LETTER, "wrong-platform", f"{address.platform} is not fcm")
        try:
            return Request(self._path, self._headers, prepared.body(address.token))
        except TypeError:
            return Verdict(Fate.REFUSED, "INVALID_TOKEN", "the token is no text; not sent")

    def ruling(self, address: Address, request: Request, reply: Reply) -> Ruling:
        """Return what a reply means."""
        status = reply.status
        if status == 200:  # noqa: PLR2004 - HTTP's OK
            self._quota.kept()
            self._hold.eased()
            return _ONE_WRITTEN
        reason, detail = reason_of(reply.body, status)
        meant = meaning(reason, status)
        concern = meant.concern
        if concern is Concern.TOKEN:
            return self._renew(request.headers[0], reason)
        verdict = Verdict(FATES[concern], reason, detail, status)
        if meant.dead and self._feedback:
            self._feedback.report(address, reason, self._clock.time())
        if concern is Concern.QUOTA or (concern is Concern.BUSY and reply.retry_after):
            return self._put_off(verdict, reply.retry_after, quota=concern is Concern.QUOTA)
        if concern is not Concern.BUSY:
            self._hold.eased()
        return Ruling(verdict, Scope.ALL if concern is Concern.EVERYTHING else Scope.ONE)

    def _put_off(self, verdict: Verdict, retry_after: float, *, quota: bool) -> Ruling:
        """Put one push off, or all once most are: a quota may be the device's, or the project's."""
        if not self._hold.strained():
            after = retry_after or DEVICE_PAUSE
            return Ruling(replace(verdict, after=min(after, LONGEST)))
        if quota:
            self._quota.exceeded(retry_after)
        else:
            self._hold.wait(retry_after, f"FCM says {verdict.reason} and wants a pause")
        return Ruling(verdict, Scope.ALL)

    def _renew(self, refused: bytes, reason: str) -> Ruling:
        try:
            if self._token.replace(refused):
                self._use(self._token.line())
                return Ruling(Verdict(Fate.RETRY, reason, status=401), Scope.AGAIN)
            fate, detail = Fate.BLOCKED, "a new access token is refused as well"
        except SinkError as exc:
            fate, detail = Fate.BLOCKED if isinstance(exc, SinkBlockedError) else Fate.RETRY, str(exc)
        return Ruling(Verdict(fate, reason, detail, 401), Scope.ALL)

    def _use(self, line: bytes) -> None:
        self.line = line
        self._headers = [line, _TYPE, b"user-agent:", b"accept:"]
