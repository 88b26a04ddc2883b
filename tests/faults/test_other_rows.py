"""A row of each kind that is not played on one broker: a cluster, no server at all, a tube."""

from __future__ import annotations

import random

import pytest

from tests.faults import cluster_rows, local_rows, tube_rows

pytestmark = [pytest.mark.integration, pytest.mark.faults]
QUICK = {"cluster: kill -9 of its node", "embedded: kill -9: mid-delete", "tubes: Tarantool killed -9"}
ROWS = {row.name: row for row in (*cluster_rows.ROWS, *local_rows.ROWS, *tube_rows.ROWS) if row.name in QUICK}
CLUSTER, EMBEDDED, TUBES = (
    [row for name, row in ROWS.items() if name.startswith(kind)] for kind in ("cluster", "embedded", "tubes")
)


def play(fleet, row):
    seed = random.randrange(10**6)
    with row.on(fleet, row.settings[0], seed=seed, recorded=row.recorded) as played:
        row.play(played)
        account = played.finish()
        assert account.held, f"seed {seed}: {account}\n{played.service.last_words()}"
        row.check(account)


@pytest.fixture
def _cluster(fleet):
    """Three nodes; they end with the test, as nobody else wants them."""
    yield
    fleet.get("rabbitmq4_cluster").close()


@pytest.mark.timeout(300)  # three nodes take their time to find each other
@pytest.mark.usefixtures("_cluster", "elasticsearch", "toxiproxy")
@pytest.mark.parametrize("row", CLUSTER, ids=lambda row: row.name)
def test_cluster(fleet, row):
    play(fleet, row)


@pytest.mark.parametrize("row", EMBEDDED, ids=lambda row: row.name)
def test_embedded(fleet, row):
    play(fleet, row)


@pytest.mark.usefixtures("tarantool")
@pytest.mark.parametrize("row", TUBES, ids=lambda row: row.name)
def test_tubes(fleet, row):
    play(fleet, row)


def test_each_kind_has_a_row():
    assert ROWS.keys() == QUICK
