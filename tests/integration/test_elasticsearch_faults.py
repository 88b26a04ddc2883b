"""The sink before a server that misbehaves, and credentials and TLS before one that terminates them."""

from __future__ import annotations

import base64
import gc
import gzip
import logging
import socket
import sys
import threading

import orjson
import pytest
import trustme

from aggregator.errors import (
    RequestRefusedError,
    RequestTooLargeError,
    SinkBlockedError,
    SinkUnavailableError,
)
from aggregator.sinks import from_url
from aggregator.sinks.base import WRITTEN, Fate
from aggregator.sinks.elasticsearch_client import Connection
from aggregator.testing.memory import MemoryDelivery
from tests.elasticsearch_proxy import JSON, UNKNOWN, proxy


def item(name, document=b'{"n":1}'):
    made = MemoryDelivery(document)
    made.id = name
    made.document = document
    return made


ITEMS = [item("a"), item("b"), item("c")]


def sink_for(url, rest="/tasks", credentials=""):
    scheme, _, host = url.partition("://")
    return from_url(f"elasticsearch+{scheme}://{credentials}{host}{rest}")


@pytest.fixture
def fake():
    with proxy() as made:
        yield made


@pytest.fixture
def sink(fake):
    made = sink_for(fake.url)
    made.open()
    yield made
    made.close()


def test_written(sink, fake):
    assert sink.write(ITEMS) is None
    _, path, headers, body = fake.seen[-1]
    assert path.startswith("/tasks/_bulk?filter_path=errors,items.*._id,items.*.status,items.*.error")
    assert headers["content-type"].startswith("application/vnd.elasticsearch+x-ndjson")
    assert body.count(b"\n") == 6


@pytest.mark.parametrize("change", UNKNOWN.values(), ids=UNKNOWN.keys())
def test_unknown_and_then_sent_again(sink, fake, change):
    fake.change = change
    with pytest.raises(SinkUnavailableError) as caught:
        sink.write(ITEMS)
    assert "html" not in str(caught.value)
    assert caught.value.__cause__ is None
    fake.change = None
    assert sink.write(ITEMS) is None
    assert len(fake.bulk_bodies()) == 2  # the client repeated nothing by itself


def refusal(status, kind):
    body = orjson.dumps({"error": {"type": kind, "reason": "SECRET"}, "status": status})
    return lambda *_: (status, JSON, body)


@pytest.mark.parametrize(
    ("change", "exception"),
    [
        (refusal(413, "content_too_long_exception"), RequestTooLargeError),
        (lambda *_: (413, "text/html", b"<html>"), RequestTooLargeError),
        (refusal(400, "illegal_argument_exception"), RequestRefusedError),
        (refusal(401, "security_exception"), SinkBlockedError),
        (refusal(403, "security_exception"), SinkBlockedError),
        (refusal(404, "resource_not_found_exception"), SinkBlockedError),
    ],
)
def test_refused(sink, fake, change, exception):
    fake.change = change
    with pytest.raises(exception):
        sink.write(ITEMS)


def test_nobody_listens():
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        port = reserved.getsockname()[1]
    sink = sink_for(f"http://127.0.0.1:{port}")
    with pytest.raises(SinkUnavailableError, match="refused"):
        sink.open()
    with pytest.raises(SinkUnavailableError, match="not open"):
        sink.write(ITEMS)


def test_a_server_that_never_answers():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        sink = sink_for(f"http://127.0.0.1:{silent.getsockname()[1]}", "/tasks?timeout=1s")
        with pytest.raises(SinkUnavailableError, match=r"no answer .* in time"):
            sink.open()


@pytest.mark.parametrize("how", ["broken off", "refused", "silent", "html"])
def test_a_request_that_failed_is_let_go_of_at_once(fake, how):
    """Not when the collector looks for circles: while a sink is away it has no reason to."""
    sink = sink_for(fake.url, "/tasks?timeout=1s")
    sink.open()
    body = b'{"create":{"_id":"a"}}\n{"n":1}\n' * 9
    held = sys.getrefcount(body)
    fake.change = UNKNOWN["html that says it is json" if how == "html" else "broken off"]
    silent = socket.create_server(("127.0.0.1", 0))
    if how in {"refused", "silent"}:
        sink.close()
        sink = sink_for(f"http://127.0.0.1:{silent.getsockname()[1]}", "/tasks?timeout=1s")
        sink._connection = Connection(sink._settings)
    if how == "refused":
        silent.close()
    gc.disable()
    try:
        with pytest.raises(SinkUnavailableError) as caught:
            sink._connection.bulk("/tasks/_bulk", body, {})
        del caught
        assert sys.getrefcount(body) == held
    finally:
        gc.enable()
        silent.close()
        sink.close()


