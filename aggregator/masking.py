"""URLs that carry passwords: kept as they are, shown without them."""

from __future__ import annotations

import re

from pydantic import Secret

MASK = "***"

_QUERY = re.compile(r"\?[\w.-]+=.*$")
_SUSPICIOUS = r"[\w.-]*(?:key|token|secret|pass|auth|credential)[\w.-]*"
_SECRET_PARAMETER = re.compile(rf"([?&;]{_SUSPICIOUS}(?<!_env)(?<!_file)=)[^&#]*", re.IGNORECASE)


def masked(url: str) -> str:
    """Return ``url`` with each password, and each query parameter that sounds like one, as ``***``.

    A password with reserved characters that should have been percent-encoded is masked as well:
    rather too much is hidden than too little.
    """
    scheme = url.partition("://")[0]
    # several brokers of one kind stand in one setting as url;url
    return ";".join(_masked_one(part) for part in re.split(rf";(?={re.escape(scheme)}://)", url))


def _masked_one(url: str) -> str:
    scheme, separator, rest = url.partition("://")
    if not separator:
        scheme, rest = "", url
    user, colon, password = rest[: _end_of_user(rest)].partition(":")
    if colon:
        rest = f"{user}:{MASK}{rest[len(user) + 1 + len(password) :]}"
    return scheme + separator + _SECRET_PARAMETER.sub(rf"\g<1>{MASK}", rest)


def _end_of_user(rest: str) -> int:
    """Return where ``user:password`` ends in what follows ``://``; 0 if there is none."""
    before_query = _QUERY.sub("", rest)
    if "@" in before_query:
        return before_query.rfind("@")
    port = re.split(r"[/?#]", rest, maxsplit=1)[0].rpartition(":")[2]
    # host:9200/index?time=@timestamp is no password; user:pa?ss@host holds one
    return 0 if port.isdecimal() else max(rest.rfind("@"), 0)


class SecretUrl(Secret[str]):
    """A URL whose ``str`` and ``repr`` are masked; ``get_secret_value()`` is the real one."""

    def _display(self) -> str:
        return masked(self.get_secret_value())
