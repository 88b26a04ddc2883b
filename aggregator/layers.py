"""Where settings come from: flags beat the environment, it beats the file, that beats defaults.

Each source is read by the library; here they are laid over one another for each route, and each
value keeps the name that the user wrote.
"""

from __future__ import annotations

import difflib
import os
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from aggregator.commandline import parse_flags
from aggregator.errors import ConfigurationError
from aggregator.importing import load_object
from aggregator.masking import masked
from aggregator.options import ProcessOptions, RouteOptions, RunOptions

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from aggregator.processes.child import Child
    from aggregator.settings import Settings

PREFIX = "AGGREGATOR_"
TABLES = ("exchanges", "queues", "route-map", "periodic")
"""Tables of a file beside its routes."""

_ROUTE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
# what Kubernetes sets for a Service that is called aggregator
_KUBERNETES = re.compile(rf"{PREFIX}(?:SERVICE_(?:HOST|PORT.*)|PORT(?:_\d+_.*)?)")


class Everything(ProcessOptions, RouteOptions, RunOptions, BaseSettings):
    """All options in one, as flags and environment have them."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, cli_kebab_case=True, cli_implicit_flags="toggle", cli_avoid_json=True
    )


@runtime_checkable
class Application(Protocol):
    """What may stand in the place of a file: the same values by the same names, given by code."""

    @property
    def environment(self) -> bool:
        """Whether variables are read at all."""

    @property
    def process(self) -> Mapping[str, Any]:
        """The file's top: what holds for the process, or for all routes."""

    @property
    def tables(self) -> Mapping[str, Mapping[str, Any]]:
        """The file's routes, by name."""

    @property
    def periodic_tables(self) -> Mapping[str, Mapping[str, Any]]:
        """What the file has in ``[periodic.NAME]``."""

    @property
    def entities(self) -> Mapping[str, Any]:
        """Queues that are to be declared, by route."""

    def serve(self, settings: Settings, *, console: bool = False, child: Child | None = None) -> int:
        """Run what its settings have become; ``console``: it may show a summary, and tell the totals."""


@dataclass(frozen=True, slots=True)
class Layer:
    """Values from one place; ``pattern`` turns an option's name into what the user wrote."""

    values: Mapping[str, Any] = field(repr=False)  # passwords among them
    pattern: str

    def written(self, name: str) -> str:
        """Return how the user wrote ``name`` here."""
        if self.pattern.startswith("--"):
            name = name.replace("_", "-")
        elif self.pattern.startswith(PREFIX):
            name = name.upper()
        return self.pattern.format(name)


@dataclass(frozen=True, slots=True)
class Layers:
    """All that the user gave. ``routes``: the file's tables by name, empty if there are none.

    ``tables``: its exchanges, queues, route map and periodic messages, as they are written. ``file`` and
    ``argv``: where it was read from.
    """

    flags: Layer
    environment: Layer
    top: Layer
    routes: Mapping[str, Layer]
    tables: Mapping[str, Any] = field(default_factory=dict)
    faults: list[ConfigurationError] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    application: Application | None = None
    file: str | None = None
    argv: Sequence[str] = field(default=(), repr=False)  # passwords among them

    def above(self, route: str | None) -> tuple[Layer, ...]:
        """Return the layers that hold for ``route`` (None: for the process), the strongest first."""
        own = (self.routes[route],) if route is not None and route in self.routes else ()
        return (self.flags, self.environment, *own, self.top)

    def values(self, route: str | None, names: Iterable[str]) -> dict[str, Any]:
        """Return what is set of ``names`` for ``route``."""
        layers = self.above(route)
        return {
            name: next(layer.values[name] for layer in layers if name in layer.values)
            for name in names
            if any(name in layer.values for layer in layers)
        }

    def label(self, route: str | None, name: str) -> str:
        """Return the option's name as the user wrote it where its value comes from."""
        for layer in self.above(route):
            if name in layer.values:
                return layer.written(name)
        return self.routes[route].written(name) if route is not None and route in self.routes else name


def read(argv: Sequence[str], application: Application | None = None) -> Layers:
    """Read flags, environment, and file or application. What is wrong with them stands in ``faults``.

    Raises ``SystemExit`` (0) after ``--help``.
    """
    faults: list[ConfigurationError] = []
    given = parse_flags(Everything, argv, faults)
    notes: list[str] = []
    # an empty variable is what compose files and shells make of one that is not set
    environment: dict[str, Any] = {}
    if application is None or application.environment:
        environment = _environment(faults)
        faults += _unknown_variables(notes)
    notes += _shown_passwords(given)
    flags, variables = Layer(given, "--{}"), Layer(environment, PREFIX + "{}")
    data: dict[str, Any] = {}
    source = next((layer for layer in (flags, variables) if "config" in layer.values), None)
    named = next((layer for layer in (flags, variables) if "app" in layer.values), None)
    if application is None and named is not None:
        try:
            application = load_application(str(named.values["app"]), named.written("app"))
        except ConfigurationError as exc:
            faults.append(exc)
    if source is not None and (application is not None or named is not None):
        problem = "an application takes the place of a file; remove one of them"
        faults.append(ConfigurationError(source.written("config"), problem))
    elif source is not None:
        data = _read_file(source.values["config"], source.written("config"), faults)
    if application is not None:
        data = {**application.process, "routes": application.tables}
        data |= {"periodic": application.periodic_tables} if application.periodic_tables else {}
    tables = data.pop("routes", {})
    others = {_spelt(name): data.pop(name) for name in [*data] if _spelt(name) in TABLES}
    faults += _unknown_keys(
        data, {*ProcessOptions.model_fields, *RouteOptions.model_fields, "check", "until_empty"}, ""
    )
    routes = dict(_routes(tables, faults))
    if application is not None and not tables:
        faults.append(ConfigurationError("routes", "the application has none; app.route(…) makes one"))
    file = str(source.values["config"]) if source is not None else None
    top = Layer(data, "{}")
    layers = Layers(flags, variables, top, routes, others, faults, notes, application, file, argv)
    faults += _ambiguous(layers)
    return layers