def test_one_of_two_hosts_is_away(fake):
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        port = reserved.getsockname()[1]
    sink = from_url(f"elasticsearch+http://127.0.0.1:{port},{fake.url.partition('://')[2]}/tasks")
    sink.open()
    results = []
    for _ in range(6):
        try:
            results.append(sink.write(ITEMS))
        except SinkUnavailableError:
            results.append("away")
    sink.close()
    assert None in results
    assert results[-1] is None


def test_something_else_answers_at_the_opening(fake):
    fake.product = ""
    with pytest.raises(SinkBlockedError, match="is not Elasticsearch"):
        sink_for(fake.url).open()


def test_something_else_answers_for_a_while(sink, fake):
    fake.product = ""
    with pytest.raises(SinkUnavailableError):
        sink.write(ITEMS)
    fake.product = "Elasticsearch"
    assert sink.write(ITEMS) is None


def test_many_threads_share_the_client(sink, fake):
    barrier = threading.Barrier(4)
    results = []

    def write(number):
        barrier.wait()
        results.append(sink.write([item(f"{number}-{n}") for n in range(50)]))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [None] * 4
    assert len(fake.bulk_bodies()) == 4


def test_items_that_cannot_be_sent_keep_their_place(sink, fake):
    verdicts = sink.write([item("x" * 513), ITEMS[0], item("\ud800"), ITEMS[1]])
    assert [verdict.fate for verdict in verdicts] == [Fate.DEAD_LETTER, Fate.WRITTEN] * 2
    assert verdicts[1] == WRITTEN
    fake.seen.clear()
    assert [verdict.reason for verdict in sink.write([item("\ud800")])] == ["bad-id"]
    assert fake.seen == []


def test_gzip(fake):
    sink = sink_for(fake.url, "/tasks?gzip=true")
    sink.open()
    fake.rules["/tasks/_bulk"] = (
        200,
        JSON,
        b'{"errors":false,"items":[{"create":{"_id":"a","status":201}}]}',
    )
    assert sink.write([item("a")]) is None
    sink.close()
    assert gzip.decompress(fake.bulk_bodies()[0]) == b'{"create":{"_id":"a"}}\n{"n":1}\n'


def test_bodies_never_reach_the_logs(sink, caplog):
    caplog.set_level(logging.DEBUG)
    sink.write([item("a", b'{"n":"SECRET"}')])
    assert caplog.records  # the request itself is logged
    assert "SECRET" not in caplog.text


def test_warnings_of_the_server_change_nothing(fake):
    fake.warning = "this index is old"
    sink = sink_for(fake.url)
    sink.open()
    assert sink.write(ITEMS) is None
    sink.close()


# --- credentials ---


def authorization(fake):
    return {headers.get("authorization") for _, _, headers, _ in fake.seen}


def test_basic_authentication(fake):
    sink = sink_for(fake.url, credentials="us%40er:p%2Fw@")
    sink.open()
    sink.write(ITEMS)
    sink.close()
    assert authorization(fake) == {"Basic " + base64.b64encode(b"us@er:p/w").decode()}


def test_an_api_key_is_read_anew_at_each_opening(fake, tmp_path):
    file = tmp_path / "key"
    file.write_text("aWQ6a2V5\n")
    sink = sink_for(fake.url, f"/tasks?api_key_file={file}")
    sink.open()
    sink.write(ITEMS)
    assert authorization(fake) == {"ApiKey aWQ6a2V5"}
    fake.seen.clear()
    file.write_text("id:key2")
    sink.open()
    sink.close()
    assert authorization(fake) == {"ApiKey " + base64.b64encode(b"id:key2").decode()}


def test_a_secret_that_is_gone_at_a_later_opening(fake, tmp_path):
    file = tmp_path / "key"
    file.write_text("aWQ6a2V5")
    sink = sink_for(fake.url, f"/tasks?api_key_file={file}")
    sink.open()
    file.unlink()
    with pytest.raises(SinkBlockedError, match=r"api_key_file: .* cannot be read"):
        sink.open()
    file.write_text("aWQ6a2V5")
    sink.open()
    sink.close()


def test_a_ca_that_is_gone_at_a_later_opening(tmp_path):
    file = tmp_path / "ca.pem"
    ca = trustme.CA()
    ca.cert_pem.write_to_path(file)
    with proxy(certificate=ca.issue_cert("127.0.0.1")) as made:
        sink = sink_for(made.url, f"/tasks?ca={file}")
        sink.open()
        file.unlink()
        with pytest.raises(SinkBlockedError, match=r"TLS with .*No such file"):
            sink.open()


