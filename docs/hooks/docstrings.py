"""Docstrings for the reference made of them: roles (``:class:`Sink```) as code, pages (docs/x.md) linked."""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object

ROLE = re.compile(r":(?:class|meth|func|mod|attr|data|exc):`~?(?P<name>[^`]+)`")

PAGE = re.compile(r"(?:``)?\bdocs/(?P<name>[\w-]+)\.md(?:``)?")


class ForPages(Extension):
    """Griffe's extension; it finds it by its base."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Rewrite a docstring; of a name that has modules before it, what comes after the last one stays."""
        if obj.docstring is not None:
            # as HTML: MkDocs looks at the links of pages alone
            text = PAGE.sub(r'<a href="\g<name>.html">\g<name></a>', obj.docstring.value)
            obj.docstring.value = ROLE.sub(_name, text)


def _name(role: re.Match[str]) -> str:
    words = role["name"].split(".")
    first = next((number for number, word in enumerate(words) if word[:1].isupper()), len(words) - 1)
    return f"`{'.'.join(words[first:])}`"
