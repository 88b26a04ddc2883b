"""A store of seen ids in memory, which several processes of a test share and which can be away."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import count

from aggregator.errors import StoreUnavailableError
from aggregator.seen import HERE, SPANS, Entered, News

_LIVES = count(1)


@dataclass
class Server:
    """What all of them share. ``most``: ids of a span, ``feed``: entries that can be read again."""

    most: int = 1000
    feed: int = 1000
    up: bool = True
    #: whether what was entered is answered
    answers: bool = True
    life: bytes = field(default_factory=lambda: b"%d" % next(_LIVES))
    spans: dict = field(default_factory=dict)
    newest: int = 0
    entries: list = field(default_factory=list)
    calls: list = field(default_factory=list)

    def lose_all(self):
        """Be empty, as after a start without a file."""
        self.life = b"%d" % next(_LIVES)
        self.spans, self.newest, self.entries = {}, 0, []


class MemorySeen:
    """One process's way to the server."""

    def __init__(self, server=None):
        self.server = server or Server()
        self.closed = False
        self.unfit = None

    def open(self):
        self._answer("open")
        if self.unfit:
            raise self.unfit

    def known(self, ids):
        self._answer("known")
        live = range(max(1, self.server.newest - SPANS), self.server.newest + 1)
        return {id_ for id_ in ids if any(id_ in self.server.spans.get(span, ()) for span in live)}

    def enter(self, ids):
        self._answer("enter")
        server = self.server
        if not server.newest or len(server.spans[server.newest]) >= server.most:
            server.newest += 1
            server.spans[server.newest] = set()
        forgot = server.spans.pop(server.newest - SPANS - 1, None)
        server.spans[server.newest].update(ids)
        server.entries.append((server.newest, self, list(ids)))
        if not server.answers:
            raise StoreUnavailableError("no answer")
        return Entered(server.newest, bool(forgot))

    def news(self, after):
        self._answer("news")
        server = self.server
        last = len(server.entries)
        if after == HERE:
            return News(server.life, server.newest, last, False, [], False)
        missed = after > last or after < last - server.feed
        found = [] if missed else server.entries[after : after + 2]
        read = last if missed else after + len(found)
        others = [(span, ids) for span, who, ids in found if who is not self]
        return News(server.life, server.newest, read, missed, others, read < last)

    def piece(self, span, cursor):
        self._answer("piece")
        ids = sorted(self.server.spans.get(span, ()))
        following = cursor + 3
        return (following if following < len(ids) else 0), ids[cursor:following]

    def close(self):
        self.closed = True

    def _answer(self, call):
        self.server.calls.append(call)
        if not self.server.up:
            raise StoreUnavailableError("away")
