"""Engines for pushes under everything that a gateway may do: every push has one verdict, none goes twice."""

from __future__ import annotations

import socket
import ssl
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from time import monotonic
from urllib.parse import urlsplit

import pytest
import trustme

from aggregator.errors import SinkBlockedError, SinkError, SinkUnavailableError
from aggregator.metrics import Metrics
from aggregator.push import Notification
from aggregator.sinks import from_url
from aggregator.sinks.base import Fate
from aggregator.testing.gateways import Apns, Fcm
from tests.pushes import PushItem, address, pushes, token, told

pytestmark = pytest.mark.integration

PLATFORMS = {"curl": "apns", "aioapns": "apns", "fcm": "fcm"}


@pytest.fixture(params=PLATFORMS)
def engine(request):
    return request.param


@pytest.fixture
def platform(engine):
    return PLATFORMS[engine]


@pytest.fixture
def gateway(platform):
    # enough streams for FCM's as well; a latency that keeps pushes under way together
    with (Apns if platform == "apns" else Fcm)(latency=0.005, streams=1000) as gateway:
        yield gateway


@pytest.fixture
def make(engine, gateway):
    made = []

    def make(**options):
        more = {"engine": "aioapns"} if engine == "aioapns" else {}
        sink = from_url(gateway.sink_url(**{"timeout": "10s", "streams": 50, **more, **options}))
        made.append(sink)
        return sink

    yield make
    for sink in made:
        sink.close()


@pytest.fixture
def sink(make, gateway):
    sink = make()
    sink.open()
    gateway.journal.clear()
    return sink


@pytest.fixture
def impatient(make, gateway):
    sink = make(timeout="2s")
    sink.open()
    gateway.journal.clear()
    return sink


@pytest.fixture
def batch(platform):
    def batch(count, start=0, **more):
        return pushes(count, platform=platform, start=start, **more)

    return batch


def delivered_once(gateway, count):
    assert gateway.journal.delivered == {token(number): 1 for number in range(count)}


def sent_once(gateway):
    seen = [entry.token for entry in gateway.journal]
    assert len(seen) == len(set(seen))


@pytest.fixture
def busy(platform):
    """Give the reason for what may be tried again, and the ones for what is final."""
    return ("InternalServerError", "Unregistered") if platform == "apns" else ("INTERNAL", "UNREGISTERED")


class TestVerdicts:
    def test_every_push_arrives_once(self, sink, gateway, batch):
        assert told(sink, batch(300)) == {"written": 300}
        delivered_once(gateway, 300)
        assert gateway.journal.outcomes == {"answered": 300}

    def test_each_has_its_own(self, sink, gateway, batch, busy):
        retry, dead = busy
        gateway.script.answer(retry, token=token(7))
        gateway.script.answer(dead, token=token(9))
        verdicts = sink.write(batch(20))
        wrong = {n: (v.fate, v.reason) for n, v in enumerate(verdicts) if v.fate is not Fate.WRITTEN}
        assert wrong == {7: (Fate.RETRY, retry), 9: (Fate.REFUSED, dead)}

    def test_many_errors_stop_nothing(self, sink, gateway, batch, busy):
        """More error bodies than a flow control window holds."""
        gateway.script.answer(busy[1])
        for _ in range(3):
            assert told(sink, batch(1000)) == {f"refused {busy[1]}": 1000}
        assert gateway.connections_made <= 3

    def test_an_error_without_a_body(self, sink, gateway, batch, busy):
        gateway.script.answer(busy[1], empty=True, every=2)
        reason = "refused http-410" if busy[1] == "Unregistered" else "blocked http-404"
        assert told(sink, batch(2))[reason] == 1

    def test_a_block_stops_the_rest(self, sink, gateway, batch, platform):
        gateway.script.answer("BadCertificate" if platform == "apns" else "PERMISSION_DENIED")
        assert set(told(sink, batch(1000))) == {
            "blocked BadCertificate" if platform == "apns" else "blocked PERMISSION_DENIED"
        }
        assert gateway.journal.total <= 100

    def test_a_pause_that_is_asked_for_is_kept(self, sink, gateway, batch, platform):
        reason = "ServiceUnavailable" if platform == "apns" else "UNAVAILABLE"
        gateway.script.answer(reason, retry_after=60)
        assert set(told(sink, batch(500))) == {f"retry {reason}"}
        seen = gateway.journal.total
        assert seen <= 100
        with pytest.raises(SinkUnavailableError, match="wants a pause"):
            sink.write(batch(1))
        with pytest.raises(SinkUnavailableError, match="wants a pause"):
            sink.open()
        assert gateway.journal.total == seen

    def test_large_payloads_wait_for_the_window(self, sink, gateway, platform):
        payload = b'{"data":{"a":"%b"}}' % (b"x" * 4000)
        notification = Notification(payload=payload, campaign="c1")
        large = [PushItem(address(n, notification, platform=platform)) for n in range(200)]
        assert told(sink, large) == {"written": 200}
        delivered_once(gateway, 200)

    def test_pushes_are_counted(self, make, gateway, batch, busy):
        metrics = Metrics()
        sink = make()
        sink.count_in(metrics)
        sink.open()
        gateway.script.answer(busy[1], every=2)
        told(sink, batch(10))
        name = sink.gateway_name
        assert metrics.pushes.labels(name, "", "written", "")._value.get() == 5
        assert metrics.pushes.labels(name, "", "refused", busy[1])._value.get() == 5


