"""The simulators as programs of their own: the exact ones, and the compiled one for load."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys

import pytest
import requests

from benchmarks.build import BUILD, build
from tests.http2_client import TOKEN, Http2Client

pytestmark = pytest.mark.integration
NEEDS_GO = pytest.mark.skipif(not shutil.which("go"), reason="it is written in Go, which is not installed")
REASONS = ["BadDeviceToken", "Unregistered", "TooManyRequests", "ServiceUnavailable"]


class Running:
    """A simulator that has said that it is ready; ``ca`` and ``url`` as a client wants them."""

    def __init__(self, *command):
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        line = self.process.stdout.readline()
        assert line, self.process.stderr.read()
        self.told = json.loads(line)
        self.url, self.ca = self.told["url"], self.told["ca"]
        self.session = requests.Session()
        self.session.trust_env = False

    def ask(self, method, path, content=None):
        answer = self.session.request(method, self.told["control"] + path, json=content, timeout=30)
        assert answer.ok, answer.text
        return answer.json()

    def end(self, by=signal.SIGTERM):
        self.session.close()
        self.process.send_signal(by)
        with self.process:
            return self.process.wait(60)


@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGINT])
def test_the_command_runs_until_it_is_told_to_end(tmp_path, by):
    script, journal = tmp_path / "script.json", tmp_path / "journal.jsonl"
    script.write_text('{"rules": [{"reason": "MissingProviderToken"}], "latency": "1ms"}')
    running = Running(
        *(sys.executable, "-m", "aggregator.testing.gateways", "apns"),
        *("--script", str(script), "--journal", str(journal), "--seed", "3", "--latency", "1ms-2ms"),
    )
    with Http2Client(running, apns_topic="a") as client:
        assert client.push().document == {"reason": "MissingProviderToken"}
    assert running.ask("GET", "/account")["total"] == 1
    assert running.end(by) == 0
    assert [json.loads(line)["token"] for line in journal.read_text().splitlines()] == [TOKEN]


@pytest.fixture(scope="module")
def compiled():
    build("gateway")
    running = Running(str(BUILD / "gateway"), "-devices", "100")
    yield running
    running.end()


@pytest.fixture
def client(compiled):
    compiled.ask("POST", "/reset?devices=100")
    compiled.ask("PUT", "/behaviour", {"apns": {}, "fcm": {}, "streams": 1000, "latency": "0s"})
    with Http2Client(compiled, authorization="bearer x", apns_topic="a") as client:
        client.push(f"{99:064x}", apns_id="0" * 36)
        client.until(lambda: client.http2.remote_settings.max_concurrent_streams == 1000)
        yield client


@NEEDS_GO
def test_the_compiled_one_tells_devices_apart(compiled, client):
    for number in (1, 2, 2):
        answer = client.push(f"{number:064x}", apns_id=f"{number:036}")
        assert (answer.status, answer.headers["apns-id"], answer.frames) == (200, f"{number:036}", 0)
    client.push(f"{99:064x}", apns_id="another")
    account = compiled.ask("GET", "/account")
    assert {
        name: account[name]
        for name in ("requests", "distinct", "again", "same_id", "delivered", "duplicates")
    } == {
        "requests": 5,
        "distinct": 3,
        "again": 2,
        "same_id": 1,
        "delivered": 3,
        "duplicates": 2,
    }
    assert compiled.ask("GET", "/missing?limit=3") == [0, 3, 4]


@NEEDS_GO
@pytest.mark.parametrize("reason", REASONS)
def test_the_compiled_ones_errors(compiled, client, reason):
    compiled.ask("PUT", "/behaviour", {"apns": {reason: 1}, "retry_after": 3})
    answer = client.push()
    assert answer.document["reason"] == reason
    assert ("timestamp" in answer.document) == (answer.status == 410)
    assert answer.headers.get("retry-after") == ("3" if answer.status in {429, 503} else None)
    assert compiled.ask("GET", "/account")["reasons"] == {reason: 1}


@NEEDS_GO
def test_the_compiled_ones_faults(compiled, client):
    compiled.ask("PUT", "/behaviour", {"apns": {"rst+": 1}})
    assert client.push().reset == 2
    compiled.ask("PUT", "/behaviour", {"apns": {"silence": 1}})
    silent = client.send(f"/3/device/{TOKEN}")
    client.ping()
    compiled.ask("PUT", "/behaviour", {"apns": {"goaway": 1}})
    client.send(f"/3/device/{TOKEN}")
    client.until(lambda: any(type(event).__name__ == "ConnectionTerminated" for event in client.events))
    assert client.events[-1].last_stream_id == silent
    client.socket.close()
    account = compiled.ask("GET", "/account")
    assert account["unanswered"]["rst"] == account["unanswered"]["goaway"] == 1
    assert (account["statuses"]["200"], account["delivered"]) == (2, 2)


@NEEDS_GO
def test_the_compiled_one_changes_its_limit_and_refuses_what_is_above(compiled, client):
    compiled.ask("PUT", "/behaviour", {"streams": 1, "latency": "50ms"})
    client.until(lambda: client.http2.remote_settings.max_concurrent_streams == 1)
    client.ping()  # its acknowledgement has come before
    client.http2.remote_settings[3] = 9  # and is not cared for
    client.http2.remote_settings.acknowledge()
    first, second = client.send(f"/3/device/{TOKEN}"), client.send(f"/3/device/{TOKEN}")
    assert client.wait(second).reset == 7
    assert client.wait(first).status == 200


@NEEDS_GO
def test_the_compiled_one_draws_shares_as_told(compiled, client):
    compiled.ask("PUT", "/behaviour", {"apns": {"Unregistered": 0.3, "BadDeviceToken": 0.2}, "seed": 5})
    statuses = [client.push(f"{number:064x}").status for number in range(1000, 1400)]
    assert 90 <= statuses.count(410) <= 150
    assert 55 <= statuses.count(400) <= 105


@NEEDS_GO
def test_the_compiled_one_speaks_fcm_over_both_versions(compiled, client):
    with compiled.session.post(f"{compiled.url}/token", verify=compiled.ca, timeout=30) as answer:
        assert answer.json()["token_type"] == "Bearer"
    path = "/v1/projects/example-project/messages:send"
    body = json.dumps({"message": {"token": "device-7"}}).encode()
    answer = client.wait(client.send(path, body))
    assert answer.document["name"].startswith("projects/example-project/messages/0:")
    compiled.ask("PUT", "/behaviour", {"fcm": {"UNREGISTERED": 1}})
    answer = client.wait(client.send(path, body))
    assert (answer.status, answer.document["error"]["details"][0]["errorCode"]) == (404, "UNREGISTERED")
    assert compiled.ask("GET", "/account")["again"] == 1


@NEEDS_GO
@pytest.mark.parametrize(
    "given", [{"apns": {"Nothing": 1}}, {"apns": {"rst": 2}}, {"speed": 1}, {"latency": "fast"}]
)
def test_behaviour_without_sense_is_refused(compiled, given):
    answer = compiled.session.put(f"{compiled.told['control']}/behaviour", json=given, timeout=30)
    assert answer.status_code == 400
    assert answer.text.startswith("behaviour: ")
