"""kombu's Redis transport, with the pop and the note of it in one step.

kombu pops a message with BRPOP and writes it into ``unacked`` with the next command. A process that is
killed between the two, or with an answer in its socket that nobody has read, loses that message. Here a
script does both at once, where no connection can get lost between them. A script cannot wait: an idle
consumer asks again every :data:`POLL_SECONDS`. All else is kombu's, its keys and their meaning too, so
that other consumers of kombu may take from the same queues.
"""

from __future__ import annotations

from typing import Any

from kombu.transport import redis

from aggregator.clock import SYSTEM_CLOCK

#: An idle consumer's pause between two looks.
POLL_SECONDS = 0.02
#: Between two looks for messages that were held for too long. kombu looks when a wait for messages has ended
#: without an answer; a script always answers.
RESTORE_SECONDS = 1.0
#: The latest unread of the first list that has one: noted by its tag as kombu does, then taken. What cannot
#: be read is taken without a note.
_POP = """
for at = 3, #KEYS do
  local item = redis.call('LINDEX', KEYS[at], -1)
  if item then
    local read, message = pcall(cjson.decode, item)
    local properties = read and type(message) == 'table' and message['properties']
    local tag = type(properties) == 'table' and properties['delivery_tag']
    if type(tag) == 'string' then
      local info = properties['delivery_info']
      if type(info) ~= 'table' then info = {} end
      local place = cjson.encode(info['exchange'] or '') .. ',' .. cjson.encode(info['routing_key'] or '')
      redis.call('ZADD', KEYS[1], ARGV[1], tag)
      redis.call('HSET', KEYS[2], tag, '[' .. item .. ',' .. place .. ']')
    end
    redis.call('RPOP', KEYS[at])
    return {KEYS[at], item}
  end
end
return false
"""


class Channel(redis.Channel):
    """Takes by a script what kombu takes by BRPOP; the answer has the same form."""

    _pop: str | None = None
    _brpop_sent_at: Any = None
    _restore_at = 0.0

    def _brpop_start(self, timeout: float | None = None) -> None:  # noqa: ARG002 - kombu's signature
        queues = self._queue_cycle.consume(len(self.active_queues))
        if not queues:
            return
        now = SYSTEM_CLOCK.monotonic()
        if now >= self._restore_at:
            self._restore_at = now + RESTORE_SECONDS
            self.qos.restore_visible(num=self.unacked_restore_limit, interval=1)
        if self._pop is None:
            # a server that has forgotten it says so, the link is lost by that, and its successor loads it
            with self.conn_or_acquire() as client:
                self._pop = client.script_load(_POP)
        name: Any = self._q_for_pri
        lists = [name(queue, pri) for pri in self.priority_steps for queue in queues]
        keys = [self.global_keyprefix + key for key in (self.unacked_index_key, self.unacked_key, *lists)]
        self._in_poll = self.client.connection
        self._brpop_sent_at = now
        # by the clock that kombu compares it with when it looks for what was held for too long
        self.client.connection.send_command("EVALSHA", self._pop, len(keys), *keys, repr(SYSTEM_CLOCK.time()))


class Transport(redis.Transport):
    """Sleeps between two looks that found nothing."""

    Channel = Channel
    polling_interval: Any = POLL_SECONDS