def _spelt(name: str) -> str:
    return "route-map" if name == "route_map" else name


def _shown_passwords(given: Mapping[str, Any]) -> Iterator[str]:
    """Notice what every user of the machine can read in the list of its processes."""
    for name in ("broker", "sink"):
        url = str(given.get(name, "")).replace(":guest@", "@")  # everybody's password is none
        if masked(url) != url:
            yield (
                f"--{name}: a password on the command line can be read in the list of processes;"
                f" {PREFIX}{name.upper()} or a file keeps it"
            )
    if "page_token" in given:
        yield f"--page-token: it can be read in the list of processes; {PREFIX}PAGE_TOKEN or a file keeps it"


def _environment(faults: list[ConfigurationError]) -> dict[str, Any]:
    try:
        return EnvSettingsSource(Everything, env_ignore_empty=True)()
    except SettingsError:  # only a table is parsed as early as that
        faults.append(ConfigurationError(f"{PREFIX}MERGE", 'JSON is needed, like {"total": "sum"}'))
        return {}


def load_application(reference: str, field: str) -> Application:
    """Return the application that ``package.module:name`` names; ``app`` is the default of the name.

    Raises ``ConfigurationError`` for ``field``.
    """
    module, _, name = reference.partition(":")
    found = load_object(module, name or "app", field)
    if not isinstance(found, Application):
        kind = type(found).__qualname__
        raise ConfigurationError(field, f"{reference} is a {kind}; an aggregator.Aggregator is needed")
    return found


def nearest(word: str, known: Iterable[str]) -> str:
    """Return ``; did you mean …?`` if one of ``known`` is like ``word``."""
    found = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {found[0]}?" if found else ""


def _read_file(path: str | Path, label: str, faults: list[ConfigurationError]) -> dict[str, Any]:
    def fault(problem: str) -> dict[str, Any]:
        faults.append(ConfigurationError(label, problem))
        return {}

    try:
        # the library reads over a file that is not there
        with open(path, "rb"):  # noqa: PTH123 - str or Path
            return dict(TomlConfigSettingsSource(Everything, toml_file=path).toml_data)
    except FileNotFoundError:
        return fault(f"no file at {str(path)!r}; the path of a TOML file is needed")
    except OSError as exc:
        return fault(f"{str(path)!r} cannot be read: {exc.strerror}")
    except UnicodeDecodeError as exc:
        return fault(f"{str(path)!r} is not UTF-8 at byte {exc.start}; TOML is always UTF-8")
    except ValueError as exc:  # tomllib.TOMLDecodeError
        return fault(f"{str(path)!r} is no TOML: {exc}")


def _unknown_keys(data: Mapping[str, Any], known: set[str], where: str) -> Iterator[ConfigurationError]:
    for key in data:
        if key in known:
            continue
        if key == "config":
            yield ConfigurationError(where + key, "a file cannot name another file; remove it")
        elif where and key in ProcessOptions.model_fields:
            yield ConfigurationError(where + key, "holds for all routes; move it above the first table")
        else:
            hint = nearest(key.replace("-", "_"), known | (set() if where else {"routes", *TABLES}))
            yield ConfigurationError(where + key, f"no such setting{hint}")


def _routes(tables: Any, faults: list[ConfigurationError]) -> Iterator[tuple[str, Layer]]:
    if not isinstance(tables, dict):
        faults.append(ConfigurationError("routes", "a table for each route is needed: [routes.NAME]"))
        return
    for name, table in tables.items():
        where = f"routes.{name}."
        if not _ROUTE_NAME.fullmatch(name):
            problem = "letters, digits, - _ and . are allowed in a route's name, 64 at most"
            faults.append(ConfigurationError(f"routes.{name}", problem))
        elif not isinstance(table, dict):
            faults.append(ConfigurationError(f"routes.{name}", f"a table is needed: [routes.{name}]"))
        else:
            faults += _unknown_keys(table, set(RouteOptions.model_fields), where)
            yield name, Layer(table, where.replace("{", "{{") + "{}")


def _ambiguous(layers: Layers) -> Iterator[ConfigurationError]:
    several = len(layers.routes) > 1
    problem = f"there are {len(layers.routes)} routes, set it in each [routes.NAME]"
    if layers.application is not None:
        problem = "the application says it for each of its routes; remove it here"
    for layer in (layers.flags, layers.environment):
        for name in ("queue", "sink"):
            if name in layer.values and (several or (layers.application and name == "queue")):
                yield ConfigurationError(layer.written(name), problem)


def _unknown_variables(notes: list[str]) -> Iterator[ConfigurationError]:
    known = {PREFIX + name.upper() for name in Everything.model_fields}
    for name in sorted(os.environ):
        if not name.upper().startswith(PREFIX) or name.upper() in known or _KUBERNETES.fullmatch(name):
            continue
        if difflib.get_close_matches(
            name.upper()[len(PREFIX) :], [key[len(PREFIX) :] for key in known], cutoff=0.8
        ):
            yield ConfigurationError(name, f"no such setting{nearest(name.upper(), known)}")
        else:
            notes.append(f"{name}: no setting of this name; it has no effect")
