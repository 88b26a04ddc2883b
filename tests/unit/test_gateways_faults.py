"""The simulators fail as they are told to: frame by frame, and as often as the script says."""

from __future__ import annotations

import json
import threading

import pytest
from h2.events import ConnectionTerminated, RemoteSettingsChanged

from aggregator.testing.gateways import Apns, Rule
from tests.http2_client import TOKEN, Http2Client, provider_token

PATH = f"/3/device/{TOKEN}"


@pytest.fixture(scope="module")
def apns():
    with Apns(token_updates=1000) as apns:
        yield apns


@pytest.fixture
def script(apns):
    yield apns.script
    apns.script.clear()
    apns.script.latency = 0
    apns.script.window_updates = True
    apns.script.streams(1000)


@pytest.fixture
def client(apns, script):
    apns.journal.clear()
    with connect(apns) as client:
        assert client.push("00" * 32).status == 200
        client.until(lambda: client.http2.remote_settings.max_concurrent_streams == 1000)
        yield client


def connect(apns):
    return Http2Client(apns, authorization=f"bearer {provider_token(apns)}", apns_topic="a.b")


def tokens(count):
    return [f"{number:064x}" for number in range(1, count + 1)]


def test_goaway_names_the_last_stream_and_answers_up_to_it(apns, script, client):
    script.latency = 0.2
    streams = [client.send(f"/3/device/{token}") for token in tokens(4)]
    client.ping()
    apns.goaway("Shutdown", behind=2)
    ended = client.event(ConnectionTerminated)
    assert (ended.last_stream_id, ended.error_code) == (streams[1], 0)
    assert json.loads(ended.additional_data) == {"reason": "Shutdown"}
    answered = raw_answers(client)
    assert answered == streams[:2]
    assert sorted(entry.outcome for entry in apns.journal[1:]) == ["answered"] * 2 + ["goaway"] * 2
    assert set(apns.journal.delivered) == {"00" * 32, *tokens(2)}


def raw_answers(client):
    """Return the streams whose HEADERS come after a GOAWAY, which h2 itself reads no further."""
    from hyperframe.frame import Frame, HeadersFrame

    found, data = [], b""
    client.socket.settimeout(10)
    while piece := client.socket.recv(65_536):
        data += piece
    while data:
        frame, length = Frame.parse_frame_header(memoryview(data[:9]))
        if isinstance(frame, HeadersFrame):
            found.append(frame.stream_id)
        data = data[9 + length :]
    return found


def test_what_is_sent_behind_a_goaway_is_not_processed(apns, client):
    apns.goaway()
    stream = client.send(PATH)  # it has not read it yet
    assert client.event(ConnectionTerminated).last_stream_id == stream - 2
    client.until_closed()
    assert not client.streams[stream].done
    assert apns.journal.total == 1


def test_an_abrupt_goaway_answers_nothing_more(apns, script, client):
    script.latency = 30
    stream = client.send(PATH)
    client.ping()
    script.goaway("Shutdown", abrupt=True)
    assert client.event(ConnectionTerminated).last_stream_id == stream
    client.until_closed()
    assert not client.streams[stream].done
    assert apns.journal.wait(2)[-1].outcome == "lost"
    assert apns.journal[-1].delivered  # and nobody was told


def test_a_goaway_by_rule_does_not_process_its_own_stream(apns, script, client):
    script.fault("goaway", token=TOKEN)
    stream = client.send(PATH)
    assert client.event(ConnectionTerminated).last_stream_id == stream - 2
    assert apns.journal.wait(2)[-1].outcome == "goaway"
    assert not apns.journal[-1].delivered


def test_a_goaway_by_rule_that_processes_answers_too(apns, script, client):
    script.fault("goaway", token=TOKEN, processed=True)
    stream = client.send(PATH)
    assert client.event(ConnectionTerminated).last_stream_id == stream
    assert apns.journal.wait(2)[-1].outcome == "answered"


@pytest.mark.parametrize("code", [2, 7, 8, 11])
def test_rst_stream(apns, script, client, code):
    script.fault("rst", token=TOKEN, code=code, times=1)
    assert client.push().reset == code
    assert apns.journal[-1].outcome == "rst"
    assert client.push().status == 200  # the connection lives


def test_a_cut_answer_has_a_status_and_no_end(script, client):
    script.fault("cut", token=TOKEN, processed=True, times=1)
    script.fault("cut", token=TOKEN)
    for status in (200, 500):
        answer = client.push()
        assert (answer.status, answer.reset, answer.ended) == (status, 2, False)


