"""What the settings make of the live page: who sees keys, and that the token is nowhere to be read."""

from __future__ import annotations

import re
import shlex

import pytest

from aggregator.check import check
from aggregator.config import load
from aggregator.errors import ConfigurationErrors
from aggregator.serving import make_page
from aggregator.testing import Harness
from tests.live_page import Stage
from tests.pages import ROOT, all_blocks

TOKEN = "S3CRET-0123456789"


@pytest.mark.parametrize(
    ("flags", "details"),
    [
        ((), "shown"),
        (("--metrics-host", "localhost"), "shown"),
        (("--metrics-host", "::1"), "shown"),
        (("--metrics-host", "0.0.0.0"), "hidden"),
        (("--metrics-host", "web1"), "hidden"),
        (("--page-token", TOKEN), "private"),
        (("--page-token", TOKEN, "--metrics-host", "0.0.0.0"), "private"),
        (("--page-details", "shown", "--metrics-host", "0.0.0.0"), "shown"),
        (("--page-details", "hidden"), "hidden"),
    ],
)
def test_who_sees_keys_unless_it_is_said(flags, details):
    assert make_page(load([*flags]), None)._details == details


def test_names_of_hosts():
    page = make_page(load(["--page-hosts", "a.example, B.example", "--metrics-host", "web1"]), None)
    assert [page._access.knows(name) for name in ("a.example", "b.example:80", "web1", "c.example", "")] == [
        True, True, True, False, False,
    ]  # fmt: skip


@pytest.mark.parametrize("token", ["short", "with blanks in between", "x" * 15, "grüße-0123456789"])
def test_a_token_that_could_be_tried_out_is_refused_unseen(token):
    with pytest.raises(ConfigurationErrors) as wrong:
        load(["--page-token", token])
    assert "page-token: 16 printable characters" in str(wrong.value)
    assert token not in str(wrong.value)


def test_the_token_is_shown_nowhere(tmp_path, monkeypatch):
    monkeypatch.setenv("AGGREGATOR_PAGE_TOKEN", TOKEN)
    settings = load(["--metrics-port", "0"])
    told = f"{settings} {settings!r} {check(settings)}"
    assert TOKEN not in told
    assert settings.page_token.get_secret_value() == TOKEN
    file = tmp_path / "a.toml"
    file.write_text("page_token = 123456789012345678")
    monkeypatch.delenv("AGGREGATOR_PAGE_TOKEN")
    with pytest.raises(ConfigurationErrors) as wrong:
        load(["--config", str(file)])
    assert "123456789" not in str(wrong.value)


def test_a_token_in_a_flag_is_noticed():
    assert any("--page-token" in note for note in load(["--page-token", TOKEN]).notes)


def test_the_commands_of_the_page():
    page = "docs/live-page.md"
    start, guarded, curl = (block.code for block in all_blocks() if block.page == page)
    for command in (start, guarded):
        flags = shlex.split(command.replace("\\\n", "").partition("-m aggregator.consume")[2])
        settings = load(flags)
        assert settings.metrics_port == 9464
        assert settings.routes["default"].correlate
    body = shlex.split(curl.replace("\\\n", "")).index("--json") + 1
    stage = Stage(token=TOKEN, default=Harness(correlate="header:k", size=9))
    stage.harnesses["default"].publish({}, headers={"k": "4711"})
    reply = stage.ask(
        "/actions",
        "POST",
        body=shlex.split(curl.replace("\\\n", ""))[body].encode(),
        HTTP_AUTHORIZATION=f"Bearer {TOKEN}",
        CONTENT_TYPE="application/json",
    )
    said = re.search(r'`(\{"said".*?\})`', (ROOT / page).read_text())
    assert reply.text == said[1]
