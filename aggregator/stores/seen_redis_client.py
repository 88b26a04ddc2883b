"""The store of seen ids in Redis: a set for each span, a stream of what was entered last.

Keys, all beginning with ``{prefix}`` (the braces keep them together in a cluster): ``:meta`` holds the
number of the newest span and when it began, ``:ids:N`` the ids of one span, ``:feed`` the latest
entries, numbered without gaps. All have a time to live. Scripts take and give ids as one text of JSON:
to send a thousand of them singly would cost more than all the rest.
"""

from __future__ import annotations

from secrets import token_hex
from typing import TYPE_CHECKING, Any

import orjson
import structlog
from rbloom import Bloom

from aggregator.seen import HERE, SPANS, Entered, News
from aggregator.stores.redis_client import connect, look, mapped, refusing

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from aggregator.seen import Filter
    from aggregator.stores.redis_url import SeenOptions, Server

log = structlog.get_logger()

#: How many of the ids that are no duplicates are asked for all the same.
FALSE_POSITIVES = 1e-6
#: Entries that the feed keeps, of up to a thousand ids each; whoever falls further behind reads all anew.
FEED = 1000
#: Entries in one answer.
FEED_AT_ONCE = 50
#: Ids in one piece of a set.
PIECE = 5000

_ENTER = """
local meta, feed, ids = KEYS[1], KEYS[2], ARGV[1]
local width, ttl, most, spans = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local said = redis.call('HMGET', meta, 'span', 'since')
local span, since, forgot = tonumber(said[1] or 0), tonumber(said[2] or 0), 0
if span == 0 or now - since >= width or redis.call('SCARD', ARGV[7] .. span) >= most then
  span = span + 1
  redis.call('HSETNX', meta, 'run', ARGV[2] .. ':' .. now)
  redis.call('HSET', meta, 'span', span, 'since', now)
  redis.call('PEXPIRE', meta, 3 * (ttl + width))
  local oldest = ARGV[7] .. (span - spans - 1)
  if redis.call('PTTL', oldest) > width / 10 then forgot = 1 end
  redis.call('UNLINK', oldest)
end
local key, list = ARGV[7] .. span, cjson.decode(ids)
for first = 1, #list, 500 do
  redis.call('SADD', key, unpack(list, first, math.min(first + 499, #list)))
end
if redis.call('PTTL', key) < 0 then
  redis.call('PEXPIRE', key, ttl + width)
end
local number = redis.call('HINCRBY', meta, 'last', 1)
if redis.call('EXISTS', feed) == 1 and number == 1 then
  redis.call('UNLINK', feed)
end
redis.call('XADD', feed, 'MAXLEN', '~', ARGV[8], number .. '-0', 's', span, 'w', ARGV[2], 'i', ids)
redis.call('PEXPIRE', feed, ttl + width)
return {span, forgot}
"""
_KNOWN = """
local span, found = tonumber(redis.call('HGET', KEYS[1], 'span') or 0), {}
local left = cjson.decode(ARGV[1])
for number = span, math.max(1, span - tonumber(ARGV[2])), -1 do
  local rest = {}
  for first = 1, #left, 500 do
    local last = math.min(first + 499, #left)
    local there = redis.call('SMISMEMBER', ARGV[3] .. number, unpack(left, first, last))
    for at = first, last do
      if there[at - first + 1] == 1 then found[#found + 1] = left[at] else rest[#rest + 1] = left[at] end
    end
  end
  left = rest
  if #left == 0 then break end
end
return cjson.encode(found)
"""
_NEWS = """
local said = redis.call('HMGET', KEYS[1], 'run', 'span', 'last')
local after, entries = tonumber(ARGV[1]), {}
if said[1] and after >= 0 and after < tonumber(said[3]) then
  entries = redis.call('XRANGE', KEYS[2], (after + 1) .. '-0', '+', 'COUNT', ARGV[2])
end
return {said[1] or '', tonumber(said[2] or 0), tonumber(said[3] or 0), entries}
"""
_PIECE = """
local answer = redis.call('SSCAN', KEYS[1], ARGV[1], 'COUNT', ARGV[2])
return {answer[1], cjson.encode(answer[2])}
"""


