"""URLs that name several hosts: ``scheme://user:password@host:1,[::1]:2/path?option=value``."""

from __future__ import annotations

import re
from urllib.parse import SplitResult, urlsplit


def url_parts(url: str) -> SplitResult:
    """Return the parts of ``url``; ``netloc`` holds all hosts. Raises ``ValueError`` as ``urlsplit`` does.

    That one takes hosts in brackets for one host, and since 2025 refuses what stands before them.
    """
    scheme, separator, rest = url.partition("://")
    netloc = re.split(r"[/?#]", rest, maxsplit=1)[0]
    if "," not in netloc:
        return urlsplit(url)
    return urlsplit(f"{scheme}{separator}{rest[len(netloc) :]}")._replace(netloc=netloc)
