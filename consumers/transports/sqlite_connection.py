"""A connection to a queue file: its channels, its waiting, its signs of life."""

from __future__ import annotations

import threading
from itertools import count
from typing import TYPE_CHECKING, Any, Final

from aggregator.clock import SYSTEM_CLOCK
from consumers.transports.sqlite_channel import Channel
from consumers.transports.sqlite_file import QueueFile
from consumers.transports.sqlite_leases import Leases
from consumers.transports.sqlite_store import Store
from consumers.transports.sqlite_topology import Topology

if TYPE_CHECKING:
    from aggregator.clock import Clock
    from consumers.transports.sqlite_settings import Settings

_LOOK_AFTER_DEAD: Final = 0.25
"""Seconds between two looks for consumers that have died."""


class Connection:
    """Owned by the thread that opens it; other threads may call :meth:`wake`, and nothing else."""

    def __init__(self, settings: Settings, client: Any = None, clock: Clock = SYSTEM_CLOCK) -> None:
        self.settings = settings
        self.client = client
        self._closed = False
        self.channels: list[Channel] = []
        self.file = QueueFile(settings)
        self.topology = Topology(self.file)
        self.leases = Leases(self.file, settings.lease, clock)
        self.store = Store(self.file, self.leases, clock)
        self._clock = clock
        self._channel_ids = count(1)
        self._wake = threading.Event()
        self._tended = clock.monotonic()

    @property
    def connected(self) -> bool:
        """Whether it can be used; where not, kombu opens another."""
        return not (self._closed or self.leases.lost)

    def channel(self) -> Channel:
        """Open a channel."""
        channel = Channel(self, next(self._channel_ids))
        self.channels.append(channel)
        return channel

    def forget(self, channel: Channel) -> None:
        """Take note that a channel has closed."""
        if channel in self.channels:
            self.channels.remove(channel)

    def drain_events(self, timeout: float | None = None) -> None:
        """Deliver what is there, or wait for it; raise ``TimeoutError`` after ``timeout`` seconds.

        ``None`` waits for ever; 0 looks once. :meth:`wake` ends the wait, with ``TimeoutError`` too.
        """
        end = None if timeout is None else self._clock.monotonic() + timeout
        while True:
            self.tend()
            # a list, not a generator: every channel has its turn
            if any([channel.deliver() for channel in list(self.channels)]):  # noqa: C419
                return
            left = self.settings.poll if end is None else end - self._clock.monotonic()
            if left <= 0 or self._wake.wait(min(left, self.settings.poll)):
                self._wake.clear()
                raise TimeoutError("no message")

    def wake(self) -> None:
        """End a wait in ``drain_events`` now, or the next one; any thread may call it."""
        self._wake.set()

    def tend(self) -> None:
        """Renew our leases, and release those of consumers that have died; cheap when nothing is due."""
        self.leases.renew()
        now = self._clock.monotonic()
        if now - self._tended >= _LOOK_AFTER_DEAD:
            self._tended = now
            self.leases.recover()

    def heartbeat_check(self) -> None:
        """Show a sign of life and commit the collected acks; cheap when nothing is due."""
        for channel in list(self.channels):
            channel.flush()
        self.tend()

    def close(self) -> None:
        """Close all channels, with their acks committed and their messages given back."""
        try:
            for channel in list(self.channels):
                channel.close()
        finally:
            self.collect()

    def collect(self) -> None:
        """Let go of everything without another word to the file; others find our messages at once."""
        self._closed = True
        self.leases.abandon()
        for channel in self.channels:
            channel.closed = True
            channel.connection = None
        self.channels.clear()
        self.file.close()
