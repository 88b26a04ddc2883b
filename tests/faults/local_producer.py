"""A producer that is killed: publishes ids one small batch after the other, and says each that is confirmed.

``python -m tests.faults.local_producer URL QUEUE FIRST``
"""

from __future__ import annotations

import sys
from itertools import count

from consumers.publisher import Publisher
from consumers.transports import register
from tests.service import outgoing

BATCH = 7


def main(url: str, queue: str, first: int) -> None:
    """Publish for ever."""
    register()
    publisher = Publisher(url)
    for start in count(first, BATCH):
        messages = [outgoing(queue, number) for number in range(start, start + BATCH)]
        assert not any(publisher.publish(messages))
        print("\n".join(message.properties["message_id"] for message in messages), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
