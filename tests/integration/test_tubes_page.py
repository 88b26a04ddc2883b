"""What docs/tubes.md shows, run as it stands there."""

from __future__ import annotations

import pytest

from tests.pages import ROOT, blocks_of

pytestmark = pytest.mark.integration

BLOCKS = {block.language: block.code for block in blocks_of(ROOT / "docs/tubes.md")}


def test_a_task_is_put_taken_and_acked(tarantool):
    tarantool.eval(BLOCKS["lua"])
    shown = "tarantool://consumer:…@127.0.0.1:3301"
    assert shown in BLOCKS["python"]
    scope = {}
    exec(BLOCKS["python"].replace(shown, tarantool.url_of("consumer")), scope)
    scope["client"].close()
    assert (scope["tube"], scope["attempts"]) == ("apns", 0)
    assert scope["data"]["recipients"] == [["device", "token"]]
