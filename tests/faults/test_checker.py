"""The checker is checked: builds that break the promise are found out, each within three trials."""

from __future__ import annotations

import pytest

from tests.faults.catalogue import BROKEN, ONE
from tests.faults.trial import trial

pytestmark = [pytest.mark.integration, pytest.mark.faults]
TRIALS = 3


@pytest.mark.usefixtures("elasticsearch", "toxiproxy")
@pytest.mark.parametrize("rabbitmq", ["rabbitmq4"], indirect=True)
@pytest.mark.parametrize(("build", "play"), BROKEN.items(), ids=BROKEN)
def test_a_broken_build_is_found_out(fleet, rabbitmq, build, play):
    accounts = []
    for seed in range(TRIALS):
        with trial(fleet, ONE[0], seed=seed) as played:
            played.module = build
            play(played)
            accounts.append(played.finish())
        if accounts[-1].lost:
            break
    assert accounts[-1].lost, accounts
