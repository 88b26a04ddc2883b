"""Jobs over Redis alone, and over another broker: submitted, worked, asked for."""

from __future__ import annotations

import threading
import uuid

import orjson
import pytest
from redis import Redis as Client

from aggregator.errors import ConfigurationError, StoreUnavailableError
from consumers.transports import register
from producers import jobs
from producers.jobs import JobRefusedError, Jobs, UnknownJobError

pytestmark = pytest.mark.integration


@pytest.fixture
def queue():
    return f"test-{uuid.uuid4().hex}"


@pytest.fixture
def results(redis, queue):
    return f"{redis.url}?prefix={queue}&timeout=2s"


@pytest.fixture
def store(redis):
    with Client.from_url(redis.url) as client:
        yield client


def work(service, folder, broker, queue, results, *more):
    return service(
        *("--broker", broker, "--queue", queue, "--results", results, "--age", "100ms", *more), folder=folder
    )


@pytest.mark.parametrize("broker", ["redis", "sqlite-queue"])
def test_each_job_learns_its_end(service, tmp_path, redis, queue, results, broker):  # noqa: PLR0917
    register()
    url = redis.url if broker == "redis" else f"sqlite-queue:///{tmp_path}/queue.db"
    with Jobs(url, queue, results) as client:
        good, bad = client.submit({"number": 1}, id=f"{queue}-1"), client.submit(b"{")
        assert client.status(good).state == "queued"
        running = work(service, tmp_path, url, queue, results)
        done = client.result(good, 60.0)
        assert (done.id, done.state, done.succeeded) == (f"{queue}-1", "written", True)
        assert done.at >= done.since > 1_000_000_000
        refused = client.result(bad, 60.0)
        assert (refused.state, refused.reason, refused.succeeded) == ("dead-lettered", "bad-json", False)
        assert refused.detail
        # submitted once more it is the same job, and nothing is published
        assert client.submit({"number": 1}, id=good) == good
        assert client.status(good).state == "written"
    assert running.stop() == 0
    assert sum(size for _, size in running.batches()) == 2


def test_a_job_that_nobody_takes_is_waited_for_in_vain(redis, queue, results):
    with Jobs(redis.url, queue, results) as client:
        job = client.submit({})
        with pytest.raises(TimeoutError, match=f"job {job} is not done after 0.1 s"):
            client.result(job, 0.1)
        with pytest.raises(UnknownJobError):
            client.result("other", 0.1)


def test_an_end_is_heard_of_at_once(redis, queue, results, monkeypatch):
    monkeypatch.setattr(jobs, "LOOK_SECONDS", 3600.0)
    with Jobs(redis.url, queue, results) as client, Jobs(redis.url, queue, results) as other:
        job = client.submit({})
        found = []
        waiting = threading.Thread(target=lambda: found.append(client.result(job, 60.0)))
        listen, listening = client._store.listen, threading.Event()

        def listened(job):
            heard = listen(job)
            listening.set()
            return heard

        client._store.listen = listened
        waiting.start()
        assert listening.wait(30.0)
        other._store.post([jobs_word(job, "written")])
        waiting.join(60.0)
        assert [each.state for each in found] == ["written"]


def test_an_end_that_was_not_heard_of_is_found(redis, queue, results, store, monkeypatch):
    monkeypatch.setattr(jobs, "LOOK_SECONDS", 0.05)
    with Jobs(redis.url, queue, results) as client:
        job = client.submit({})
        silently = threading.Timer(0.3, store.hset, (f"{{{queue}}}:{job}", "state", "written"))
        silently.start()
        assert client.result(job, 60.0).state == "written"
        silently.join()


def test_a_final_word_stays_and_has_an_end(redis, queue, results, store):
    with Jobs(redis.url, queue, results) as client:
        job = client.submit({})
        for state in ("taken", "written", "taken", "duplicate"):
            client._store.post([jobs_word(job, state)])
        assert client.status(job).state == "written"
        assert 0 < store.ttl(f"{{{queue}}}:{job}") <= 3600
        client._store.post([jobs_word("nobody's", "written")])
        with pytest.raises(UnknownJobError):
            client.status("nobody's")


def test_what_the_broker_refuses_is_no_job(redis, queue, results, monkeypatch):
    with Jobs(redis.url, queue, results) as client:
        monkeypatch.setattr(jobs.Publisher, "publish", lambda _self, _messages: ["unroutable"])
        with pytest.raises(JobRefusedError, match="unroutable"):
            client.submit({}, id="a")
        with pytest.raises(UnknownJobError):
            client.status("a")


def test_redis_away_is_said(redis, queue):
    with Jobs(redis.url, queue, "redis://127.0.0.1:1/0") as client, pytest.raises(StoreUnavailableError):
        client.submit({})
    with pytest.raises(ConfigurationError, match="results: 'http' is no scheme of Redis"):
        Jobs(redis.url, queue, "http://h")


def test_the_command_line(redis, queue, results, capsys):
    ends = ["--broker", redis.url, "--queue", queue, "--results", results]
    assert jobs.main([*ends, "submit", '{"number": 1}', "--id", "a"]) == 0
    assert capsys.readouterr().out == "a\n"
    assert jobs.main([*ends, "status", "a"]) == 3
    assert orjson.loads(capsys.readouterr().out)["state"] == "queued"
    assert jobs.main([*ends, "result", "a", "--timeout", "100ms"]) == 3
    assert jobs.main([*ends, "status", "b"]) == 1
    assert "no job b: never submitted" in capsys.readouterr().err
    for wrong, words in (
        (["submit", "{"], "no JSON"),
        (["result", "a", "--timeout", "5"], "5 has no unit"),
        (["retry", "a"], "invalid choice"),
    ):
        with pytest.raises(SystemExit) as ended:
            jobs.main([*ends, *wrong])
        assert ended.value.code == 2
        assert words in capsys.readouterr().err


def jobs_word(job, state):
    from aggregator.results import Word

    return Word(job, state)
