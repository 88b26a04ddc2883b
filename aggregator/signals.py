"""What signals ask of a process: to stop, to stop at once, to complete all groups now."""

from __future__ import annotations

import os
import signal
from threading import current_thread, main_thread
from typing import Any

#: Those that ask for an end.
STOPPING = (signal.SIGTERM, signal.SIGINT)
#: All that are handled.
HANDLED = (*STOPPING, signal.SIGUSR1)
AT_ONCE = b"stopped at once; unacked messages go back to the broker\n"


class Signals:
    """What has come so far; whoever waits looks here again and again.

    The handlers take no lock: the thread that is interrupted may hold it. ``impatient``: the second
    signal ends the process on the spot, with exit code 1; otherwise it is only counted.
    """

    def __init__(self, *, impatient: bool = True) -> None:
        self.number = 0
        """The first signal that asked for an end; 0 for none."""
        self.count = 0
        """How many have asked for it."""
        self.forced = False
        """Whether all groups are to be completed now; whoever does it takes it back."""
        self._impatient = impatient

    def install(self) -> None:
        """Handle signals from now on; they come to the main thread and to no other."""
        if current_thread() is main_thread():
            for number in STOPPING:
                signal.signal(number, self._on_stop)
            signal.signal(signal.SIGUSR1, self._on_force)

    @property
    def name(self) -> str:
        """The name of the first signal."""
        return signal.Signals(self.number).name

    def _on_stop(self, number: int, _frame: Any) -> None:
        self.count += 1
        if self.number and self._impatient:
            # what is not acked goes back to the broker by itself
            os.write(2, AT_ONCE)
            os._exit(1)
        self.number = self.number or number

    def _on_force(self, _number: int, _frame: Any) -> None:
        self.forced = True