def test_silence_holds_one_stream_alone(apns, script, client):
    script.fault("silence", token=TOKEN)
    stream = client.send(PATH)
    assert client.push("cd" * 32).status == 200
    assert not client.streams[stream].done
    client.http2.reset_stream(stream, 8)
    client.flush()
    assert apns.journal.wait(3)[-1].outcome == "cancelled"
    assert not apns.journal[-1].delivered


def test_a_drop_ends_the_connection_without_a_word(apns, script, client):
    script.fault("drop", token=TOKEN, processed=True)
    client.send(PATH)
    client.until_closed()
    assert not any(isinstance(event, ConnectionTerminated) for event in client.events)
    assert apns.journal.wait(2)[-1].outcome == "drop"
    assert apns.journal[-1].delivered


def test_all_connections_can_be_dropped(apns, client):
    client.push()
    apns.drop()
    client.until_closed()
    assert apns.connections == 0


def test_an_error_without_a_body_ends_with_its_headers(script, client):
    script.answer("InternalServerError", token=TOKEN, empty=True)
    answer = client.push()
    assert (answer.status, answer.body, answer.frames) == (500, b"", 0)


def test_the_limit_of_streams_changes_in_flight(apns, script, client):
    script.streams(3)
    client.until(lambda: client.http2.remote_settings.max_concurrent_streams == 3)
    with connect(apns) as another:
        another.event(RemoteSettingsChanged)
        assert another.http2.remote_settings.max_concurrent_streams == 1
        another.push()
        another.until(lambda: another.http2.remote_settings.max_concurrent_streams == 3)
    script.streams(0)
    client.until(lambda: client.http2.remote_settings.max_concurrent_streams == 0)


def test_answers_wait_for_the_clients_window(script, client):
    script.answer("BadDeviceToken", prefix="00")
    client.acknowledges = False
    client.http2.update_settings({4: 10})  # the first ten bytes of each body
    client.flush()
    stream = client.send(f"/3/device/{'00' * 32}")
    client.until(lambda: client.streams[stream].body)
    assert len(client.streams[stream].body) == 10
    client.http2.increment_flow_control_window(100, stream)
    client.flush()
    assert client.wait(stream).document == {"reason": "BadDeviceToken"}


def test_windows_that_are_held_back_stop_the_client(script, client):
    script.window_updates = False
    before = client.http2.outbound_flow_control_window
    for _ in range(12):
        client.push(body=b'{"a":"%s"}' % (b"x" * 4000))
    client.ping()
    assert client.http2.outbound_flow_control_window == before - 12 * 4008


def test_windows_are_given_back(client):
    body = b'{"a":"%s"}' % (b"x" * 4000)
    assert all(client.push(body=body).status == 200 for _ in range(40))  # twice the window


def test_who_breaks_the_protocol_is_told_so(client):
    client.socket.sendall(b"\0\0\x04\x08\0\0\0\0\0\0\0\0\0")  # a window opened by nothing
    assert client.event(ConnectionTerminated).error_code == 1


def test_an_idle_connection_is_ended():
    with Apns(idle=0.05) as apns, connect(apns) as client:
        assert json.loads(client.event(ConnectionTerminated).additional_data) == {"reason": "IdleTimeout"}
        client.until_closed()


def test_slow_answers_overtake_nothing_else(script, client):
    script.slow(0.1, token=TOKEN)
    slow = client.send(PATH)
    assert client.push("cd" * 32).status == 200
    assert not client.streams[slow].done
    assert client.wait(slow).status == 200


def test_rules_by_token_prefix_and_number(script, client):
    script.answer("Unregistered", token=TOKEN, nth=2)
    script.answer("BadDeviceToken", prefix="cd", every=3)
    script.answer("Forbidden", times=2)
    assert [client.push().status for _ in range(4)] == [403, 410, 403, 200]
    assert [client.push("cd" * 32).status for _ in range(6)] == [200, 200, 400, 200, 200, 400]


def test_the_gateways_own_reasons_come_before_the_scripts(script, client):
    script.answer("ServiceUnavailable")
    assert client.push("zz").document == {"reason": "BadDeviceToken"}


def drawn(seed, share, order=1):
    with Apns(seed=seed) as apns:
        apns.script.answer("Unregistered", share=share)
        return {token for token in tokens(2000)[::order] if apns.script.decide(token)}


