"""The live page in a real browser: before routes in memory, and of a service at RabbitMQ."""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests

from aggregator.clock import SYSTEM_CLOCK
from aggregator.metrics import Metrics
from aggregator.page.access import Access
from aggregator.page.joined import Status
from aggregator.page.site import Site
from aggregator.serving import MetricsServer
from aggregator.testing import Harness
from tests.browser import browser
from tests.integration.test_campaigns_page import CONTRAST, UNNAMED
from tests.live_page import TOKEN, Stage
from tests.servers.base import wait_for
from tests.service import outgoing, publish

SCRIPT = "<script>window.hacked=1</script><img src=x onerror='window.hacked=1'>"


class Switch:
    """A site whose stage can be changed, so that one server and one window serve all tests."""

    def __init__(self):
        self.site = None

    def __call__(self, environ, start_response):
        return self.site(environ, start_response)


def away(_, start_response):
    start_response("503 Service Unavailable", [])
    return []


@pytest.fixture(scope="module")
def window():
    switch = Switch()
    server = MetricsServer("127.0.0.1", 0, Metrics().registry, list, list, page=switch)
    server.start()
    try:
        with browser(f"http://127.0.0.1:{server.port}") as chromium:
            yield chromium, switch
    finally:
        server.stop()


@pytest.fixture
def show(window):
    """Put routes behind the page, and open it: ``show(orders=Harness(…))``."""
    chromium, switch = window

    def put(*, token=None, details="shown", width=1280, dark=False, **harnesses):
        stage = Stage(**harnesses)
        stage.status = Status(stage, SYSTEM_CLOCK)
        switch.site = stage.site = Site(stage, stage.status, Access(token, (), SYSTEM_CLOCK), details=details)
        chromium.driver.delete_all_cookies()
        chromium.dark(dark)
        chromium.size(width)
        chromium.open("")
        chromium.stage = stage
        return chromium

    yield put
    assert not [line for line in chromium.complaints() if " 503 " not in line and " 403 " not in line]


@contextmanager
def pictured(page, name):
    """Save how it looks, where somebody wants to see it."""
    yield
    if folder := os.environ.get("TEST_PICTURES"):
        page.picture(Path(folder) / f"live-{name}.png")


def busy():
    """A route with groups, batches and a few refusals behind it."""
    route = Harness(
        correlate="header:order", size=20, age="60s", prefetch=500, queue="orders", breaker_window=0
    )
    route.sink.fail()
    for n in range(200):
        route.publish({"n": n, "text": "x" * 40}, id=f"i{n}", headers={"order": f"order-{4700 + n % 9}"})
        if n % 20 == 0:
            route.advance(2)
    for body in (b"{", b"{", b"[1]"):
        route.publish(body, content_type="application/json", headers={"order": "bad"})
    route.force("bad")
    for n in range(7):
        for key in range(n):
            route.publish({"n": n}, headers={"order": f"order-{5000 + n}", "k": str(key)})
        route.advance(3)
    return route


def small():
    """A route with three open groups, and nothing else."""
    route = Harness(correlate="header:k", size=3, age="60s", queue="orders")
    for key in "abc":
        route.publish({}, headers={"k": key})
    return route


def idle():
    return Harness(queue="events", size=100)


def test_a_busy_route_is_shown(show):
    page = show(orders=busy())
    page.text(".state", "running")
    page.text(".groups caption", "Oldest")
    page.text(".batches", "20 written")
    page.text("[data-key=refusals]", "not-an-object")
    page.text(".rate", "0/s")
    with pictured(page, "busy"):
        page.text("#link", "live")


def test_rows_follow_their_groups(show):
    page = show(orders=small())
    route = page.stage.harnesses["orders"]
    page.run("window.rows = [...document.querySelectorAll('[data-key=Oldest] tbody tr')]")
    route.force("a")
    route.publish({}, headers={"k": "a-new-one"})
    page.text("[data-key=Oldest]", "a-new-one")
    # what was there is changed where it stands, not made anew
    assert page.run("return rows.map((row) => row.isConnected)") == [False, True, True]
    assert page.run("return rows[1].querySelector('bdi').textContent") == "b"
    route.publish({}, headers={"k": "b"})
    wait_for(lambda: page.run("return rows[1].querySelector('progress').value") > 0.6, "a longer bar")


def test_nothing_jumps_and_what_is_unfolded_stays(show):
    page = show(orders=busy())
    page.press(".totals summary")
    page.run("document.querySelector('.totals summary').focus()")
    height = page.run("return document.querySelector('[data-key=groups]').offsetHeight")
    page.stage.harnesses["orders"].force()
    page.text("[data-key=groups]", "No message is held")
    assert page.run("return document.querySelector('[data-key=groups]').offsetHeight") == height
    assert page.run("return document.querySelector('.totals').open")
    assert page.run("return document.activeElement.textContent") == "Totals"


