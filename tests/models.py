"""What tests of the core need beside :mod:`aggregator.testing`: the real link, and a thread on a leash."""

from __future__ import annotations

from threading import Semaphore, Thread

from consumers.link import ChannelLink


class ModelLink(ChannelLink):
    """The real link, which notes what it was asked for."""

    def __init__(self, channel, epoch, *, multiple, clock):
        super().__init__(channel, epoch, multiple=multiple, wake=lambda: None, clock=clock)
        self.channel = channel

    def settle(self, deliveries, how):
        self.channel.note(self, deliveries, how)
        super().settle(deliveries, how)


class Flusher:
    """A flush thread that stops inside the sink until the test says how that goes on.

    Only one of the two threads runs at any time, so that each example can be repeated.
    """

    def __init__(self, pipeline):
        self.items = None
        self.did = False
        self.error = None
        self._answer = None
        self._here, self._there = Semaphore(0), Semaphore(0)
        self._pipeline = pipeline
        self._thread = Thread(target=self._run, daemon=True)

    def start(self):
        """Do one step; return whether it is inside the sink now."""
        self._thread.start()
        self._here.acquire()
        self._check()
        return self.items is not None

    def finish(self, answer):
        """Have the sink's write return, or raise, by calling ``answer(items)``."""
        self._answer = answer
        self._there.release()
        self._here.acquire()
        self._thread.join()
        self._check()

    def park(self, items):
        """Called within the sink."""
        self.items = list(items)
        self._here.release()
        self._there.acquire()
        return self._answer(items)

    def _run(self):
        try:
            self.did = self._pipeline.step()
        except BaseException as exc:  # noqa: BLE001
            self.error = exc
        finally:
            self._here.release()

    def _check(self):
        if self.error is not None:
            raise self.error


def halves(key, documents):
    """What a group may become: two documents of all its messages."""
    return [{"half": 1}, {"half": 2}]
