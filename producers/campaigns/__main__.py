"""``python -m producers.campaigns``: see :mod:`producers.campaigns.cli`."""

import sys

from producers.campaigns.cli import main

if __name__ == "__main__":
    sys.exit(main())
