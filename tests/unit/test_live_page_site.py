"""The live page's answers: who may look and who may do something, and that nothing breaks out of the HTML."""

from __future__ import annotations

import json
import re
import subprocess
from html.parser import HTMLParser

import pytest
import structlog

from aggregator.page import access
from aggregator.page.access import MOST_SESSIONS, SESSION_SECONDS
from aggregator.page.site import HEADERS, LONGEST_BODY
from aggregator.testing import Harness
from tests.live_page import TOKEN, Stage

HERE = "http://localhost:9464"
SCRIPT = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"


@pytest.fixture
def stage():
    return Stage(token=TOKEN, orders=Harness(correlate="header:k", size=3, age="60s"))


@pytest.fixture
def signed_in(stage):
    """The cookie of somebody who has signed in."""
    return stage.ask("/sign-in", "POST", form={"token": TOKEN}, HTTP_ORIGIN=HERE).cookie


def hold(stage, *keys, route="orders"):
    for number, key in enumerate(keys):
        stage.harnesses[route].publish({"n": number}, id=f"{key}-{number}", headers={"k": key})


def refusing(detail):
    """A sink that refuses everything."""

    def write(request):
        for item in request:
            request.refuse(item, "no", detail)

    return write


class Page(HTMLParser):
    """The elements of a page, and its texts."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.texts = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.texts.append(data)


# ── looking ──


def test_the_page_is_whole_without_a_script(stage):
    hold(stage, "a", "a", "b")
    reply = stage.ask()
    assert reply.status == 200
    page = Page(reply.text)
    text = " ".join(page.texts)
    for said in (
        "orders",
        "running",
        "Messages come in.",
        "Open groups",
        "in 1 min by age",
        "No batch is done",
    ):
        assert said in text, said
    assert {attrs.get("action") for tag, attrs in page.elements if tag == "form"} == set()


@pytest.mark.parametrize(
    "path", ["/", "/status.json", "/page/page.css", "/page/page.js", "/page/icon.svg", "/sign-in"]
)
def test_head_is_get_without_a_body(stage, path):
    got, head = stage.ask(path), stage.ask(path, "HEAD")
    assert (got.status, head.status) == (200, 200)
    assert head.body == b""
    assert head.headers["Content-Length"] == str(len(got.body))
    assert head.headers["Content-Type"] == got.headers["Content-Type"]


@pytest.mark.parametrize(
    ("path", "method", "allowed"),
    [
        ("/", "POST", "GET, HEAD"),
        ("/", "DELETE", "GET, HEAD"),
        ("/status.json", "PUT", "GET, HEAD"),
        ("/page/page.js", "POST", "GET, HEAD"),
        ("/actions", "GET", "POST"),
        ("/sign-in", "PUT", "GET, HEAD, POST"),
    ],
)
def test_other_methods_are_refused(stage, path, method, allowed):
    reply = stage.ask(path, method)
    assert (reply.status, reply.headers["Allow"]) == (405, allowed)


@pytest.mark.parametrize(
    "path",
    [
        "/page/", "/page/../site.py", "/page/..%2f..%2fconsume.py", "/page//etc/passwd", "/page/page.css/",
        "/../etc/passwd", "/page/page.css\0", "/favicon.ico", "/actions/", "//", "", "/sign-out/x",
    ],
)  # fmt: skip
def test_there_is_nothing_else(stage, path):
    assert stage.ask(path).status == 404


def test_without_a_token_there_is_nothing_to_sign_in_to():
    stage = Stage(orders=Harness())
    assert stage.ask("/sign-in").status == 404
    assert "Sign in" not in stage.ask().text


@pytest.mark.parametrize("path", ["/", "/status.json", "/nothing", "/page/page.js", "/sign-in"])
def test_every_answer_is_guarded(stage, path):
    headers = stage.ask(path).headers
    assert headers.items() >= HEADERS.items()
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


def test_nothing_is_inline_and_nothing_comes_from_elsewhere(stage, signed_in):
    hold(stage, "a")
    for cookie in ("", signed_in):
        for tag, attrs in Page(stage.ask(cookie=cookie).text).elements:
            assert tag != "style"
            assert "style" not in attrs
            assert not [name for name in attrs if name.startswith("on")]
            assert tag != "script" or attrs.get("src") == "/page/page.js"
            for name in ("src", "href", "action"):
                assert (attrs.get(name) or "/")[0] in "/#"


def test_scripts_get_the_same_as_json(stage):
    hold(stage, "a")
    reply = stage.ask("/status.json")
    assert reply.headers["Content-Type"] == "application/json"
    (route,) = reply.json["routes"]
    assert (reply.json["version"], route["route"], route["held"]["groups"]) == (1, "orders", 1)


# ── names of hosts ──


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "localhost:1",
        "127.0.0.1:9464",
        "[::1]:9464",
        "10.0.0.5",
        "x.localhost",
        "STATUS.example:80",
    ],
)
def test_names_that_are_ours(host):
    stage = Stage(orders=Harness(), hosts=("status.example",))
    assert stage.ask(HTTP_HOST=host).status == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:9464",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "",
        None,
        "[",
        "a@b:c",
    ],
)
def test_another_name_that_leads_here_is_refused(stage, signed_in, host):
    for path, method in (("/", "GET"), ("/status.json", "GET"), ("/actions", "POST")):
        reply = stage.ask(path, method, HTTP_HOST=host, cookie=signed_in, form={"command": "pause"})
        assert reply.status == 421
        assert "page_hosts" in reply.text
    assert not stage.said


# ── the token ──


def test_without_a_token_nothing_can_be_done():
    stage = Stage(orders=Harness())
    for headers in ({}, {"HTTP_AUTHORIZATION": "Bearer "}, {"HTTP_AUTHORIZATION": "Bearer None"}):
        assert stage.ask("/actions", "POST", form={"command": "pause"}, **headers).status == 403
    assert not stage.said
    assert not [tag for tag, _ in Page(stage.ask().text).elements if tag == "form"]


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"HTTP_AUTHORIZATION": f"Bearer {TOKEN}x"},
        {"HTTP_AUTHORIZATION": f"Bearer {TOKEN[:-1]}"},
        {"HTTP_AUTHORIZATION": f"Basic {TOKEN}"},
        {"HTTP_AUTHORIZATION": "Bearer"},
        {"HTTP_AUTHORIZATION": "Bearer \udcff"},
        {"HTTP_COOKIE": f"aggregator-9464={TOKEN}"},
        {"HTTP_COOKIE": 'aggregator-9464="; ;;=\0'},
    ],
)
def test_who_has_not_the_token_does_nothing(stage, headers):
    assert stage.ask("/actions", "POST", form={"command": "pause"}, **headers).status == 403
    assert not stage.said
    assert stage.route()["state"] == "running"


def test_the_token_is_compared_in_constant_time(stage, monkeypatch):
    compared = []
    monkeypatch.setattr(access.hmac, "compare_digest", lambda one, two: bool(compared.append((one, two))))
    assert stage.ask("/actions", "POST", form={}, HTTP_AUTHORIZATION=f"Bearer {TOKEN}").status == 403
    assert [len(one) == len(two) == 32 for one, two in compared] == [True]


def test_a_script_with_the_token_pauses_and_resumes(stage):
    def tell(**order):
        body = json.dumps(order).encode()
        more = {"HTTP_AUTHORIZATION": f"Bearer {TOKEN}", "CONTENT_TYPE": "application/json"}
        return stage.ask("/actions", "POST", body=body, **more)

    reply = tell(command="pause", route="orders")
    assert (reply.status, reply.json["said"]) == (200, "orders: pausing.")
    assert reply.json["answers"][0]["ok"][0]["reason"] == "told to by control"
    assert stage.route()["state"] == "paused"
    assert tell(command="resume").status == 200
    assert stage.route()["state"] == "running"
    refused = tell(command="pause", route="orbers")
    assert refused.status == 409
    assert "there is none of the name 'orbers'" in refused.json["said"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"command": "revoke", "ids": ["x"]}',
        b'{"command": "set"}',
        b'{"command": ["pause"]}',
        b"{}",
    ],
)
def test_other_commands_cannot_be_given(stage, body):
    more = {"HTTP_AUTHORIZATION": f"Bearer {TOKEN}", "CONTENT_TYPE": "application/json"}
    reply = stage.ask("/actions", "POST", body=body, **more)
    assert reply.status == 400
    assert not stage.said


@pytest.mark.parametrize(
    "wrong",
    [
        {"keys": 5},
        {"keys": [["x"]]},
        {"route": ["x"]},
        {"route": "x" * 9_000},
        {"keys": ["x"] * 9},
        {"ttl": 1},
    ],
)
def test_arguments_that_are_wrong_are_refused_with_what_would_be_right(stage, wrong):
    body = json.dumps({"command": "flush", "route": "orders", **wrong}).encode()
    if wrong == {"keys": ["x"] * 9}:
        stage = Stage(token=TOKEN, orders=Harness())  # a route without keys
    reply = stage.ask(
        "/actions", "POST", body=body, HTTP_AUTHORIZATION=f"Bearer {TOKEN}", CONTENT_TYPE="application/json"
    )
    assert reply.status == 409
    assert reply.json["said"].startswith("Refused: ")
    assert len(reply.json["said"]) < 300


@pytest.mark.parametrize(
    ("length", "status"),
    [(None, 411), ("-1", 411), ("1e3", 411), ("²", 411), (str(LONGEST_BODY + 1), 413), ("9" * 40, 413)],
)
def test_bodies_are_bounded(stage, length, status):
    more = {"HTTP_AUTHORIZATION": f"Bearer {TOKEN}", "CONTENT_LENGTH": length}
    assert stage.ask("/actions", "POST", body=b"{}", **more).status == status


# ── a browser ──


def test_somebody_signs_in_does_something_and_signs_out(stage):
    hold(stage, "a", "b")
    assert stage.ask("/sign-in").text.count('type="password"') == 1
    reply = stage.ask("/sign-in", "POST", form={"token": TOKEN}, HTTP_ORIGIN=HERE)
    assert (reply.status, reply.headers["Location"]) == (303, "/")
    said = reply.headers["Set-Cookie"]
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(said.split("; "))
    assert TOKEN not in said
    cookie = reply.cookie
    assert "Flush" in stage.ask(cookie=cookie).text
    form = {"command": "flush", "route": "orders", "key": "b"}
    assert stage.ask("/actions", "POST", form=form, cookie=cookie, HTTP_ORIGIN=HERE).status == 303
    assert stage.said == [("flush", {"route": "orders", "keys": ["b"]})]
    assert "orders: 1 group completed." in stage.ask(cookie=cookie).text
    assert "orders: 1 group completed." not in stage.ask(cookie=cookie).text, "it is said once"
    assert stage.ask("/sign-out", "POST", form={}, cookie=cookie, HTTP_ORIGIN=HERE).status == 303
    assert stage.ask("/actions", "POST", form=form, cookie=cookie, HTTP_ORIGIN=HERE).status == 403
    assert len(stage.said) == 1


def test_a_wrong_token_is_said_and_noted(stage):
    with structlog.testing.capture_logs() as logs:
        reply = stage.ask("/sign-in", "POST", form={"token": "S3CRET-of-another"}, HTTP_ORIGIN=HERE)
    assert reply.status == 403
    assert "Set-Cookie" not in reply.headers
    assert "This is not the token." in reply.text
    assert [line["event"] for line in logs] == ["page_token_wrong"]
    assert "S3CRET" not in f"{logs}{reply.text}"


@pytest.mark.parametrize(
    "headers",
    [
        {"HTTP_ORIGIN": "http://evil.example"},
        {"HTTP_ORIGIN": "http://localhost:3000"},  # the same site, another port: the cookie comes along
        {"HTTP_ORIGIN": "null"},
        {"HTTP_ORIGIN": ""},
        {"HTTP_SEC_FETCH_SITE": "same-site"},
        {"HTTP_SEC_FETCH_SITE": "cross-site"},
        {"HTTP_SEC_FETCH_SITE": "none"},
        {},
    ],
)
def test_a_form_of_another_page_does_nothing(stage, signed_in, headers):
    for path in ("/actions", "/sign-out", "/sign-in"):
        reply = stage.ask(
            path, "POST", form={"command": "pause", "token": TOKEN}, cookie=signed_in, **headers
        )
        assert reply.status == 403
        assert "Set-Cookie" not in reply.headers
    assert not stage.said
    assert "Sign out" in stage.ask(cookie=signed_in).text


@pytest.mark.parametrize("headers", [{"HTTP_ORIGIN": HERE}, {"HTTP_SEC_FETCH_SITE": "same-origin"}])
def test_a_form_of_ours_does(stage, signed_in, headers):
    assert stage.ask("/actions", "POST", form={"command": "pause"}, cookie=signed_in, **headers).status == 303


def test_a_session_ends(stage, signed_in):
    stage.clock.advance(SESSION_SECONDS - 1)
    assert "Sign out" in stage.ask(cookie=signed_in).text
    stage.clock.advance(1)
    assert "Sign out" not in stage.ask(cookie=signed_in).text


def test_sessions_are_bounded(stage, signed_in):
    for _ in range(MOST_SESSIONS - 1):
        stage.ask("/sign-in", "POST", form={"token": TOKEN}, HTTP_ORIGIN=HERE)
    assert "Sign out" in stage.ask(cookie=signed_in).text
    last = stage.ask("/sign-in", "POST", form={"token": TOKEN}, HTTP_ORIGIN=HERE).cookie
    assert "Sign out" not in stage.ask(cookie=signed_in).text, "the oldest goes"
    assert "Sign out" in stage.ask(cookie=last).text


@pytest.mark.parametrize("key", ["a\nb", "a\r\nb ", SCRIPT, "%41+ &=", "\N{GRINNING FACE}", "\u202e"])
def test_a_key_comes_back_as_it_went_out(stage, signed_in, key):
    hold(stage, key)
    forms = re.findall(
        r'<form method="post" action="/actions"[^>]*>.*?</form>', stage.ask(cookie=signed_in).text
    )
    (form,) = {found for found in forms if 'name="key"' in found}
    given = {attrs["name"]: attrs["value"] for tag, attrs in Page(form).elements if tag == "input"}
    assert stage.ask("/actions", "POST", form=given, cookie=signed_in, HTTP_ORIGIN=HERE).status == 303
    assert stage.said == [("flush", {"route": "orders", "keys": [key]})]
    assert stage.route()["held"]["groups"] == 0


# ── what others have written ──


def test_keys_queues_and_reasons_stay_texts(signed_in):
    refuse = Harness(
        correlate="header:k",
        size=1,
        queue=SCRIPT,
        sink=refusing(SCRIPT),
    )
    stage = Stage(token=TOKEN, orders=refuse, other=Harness(correlate="header:k", size=9, queue=SCRIPT))
    hold(stage, SCRIPT)
    hold(stage, SCRIPT, "\u202e\x1b[2J\udcff", route="other")
    stage.wrong = [SCRIPT]
    stage.routes["other"].problem = stage.routes["orders"].failure = SCRIPT
    cookie = stage.ask("/sign-in", "POST", form={"token": TOKEN}, HTTP_ORIGIN=HERE).cookie
    pages = [
        stage.ask(cookie=cookie),
        stage.ask("/dead-letters", query={"route": "orders", "reason": "no"}, cookie=cookie),
        stage.ask("/dead-letters", query={"route": SCRIPT, "reason": SCRIPT}, cookie=cookie),
    ]
    for reply in pages:
        page = Page(reply.text)
        assert [attrs for tag, attrs in page.elements if tag == "script"] == [
            {"type": "module", "src": "/page/page.js"}
        ]
        assert not [tag for tag, _ in page.elements if tag == "img"]
        assert not re.search("[\x00-\x09\x0b-\x1f\u202e]", reply.text)
    assert SCRIPT in "".join(Page(pages[0].text).texts)
    assert SCRIPT in "".join(Page(pages[1].text).texts)
    assert stage.ask("/status.json").json["routes"][0]["queue"] == SCRIPT


def test_a_reason_leads_to_what_it_means_and_how_to_send_back(stage):
    stage.harnesses["orders"].publish(b"{", id="x", headers={"k": "a"}, content_type="application/json")
    hold(stage, "a", "a")
    (link,) = {
        attrs["href"]
        for tag, attrs in Page(stage.ask().text).elements
        if "/dead-letters" in str(attrs.get("href"))
    }
    assert link == "/dead-letters?route=orders&reason=bad-json"
    text = " ".join(Page(stage.ask("/dead-letters", query="route=orders&reason=bad-json").text).texts)
    assert "no JSON" in text
    assert "1 message of this route" in text
    assert "python -m producers.replay show --queue task_queue --reason bad-json --limit 3" in text
    assert "--from" not in text


@pytest.mark.parametrize(
    "query", ["", "route=orders", "route=orders&reason=never", "route=x&reason=bad-json", "&" * 8_000]
)
def test_a_reason_that_nobody_was_refused_for(stage, query):
    reply = stage.ask("/dead-letters", query=query)
    assert reply.status == 404
    assert "No such dead letters" in reply.text


def test_commands_can_be_pasted_whatever_a_queue_is_called(tmp_path):
    name = "$(touch x); 'q' `id`"
    stage = Stage(orders=Harness(queue=name))
    stage.harnesses["orders"].publish(b"{", content_type="application/json")
    stage.harnesses["orders"].settle()
    text = Page(stage.ask("/dead-letters", query="route=orders&reason=bad-json").text).texts
    (line,) = [each for each in text if each.startswith("python -m producers.replay show")]
    said = subprocess.run(
        ["/bin/sh", "-c", f"printf '%s\\n' {line}"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert name in said.stdout.splitlines()


# ── who sees keys ──


@pytest.mark.parametrize(
    ("details", "signed", "seen"),
    [("shown", False, True), ("hidden", True, False), ("private", False, False), ("private", True, True)],
)
def test_who_sees_keys_and_details(details, signed, seen):
    refuse = Harness(
        correlate="header:k",
        size=2,
        sink=refusing("a Detail"),
    )
    stage = Stage(token=TOKEN, details=details, orders=refuse)
    hold(stage, "x", "x", "Mary")
    more = {"HTTP_AUTHORIZATION": f"Bearer {TOKEN}"} if signed else {}
    for path in ("/", "/status.json", "/dead-letters"):
        text = stage.ask(path, query="route=orders&reason=no", **more).text
        assert ("Mary" in text) == (seen and path != "/dead-letters"), path
        assert ("a Detail" in text) == seen, path
    if not seen:
        assert "hidden <code>" in stage.ask("/").text


def test_a_hidden_key_cannot_be_flushed_alone(signed_in):
    stage = Stage(token=TOKEN, details="hidden", orders=Harness(correlate="header:k", size=9))
    hold(stage, "Mary")
    cookie = stage.ask("/sign-in", "POST", form={"token": TOKEN}, HTTP_ORIGIN=HERE).cookie
    text = stage.ask(cookie=cookie).text
    assert "Flush all groups" in text
    assert 'name="key"' not in text


def test_a_fault_of_ours_is_logged_and_quotes_nothing(stage):
    stage.wrong = None
    with structlog.testing.capture_logs() as logs:
        reply = stage.ask()
    assert (reply.status, reply.text) == (500, "an internal error; see the log\n")
    assert reply.headers.items() >= HEADERS.items()
    assert [line["event"] for line in logs] == ["page_failed"]


def test_a_body_that_does_not_come_is_no_fault_of_ours():
    class Silent:
        def read(self, _size):
            raise TimeoutError

    stage = Stage(token=TOKEN, orders=Harness())
    with structlog.testing.capture_logs() as logs:
        more = {"wsgi.input": Silent(), "CONTENT_LENGTH": "10", "HTTP_ORIGIN": HERE}
        assert stage.ask("/sign-in", "POST", **more).status == 408
    assert logs == []


def test_a_cookie_of_somebody_else_hides_not_ours():
    stage = Stage(token=TOKEN, orders=Harness())
    cookie = stage.ask("/sign-in", "POST", form={"token": TOKEN}, HTTP_ORIGIN=HERE).cookie
    assert "Sign out" in stage.ask(cookie=f'x={{"a":1}}; {cookie}').text


def test_a_route_without_keys_has_a_group_in_each_process(stage):
    stage = Stage(orders=Harness(size=9))
    stage.harnesses["orders"].publish({})
    assert "one for all" in stage.ask().text
    (view,) = stage.views().values()
    stage.views = lambda: {1: view, 2: view}
    text = stage.ask().text
    assert "process 1</th>" in text
    assert "process 2</th>" in text