def test_credentials_that_are_refused(fake):
    fake.rules["/"] = (
        401,
        JSON,
        b'{"error":{"type":"security_exception","reason":"unable to authenticate"}}',
    )
    sink = sink_for(fake.url, credentials="user:hunter2@")
    with pytest.raises(SinkBlockedError, match="unable to authenticate") as caught:
        sink.open()
    assert "hunter2" not in str(caught.value)


def test_credentials_that_may_only_write(fake):
    forbidden = (403, JSON, b'{"error":{"type":"security_exception","reason":"unauthorized"}}')
    fake.rules |= dict.fromkeys(("/_cluster", "/tasks?", "/_ingest"), forbidden)
    fake.rules["/_security"] = (200, JSON, b'{"has_all_requested":true}')
    sink = sink_for(fake.url, "/tasks?pipeline=p", credentials="user:hunter2@")
    sink.open()
    assert sink.write(ITEMS) is None
    sink.close()


@pytest.mark.parametrize(("op", "privilege"), [("create", "create_doc"), ("index", "index")])
def test_credentials_that_may_not_write(fake, op, privilege):
    fake.rules["/_security"] = (200, JSON, b'{"has_all_requested":false}')
    sink = sink_for(fake.url, f"/tasks?op={op}", credentials="user:hunter2@")
    with pytest.raises(SinkBlockedError, match=f"lack the privilege {privilege} for tasks"):
        sink.open()
    question = next(body for _, path, _, body in fake.seen if path.startswith("/_security"))
    assert orjson.loads(question) == {"index": [{"names": ["tasks"], "privileges": [privilege]}]}


@pytest.mark.parametrize(
    ("path", "answer", "exception"),
    [
        ("/", (200, JSON, b'{"version":{"number":"7.17.0"}}'), SinkBlockedError),
        ("/", (400, JSON, b'{"error":{"type":"media_type_header_exception"}}'), SinkBlockedError),
        ("/", (503, JSON, b"{}"), SinkUnavailableError),
        ("/", (404, JSON, b"{}"), SinkBlockedError),
        ("/", (200, "text/html", b"<html>router</html>"), SinkUnavailableError),
        ("/_cluster", (503, JSON, b"{}"), SinkUnavailableError),
        (
            "/_cluster",
            (200, JSON, b'{"transient":{"cluster":{"blocks":{"read_only":"true"}}}}'),
            SinkBlockedError,
        ),
        ("/tasks?", (429, JSON, b"{}"), SinkUnavailableError),
    ],
)
def test_openings_that_fail(fake, path, answer, exception):
    sink = sink_for(fake.url)
    if path == "/":
        fake.rules = {"/_": (200, JSON, b"{}"), "/tasks": (200, JSON, b"{}")}
    fake.rules[path] = answer
    with pytest.raises(exception):
        sink.open()
    fake.rules = {}
    sink.open()
    sink.close()


# --- TLS ---


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


def opened(made, rest):
    sink = sink_for(made.url, rest, credentials="user:hunter2@")
    try:
        sink.open()
        assert sink.write(ITEMS) is None
    finally:
        sink.close()


def test_tls_with_a_certificate_of_this_host(authority, tmp_path):
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    with proxy(certificate=authority.issue_cert("127.0.0.1")) as made:
        opened(made, f"/tasks?ca={tmp_path}/ca.pem")


def test_tls_with_the_certificate_of_another_host(authority, tmp_path):
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    with proxy(certificate=authority.issue_cert("elsewhere.example")) as made:
        with pytest.raises(SinkBlockedError, match=r"TLS with https://127\.0\.0\.1"):
            opened(made, f"/tasks?ca={tmp_path}/ca.pem")
        assert made.seen == []


def test_tls_with_an_unknown_authority(authority, tmp_path):
    trustme.CA().cert_pem.write_to_path(tmp_path / "other.pem")
    with proxy(certificate=authority.issue_cert("127.0.0.1")) as made:
        for rest in ("/tasks", f"/tasks?ca={tmp_path}/other.pem"):
            with pytest.raises(SinkBlockedError, match="certificate verify failed"):
                opened(made, rest)
        assert made.seen == []


def test_https_to_a_port_that_speaks_http(fake):
    with pytest.raises(SinkBlockedError, match="TLS with"):
        sink_for(fake.url.replace("http", "https")).open()


def test_a_handshake_that_is_broken_off_is_an_outage():
    with socket.create_server(("127.0.0.1", 0)) as server:

        def hang_up():
            client, _ = server.accept()
            client.recv(4096)
            client.close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        with pytest.raises(SinkUnavailableError):
            sink_for(f"https://127.0.0.1:{server.getsockname()[1]}").open()
        thread.join()
