"""Flags: the library's parser over the options, with groups, units, and errors that help."""

from __future__ import annotations

import re
from argparse import SUPPRESS, ArgumentParser, HelpFormatter
from difflib import get_close_matches
from textwrap import wrap
from typing import TYPE_CHECKING, Any, NoReturn

from pydantic_settings import CliSettingsSource, SettingsError

from aggregator.errors import ConfigurationError
from aggregator.masking import masked
from aggregator.options import GROUPS
from aggregator.version import add_version

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pydantic.fields import FieldInfo
    from pydantic_settings import BaseSettings

TABLE_HELP = 'a rule for each field is needed: --merge total=sum --merge "*=last", or {"total": "sum"}'
PROGRAM = "python -m aggregator.consume"
_ARGUMENT = re.compile(r"argument (?P<flag>--[\w-]+): (?P<problem>.*)", re.DOTALL)
EPILOG = """\
DURATION: 500ms, 2s, 5m, 1h30m. SIZE: 512KiB, 10MB, 1048576. "none" unsets what has a default.
Each flag is also a variable (AGGREGATOR_MAX_HELD) and a key of the file (max_held); flags beat
variables, those beat the file. In the file, [routes.NAME] holds what differs for one route."""


class _WrongFlagError(Exception):
    """The parser's word on the command line."""


class _Parser(ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise _WrongFlagError(message)


class _Formatter(HelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32, width=108)

    def _split_lines(self, text: str, width: int) -> list[str]:
        return wrap(text, width, break_on_hyphens=False, break_long_words=False)  # URLs stay whole

    def _fill_text(self, text: str, width: int, indent: str) -> str:  # noqa: ARG002 - argparse's hook
        return text


def default_text(info: FieldInfo) -> str:
    """Return an option's default as a user would write it."""
    extra = info.json_schema_extra if isinstance(info.json_schema_extra, dict) else {}
    if info.default is None:
        return str(extra.get("unset") or "none")
    return "off" if info.default is False else str(info.default)


def metavar(info: FieldInfo) -> str:
    """Return what an option's value looks like: ``DURATION``; empty for a choice or a switch."""
    extra = info.json_schema_extra if isinstance(info.json_schema_extra, dict) else {}
    return str(extra.get("metavar") or "")


def parse_flags(
    settings: type[BaseSettings], argv: Sequence[str], faults: list[ConfigurationError]
) -> dict[str, Any]:
    """Return the values that ``argv`` sets, by option; what it does wrong is added to ``faults``.

    Raises ``SystemExit`` (0) after ``--help`` and ``--version``.
    """
    if not argv:
        return {}
    parser = _Parser(
        prog=PROGRAM,
        usage="%(prog)s [--broker URL] [--queue NAME] [--sink URL] [--config FILE] ...",
        description="Takes single messages off a queue and writes them in bulk; acks only what was written.",
        epilog=EPILOG,
        formatter_class=_Formatter,
        allow_abbrev=False,
        add_help=False,
    )
    groups = _groups(parser)

    def add(_parser: ArgumentParser, *names: str, **kwargs: Any) -> None:
        info = settings.model_fields[kwargs["dest"]]
        if kwargs.get("action") is None:
            kwargs["metavar"] = metavar(info) or kwargs["metavar"]
        kwargs["help"] = f"{info.description} [{default_text(info)}]".replace("%", "%%")
        groups[kwargs["dest"]].add_argument(*names, **kwargs)

    def parse(parser: ArgumentParser, args: Sequence[str]) -> Any:
        namespace, rest = parser.parse_known_args(args)
        faults.extend(_unknown(rest, settings))
        return namespace

    source = CliSettingsSource[Any](
        settings,
        cli_parse_none_str="\0",  # which words mean nothing is said by the options, not by the parser
        root_parser=parser,
        parse_args_method=parse,
        add_argument_method=add,
    )
    try:
        return source(args=list(argv))()
    except _WrongFlagError as exc:
        fault = _wrong(str(exc), settings)
        faults.append(fault)
        # all faults at once: what is right besides is read without it
        left = [word for word in argv if word.partition("=")[0] != fault.field]
        return parse_flags(settings, left, faults) if len(left) < len(argv) else {}
    except SettingsError:
        # of what is given as name=value; the library does not say which part of it is wrong
        faults.append(ConfigurationError("--merge", TABLE_HELP))
    return {}


def _groups(parser: ArgumentParser) -> dict[str, Any]:
    groups: dict[str, Any] = {}
    for model in GROUPS:
        group = parser.add_argument_group(model.__doc__)
        if not groups:
            group.add_argument("-h", "--help", action="help", default=SUPPRESS, help="show this and exit")
            add_version(group)
        groups.update(dict.fromkeys(model.model_fields, group))
    return groups


def _wrong(message: str, settings: type[BaseSettings]) -> ConfigurationError:
    found = _ARGUMENT.match(message)
    if not found:
        return ConfigurationError("command line", message)
    flag = found["flag"]
    if found["problem"].startswith("ignored explicit argument"):
        return ConfigurationError(flag, f"takes no value; {flag} alone switches it on")
    looks = metavar(settings.model_fields[flag[2:].replace("-", "_")])
    return ConfigurationError(flag, f"a value is needed: {flag} {looks or 'VALUE'}")


def _unknown(rest: Sequence[str], settings: type[BaseSettings]) -> list[ConfigurationError]:
    known = [f"--{name.replace('_', '-')}" for name in settings.model_fields] + ["--help", "--version"]
    faults = []
    after_flag = False
    for word in rest:
        flag = word.partition("=")[0]
        if word.startswith("-"):
            near = get_close_matches(flag.lower(), known, n=1)
            hint = f"; did you mean {near[0]}?" if near else "; --help lists all"
            faults.append(ConfigurationError(flag, f"no such flag{hint}"))
        elif not after_flag:  # else it is the value of the unknown flag
            problem = f"{masked(word)!r} stands alone; every setting has its flag, --help lists them"
            faults.append(ConfigurationError("command line", problem))
        after_flag = word.startswith("-") and "=" not in word
    return faults
