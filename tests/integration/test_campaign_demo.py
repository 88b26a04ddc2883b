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
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as demonstration:
        try:
            _, said = demonstration.communicate(timeout=250)
        finally:
            demonstration.terminate()  # it ends what it has started: killed, it could not
    assert demonstration.returncode == 0, said
    assert "1,500 of 1,500 devices were sent to" in said
    sent = [
        int(number.replace(",", "")) for number in re.findall(r"^(?:apns|fcm) +([\d,]+)", said, re.MULTILINE)
    ]
    assert len(sent) == 2
    assert sum(sent) == 1500
    assert min(sent) > 500
