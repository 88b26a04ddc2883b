"""Files that hold messages: for their owner and, as the umask says, their group; never for all others."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

#: The mode of a new file, from which the umask takes away.
PRIVATE: Final = 0o660


def make_private(path: Path) -> None:
    """Make an empty file of that mode if there is none; SQLite gives the files beside it the same.

    One that is there keeps its mode. What goes wrong is left to whoever opens it: never raises.
    """
    with suppress(OSError):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE))
