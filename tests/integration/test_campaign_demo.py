"""The whole of it by one command: users, servers, API, sending side, gateways."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.service import ROOT

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("tarantool")]


def test_a_campaign_to_its_end():
    command = [sys.executable, "-m", "producers.campaigns", "demo", "--users", "1500", "--servers", "2"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stderr
    said = done.stderr
    assert "1,500 of 1,500 devices were sent to" in said
    sent = [
        int(number.replace(",", "")) for number in re.findall(r"^(?:apns|fcm) +([\d,]+)", said, re.MULTILINE)
    ]
    assert len(sent) == 2
    assert sum(sent) == 1500
    assert min(sent) > 500
