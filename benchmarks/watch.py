"""How many messages a quorum queue holds, ready and unacked, over time: seen from inside the broker.

A process in the broker looks every few milliseconds at the queue's own state (36 µs a look) and keeps
what changed with the time of the machine's clock. So every consumer is measured alike, by what the
broker has of it, and none has to tell when it acked.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.servers import RabbitMQ

Curve = list[tuple[float, float]]
"""Pairs of a time (seconds of the wall clock) and the value from then on."""

_COUNT = """
{{ok, Queue}} = rabbit_amqqueue:lookup(rabbit_misc:r(<<"/">>, queue, <<"{queue}">>)),
Pid = amqqueue:get_pid(Queue),
Count = fun() ->
  case ra:local_query(Pid, fun rabbit_fifo:query_messages_total/1) of
    {{ok, {{_, Number}}, _}} -> Number;
    _ -> -1
  end
end,
"""

_START = (
    _COUNT
    + """
case whereis(benchmark_watch) of undefined -> ok; Old -> exit(Old, kill), timer:sleep(50) end,
Watch = fun Again(Last, Seen) ->
  Number = Count(),
  Now = os:system_time(microsecond),
  Found = if Number =:= Last -> Seen; true -> [[Now, Number] | Seen] end,
  receive {{collect, To}} -> To ! {{seen, lists:reverse(Found)}} after {interval} -> Again(Number, Found) end
end,
register(benchmark_watch, spawn(fun() -> Watch(-1, []) end)),
started.
"""
)

_COLLECT = (
    _COUNT
    + """
Empty = fun Again(0) -> ok; Again(Tries) ->
  case Count() of 0 -> timer:sleep(20); _ -> timer:sleep(10), Again(Tries - 1) end
end,
Empty({patience}),
benchmark_watch ! {{collect, self()}},
receive {{seen, Found}} -> Found after 10000 -> [] end.
"""
)


class Watch:
    """Watches one queue from its construction until :meth:`collect`."""

    def __init__(self, rabbit: RabbitMQ, queue: str, *, interval_ms: int = 5) -> None:
        self._rabbit, self._queue = rabbit, queue
        rabbit.ctl("eval", _START.format(queue=queue, interval=interval_ms))

    def collect(self, *, patience: float = 20.0) -> Curve:
        """Wait until the queue is empty, ``patience`` seconds at most; return what was seen."""
        asked = _COLLECT.format(queue=self._queue, patience=round(patience * 100))
        return read(self._rabbit.ctl("eval", asked))


def read(text: str) -> Curve:
    """Read the broker's list of pairs (microseconds, number)."""
    pairs: Any = json.loads(text)
    return [(time / 1e6, float(number)) for time, number in pairs]