class RedisSeen:
    """A :class:`aggregator.seen.SeenStore`. Processes that share ids name the same URL."""

    def __init__(self, server: Server, options: SeenOptions) -> None:
        self._server = server
        self._options = options
        self.client = connect(server, options)
        self._token = token_hex(8)
        root = f"{{{options.prefix}}}"
        self._meta, self._feed, self._ids = f"{root}:meta", f"{root}:feed", f"{root}:ids:"
        self._enter = self.client.register_script(_ENTER)
        self._known = self.client.register_script(_KNOWN)
        self._news = self.client.register_script(_NEWS)
        self._piece = self.client.register_script(_PIECE)
        ttl = round(options.ttl * 1000)
        #: of what is kept in all, a span holds its part
        self._most = options.most // (SPANS + 1)
        self._bounds = (ttl // SPANS, ttl, self._most)
        self._where = f"seen: Redis at {server.address}"

    def make_filter(self) -> Filter:
        """Return a filter for the ids of one span."""
        return Bloom(self._most + 1000, FALSE_POSITIVES)

    def open(self) -> None:
        """Look at the server, and do once with nothing what writes will do."""
        with refusing(self._server, "seen"):
            unseen = look(self.client, self._where, ("allkeys",), "noeviction, or volatile-ttl,")
            if unseen:
                log.warning("redis_not_looked_at", store=self._where, what=unseen)
            self._do_enter(())
            self._do_known(("",))
            self._do_news(HERE)
            self._do_piece(1, 0)

    def known(self, ids: Sequence[str]) -> set[str]:
        """Ask for all ids at once."""
        with mapped(self._server):
            return self._do_known(ids)

    def enter(self, ids: Sequence[str]) -> Entered:
        """Enter ids into the newest span, which may be a new one."""
        with mapped(self._server):
            return self._do_enter(ids)

    def news(self, after: int) -> News:
        """Read on in the feed."""
        with mapped(self._server):
            return self._do_news(after)

    def piece(self, span: int, cursor: int) -> tuple[int, Sequence[str]]:
        """Read on in a set, by SSCAN."""
        with mapped(self._server):
            return self._do_piece(span, cursor)

    def close(self) -> None:
        """Close all connections."""
        self.client.close()

    def _do_known(self, ids: Sequence[str]) -> set[str]:
        asked = _packed(ids)
        return set(_unpacked(self._known(keys=[self._meta], args=[asked, SPANS, self._ids])))

    def _do_enter(self, ids: Sequence[str]) -> Entered:
        width, ttl, most = self._bounds
        args: list[Any] = [_packed(ids), self._token, width, ttl, most, SPANS, self._ids, FEED]
        span, forgot = self._enter(keys=[self._meta, self._feed], args=args)
        return Entered(span, bool(forgot))

    def _do_news(self, after: int) -> News:
        run, span, last, raw = self._news(keys=[self._meta, self._feed], args=[after, FEED_AT_ONCE])
        numbers = [int(number.partition(b"-")[0]) for number, _ in raw]
        behind = after not in {HERE, last}
        missed = behind and (not numbers or numbers[0] != after + 1)
        read = numbers[-1] if numbers and not missed else last
        return News(run, span, read, missed, list(self._of_others(raw)), read < last)

    def _of_others(self, raw: Sequence[Any]) -> Iterator[tuple[int, Sequence[str]]]:
        for _, pairs in raw:
            fields = dict(zip(pairs[::2], pairs[1::2], strict=True))
            if fields[b"w"] != self._token.encode():
                yield int(fields[b"s"]), _unpacked(fields[b"i"])

    def _do_piece(self, span: int, cursor: int) -> tuple[int, Sequence[str]]:
        following, ids = self._piece(keys=[f"{self._ids}{span}"], args=[cursor, PIECE])
        return int(following), _unpacked(ids)


def _packed(ids: Sequence[str]) -> bytes:
    return orjson.dumps(list(ids))


def _unpacked(text: bytes) -> list[str]:
    # the server's own JSON knows no empty list: {} stands for it
    return list(orjson.loads(text))
