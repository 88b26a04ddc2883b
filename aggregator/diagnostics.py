"""What is wrong with the settings, shown where it stands: the line, a mark under the value, what to do.

``FILE:LINE:COLUMN: error: SETTING: what is wrong; what would be right`` is what compilers print and editors
read; the lines below show the source. Passwords are masked there too.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import orjson
from rich.console import Console
from rich.text import Text

from aggregator.errors import ConfigurationError, ConfigurationErrors
from aggregator.faults import mask_urls
from aggregator.layers import PREFIX
from aggregator.masking import MASK, masked
from aggregator.toml_place import broken, find

if TYPE_CHECKING:
    from collections.abc import Iterator

_HINT = re.compile(r"did you mean (?P<word>\S+?)\?")
#: What is wrong is the setting's name, not its value.
_NAME = ("no such setting", "no such flag", "holds for all routes", "a file cannot name", "takes no value")
#: Settings that may hold a password, in whatever shape.
_SECRET = ("broker", "sink", "seen", "results", "control_broker", "page_token")
#: And what a name looks like that was to be one of them.
_TELLS = re.compile(r"tok|pass|secret|cred")
_WIDEST = 100


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One fault with its source. Columns count from 1; ``line`` is 0 where there is no file.

    ``source``: what the user wrote, masked, None where that is not known; ``start`` and ``end`` mark
    what is wrong in it. ``suggestion``: what may have been meant.
    """

    field: str
    problem: str
    file: str = ""
    line: int = 0
    column: int = 0
    source: str | None = None
    start: int = 0
    end: int = 0
    suggestion: str = ""

    @property
    def place(self) -> str:
        """Return ``FILE:LINE:COLUMN``, empty where that is not known."""
        return f"{self.file}:{self.line}:{self.column}" if self.line else ""


def diagnose(exc: ConfigurationError | ConfigurationErrors) -> list[Diagnostic]:
    """Return each fault with the place where it was made."""
    if isinstance(exc, ConfigurationError):
        return [Diagnostic(exc.field, exc.problem)]
    text = _read(exc.file)
    return [_one(fault, exc, text) for fault in exc.faults]


def _read(file: str | None) -> str | None:
    try:
        return Path(file).read_text(encoding="utf-8") if file else None
    except (OSError, UnicodeDecodeError):
        return None


def _one(fault: ConfigurationError, exc: ConfigurationErrors, text: str | None) -> Diagnostic:
    hint = _HINT.search(fault.problem)
    found = Diagnostic(fault.field, fault.problem, suggestion=hint["word"] if hint else "")
    named = fault.problem.startswith(_NAME)
    if fault.field.startswith("--"):
        shown = _flag(fault.field, exc.argv, named=named)
    elif fault.field.upper().startswith(PREFIX):
        shown = _variable(fault.field, named=named)
    else:
        shown = None
    if exc.file and text is not None and (shown is None or " is no TOML" in fault.problem):
        try:
            return _in_file(found, exc.file, text, named=named) or found
        except Exception:  # noqa: BLE001 - where it stands is a help; what is wrong is told anyway
            return found
    if shown is None:
        return found
    source, start, end = shown
    return replace(found, source=source, start=start, end=end)


def _in_file(found: Diagnostic, file: str, text: str, *, named: bool) -> Diagnostic | None:
    if " is no TOML" in found.problem:
        span = broken(text, found.problem)
    else:
        span = find(text, found.field, name=named)
    if span is None:
        return None
    line = (text.split("\n")[span.line - 1]).rstrip("\r").replace("\t", " ")
    before, value, after = line[: span.start - 1], line[span.start - 1 : span.end - 1], line[span.end - 1 :]
    shown = value if named else _masked(found.field, value)
    if named and _holds_secret(found.field):
        after = re.sub("=.*", f"= {MASK}", after)
    source = mask_urls(before) + shown + mask_urls(after)
    start = len(mask_urls(before)) + 1
    end = start + max(1, len(shown))
    return replace(found, source=source, start=start, end=end, file=file, line=span.line, column=span.start)


