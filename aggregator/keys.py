"""What makes messages belong together, as values that add up: ``header("shop") + pointer("/order/id")``.

Each stands for the expression of its name (:mod:`aggregator.correlation`). One of them also says a
document's ``id`` or a ``sequence``. Texts are checked where a file's are: in ``Aggregator.settings``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from aggregator.correlation import PROPERTIES
from aggregator.errors import ConfigurationError

if TYPE_CHECKING:
    from aggregator.correlation import Source

_JOINT = " + "


@dataclass(frozen=True, slots=True)
class Key:
    """One expression or several: texts, or functions of one delivery. Never empty."""

    parts: tuple[Source, ...]

    def __add__(self, other: Key) -> Key:
        """Return the key of both; it is missing where either is."""
        return Key(self.parts + other.parts) if isinstance(other, Key) else NotImplemented

    def expression(self, field: str) -> Source:
        """Return the only part. Raises ``ConfigurationError`` for ``field`` if there are several."""
        if len(self.parts) > 1:
            raise ConfigurationError(field, f"{len(self.parts)} expressions are given; one is needed")
        return self.parts[0]

    def setting(self) -> Source | tuple[Source, ...]:
        """Return it as a file would have it; what no text can say as a function or a tuple."""
        texts = [part for part in self.parts if isinstance(part, str)]
        if len(texts) == len(self.parts) and not any(_JOINT in text for text in texts):
            return _JOINT.join(texts)
        return self.parts if texts or len(self.parts) > 1 else self.parts[0]


def header(name: str) -> Key:
    """Return the application's header of this name."""
    return Key((f"header:{name}",))


def property_(name: str) -> Key:
    """Return one of AMQP's basic properties: ``message_id``, ``correlation_id``, ``type``, …"""
    return Key((name if name in PROPERTIES else f"property:{name}",))


def pointer(path: str) -> Key:
    """Return a JSON pointer into the body: ``/user/id``. Raises ``ConfigurationError``."""
    if not path.startswith("/"):
        raise ConfigurationError("pointer", f"{path!r} is none; one like /user/id is needed")
    return Key((path,))


def constant(text: str) -> Key:
    """Return the same for every message."""
    return Key((f"constant:{text}",))


def function(call: Source) -> Key:
    """Return what ``call(delivery)`` says: a text, a number or None. Also by name: ``module:name``."""
    return Key((f"function:{call}" if isinstance(call, str) else call,))


routing_key = Key(("routing_key",))
"""The routing key that the message was published with."""
exchange = Key(("exchange",))
"""The exchange that it was published to."""
