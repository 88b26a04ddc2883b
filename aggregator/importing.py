"""What is imported by name: the user's own functions, ``package.module:name``, found, and looked at.

What cannot work is told at the start: a module that does not import, a name that is not there, what
is no function, or one that does not take what it will be called with.
"""

from __future__ import annotations

import inspect
import sys
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aggregator.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_NUMBERS = ("no argument", "one argument", "two arguments", "three arguments")
_LAZY = (inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction)


def load_function(module: str, name: str, *, field: str, takes: str, example: Sequence[Any]) -> Any:
    """Import ``module`` and return its function ``name`` (dots lead into classes and objects).

    ``example`` holds arguments like those of a real call, which the signature is tried with; nothing
    is called. ``takes`` says in words what they are. Raises ``ConfigurationError`` for ``field``.
    """
    found = load_object(module, name, field)
    check_function(found, f"{module}:{name}", field=field, takes=takes, example=example)
    return found


def name_of(function: Any) -> str:
    """Return ``module:name`` for a function or whatever else can be called."""
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}:{named.__qualname__}"


def load_object(module: str, name: str, field: str) -> Any:
    """Import ``module`` as ``python -m`` would, the working folder first; return its attribute ``name``.

    Raises ``ConfigurationError`` for ``field``.
    """
    folder = str(Path.cwd())
    if not sys.flags.safe_path and not {"", folder} & set(sys.path):
        sys.path.insert(0, folder)
    try:
        found: Any = import_module(module)
    except (Exception, SystemExit) as exc:
        raise ConfigurationError(field, f"{module} cannot be imported: {_line(exc)}") from exc
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise ConfigurationError(field, f"{module} has no {name}") from None
    return found


def check_function(function: Any, name: str, *, field: str, takes: str, example: Sequence[Any]) -> None:
    """Refuse what cannot be called with ``example``; ``takes`` says in words what that is.

    Raises ``ConfigurationError`` for ``field``.
    """
    needed = f"a function of {_NUMBERS[len(example)]} is needed"
    if inspect.isclass(function) or not callable(function):
        kind = "a class" if inspect.isclass(function) else type(function).__qualname__
        raise ConfigurationError(field, f"{name} is {kind}; {needed}")
    # a partial is looked through by inspect itself, another object is not
    if any(lazy(call) for call in (function, function.__call__) for lazy in _LAZY):
        raise ConfigurationError(field, f"{name} would not run when called; a plain function is needed")
    try:
        signature = inspect.signature(function)
    except ValueError:
        return  # written in C; the first call will show
    try:
        signature.bind(*example)
    except TypeError as exc:
        raise ConfigurationError(field, f"{name} must take {takes}: {exc}") from None


@contextmanager
def absent(name: str) -> Iterator[None]:
    """Have a library not be found by what is imported meanwhile, and would take it if it could."""
    if name in sys.modules:
        yield  # whoever has imported it has paid for it
        return
    sys.modules[name] = None  # type: ignore[assignment]  # as the import system's own documentation has it
    try:
        yield
    finally:
        del sys.modules[name]


def _line(exc: BaseException) -> str:
    return f"{type(exc).__qualname__}: {' '.join(str(exc).split())[:200]}"