class TestFaults:
    @pytest.mark.parametrize("fault", ["rst", "cut"])
    def test_a_lost_stream_is_uncertain_alone(self, sink, gateway, batch, fault):
        gateway.script.fault(fault, every=10)
        assert told(sink, batch(300)) == {"written": 270, "retry stream-lost": 30}
        gateway.script.clear()
        assert told(sink, batch(300, start=300)) == {"written": 300}, "no place is lost"
        sent_once(gateway)
        assert gateway.connections_made <= 3

    def test_a_dropped_connection_is_uncertain_and_nothing_goes_twice(self, sink, gateway, batch):
        gateway.script.fault("drop", nth=80)
        counted = told(sink, batch(300))
        assert set(counted) == {"written", "retry connection-lost"}
        assert sum(counted.values()) == 300
        # those under way, and those that left before the loss was seen
        assert counted["retry connection-lost"] <= 100
        sent_once(gateway)
        assert told(sink, batch(10, start=300)) == {"written": 10}

    def test_goaway_sends_again_what_was_not_looked_at(self, sink, gateway, batch):
        gateway.script.fault("goaway", nth=100)
        gateway.script.fault("goaway", nth=250)
        assert told(sink, batch(400)) == {"written": 400}
        delivered_once(gateway, 400)

    def test_goaway_from_outside_while_much_is_under_way(self, sink, gateway, batch):
        gateway.script.latency = 0.05

        def end():
            gateway.journal.wait(60)
            gateway.goaway(behind=20)

        thread = threading.Thread(target=end)
        thread.start()
        assert told(sink, batch(300)) == {"written": 300}
        thread.join()
        delivered_once(gateway, 300)
        assert gateway.journal.outcomes["goaway"] > 0

    def test_after_an_abrupt_goaway_the_rest_is_uncertain(self, sink, gateway, batch):
        gateway.script.latency = 0.05

        def end():
            gateway.journal.wait(60)
            gateway.goaway(behind=20, abrupt=True)

        thread = threading.Thread(target=end)
        thread.start()
        counted = told(sink, batch(300))
        thread.join()
        assert set(counted) <= {"written", "retry connection-lost"}
        assert sum(counted.values()) == 300
        # what stood above the last stream came again, nothing else did
        again = [entry.token for entry in gateway.journal if entry.outcome != "goaway"]
        assert len(again) == len(set(again))
        assert max(gateway.journal.delivered.values()) == 1

    def test_silence_of_one_holds_nobody_up(self, impatient, gateway, batch):
        sink = impatient
        gateway.script.fault("silence", token=token(5))
        assert told(sink, batch(300)) == {"written": 299, "retry timeout": 1}
        gateway.script.clear()
        assert told(sink, batch(300, start=300)) == {"written": 300}
        sent_once(gateway)

    def test_a_silent_gateway_is_given_up_at_once(self, impatient, gateway, batch):
        sink = impatient
        gateway.script.fault("silence")
        start = monotonic()
        with pytest.raises(SinkUnavailableError):
            sink.write(batch(300))
        assert monotonic() - start < 8  # one time-out for all, not one for each 50
        assert gateway.journal.total <= 50
        sent_once(gateway)
        gateway.script.clear()
        assert told(sink, batch(100, start=300)) == {"written": 100}, "over a new connection"

    def test_a_gateway_that_breaks_every_connection_is_left(self, sink, gateway, batch):
        gateway.script.fault("drop")
        with suppress(SinkUnavailableError):
            assert not {"written"} & set(told(sink, batch(300)))
        assert gateway.connections_made <= 8

    def test_stream_limits_that_change(self, sink, gateway, batch):
        assert told(sink, batch(50)) == {"written": 50}
        for limit, start in ((3, 50), (1, 100), (1000, 150)):
            gateway.script.streams(limit)
            assert told(sink, batch(50, start=start)) == {"written": 50}
        gateway.script.latency = 0.02
        changes = threading.Thread(
            target=lambda: [(gateway.journal.wait(200 + n), gateway.script.streams(n)) for n in (20, 2, 40)]
        )
        changes.start()
        counted = told(sink, batch(150, start=200))
        changes.join()
        assert sum(counted.values()) == 150
        # streams that were under way when the limit fell are refused, and come again
        assert counted == {"written": 150}
        delivered_once(gateway, 350)
        assert gateway.connections_made <= 3

    def test_several_threads(self, make, gateway, batch):
        sink = make(concurrency=4)
        sink.open()
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda n: told(sink, batch(100, start=100 * n)), range(8)))
        assert found == [{"written": 100}] * 8
        delivered_once(gateway, 800)

    def test_several_connections(self, make, gateway, batch):
        gateway.script.streams(10)
        sink = make(connections=3)
        sink.open()
        assert told(sink, batch(300)) == {"written": 300}
        assert gateway.connections_made <= 6