def _flag(flag: str, argv: tuple[str, ...], *, named: bool) -> tuple[str, int, int] | None:
    """Return a flag as it was written, with its value, and what is wrong of it."""
    for number, word in enumerate(argv):
        name, equals, value = word.partition("=")
        if name.lower() != flag.lower():
            continue
        if not equals and number + 1 < len(argv) and not argv[number + 1].startswith("--"):
            value = argv[number + 1]
        shown = shlex.quote(_masked(flag, value)) if value else ""
        lead = f"{name}{'=' if equals else ' '}" if shown else name
        if named or not shown:
            return f"{lead}{shown}", 1, len(name) + 1
        return f"{lead}{shown}", len(lead) + 1, len(lead) + len(shown) + 1
    return None


def _variable(name: str, *, named: bool) -> tuple[str, int, int] | None:
    value = os.environ.get(name)
    if value is None:
        return None
    shown = shlex.quote(_masked(name, value))
    start, end = (1, len(name) + 1) if named else (len(name) + 2, len(name) + 2 + len(shown))
    return f"{name}={shown}", start, end


def _masked(field: str, value: str) -> str:
    if not _holds_secret(field):
        return mask_urls(value)
    return masked(value) if "://" in value else MASK


def _holds_secret(field: str) -> bool:
    last = field.lower().removeprefix(PREFIX.lower()).rpartition(".")[2].lstrip("-").replace("-", "_")
    return last in _SECRET or _TELLS.search(last) is not None


# ── shown ──


def lines(found: Diagnostic) -> Iterator[Text]:
    """Yield the lines that tell one fault; styles are spans."""
    place = f"{found.place}: " if found.place else ""
    yield Text(place, style="bold").append("error: ", "bold red").append(f"{found.field}: {found.problem}")
    if found.source is None:
        return
    source, start, end = _cropped(found)
    number = str(found.line or "").rjust(5)
    yield Text(f"{number} | ", style="dim").append(source, "not dim")
    marks = "^" + "~" * max(0, end - start - 1)
    yield Text("      | ", style="dim").append(" " * (start - 1)).append(marks, "bold red")
    if found.suggestion:
        yield Text("      | ", style="dim").append(" " * (start - 1)).append(found.suggestion, "green")


def _cropped(found: Diagnostic) -> tuple[str, int, int]:
    source = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in found.source or "")
    first = max(0, found.start - 1 - _WIDEST // 2) if len(source) > _WIDEST else 0
    lead = "…" if first else ""
    shown = lead + source[first : first + _WIDEST]
    shift = len(lead) - first
    return shown, found.start + shift, min(found.end + shift, len(shown) + 1)


def report(exc: ConfigurationError | ConfigurationErrors, stream: TextIO) -> None:
    """Print all faults: in colours on a terminal, plain in a pipe."""
    found = diagnose(exc)
    if stream.isatty():
        console = Console(file=stream, highlight=False, soft_wrap=True)
        for each in found:
            for line in lines(each):
                console.print(line)
        console.print(f"{len(found)} error{'s' * (len(found) > 1)}; nothing was started.", style="bold")
        return
    stream.writelines(f"{line.plain}\n" for each in found for line in lines(each))


def report_faults(exc: ConfigurationError | ConfigurationErrors) -> None:
    """Tell what keeps the service from its start: to stderr for people, as JSON to stdout if asked."""
    if _wants_json(exc):
        print(orjson.dumps({"ok": False, "faults": as_rows(exc), "warnings": []}).decode())  # noqa: T201
    else:
        report(exc, sys.stderr)


def _wants_json(exc: ConfigurationError | ConfigurationErrors) -> bool:
    """Look at what was written: nothing is a setting as long as something is wrong."""
    words = " ".join(getattr(exc, "argv", ())).replace("=", " ").lower()
    asked = os.environ.get(f"{PREFIX}CHECK_FORMAT", "").lower() == "json" or "--check-format json" in words
    return asked and ("--check " in f"{words} " or bool(os.environ.get(f"{PREFIX}CHECK")))


def as_rows(exc: ConfigurationError | ConfigurationErrors) -> list[dict[str, object]]:
    """Return the faults for programs."""
    return [
        {
            "field": each.field,
            "problem": each.problem,
            "file": each.file or None,
            "line": each.line or None,
            "column": each.column or None,
            "end_column": each.column + each.end - each.start if each.line else None,
            "suggestion": each.suggestion or None,
        }
        for each in diagnose(exc)
    ]
