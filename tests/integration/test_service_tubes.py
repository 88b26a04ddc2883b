"""The service on tubes of a real Tarantool: pushes, documents, kills of either side, stops in between."""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from itertools import count

import pytest

from tests.servers.base import wait_for
from tests.service import ROOT, Service

pytestmark = pytest.mark.integration

RECIPIENTS = 50
TASKS = 60
NAMES = count(1)
#: A gateway that takes its time and writes down whom it has sent to; some it sends only at the second try.
GATEWAY = """
import os, time
journal = os.open({journal!r}, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
asked = set()
def send(request):
    time.sleep(0.01)
    sent = []
    for item in request:
        device = item.address.device
        if device.endswith("7") and device not in asked:
            asked.add(device)
            request.retry(item)
        else:
            sent.append(device)
    if sent:
        os.write(journal, "".join(f"{{device}}\\n" for device in sent).encode())
"""


class Post:
    """A tube with tasks, a gateway with a journal."""

    def __init__(self, server, folder):
        self.server = server
        self.folder = folder
        self.tube = f"t{next(NAMES)}"
        self.journal = folder / "journal"
        (folder / "post_gateway.py").write_text(GATEWAY.format(journal=str(self.journal)))
        with closing(server.client()) as client:
            client.call("tubes.create", self.tube)

    def put(self, tasks=TASKS, *, first=0, **more):
        with closing(self.server.client()) as client:
            for number in range(first, first + tasks):
                devices = [f"{number}-{index}" for index in range(RECIPIENTS)]
                message = {
                    "campaign": self.tube,
                    "platform": "apns",
                    "notification": {"payload": {"aps": {"alert": "hello"}}},
                    "recipients": [[device, f"token-{device}"] for device in devices],
                    **more,
                }
                client.call("tubes.put", self.tube, message, {"group": self.tube, "cost": RECIPIENTS})

    def service(self, *flags):
        return Service(
            "--broker", self.server.url_of("consumer"), "--queue", self.tube, "--aggregate", "push",
            "--sink", "function:post_gateway:send", "--request-items", "20", "--concurrency", "2",
            "--retry-first", "20ms", "--metrics-port", "0", *flags,
            environment={"PYTHONPATH": f"{ROOT}:{self.folder}"},
        )  # fmt: skip

    @property
    def sent(self):
        return Counter(self.journal.read_text().splitlines()) if self.journal.exists() else Counter()

    def wait_sent(self, number):
        wait_for(lambda: len(self.sent) >= number, f"{number} sent")

    def ask(self, function, *arguments):
        with closing(self.server.client()) as client:
            return client.call(function, *arguments)[0]

    @property
    def counts(self):
        return self.ask("tubes.counts", self.tube).get(self.tube, {})

    @property
    def tasks(self):
        shown = self.ask("tubes.stats", self.tube)["tasks"]
        return {state: number for state, number in shown.items() if number and state != "total"}


@pytest.fixture
def post(tarantool, tmp_path):
    return Post(tarantool, tmp_path)


ALL = TASKS * RECIPIENTS


def test_all_are_sent_once_and_reported(post):
    post.put()
    service = post.service("--until-empty")
    assert service.wait() == 0, service.last_words()
    assert not service.faults()
    assert (len(post.sent), sum(post.sent.values())) == (ALL, ALL)
    assert (post.tasks, post.counts) == ({}, {"sent": ALL})


def test_a_killed_server_makes_nobody_get_it_twice(post):
    post.put()
    service = post.service()
    for share in (4, 2):
        post.wait_sent(ALL // share)
        post.server.kill()
        post.server.start()
    post.wait_sent(ALL)
    wait_for(lambda: not post.tasks, "all acked", detail=service.last_words)
    assert service.events("link_lost")
    assert service.stop() == 0
    assert not service.faults()
    assert (len(post.sent), sum(post.sent.values())) == (ALL, ALL)
    assert post.counts == {"sent": ALL}


def test_a_killed_service_loses_nobody(post):
    post.put()
    killed = 0
    for share in (4, 2):
        service = post.service("--prefetch", "4")
        post.wait_sent(ALL // share)
        service.stop(9)
        killed += 1
    service = post.service("--prefetch", "4", "--until-empty")
    assert service.wait() == 0, service.last_words()
    twice = sum(post.sent.values()) - ALL
    assert len(post.sent) == ALL
    assert 0 <= twice <= killed * 4 * RECIPIENTS
    assert (post.tasks, post.counts) == ({}, {"sent": ALL})


def test_a_stop_in_between_sends_nobody_twice(post):
    post.put()
    for share in (4, 2):
        service = post.service("--grace", "0.1s")
        post.wait_sent(ALL // share)
        assert service.stop() == 0, service.last_words()
        assert not service.faults()
    service = post.service("--until-empty")
    assert service.wait() == 0, service.last_words()
    assert (len(post.sent), sum(post.sent.values())) == (ALL, ALL)
    assert (post.tasks, post.counts) == ({}, {"sent": ALL})


def test_what_is_refused_is_buried_and_what_has_expired_is_counted(post):
    post.put(1, platform="web")
    post.put(1, expires=5)
    post.put(1, not_before=4_000_000_000)
    service = post.service()
    wait_for(lambda: post.tasks == {"buried": 1, "delayed": 1}, "sorted", detail=lambda: str(post.tasks))
    service.wait_metric("aggregator_queue_messages", lambda number: number == 1, state="buried")
    assert service.ready()[0] == 200
    assert service.stop() == 0
    assert post.counts == {"bad-push": RECIPIENTS, "expired": RECIPIENTS}
    assert not post.sent


def test_documents_go_into_a_file(post, tmp_path):
    with closing(post.server.client()) as client:
        client.call("tubes.put_many", post.tube, [[{"n": number}, {}] for number in range(100)])
    service = Service(
        "--broker", post.server.url_of("consumer"), "--queue", post.tube, "--until-empty", "--size", "10",
        "--sink", f"sqlite:///{tmp_path}/documents.db",
    )  # fmt: skip
    assert service.wait() == 0, service.last_words()
    assert "100 written" in service.output
    assert post.tasks == {}


def test_a_tube_that_is_not_there_is_waited_for(post):
    post.tube = "not-there-yet"
    service = post.service("--until-empty")
    lost = service.wait_event("link_lost")[0]
    assert "no-tube" in lost["problem"]
    post.ask("tubes.create", post.tube)
    assert service.wait() == 0, service.last_words()