def test_shares_are_drawn_by_the_seed_in_any_order():
    some = drawn(1, 0.1)
    assert 150 < len(some) < 250
    assert drawn(1, 0.1, order=-1) == some
    assert drawn(2, 0.1) != some


def test_what_was_hit_may_be_hit_again_or_not():
    with Apns(seed=3) as apns:
        apns.script.answer("ServiceUnavailable", share=0.5)
        hit = [token for token in tokens(1000) if apns.script.decide(token)]
        again = [token for token in hit if apns.script.decide(token)]
        assert 400 < len(hit) < 600
        assert 0.4 < len(again) / len(hit) < 0.6


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        ({}, "a rule needs a reason, a fault or a latency"),
        ({"reason": "Forbidden", "fault": "rst"}, "not both"),
        ({"fault": "fire"}, "no fault 'fire'; one of rst, cut, silence, drop, goaway"),
        ({"reason": "Forbidden", "share": 2}, "share is 2; a number from 0 to 1"),
        ({"reason": "Forbidden", "nth": -1}, "nth is -1; a whole number"),
        ({"reason": "Forbidden", "retry_after": -1}, "retry_after is -1; it cannot be negative"),
    ],
)
def test_rules_without_sense(rule, text):
    with pytest.raises(ValueError, match=text):
        Rule(**rule)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ([], "a script is a JSON object"),
        ({"rule": []}, "a script has no field 'rule'; it has rules, latency, streams, window_updates"),
        ({"rules": {}}, "rules are a JSON array"),
        ({"rules": [1]}, "a rule is a JSON object, not 1"),
        ({"rules": [{"why": 1}]}, "a rule has no field 'why'"),
        ({"rules": [{"reason": "Unregisterd"}]}, "no reason 'Unregisterd'; is Unregistered meant"),
        ({"rules": [{"latency": 20}]}, "20 has no unit"),
        ({"rules": [{"reason": "Forbidden", "share": "half"}]}, "wrong type"),
        ({"latency": ["1s"]}, "latency"),
        ({"latency": ["2s", "1s"]}, "the smaller one first"),
        ({"streams": "many"}, "streams is 'many'"),
        ({"window_updates": 1}, "window_updates is 1; true or false is needed"),
    ],
)
def test_scripts_without_sense_change_nothing(apns, script, given, text):
    script.answer("Forbidden")
    before = script.to_json()
    with pytest.raises(ValueError, match=text):
        script.load(given)
    assert script.to_json() == before


def test_a_script_is_told_as_it_was_taken(script):
    given = {
        "latency": ["0.01s", "0.05s"],
        "window_updates": False,
        "rules": [
            {"reason": "Unregistered", "share": 0.1, "timestamp": 5},
            {"fault": "rst", "latency": "2s"},
        ],
    }
    script.load(given)
    assert script.to_json() == given | {
        "rules": [given["rules"][0], {"fault": "rst", "latency": "2.0s"}],
    }


def test_the_journal_is_bounded_and_its_file_is_not(tmp_path):
    path = tmp_path / "journal.jsonl"
    with Apns(journal=path, journal_limit=2) as apns, connect(apns) as client:
        for token in tokens(5):
            client.push(token)
        apns.journal.flush()
        lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["token"] for line in lines] == tokens(5)
    assert "authorization" not in lines[0]["headers"]
    assert [entry.token for entry in apns.journal] == tokens(5)[-2:]
    assert (apns.journal.total, len(apns.journal)) == (5, 2)


def test_a_journal_that_waits_in_vain_says_so(apns):
    apns.journal.clear()
    with pytest.raises(TimeoutError, match="0 of 3 requests arrived within"):
        apns.journal.wait(3, 0.01)


def test_a_port_that_is_taken(apns):
    before = threading.active_count()
    with pytest.raises(OSError, match="in use"):
        Apns(port=apns.port).start()
    assert threading.active_count() == before


def test_a_fault_of_its_own_is_raised_at_the_end(monkeypatch):
    apns = Apns().start()
    monkeypatch.setattr(apns, "judge", lambda request: 1 / 0)
    with connect(apns) as client:
        client.send(PATH)
        client.until_closed()
    with pytest.raises(RuntimeError, match=r"the simulator itself failed:\n.*ZeroDivisionError"):
        apns.__exit__(None)
