"""How long a route waits that loses its sink again and again."""

from __future__ import annotations

from random import Random

import pytest

from aggregator.backoff import Backoff
from aggregator.standing import OUTAGE_SECONDS, PATIENCE, Standing


@pytest.mark.parametrize("deadline", [1800.0, 4.0])
def test_each_further_outage_waits_twice_as_long_whatever_a_retry_waits(deadline):
    standing = Standing(Backoff(0.1, 0.2, Random(0)), deadline)
    now, pauses = 100.0, []
    for _ in range(5):
        standing.resume(now)
        assert standing.lose_patience(standing.patience, "away", now)
        pauses.append(standing.probe_at - now)
        now = standing.probe_at
    first = min(OUTAGE_SECONDS, deadline * PATIENCE)
    assert pauses[0] <= 0.2
    assert pauses[1:] == pytest.approx([min(first * 2**n, deadline) for n in range(4)])


def test_a_route_that_ran_for_long_has_had_one_outage():
    standing = Standing(Backoff(0.1, 0.2, Random(0)), 1800.0)
    for now in (100.0, 100.0 + 5 * standing.patience):
        standing.resume(now)
        assert standing.lose_patience(standing.patience, "away", now + 3 * standing.patience)
        assert standing.probe_at <= now + 3 * standing.patience + 0.2