def test_it_can_be_held_still(show):
    page = show(orders=small())
    page.text("#link", "live")
    page.press("#hold")
    page.text("#link", "held still")
    assert page("#hold").get_attribute("aria-pressed") == "true"
    asked = page.run("return performance.getEntriesByType('resource').length")
    page.stage.harnesses["orders"].publish({}, headers={"k": "later"})
    page.run("document.dispatchEvent(new Event('visibilitychange'))")
    assert "later" not in page("main").text
    assert page.run("return performance.getEntriesByType('resource').length") == asked
    page.press("#hold")
    page.text(".groups", "later")


def test_a_change_of_state_is_read_out_and_nothing_else(show):
    page = show(orders=small())
    page.text("#link", "live")
    page.run(
        "window.heard = []; const said = document.getElementById('said');"
        "new MutationObserver(() => heard.push(said.textContent))"
        ".observe(said, {childList: true, characterData: true, subtree: true})"
    )
    page.stage.harnesses["orders"].publish({}, headers={"k": "other"})
    page.text(".groups", "other")
    assert page.run("return heard") == []
    page.stage.harnesses["orders"].sink.fail(times=None)
    page.stage.harnesses["orders"].pause()
    page.text("#said", "orders is pausing.")
    page.text(".state", "pausing")
    assert page.run("return new Set(heard).size") == 1
    assert [
        each.get_attribute("role")
        for each in page.all("[role], [aria-live]")
        if each.get_attribute("aria-live")
    ] == []


def test_what_others_have_written_runs_nowhere(show):
    route = Harness(correlate="header:k", size=9, queue=SCRIPT)
    page = show(orders=route)
    page.text("#link", "live")
    route.publish({}, headers={"k": SCRIPT})  # by the script, not with the page
    page.text(".groups", "<script>window.hacked=1</script>")
    assert page.run("return window.hacked === undefined")
    assert not page.all("main img, main script")


def test_a_service_that_goes_away_is_told_and_found_again(show, window):
    page = show(orders=busy())
    page.text("#link", "live")
    site, window[1].site = window[1].site, away
    page.text("#link", "does not answer")
    with pictured(page, "away"):
        assert page.run("return document.documentElement.classList.contains('stale')")
    window[1].site = site
    page.text("#link", "live")


def test_without_a_token_it_only_shows(show):
    page = show(orders=busy())
    assert not page.all("form")
    assert not [each for each in page.all("nav a") if "Sign" in each.text]


def test_somebody_signs_in_flushes_a_group_pauses_and_resumes(show):
    route = busy()
    page = show(token=TOKEN, details="private", orders=route)
    assert "order-" not in page("main").text
    page.press("nav a")
    page.shown("#token")
    with pictured(page, "sign-in"):
        assert page.run("return document.activeElement.id") == "token"
    page.fill("#token", "not-the-token-at-all")
    page.press("main button")
    page.text("#problem", "not the token")
    page.fill("#token", TOKEN)
    page.press("main button")
    page.text(".groups", "order-5006")
    assert page.run("return document.cookie") == "", "no script reads it"
    groups = int(page("[data-key=groups] h3 span").text)
    page.press("[aria-label='Flush group order-5006']")
    page.text("#said", "orders: 1 group completed.")
    page.text("[data-key=groups] h3 span", str(groups - 1))
    with pictured(page, "signed-in"):
        assert "order-5006" not in page(".groups").text
    page.press("[data-key^='pause'] button")
    page.text("#question", "Pause orders?")
    with pictured(page, "question"):
        assert page.run("return document.activeElement.textContent") == "No, go back"
    page.press("#ask button[value=no]")
    assert route.state == "running"
    page.press("[data-key^='pause'] button")
    page.press("#ask button[value=yes]")
    page.text(".state", "paused")
    with pictured(page, "paused"):
        page.text(".why", "It takes nothing until it is resumed")
    page.press("[data-key^='resume'] button")
    page.text(".state", "running")
    page.press("nav form button")
    page.shown("nav a[href='/sign-in']")
    assert not page.all("main form")


def test_it_works_without_a_script(show):
    page = show(token=TOKEN, orders=busy())
    page.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        page.open("sign-in")
        page("#token").send_keys(TOKEN)
        page("main button").click()
        page.text(".groups", "order-5006")
        page("[data-key^='pause'] button").click()
        page.text("#said", "orders: paus")
        assert page.stage.harnesses["orders"].state in {"pausing", "paused"}
    finally:
        page.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_a_reason_is_a_link_away(show):
    page = show(orders=busy())
    page.press("a[href*='reason=bad-json']")
    page.text("h1", "bad-json")
    with pictured(page, "reason"):
        page.text("pre", "producers.replay show --queue orders --reason bad-json")
    assert page.run(UNNAMED) == page.run(CONTRAST) == []
    page.press("main a[href='/']")
    page.text(".state", "running")


