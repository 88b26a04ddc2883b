"""Jobs in Redis: a hash for each, ``{prefix}:<id>``, told of by scripts; its end is published.

The fields: ``state``, ``at`` (unix seconds of it), ``since`` (of the submission), and ``reason``,
``detail``, ``status`` where there are any. A job that is not there, because it was never submitted or its
time is over, is not made by a word on it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson
import structlog

from aggregator.results import FINAL, QUEUED, TAKEN, Word
from aggregator.stores.redis_client import connect, look, mapped, refusing

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from redis.client import PubSub

    from aggregator.stores.redis_url import ResultOptions, Server

log = structlog.get_logger()

PREFIX = "jobs"

_SUBMIT = """
local time = redis.call('TIME')
local state = redis.call('HGET', KEYS[1], 'state')
if state then return state end
local now = time[1] + time[2] / 1000000
redis.call('HSET', KEYS[1], 'state', ARGV[1], 'at', now, 'since', now)
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return false
"""
_POST = """
local time = redis.call('TIME')
local now, told = time[1] + time[2] / 1000000, 0
local final = {}
for state in string.gmatch(ARGV[4], '%S+') do final[state] = true end
for _, word in ipairs(cjson.decode(ARGV[1])) do
  local key = ARGV[2] .. word[1]
  local state = redis.call('HGET', key, 'state')
  if state and not final[state] then
    redis.call('HSET', key, 'state', word[2], 'at', now, 'reason', word[3], 'detail', word[4],
      'status', word[5])
    if final[word[2]] then
      redis.call('PEXPIRE', key, ARGV[3])
      redis.call('PUBLISH', key, word[2])
    end
    told = told + 1
  end
end
return told
"""


class RedisJobs:
    """Both sides: :meth:`post` of the service, the rest of those who submit."""

    def __init__(self, server: Server, options: ResultOptions) -> None:
        self._server = server
        self._ttl = round(options.ttl * 1000)
        self._root = f"{{{options.prefix or PREFIX}}}:"
        self._where = f"results: Redis at {server.address}"
        self.client = connect(server, options)
        self._submit = self.client.register_script(_SUBMIT)
        self._post = self.client.register_script(_POST)

    def open(self) -> None:
        """Look at the server, and do once with nothing what words will do."""
        with refusing(self._server, "results"):
            unseen = look(self.client, self._where, ("allkeys",), "noeviction, or volatile-ttl,")
            if unseen:
                log.warning("redis_not_looked_at", store=self._where, what=unseen)
            self._do_post([Word("\0probe", TAKEN)])

    def post(self, words: Sequence[Word]) -> None:
        """Note words on all jobs at once."""
        with mapped(self._server):
            self._do_post(words)

    def submit(self, job: str, keep: float) -> str | None:
        """Make a job, for ``keep`` seconds unless it ends before; return its state if it was there."""
        with mapped(self._server):
            said = self._submit(keys=[self._root + job], args=[QUEUED, round(keep * 1000)])
        return said.decode() if said else None

    def forget(self, job: str) -> None:
        """Remove a job."""
        with mapped(self._server):
            self.client.unlink(self._root + job)

    def read(self, job: str) -> Mapping[str, str]:
        """Return the fields of a job, none if it is not there."""
        with mapped(self._server):
            said: Any = self.client.hgetall(self._root + job)
        return {name.decode(): value.decode(errors="replace") for name, value in said.items()}

    def listen(self, job: str) -> Ends:
        """Return what hears of a job's end, from now on."""
        with mapped(self._server):
            pubsub = self.client.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]
            pubsub.subscribe(self._root + job)
        return Ends(pubsub, self._server)

    def close(self) -> None:
        """Close all connections."""
        self.client.close()

    def _do_post(self, words: Sequence[Word]) -> int:
        told = orjson.dumps([[*word[:4], "" if word.status is None else word.status] for word in words])
        said: Any = self._post(keys=[], args=[told, self._root, self._ttl, " ".join(sorted(FINAL))])
        return int(said)


class Ends:
    """Hears of one job's end, over a connection of its own."""

    def __init__(self, pubsub: PubSub, server: Server) -> None:
        self._pubsub = pubsub
        self._server = server

    def wait(self, seconds: float) -> bool:
        """Wait so long at most; return whether something was heard. Raises ``StoreUnavailableError``."""
        with mapped(self._server):
            return self._pubsub.get_message(timeout=seconds) is not None

    def close(self) -> None:
        """Let go of the connection."""
        with mapped(self._server):
            self._pubsub.close()
