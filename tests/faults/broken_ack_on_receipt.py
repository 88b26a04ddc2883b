"""A broken build: it acks each message as soon as it comes."""

import sys

from aggregator.consume import main
from consumers.worker import Worker

take = Worker._take


def _take(self, deliveries):
    take(self, deliveries)
    for delivery in deliveries:
        self._link._channel.basic_ack(delivery.tag)
        self._link._window.settle([delivery.tag])


Worker._take = _take

if __name__ == "__main__":
    sys.exit(main())