def states():
    """Routes in all states, and what makes each so."""
    waiting, stopped, paused = (Harness(queue=name, size=10) for name in ("waiting", "stopped", "paused"))
    waiting.sink.fail(times=None)
    waiting.publish({})
    for _ in range(10):
        waiting.publish({})
    waiting.advance("10m")
    stopped._process.pipeline.stop("most messages are refused: bad-json (112)")
    paused.publish({})
    paused.pause()
    many = Harness(correlate="header:k", size=50, age="5m", prefetch=5_000, queue="many", max_held="2MB")
    for n in range(1_500):
        many.publish(b"x" * 900, headers={"k": f"customer-{n}"})
    return {
        "orders": busy(),
        "empty": idle(),
        "waiting": waiting,
        "stopped": stopped,
        "paused": paused,
        "many": many,
    }


def test_every_state_fits_and_can_be_read(show):
    for name, harness in states().items():
        page = show(token=TOKEN, **{name: harness})
        page.text(".rate", "0/s")
        for width, dark in ((1280, False), (1280, True), (390, True), (390, False)):
            page.dark(dark)
            page.size(width)
            with pictured(page, f"{name}-{width}-{'dark' if dark else 'light'}"):
                page.shown(".why")
            assert page.run("return document.documentElement.scrollWidth") <= width, name
            assert page.run(UNNAMED) == page.run(CONTRAST) == [], (name, width, dark)


@pytest.mark.parametrize("width", [390, 1280])
def test_many_routes_are_a_table_and_folded_up(show, width):
    page = show(width=width, **states())
    page.text("table", "0/s")
    with pictured(page, f"all-{width}"):
        assert len(page.all("details.route")) == 6
    assert not page.all("details.route[open]")
    assert page.run("return document.documentElement.scrollWidth") <= width
    page.press("details.route summary")
    page.shown("details.route[open] .flow")
    assert "3 not running" in page.driver.title


def test_the_whole_page_is_within_reach_of_the_keyboard(show):
    page = show(token=TOKEN, orders=busy())
    reached = []
    for _ in range(12):
        page.driver.switch_to.active_element.send_keys("\ue004")  # Tab
        reached.append(page.run("return document.activeElement.textContent"))
    assert reached[:4] == ["Skip to the content", "Aggregator", "Hold still", "Sign in"]
    assert {"bad-json", "not-an-object", "Totals", "status.json"} <= set(reached)


@pytest.mark.integration
@pytest.mark.parametrize("rabbitmq", ["rabbitmq4"], indirect=True)
def test_two_processes_at_rabbitmq(service, rabbitmq, queue, tmp_path, window):
    sink = f"sqlite:///{tmp_path}/documents.db"
    running = service(
        "--broker", rabbitmq.url, "--queue", queue, "--sink", sink, "--metrics-port", "0", "--processes", "2",
        "--workers", "1", "--prefetch", "50", "--size", "40", "--age", "60s",
        environment={"AGGREGATOR_PAGE_TOKEN": TOKEN},
    )  # fmt: skip

    def status():
        return requests.get(f"{running.address}/status.json", timeout=30).json()

    def route():
        return next(iter(status()["routes"]), {})

    wait_for(lambda: route().get("workers") == {"consuming": 2}, "both consume", detail=running.last_words)
    messages = [outgoing(queue, number) for number in range(30)]
    publish(rabbitmq.url, queue, [*messages, outgoing(queue, 99, body=b"{")])
    wait_for(lambda: route()["held"]["messages"] == 31, "all are held", detail=running.last_words)
    chromium, _ = window
    chromium.size(1280)
    chromium.driver.get(f"{running.address}/")
    chromium.text(".why", "wait for more")
    chromium.text("footer", "Process 2, pid")
    assert [row.text for row in chromium.all(".groups th[scope=row]")] == ["process 1", "process 2"]

    def tell(**order):
        headers = {"Authorization": f"Bearer {TOKEN}"}
        return requests.post(f"{running.address}/actions", json=order, headers=headers, timeout=30)

    assert (
        requests.post(f"{running.address}/actions", json={"command": "flush"}, timeout=30).status_code == 403
    )
    flushed = tell(command="flush", route="default")
    assert flushed.json()["said"] == "default: 2 groups completed."
    assert [answer["process"] for answer in flushed.json()["answers"]] == [1, 2]
    wait_for(lambda: route()["totals"]["verdicts"].get("written") == 30, "all are written")
    with pictured(chromium, "two-processes"):
        chromium.text("[data-key=refusals]", "bad-json")
    assert tell(command="pause").status_code == 200
    chromium.text(".state", "paused")
    assert {each["state"] for each in route()["processes"]} == {"paused"}
    assert tell(command="pause", route="never").status_code == 409
    # with another name for this machine nothing is told
    assert (
        requests.get(f"{running.address}/", headers={"Host": "evil.example"}, timeout=30).status_code == 421
    )
    batches = route()["batches"]
    assert {batch["trigger"] for batch in batches} == {"forced"}
    assert sum(batch["verdicts"]["written"] for batch in batches) == 30
    assert TOKEN not in running.last_words()
    assert running.stop() == 0
