"""``python -m producers.replay``: see :mod:`producers.replay.cli`."""

import sys

from producers.replay.cli import main

if __name__ == "__main__":
    sys.exit(main())
