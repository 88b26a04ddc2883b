"""Nothing of who we are to the gateways, and of whom we push to, is in what the service says.

The keys are real ones of simulated gateways; tokens, devices and payloads hold words that stand nowhere
else. The gateways quote all of it in their answers, as a proxy or a verbose server would.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import psutil
import pytest
import requests

from aggregator.testing.gateways import Apns, Fcm
from aggregator.testing.gateways.exchange import Answer, Pending
from consumers.publisher import Outgoing
from tests.servers.base import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aggregator.testing.gateways.connection import Request

    from tests.service import Service, Stage

pytestmark = [
    pytest.mark.integration,
    pytest.mark.parametrize("rabbitmq", ["rabbitmq4"], indirect=True),
]

DEVICE, WORDS, FIELD, TOKEN, FEEDBACK = (
    "canarydevice",
    "canarywords",
    "canaryfield",
    "canarytoken",
    "canary-feedback",
)
#: APNs' tokens are hexadecimal; ours are this one and a number.
HEX = "c0ffee" * 9
JSON = (("content-type", "application/json; charset=UTF-8"),)
#: Statuses of both gateways, with a reason of each.
ANSWERS = {
    "refused for ever": (400, "BadDeviceToken", "INVALID_ARGUMENT"),
    "not who we say": (403, "InvalidProviderToken", "PERMISSION_DENIED"),
    "away": (503, "ServiceUnavailable", "UNAVAILABLE"),
    "in words of its own": (500, f"{WORDS} {TOKEN}-1", f"{WORDS} {TOKEN}-1"),
}
APPS = """
[apps.default]
url = [{apns}, {fcm}]
"""


def quoted(request: Request) -> str:
    """Return all that a gateway knows of a request, with what proves who sent it."""
    return f"{bytes(request.body).decode(errors='replace')} {request.headers}"


class Quoting:
    """What a gateway answers instead; None: what it would."""

    quotes: tuple[int, str, str] | None = None
    said: list[str]

    def hear(self, request: Request) -> None:
        self.said.append(request.headers.get("authorization", "").rpartition(" ")[2])


class QuotingApns(Quoting, Apns):
    def judge(self, request: Request) -> Pending:
        self.hear(request)
        if self.quotes is None:
            return super().judge(request)
        status, reason, _ = self.quotes
        body = orjson.dumps({"reason": reason, "quoted": quoted(request)})
        return Pending(request, Answer(status, reason, JSON, body), "", "", None)


class QuotingFcm(Quoting, Fcm):
    def judge(self, request: Request) -> Pending:
        if request.headers[":path"] == "/token":
            self.said.append(bytes(request.body).decode())
            if self.quotes is None or "token" not in self.quotes[1]:
                return super().judge(request)
            page = f"<html>{quoted(request)}</html>" if "page" in self.quotes[1] else ""
            told = {"error": "invalid_grant", "error_description": f"Invalid JWT {quoted(request)}"}
            body = page.encode() or orjson.dumps(told)
            return Pending(request, Answer(self.quotes[0], "", JSON, body), "", "", None, counts=False)
        self.hear(request)
        if self.quotes is None:
            return super().judge(request)
        status, _, reason = self.quotes
        error = {
            "code": status,
            "status": reason,
            "message": quoted(request),
            "details": [{"errorCode": reason}],
        }
        return Pending(request, Answer(status, reason, JSON, orjson.dumps({"error": error})), "", "", None)


@pytest.fixture
def gateways() -> Iterator[tuple[QuotingApns, QuotingFcm]]:
    with QuotingApns() as apns, QuotingFcm() as fcm:
        apns.said, fcm.said = [], []
        yield apns, fcm


def messages(queue: str, count: int = 12) -> list[Outgoing]:
    """Good ones for both gateways, and wrong ones: all hold words that are looked for."""
    payloads: dict[str, Any] = {
        "apns": {"aps": {"alert": WORDS}, FIELD: WORDS},
        "fcm": {"notification": {"title": WORDS}, "data": {FIELD: WORDS}},
    }

    def push(number: int, platform: str, /, **more: Any) -> dict[str, Any]:
        token = f"{HEX}{number:010x}" if platform == "apns" else f"{TOKEN}-{number}"
        return {
            "campaign": "c1", "platform": platform, "notification": {"payload": payloads[platform]},
            "recipients": [[f"{DEVICE}{number}", token]],
        } | more  # fmt: skip

    good = [push(number, platform) for number in range(count) for platform in payloads]
    wrong: list[Any] = [
        push(100, "apns", recipients=[[DEVICE, [TOKEN]]]),
        push(101, "fcm", recipients=[[DEVICE]]),
        push(102, "apns", platform=WORDS),
        push(103, "apns", notification={WORDS: TOKEN}),
        push(104, "fcm", notification={"payload": {"token": TOKEN, "notification": WORDS}}),
        push(105, "apns", not_before=WORDS),
        push(106, "apns", token=TOKEN),
        {"token": TOKEN, "device": DEVICE},
        [TOKEN],
    ]
    texts = [*map(json.dumps, [*good, *wrong]), f'{{"token": "{TOKEN}", "device": "{DEVICE}"']
    properties = {"content_type": "application/json", "delivery_mode": 2}
    return [
        Outgoing("", queue, text.encode(), {**properties, "message_id": f"m{number}"})
        for number, text in enumerate(texts)
    ]


def secrets(apns: QuotingApns, fcm: QuotingFcm) -> set[str]:
    """Return every line of both keys, and each token and assertion that was sent: whole, and its parts."""
    lines = Path(apns.key).read_text().splitlines()
    account = json.loads(Path(fcm.credentials).read_text())
    lines += account["private_key"].splitlines()
    sent = [
        part
        for each in (*apns.said, *fcm.said)
        for part in each.replace("=", ".").replace("&", ".").split(".")
    ]
    found = {line for line in lines if not line.startswith("-----")} | {account["private_key_id"]} | set(sent)
    return {each for each in found if len(each) >= 16 and "grant-type" not in each} | {FEEDBACK}


def assert_silent(text: str, *gateways: Any) -> None:
    found = (HEX, DEVICE, WORDS, FIELD, TOKEN, *secrets(*gateways))
    assert [line[:300] for line in text.splitlines() if any(word in line for word in found)] == []


def said(service: Service, stage: Stage, pages: list[str]) -> str:
    """Return what can be read of a service that has ended, with what it added to dead letters."""
    added = [{k: v for k, v in letter.headers.items() if "aggregator" in k} for letter in stage.dead()]
    return "\n".join([*map(str, service.log), *service.noise, service.output, *pages, *map(str, added)])


def look(service: Service) -> list[str]:
    pages = [requests.get(f"{service.address}{path}", timeout=10).text for path in ("/metrics", "/readyz")]
    return [*pages, *psutil.Process(service.process.pid).cmdline()]


def start(stage: Stage, tmp_path: Path, apns: Apns, fcm: Fcm, **more: Any) -> Service:
    (tmp_path / "feedback").write_text(FEEDBACK)
    urls = {"apns": json.dumps(apns.sink_url(**more)), "fcm": json.dumps(fcm.sink_url(**more))}
    (tmp_path / "apps.toml").write_text(APPS.format(**urls))
    return stage.start(
        "--aggregate", "push", "--size", "10", "--breaker-window", "0", "--retry-first", "50ms",
        "--retry-max", "200ms", "--grace", "2s", "--metrics-port", "0", sink=f"push:{tmp_path}/apps.toml",
    )  # fmt: skip


@pytest.mark.parametrize("case", ANSWERS)
def test_what_gateways_quote_is_not_repeated(stage, gateways, tmp_path, case):
    apns, fcm = gateways
    stage.declare()
    feedback = {"feedback": f"{apns.url}/feedback", "feedback_token_file": str(tmp_path / "feedback")}
    running = start(stage, tmp_path, apns, fcm, **feedback)
    running.wait_event("route_runs")
    apns.quotes = fcm.quotes = ANSWERS[case]
    heard = len(apns.said), len(fcm.said)
    stage.publish(messages(stage.queue))
    running.wait_event("dead_letters_published")
    wait_for(lambda: len(apns.said) > heard[0] and len(fcm.said) > heard[1], "pushes to both")
    pages = look(running)
    assert running.stop() in {0, 1}
    assert_silent(said(running, stage, pages), apns, fcm)


@pytest.mark.parametrize("answer", [(400, "token"), (400, "token page"), (503, "token page")])
def test_what_the_endpoint_of_tokens_quotes_is_not_repeated(stage, gateways, tmp_path, answer):
    """It was sent an assertion that is signed: as good as a password for some minutes."""
    apns, fcm = gateways
    fcm.quotes = (*answer, "")
    stage.publish(messages(stage.queue))
    running = start(stage, tmp_path, apns, fcm)
    wait_for(lambda: "no access token" in running.last_words(), "a refusal that is told")
    assert fcm.said
    pages = look(running)
    assert running.stop() in {0, 1}
    assert_silent(said(running, stage, pages), apns, fcm)


def test_what_is_sent_is_not_told_either(stage, gateways, tmp_path):
    stage.publish(messages(stage.queue))
    running = start(stage, tmp_path, *gateways)
    running.wait_metric("aggregator_deliveries_total", lambda count: count >= 24, verdict="written")
    pages = look(running)
    assert running.stop() == 0
    assert_silent(said(running, stage, pages), *gateways)
