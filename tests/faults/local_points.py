"""Named points within the queue file and the sinks on this machine, for :mod:`tests.faults.points`."""

from __future__ import annotations

import os

from aggregator.sinks.jsonl_file import LineFile
from aggregator.sinks.sqlite import SqliteSink
from consumers.transports import sqlite_store
from consumers.transports.sqlite_store import Store

#: An item in the midst of a request, at the sizes that trials use.
_AN_ITEM = 7


def mid_transaction(point):
    """Some rows of a request are inserted, and nothing is committed."""
    transaction, one = SqliteSink._transaction, SqliteSink._one
    left = [0]

    def _transaction(self, db, items):
        left[0] = _AN_ITEM if point.due() else 0
        return transaction(self, db, items)

    def _one(self, *args):
        verdict = one(self, *args)
        left[0] -= 1
        if left[0] == 0:
            point.strike()
        return verdict

    SqliteSink._transaction, SqliteSink._one = _transaction, _one


def mid_line(point):
    """Half of a request's lines stand in the file, the last of them torn."""
    append = LineFile.append

    def _append(self, payload, *, sync):
        if point.due():
            os.write(self._handle, payload[: len(payload) // 2])
            point.strike()
        append(self, payload, sync=sync)

    LineFile.append = _append


def after_lease(point):
    """Messages are leased to a process that never sees them."""
    lease = Store.lease

    def _lease(self, *args):
        taken = lease(self, *args)
        if taken:
            point.hit()
        return taken

    Store.lease = _lease


def mid_delete(point):
    """Half of what is acked is deleted, and nothing is committed."""
    delete = sqlite_store._delete

    def _delete(database, ids):
        if ids and point.due():
            delete(database, ids[: (len(ids) + 1) // 2])
            point.strike()
        delete(database, ids)

    sqlite_store._delete = _delete


def after_delete(point):
    """The queue file has the ack, and nobody has been told."""
    ack = Store.ack

    def _ack(self, *args):
        ack(self, *args)
        point.hit()

    Store.ack = _ack


INSTALLERS = {
    "mid-transaction": mid_transaction,
    "mid-line": mid_line,
    "after-lease": after_lease,
    "mid-delete": mid_delete,
    "after-delete": after_delete,
}