class TestConnecting:
    def test_opens_again_and_again(self, sink, gateway, batch):
        for number in range(3):
            sink.open()
            assert told(sink, batch(5, start=5 * number)) == {"written": 5}
        sink.close()
        with pytest.raises(SinkUnavailableError, match="not open"):
            sink.write(batch(1))

    def test_nobody_there(self, sink, gateway, batch):
        gateway.stop()
        with pytest.raises(SinkUnavailableError):
            sink.write(batch(50))
        with pytest.raises(SinkError):
            sink.open()

    def test_its_certificate_is_checked(self, engine, gateway, batch, tmp_path):
        other = trustme.CA()
        other.cert_pem.write_to_path(tmp_path / "other.pem")
        sink = from_url(gateway.sink_url(ca=tmp_path / "other.pem", **engine_of(engine)))
        with pytest.raises(SinkBlockedError, match="TLS"):
            sink.open()
        sink.close()

    def test_its_name_is_checked(self, engine, platform, gateway, tmp_path):
        with stranger(tmp_path, "example.org", ["h2"]) as (port, ca):
            sink = from_url(
                gateway.sink_url(ca=ca, **engine_of(engine)).replace(str(gateway.port), str(port), 1)
            )
            if platform == "apns":  # at FCM the token comes first, from the endpoint with another authority
                with pytest.raises(SinkBlockedError, match="TLS"):
                    sink.open()
            else:
                with pytest.raises(SinkBlockedError):
                    sink.open()
            sink.close()

    def test_what_speaks_no_http2_is_an_error(self, engine, gateway, tmp_path):
        with stranger(tmp_path, "127.0.0.1", None) as (port, ca):
            sink = from_url(
                gateway.sink_url(ca=ca, timeout="1s", **engine_of(engine)).replace(
                    str(gateway.port), str(port), 1
                )
            )
            with pytest.raises(SinkError):
                sink.open()
            sink.close()


def engine_of(engine):
    return {"engine": "aioapns"} if engine == "aioapns" else {}


class stranger:  # noqa: N801 - a context manager
    """A TLS server that says nothing."""

    def __init__(self, folder, name, protocols):
        authority = trustme.CA()
        self.ca = folder / "stranger.pem"
        authority.cert_pem.write_to_path(self.ca)
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(name).configure_cert(self.context)
        if protocols:
            self.context.set_alpn_protocols(protocols)

    def __enter__(self):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()
        return self.listener.getsockname()[1], self.ca

    def _serve(self):
        while True:
            try:
                taken, _ = self.listener.accept()
            except OSError:
                return
            with suppress(OSError), taken, self.context.wrap_socket(taken, server_side=True) as wrapped:
                wrapped.recv(100)

    def __exit__(self, *_):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.thread.join()


