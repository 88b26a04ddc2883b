"""What a device is told of several events: a text by type, language and number, with its right plural form.

A TOML file holds them:

    type = "/type"                     # JSON pointers into an event; these are the defaults
    language = "/language"
    devices = "/devices"               # or function:package.module:name
    default_language = "en"

    [types.letter]
    collapse_id = "letters"            # a newer notification takes the place of an older one

    [types.letter.texts.en]
    title = "Mail"
    one = "{sender} wrote you a letter"
    other = "{count} new letters"

The plural categories (``zero one two few many other``) are CLDR's for the language: those that its
whole numbers need have to be there. ``{count}`` is the number of events, written as the language
writes numbers; any other field is the last event's, shortened to 200 characters.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from string import Formatter
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from aggregator.errors import ConfigurationError, MessageRefusedError
from aggregator.importing import load_function
from aggregator.json_pointer import compile_pointer
from aggregator.units import Duration

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from babel import Locale

    #: Returns the devices of a group's user, given its key and its last event.
    Devices = Callable[[str | None, Mapping[str, Any]], Any]

Category = Literal["zero", "one", "two", "few", "many", "other"]

FIELD = "aggregate"
LONGEST_VALUE = 200
#: Beyond these whole numbers no language has a category of its own, but for one: millions in some.
_NUMBERS = (*range(201), 1_000, 1_000_000)
_STRICT = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)


class Wording(BaseModel):
    """The texts of one language: a title, and the body by plural category."""

    model_config = _STRICT

    title: str = ""
    zero: str | None = None
    one: str | None = None
    two: str | None = None
    few: str | None = None
    many: str | None = None
    other: str


class Template(BaseModel):
    """What becomes of events of one type. ``badge``: whether the number is shown on the app's icon (APNs)."""

    model_config = _STRICT

    texts: dict[str, Wording] = Field(min_length=1)
    collapse_id: str = Field("", max_length=64)
    push_type: str = "alert"
    priority: int | None = None
    topic: str = ""
    ttl: Duration | None = None
    sound: str = ""
    badge: bool = False


class _File(BaseModel):
    model_config = _STRICT

    type: str = "/type"
    language: str = "/language"
    devices: str = "/devices"
    default_language: str = "en"
    types: dict[str, Template] = Field(min_length=1)


@dataclass(frozen=True, slots=True)
class Text:
    """What a person reads."""

    title: str
    body: str


class Templates:
    """All templates of a file. Raises ``ConfigurationError`` for ``aggregate`` where something is missing."""

    def __init__(self, path: Path) -> None:
        try:
            found = _File.model_validate(tomllib.loads(path.read_text()))
        except OSError as exc:
            raise ConfigurationError(FIELD, f"{path}: {exc.strerror}") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
            raise ConfigurationError(FIELD, f"{path}: {exc}") from None
        except ValidationError as exc:
            fault = exc.errors()[0]
            where = ".".join(str(part) for part in fault["loc"])
            raise ConfigurationError(FIELD, f"{path}: {where}: {fault['msg']}") from None
        self.types: Mapping[str, Template] = found.types
        self._default = found.default_language
        self._locales: dict[str, Locale] = {}
        self._type, self._read_language = (
            _pointer(path, name, text) for name, text in (("type", found.type), ("language", found.language))
        )
        self.devices_of = _devices(path, found.devices)
        for name, template in found.types.items():
            if self._default not in template.texts:
                problem = f"types.{name}.texts.{self._default} is missing, the default language"
                raise ConfigurationError(FIELD, f"{path}: {problem}")
            for language, wording in template.texts.items():
                problem = self._fault(language, wording)
                if problem:
                    raise ConfigurationError(FIELD, f"{path}: types.{name}.texts.{language}: {problem}")

    def type_of(self, event: Mapping[str, Any]) -> str:
        """Return which template an event is for. Raises ``MessageRefusedError`` (``unknown-type``)."""
        kind = self._type(event)
        if not isinstance(kind, str) or kind not in self.types:
            raise MessageRefusedError("unknown-type", "the event's type has no template")
        return kind

    def language_of(self, event: Mapping[str, Any]) -> str | None:
        """Return the language that an event names, None where it names none."""
        language = self._read_language(event)
        return language if isinstance(language, str) else None

    def render(self, kind: str, language: str | None, count: int, event: Mapping[str, Any]) -> Text:
        """Return the text for so many events, of which ``event`` is the last.

        A language that is not there is looked for without its region, and then the default takes its place.
        Raises ``MessageRefusedError`` (``bad-value``) for a field that the event lacks.
        """
        template = self.types[kind]
        chosen = self._language(template, language)
        wording, locale = template.texts[chosen], self._locales[chosen]
        from babel.numbers import format_decimal  # noqa: PLC0415 - with the first text that needs it

        values = _Values(event, format_decimal(count, locale=locale))
        body = getattr(wording, locale.plural_form(count)) or wording.other
        return Text(wording.title.format_map(values), body.format_map(values))

    def _language(self, template: Template, asked: str | None) -> str:
        if asked:
            name = asked.replace("_", "-")
            for candidate in (asked, name, name.partition("-")[0]):
                if candidate in template.texts:
                    return candidate
        return self._default

    def _fault(self, language: str, wording: Wording) -> str:
        """Return what is wrong with the texts of a language; empty if nothing is."""
        from babel import Locale, UnknownLocaleError  # noqa: PLC0415

        try:
            locale = Locale.parse(language, sep="-")
        except (UnknownLocaleError, ValueError):
            return "no language of CLDR; a tag like en or pt-BR is needed"
        self._locales[language] = locale
        needed = {locale.plural_form(number) for number in _NUMBERS}
        missing = sorted(category for category in needed if getattr(wording, category) is None)
        if missing:
            return f"the language needs a text for {', '.join(missing)}"
        for name, text in wording:
            if text and (problem := _format_fault(text)):
                return f"{name}: {problem}"
        return ""


class _Values(dict[str, str]):
    """The fields of a text: looked up in an event when they are needed."""

    def __init__(self, event: Mapping[str, Any], count: str) -> None:
        super().__init__(count=count)
        self._event = event

    def __missing__(self, name: str) -> str:
        value = self._event.get(name)
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise MessageRefusedError("bad-value", f"its text needs the field {name}, a string or a number")
        text = str(value)
        return text if len(text) <= LONGEST_VALUE else text[: LONGEST_VALUE - 1] + "…"


def _pointer(path: Path, name: str, text: str) -> Callable[[Any], Any]:
    if not text.startswith("/"):
        problem = f"{name}: {text!r} is no JSON pointer; one like /user/{name} is needed"
        raise ConfigurationError(FIELD, f"{path}: {problem}")
    return compile_pointer(text)


def _devices(path: Path, text: str) -> Devices:
    kind, _, named = text.partition(":")
    module, _, name = named.partition(":")
    if kind == "function" and module and name:
        function: Devices = load_function(
            module, name, field=FIELD, takes="a key and an event", example=("", {})
        )
        return function
    look = _pointer(path, "devices", text)
    return lambda _, event: look(event)


def _format_fault(text: str) -> str:
    try:
        fields = list(Formatter().parse(text))
    except ValueError as exc:
        return f"{exc}; a brace is written twice"
    for _, name, spec, conversion in fields:
        # what leads into objects has no place in a text
        if name is not None and (not name.isidentifier() or spec or conversion):
            return f"{{{name}}} is no field; a plain name is needed"
    return ""
