"""What a publisher says about a body: its type, its charset, its compression. Read with suspicion.

Two customs meet in AMQP's ``content_encoding``: kombu puts the charset there (``utf-8``,
``binary``), others what HTTP means by it (``gzip``). Both are understood. A codec or a compression
is taken from the lists here alone: Python's registry also holds codecs that take seconds for a
short text (punycode, idna) and codecs that inflate (zlib_codec).
"""

from __future__ import annotations

import bz2
import lzma
import zlib
from dataclasses import dataclass
from encodings.aliases import aliases
from enum import Enum
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

from aggregator.errors import MessageRefusedError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class Kind(Enum):
    """What a body is declared to be."""

    JSON = "json"
    TEXT = "text"
    UNKNOWN = "unknown"
    """Nothing is declared: JSON if it is an object of JSON, else text."""


# fmt: off
#: Python's names of the charsets that may be declared; each decodes in linear time.
CHARSETS = frozenset([
    "ascii", "utf_8", "utf_8_sig", "utf_16", "utf_16_be", "utf_16_le", "utf_32", "utf_32_be", "utf_32_le",
    "latin_1", "iso8859_2", "iso8859_3", "iso8859_4", "iso8859_5", "iso8859_6", "iso8859_7", "iso8859_8",
    "iso8859_9", "iso8859_10", "iso8859_11", "iso8859_13", "iso8859_14", "iso8859_15", "iso8859_16",
    "cp1250", "cp1251", "cp1252", "cp1253", "cp1254", "cp1255", "cp1256", "cp1257", "cp1258",
    "koi8_r", "koi8_u", "big5", "euc_jp", "euc_kr", "gb18030", "gb2312", "gbk", "shift_jis",
])
_NO_CHARSET = frozenset(["", "binary", "identity", "7bit", "8bit"])
_JSON_TYPES = frozenset(["application/json", "application/x-json", "text/json"])
_TEXT_TYPES = frozenset([
    "application/xml", "application/yaml", "application/x-yaml", "application/javascript",
    "application/x-ndjson", "application/x-www-form-urlencoded",
])
_MEDIA = ("image/", "audio/", "video/", "font/", "multipart/")
_BINARY_TYPES = frozenset([
    "application/octet-stream", "application/data", "application/pickle", "application/x-python-serialize",
    "application/msgpack", "application/x-msgpack", "application/protobuf", "application/x-protobuf",
])
_UNKNOWN_METHODS = frozenset([
    "br", "brotli", "application/x-brotli", "zstd", "zstandard", "application/zstd", "compress",
])
# fmt: on

#: xz -9 needs 65 MiB for its dictionary; a header may ask for 4 GiB.
_LZMA_MEMORY = 128 * 1024 * 1024
#: The header decides between zlib's form, which kombu writes, and that of gzip.
_EITHER = 32 + zlib.MAX_WBITS

_gzip: Callable[[], Any] = partial(zlib.decompressobj, wbits=_EITHER)
_lzma: Callable[[], Any] = partial(lzma.LZMADecompressor, memlimit=_LZMA_MEMORY)
#: The names that kombu and HTTP give to the methods that are understood.
_METHODS: Mapping[str, Callable[[], Any]] = {
    **dict.fromkeys(["application/x-gzip", "application/gzip", "gzip", "x-gzip", "zlib", "deflate"], _gzip),
    **dict.fromkeys(["application/x-bz2", "bzip2", "bzip"], bz2.BZ2Decompressor),
    **dict.fromkeys(["application/x-lzma", "lzma", "xz"], _lzma),
}


@dataclass(frozen=True, slots=True)
class Form:
    """A body's declared form. ``charset`` is Python's name; ``refusal`` a reason and its detail."""

    kind: Kind
    charset: str = "utf_8"
    compression: str = ""
    refusal: tuple[str, str] | None = None
    plain_json: bool = False


#: What stands for properties that are lists or tables.
UNREADABLE = Form(Kind.UNKNOWN, refusal=("binary", "its content type is not a text"))


@lru_cache(maxsize=512)
def form_of(content_type: Any, content_encoding: Any) -> Form:
    """Return what the two properties declare; either may be absent (``None``) or nonsense.

    Raises ``TypeError`` for a list or a table, which no AMQP broker lets through.
    """
    media, _, parameters = str(content_type or "").partition(";")
    media = media.strip().lower()
    encoding = str(content_encoding or "").strip().lower()
    compression = encoding if encoding in _METHODS or encoding in _UNKNOWN_METHODS else ""
    declared = _charset_parameter(parameters) or ("" if compression else encoding)
    kind = _kind(media, declared)
    if kind is None:
        shown = repr(media[:60] or encoding[:60])
        return Form(Kind.UNKNOWN, refusal=("binary", f"{shown} is neither JSON nor text"))
    charset = _charset(declared)
    if charset is None:
        return Form(kind, refusal=("bad-charset", f"the charset {declared[:40]!r} is not taken"))
    plain = kind is Kind.JSON and charset == "utf_8" and not compression
    return Form(kind, charset, compression, plain_json=plain)


def _kind(media: str, declared: str) -> Kind | None:
    """Return the kind of body, ``None`` for binary. A declared charset makes an unknown type text."""
    if media in _JSON_TYPES or media.endswith("+json"):
        return Kind.JSON
    if media.startswith("text/") or media in _TEXT_TYPES or media.endswith("+xml"):
        return Kind.TEXT
    if declared == "binary" or media in _BINARY_TYPES or media.startswith(_MEDIA):
        return None
    if not media:
        return Kind.UNKNOWN
    return Kind.TEXT if declared and _charset(declared) else None


def _charset_parameter(parameters: str) -> str:
    """Return the charset of ``charset=utf-8; version=1``, lower-cased; empty if there is none."""
    for parameter in parameters.split(";"):
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "charset":
            return value.strip().strip("\"'").lower()
    return ""


def _charset(declared: str) -> str | None:
    """Return Python's name for a declared charset, ``None`` for one that is not taken."""
    if declared in _NO_CHARSET:
        return "utf_8"
    name = declared.replace("-", "_").replace(" ", "_")
    name = aliases.get(name, name)
    return name if name in CHARSETS else None


def decompress(body: bytes, method: Any, max_bytes: int) -> bytes:
    """Return ``body`` inflated, without ever holding more than ``max_bytes`` of it.

    Raises ``MessageRefusedError`` (``compressed``) for an unknown method, damage, or more than that.
    """
    make = _METHODS.get(method.strip().lower()) if isinstance(method, str) else None
    if make is None:
        raise MessageRefusedError("compressed", f"the method {str(method)[:40]!r} is not taken")
    stream = make()
    try:
        inflated: bytes | None = stream.decompress(body, max_bytes + 1)
    except (zlib.error, lzma.LZMAError, OSError, EOFError):
        inflated = None
    if inflated is None:
        raise MessageRefusedError("compressed", f"the body is not what {method[:40]!r} makes")
    if len(inflated) > max_bytes:
        raise MessageRefusedError("compressed", f"it inflates to more than {max_bytes} bytes")
    if not stream.eof or stream.unused_data:
        raise MessageRefusedError("compressed", "the compressed body is cut, or more follows it")
    if not inflated:
        raise MessageRefusedError("empty-body", "nothing was compressed")
    return inflated
