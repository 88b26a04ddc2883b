"""A broken build: what came over a link that is lost is acked over the one that took its place."""

import sys

from aggregator.consume import main
from aggregator.delivery import Settlement
from aggregator.settlement import Settler
from consumers.link import ChannelLink

links = []
init, perform, settle = ChannelLink.__init__, ChannelLink.perform, Settler.settle


def _init(self, *args, **kwargs):
    init(self, *args, **kwargs)
    self.stale = []
    links.append(self)


def _settle(deliveries, how):
    deliveries = list(deliveries)
    alive = [link for link in links if link.alive]
    if alive and how is Settlement.ACK:
        for delivery in deliveries:
            if not delivery.link.alive:
                alive[-1].stale.append(delivery.tag)
        alive[-1].wake()
    return settle(deliveries, how)


def _perform(self, on_lag, *, flush=False):
    stale, self.stale = self.stale, []
    for tag in stale:
        if self._window.give_back([tag]):  # another would close the channel
            self._channel.basic_ack(tag)
    return perform(self, on_lag, flush=flush)


ChannelLink.__init__ = _init
ChannelLink.perform = _perform
Settler.settle = staticmethod(_settle)

if __name__ == "__main__":
    sys.exit(main())