@pytest.mark.parametrize("engine", ["curl", "aioapns"])
class TestApns:
    def test_headers_and_ids(self, sink, gateway, batch):
        items = batch(3, collapse_id="letters", priority=5, expiration=0, topic="com.example.app")
        assert told(sink, items) == {"written": 3}
        for entry in gateway.journal:
            number = int(entry.token, 16)
            assert entry.apns_id == items[number].address.apns_id
            assert entry.headers["apns-collapse-id"] == "letters"
            assert entry.headers["apns-priority"] == "5"
            assert entry.headers["apns-expiration"] == "0"
            assert entry.headers["apns-push-type"] == "alert"
            assert entry.payload == items[number].document

    def test_one_provider_token_for_all_connections(self, make, gateway, batch):
        for _ in range(3):
            sink = make()
            sink.open()
            told(sink, batch(5))
        assert len({entry.headers.get("authorization") for entry in gateway.journal}) == 1

    def test_a_stale_provider_token_is_renewed_once(self, sink, gateway, batch):
        gateway.script.answer("ExpiredProviderToken", times=30)
        assert told(sink, batch(200)) == {"written": 200}
        tokens = {entry.headers["authorization"] for entry in gateway.journal}
        assert len(tokens) == 2
        delivered_once(gateway, 200)

    def test_a_key_that_is_refused_blocks(self, sink, gateway, batch):
        gateway.script.answer("InvalidProviderToken")
        assert told(sink, batch(500)) == {"blocked InvalidProviderToken": 500}
        assert gateway.journal.total <= 201
        assert len({entry.headers["authorization"] for entry in gateway.journal}) <= 2

    def test_a_certificate(self, engine, gateway, batch):
        parts = urlsplit(gateway.url)
        more = f"&engine={engine}&ca={gateway.ca}&streams=50"
        sink = from_url(f"apns+https://{parts.netloc}/?certificate={gateway.certificate()}{more}")
        sink.open()
        assert told(sink, batch(20)) == {"written": 20}
        assert "authorization" not in gateway.journal[-1].headers
        sink.close()

    def test_a_certificate_for_the_other_environment_is_blocked(self, engine, gateway, batch):
        parts = urlsplit(gateway.url)
        certificate = gateway.certificate(environments=["development"], name="sandbox")
        sink = from_url(
            f"apns+https://{parts.netloc}/?certificate={certificate}&engine={engine}&ca={gateway.ca}"
        )
        sink.open()
        assert told(sink, batch(5)) == {"blocked BadCertificateEnvironment": 5}
        sink.close()


@pytest.mark.parametrize("engine", ["fcm"])
class TestFcm:
    def test_an_access_token_that_ended_is_replaced(self, sink, gateway, batch):
        granted = gateway.tokens.granted
        gateway.tokens.expire()
        assert told(sink, batch(200)) == {"written": 200}
        assert gateway.tokens.granted == granted + 1
        delivered_once(gateway, 200)

    def test_an_endpoint_that_refuses_the_account_blocks(self, make, gateway):
        gateway.tokens.failure = (401, "invalid_client")
        with pytest.raises(SinkBlockedError, match="invalid_client"):
            make().open()

    def test_a_wrong_project_blocks(self, make):
        with pytest.raises(SinkBlockedError, match="PERMISSION_DENIED for project other"):
            make(project="other").open()

    def test_a_dry_run(self, make, gateway, batch):
        sink = make(dry_run="true")
        sink.open()
        gateway.journal.clear()
        assert told(sink, batch(3)) == {"written": 3}
        assert all(entry.document["validate_only"] is True for entry in gateway.journal)
        assert "dry run" in sink.where()

    def test_the_quota_pauses(self, sink, gateway, batch):
        gateway.quota = 100
        counted = told(sink, batch(400))
        assert counted["written"] <= 100
        assert set(counted) == {"written", "retry QUOTA_EXCEEDED"}
        with pytest.raises(SinkUnavailableError, match="quota"):
            sink.write(batch(1))

    def test_feedback_reaches_the_sink(self, sink, gateway, batch):
        told_of = []
        sink._feedback = type("F", (), {"report": lambda _, *a: told_of.append(a), "close": lambda _: None})()
        gateway.script.answer("UNREGISTERED", token=token(1))
        sink.write(batch(3))
        assert [(to.token, reason) for to, reason, _ in told_of] == [(token(1), "UNREGISTERED")]
