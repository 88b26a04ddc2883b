"""The admin page in a real browser, before servers in memory."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests.browser import browser
from tests.campaign_servers import FakeServers
from tests.campaign_service import TOKEN, client, serving, spec

HOUR = 3600


@pytest.fixture(scope="module")
def site():
    servers = FakeServers(eu=2, us=1)
    with serving(servers.shards, servers.connect, interval="100ms") as url, browser(url) as chromium:
        yield chromium, servers


@pytest.fixture
def page(site):
    """A window without a token, before fresh servers."""
    chromium, servers = site
    servers.renew()
    chromium.dark(False)
    chromium.size(1200)
    chromium.open()
    chromium.run("sessionStorage.clear()")
    chromium.driver.refresh()
    chromium.servers = servers
    yield chromium
    assert not [
        line
        for line in chromium.complaints()
        if "401" not in line and "422" not in line and "404" not in line
    ]


@pytest.fixture
def inside(page):
    page.run("sessionStorage.setItem('campaigns-token', arguments[0])", TOKEN)
    page.driver.refresh()
    page.shown("#list")
    return page


def picture(page, name):
    if folder := os.environ.get("TEST_PICTURES"):
        page.picture(Path(folder) / f"{name}.png")


def started(page, **changed):
    """Start a campaign that looks like one on its way."""
    with client(page.url) as api:
        assert api.post("/campaigns", json=spec(**changed)).status_code == 201
        assert api.post(f"/campaigns/{changed.get('id', 'sale')}/start").status_code == 200
    now = int(time.time()) // HOUR * HOUR
    windows = {str(now + hour * HOUR): max(900 - abs(hour - 5) * 140, 60) for hour in range(-3, 14)}
    for number, name in enumerate(("eu0", "eu1", "us0")):
        page.servers[name].progress[changed.get("id", "sale")] |= {
            "walked": 21_000 + 977 * number, "matched": 17_500, "queued": 17_100, "batches": 3,
            "windows": windows, "baton": {"held": number == 0}, "skipped": {"filter": 3_400, "expired": 3},
            "counts": {
                "apns": {"written": 4_200, "Unregistered": 61, "BadDeviceToken": 7},
                "fcm": {"written": 3_900, "UNREGISTERED": 45},
            },
            "pending": {
                "apns": {"ready": 3, "delayed": 5, "taken": 2, "cost": 8_100},
                "fcm": {"ready": 2, "delayed": 1, "taken": 1, "cost": 3_300},
            },
        }  # fmt: skip


def test_the_token_is_asked_for_and_kept_in_the_tab(page):
    page.shown("#login")
    assert page.run("return document.activeElement.id") == "token"
    picture(page, "login")
    page.fill("#token", "wrong-token-wrong-token-wrong")
    page.press("#login-form button")
    page.text("#alert", "not known")
    page.fill("#token", TOKEN)
    page.press("#login-form button")
    page.shown("#list-empty")
    assert page.run("return sessionStorage.getItem('campaigns-token')") == TOKEN
    assert page.run("return localStorage.length + document.cookie.length") == 0
    page.driver.refresh()
    page.shown("#list-empty")
    page.press("#logout")
    page.shown("#login")


def test_a_campaign_is_written_checked_created_and_started(inside):
    inside.press("#nav a")
    inside.shown("#new")
    inside.fill("#title", "Spring sale")
    inside.fill("#body", "20 % off until Sunday")
    inside.text("#size-apns", "90 of 4,096 bytes")
    inside.press("#check")
    inside.text("#checked-title", "6 devices would get it")
    assert inside.run("return document.activeElement.id") == "checked"
    assert not inside.servers.calls("campaigns.create")
    picture(inside, "form-checked")
    inside.fill("#body", "30 % off")  # what was counted holds no longer
    assert not inside("#checked").is_displayed()
    inside.press("#check")
    inside.press("#create-start")
    inside.text("#confirm-title", "Create and start?")
    assert inside.run("return document.activeElement.id") == "confirm-no"
    picture(inside, "confirm")
    inside.press("#confirm-yes")
    inside.text("#live-state", "running")
    assert inside.servers.calls("campaigns.start") == 2
    stored = next(iter(inside.servers["eu0"].replicas["campaigns"].values()))
    assert stored["notifications"]["apns"]["default"]["payload"]["aps"]["alert"] == {
        "title": "Spring sale", "body": "30 % off",
    }  # fmt: skip
    assert stored["quiet"] == {"from": 22, "to": 8}


def test_a_payload_as_json_has_its_size_counted_and_its_faults_shown(inside):
    inside.open("#/new")
    inside.shown("#new")
    inside.fill("#title", "Grüße")
    inside.press("input[value=json]")
    assert '"title": "Grüße"' in inside("#payload-apns").get_attribute("value")
    inside.fill("#payload-apns", '{"aps": {"alert": "ü"}')
    inside.text("#size-apns", "no JSON yet")
    inside.press("#check")
    inside.text("#payload-apns-fault", "no JSON")
    inside("#payload-apns").send_keys("}")
    inside.text("#size-apns", "22 of 4,096 bytes")
    inside.run(
        "const e = document.getElementById('payload-apns');"
        "e.value = JSON.stringify({aps: {alert: 'x'.repeat(4090)}});"
        "e.dispatchEvent(new Event('input', {bubbles: true}))"
    )
    inside.text("#size-apns", "too long")
    inside.press("#check")
    inside.text("#payload-apns-fault", "apns takes 4096 at most")
    assert inside.run("return document.activeElement.id") == "payload-apns"


def test_a_fault_found_by_the_service_stands_at_its_field(inside):
    inside.open("#/new")
    inside.shown("#new")
    inside.fill("#title", "Sale")
    inside.fill("#tz", "Mars/Olympus")
    inside.press("#check")
    inside.text("#tz-fault", "no time zone")
    assert inside("#tz").get_attribute("aria-invalid") == "true"
    picture(inside, "form-fault")
    inside.fill("#tz", "+05:30")
    assert not inside.all("#tz-fault")
    inside.press("#check")
    inside.text("#checked-title", "2 devices")
    inside.fill("#language", "xx")
    inside.press("#check")
    inside.text("#checked-title", "No device matches")
    assert not inside("#create").is_displayed()


def test_a_campaign_live_is_paused_resumed_and_revoked(inside):
    started(inside)
    inside.servers["eu1"].mode = "silent"
    inside.open("#/campaign/sale")
    inside.text("#live-facts", "16,")
    inside.text("#live-unanswered", "eu/127.0.0.1:3302: it is silent")
    inside.text("#live-reasons", "Unregistered")
    assert len(inside.all("#live-wave rect")) == 17
    picture(inside, "live")
    inside.servers["eu0"].progress["sale"]["counts"]["apns"]["written"] += 1000
    inside.text("#live-platforms", "9,400")  # without loading anew
    for action, state in (("pause", "paused"), ("resume", "running"), ("revoke", "revoked")):
        inside.press(f"[data-action={action}]")
        inside.shown("#confirm")
        inside.press("#confirm-no")
        assert inside.servers["eu0"].progress["sale"]["state"] != state
        inside.press(f"[data-action={action}]")
        inside.press("#confirm-yes")
        inside.text("#live-state", state)
        assert inside.servers["us0"].progress["sale"]["state"] == state
        assert f"sale is {state}" in inside("#live-said").get_attribute("textContent")
    inside.driver.refresh()
    inside.text("#live-state", "revoked")
    assert not [each for each in inside.all("#live-actions button") if each.is_displayed()]


def test_the_list_leads_to_each_campaign(inside):
    for name in ("one", "two"):
        started(inside, id=name)
    inside.open("#/")
    inside.text("#list-rows", "one")
    picture(inside, "list")
    inside.press("a[href='#/campaign/two']")
    inside.text("#live-title", "two")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [360, 1200])
def test_every_part_fits_and_can_be_read(inside, width, dark):
    started(inside, id="a-campaign-with-a-rather-long-name.2030-01-31")
    inside.servers["eu1"].mode = "silent"
    inside.dark(dark)
    for name, place, there in (
        ("list", "#/", "#list-rows tr"),
        ("new", "#/new", "#title"),
        ("live", "#/campaign/a-campaign-with-a-rather-long-name.2030-01-31", "#live-wave svg"),
    ):
        inside.size(width)
        inside.open(place)
        inside.shown(there)
        assert inside.run("return document.documentElement.scrollWidth") <= width, name
        assert inside.run(UNNAMED) == []
        assert inside.run(CONTRAST) == []
        picture(inside, f"{name}-{width}-{'dark' if dark else 'light'}")


def test_the_whole_form_is_within_reach_of_the_keyboard(inside):
    inside.open("#/new")
    inside.shown("#title")
    reached = []
    for _ in range(40):
        inside.driver.switch_to.active_element.send_keys("\ue004")  # Tab
        reached.append(inside.run("return document.activeElement.id || document.activeElement.tagName"))
        if reached[-1] == "check":
            break
    assert {"body", "version-from", "tz", "quiet", "quiet-from", "rate", "expires", "check"} <= set(reached)


UNNAMED = """
return [...document.querySelectorAll('input, select, textarea, button, a')]
  .filter((e) => e.offsetParent && !(e.labels && e.labels.length))
  .filter((e) => !e.textContent.trim() && !e.getAttribute('aria-label'))
  .map((e) => e.outerHTML)
"""
# texts whose contrast is below WCAG's 4.5
CONTRAST = """
const parse = (text) => text.match(/[\\d.]+/g).map(Number);
const light = ([r, g, b]) => [r, g, b].map((c) => c / 255)
  .map((c) => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
  .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
const behind = (e) => {
  for (; e; e = e.parentElement) {
    const colour = parse(getComputedStyle(e).backgroundColor);
    if (colour.length < 4 || colour[3] > 0) return colour;
  }
  return [255, 255, 255];
};
const found = [];
for (const e of document.querySelectorAll('body *')) {
  if (!e.offsetParent || e.closest('svg, option, .visually-hidden, .skip')) continue;
  if (![...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim())) continue;
  const [one, two] = [light(parse(getComputedStyle(e).color)), light(behind(e))].sort((a, b) => b - a);
  const ratio = (one + 0.05) / (two + 0.05);
  if (ratio < 4.5) found.push(`${e.outerHTML.slice(0, 80)} ${ratio.toFixed(2)}`);
}
return found;
"""
