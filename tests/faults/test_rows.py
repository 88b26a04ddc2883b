"""The quick rows of the catalogue: whatever breaks, each message is accounted for."""

from __future__ import annotations

import random

import pytest

from tests.faults.catalogue import ROWS
from tests.faults.trial import trial

pytestmark = [pytest.mark.integration, pytest.mark.faults]
FIXTURES = {"3.10": "rabbitmq", "4.0": "rabbitmq4"}
QUICK = [
    pytest.param(FIXTURES[setting.broker], row, setting, id=f"{row.name}-{setting}".replace(" ", "_"))
    for row in ROWS
    for setting in row.quick
]


@pytest.mark.usefixtures("elasticsearch", "toxiproxy")
@pytest.mark.parametrize(("rabbitmq", "row", "setting"), QUICK, indirect=["rabbitmq"])
def test_row(fleet, rabbitmq, row, setting):
    seed = random.randrange(10**6)
    with trial(fleet, setting, seed=seed, recorded=row.recorded) as played:
        row.play(played)
        account = played.finish()
        assert account.held, f"seed {seed}: {account}\n{played.service.last_words()}"
        row.check(account)
