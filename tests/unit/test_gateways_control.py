"""A simulator that runs is told what to do over HTTP."""

from __future__ import annotations

import time

import pycurl
import pytest
import requests

from aggregator.testing.gateways import Apns
from aggregator.testing.gateways.__main__ import ScriptFile, main
from aggregator.testing.gateways.control import Control
from tests.http2_client import PAYLOAD, TOKEN, Http2Client, provider_token


@pytest.fixture(scope="module")
def apns():
    with Apns(token_updates=1000) as apns:
        yield apns


@pytest.fixture
def control(apns):
    apns.journal.clear()
    control = Control(apns, 0)
    with requests.Session() as session:
        session.trust_env = False

        def ask(method, path, content=None, **more):
            answer = session.request(method, control.url + path, json=content, timeout=10, **more)
            return answer.status_code, answer.json()

        yield ask
    control.close()
    apns.script.clear()


def connect(apns):
    return Http2Client(apns, authorization=f"bearer {provider_token(apns)}", apns_topic="a.b")


def test_it_says_what_a_sender_needs(apns, control):
    status, told = control("GET", "/")
    assert (status, told["url"], told["key_id"]) == (200, apns.url, "KEY1234567")


def test_rules_are_set_added_and_cleared(apns, control):
    with connect(apns) as client:
        assert control("PUT", "/script", {"rules": [{"reason": "Forbidden"}], "latency": "1ms"})[0] == 200
        assert control("POST", "/rules", {"fault": "drop", "token": "00"})[0] == 200
        assert [one.get("reason", one.get("fault")) for one in control("GET", "/script")[1]["rules"]] == [
            "Forbidden",
            "drop",
        ]
        assert client.push().status == 403
        assert control("DELETE", "/rules")[1]["rules"] == []
        assert client.push().status == 200


def test_the_journal_is_shown_counted_and_forgotten(apns, control):
    with connect(apns) as client:
        client.push()
        client.push("cd" * 32)
        assert [entry["status"] for entry in control("GET", "/journal?last=1")[1]] == [200]
        assert [entry["payload"] for entry in control("GET", f"/journal?token={TOKEN}")[1]] == [
            PAYLOAD.decode()
        ]
        account = control("GET", "/account")[1]
        assert (account["total"], account["statuses"], account["connections"]) == (2, {"200": 2}, 1)
        assert control("DELETE", "/journal") == (200, {})
        assert control("GET", "/account")[1]["total"] == 0


def test_connections_are_ended(apns, control):
    with connect(apns) as client:
        client.push()
        assert control("POST", "/goaway", {"reason": "Shutdown", "abrupt": True}) == (200, {})
        client.until_closed()
    with connect(apns) as client:
        client.push()
        assert control("POST", "/drop") == (200, {})
        client.until_closed()


@pytest.mark.parametrize(
    ("request_", "status", "text"),
    [
        (("PUT", "/script", {"rules": 1}), 400, "rules are a JSON array"),
        (("POST", "/rules", {"reason": "Nothing"}), 400, "no reason 'Nothing'"),
        (("POST", "/goaway", {"why": 1}), 400, "why"),
        (("POST", "/goaway", [1]), 400, "mapping"),
        (("GET", "/journal?last=0", None), 400, "last is 0; at least 1"),
        (("GET", "/journals", None), 404, "no GET /journals; there is GET /"),
    ],
)
def test_what_makes_no_sense_is_refused(control, request_, status, text):
    got, told = control(*request_)
    assert got == status
    assert text in told["error"]


def test_a_body_that_is_no_json(apns, control):
    assert control("PUT", "/script", data=b"{")[0] == 400


def test_a_script_file_is_read_when_it_changes(tmp_path, apns):
    path = tmp_path / "script.json"
    path.write_text('{"rules": [{"reason": "Forbidden"}]}')
    script = ScriptFile(apns, path)
    script.read()
    assert [rule.reason for rule in apns.script.rules] == ["Forbidden"]
    apns.script.clear()
    script.read()
    assert apns.script.rules == ()
    path.write_text('{"rules": [{"reason": "Unregistered"}], "latency": "-"}')
    with pytest.raises(ValueError, match=r"script.json: latency is a duration"):
        script.read()
    assert apns.script.rules == ()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["apns", "--latency", "20"], "20 has no unit"),
        (["apns", "--streams", "many"], "invalid int value"),
        (["apns", "--quota", "1"], "unrecognized arguments: --quota 1"),
        (["smtp"], "invalid choice"),
        ([], "required"),
    ],
)
def test_arguments_without_sense(capsys, arguments, text):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert text in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["fcm", "--quota", "0"], "fcm: quota is 0; at least 1"),
        (["apns", "--environment", "test"], "apns: environment is 'test'"),
        (["apns", "--latency", "2s-1s"], "the smaller one first"),
        (["apns", "--script", "/nowhere.json"], "/nowhere.json"),
    ],
)
def test_settings_without_sense_are_told(capsys, arguments, text):
    assert main(arguments) == 2
    assert text in capsys.readouterr().err


def test_ports_that_are_taken(capsys, apns):
    assert main(["apns", "--port", str(apns.port)]) == 2
    assert main(["apns", "--control", str(apns.port)]) == 2
    assert capsys.readouterr().err.count("in use") == 2


def test_libcurl_gets_along_with_it(apns):
    apns.journal.clear()
    apns.script.clear()
    multi = pycurl.CurlMulti()
    multi.setopt(pycurl.M_PIPELINING, 2)
    multi.setopt(pycurl.M_MAX_HOST_CONNECTIONS, 1)
    headers = [f"authorization: bearer {provider_token(apns)}", "apns-topic: a.b"]
    handles = []
    for number in range(50):
        handle = pycurl.Curl()
        handle.setopt(pycurl.URL, f"{apns.url}/3/device/{number:064x}")
        handle.setopt(pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_2TLS)
        handle.setopt(pycurl.CAINFO, str(apns.ca))
        handle.setopt(pycurl.PIPEWAIT, 1)
        handle.setopt(pycurl.HTTPHEADER, headers)
        handle.setopt(pycurl.POSTFIELDS, PAYLOAD)
        handle.setopt(pycurl.WRITEFUNCTION, len)
        multi.add_handle(handle)
        handles.append(handle)
    left, ends = 50, time.monotonic() + 20
    while left:
        assert time.monotonic() < ends
        _, left = multi.perform()
        multi.select(0.1)
    assert {handle.getinfo(pycurl.RESPONSE_CODE) for handle in handles} == {200}
    assert {entry.connection for entry in apns.journal} == {apns.connections_made}
    assert len(apns.journal.delivered) == 50
    for handle in handles:
        multi.remove_handle(handle)
        handle.close()
    multi.close()
