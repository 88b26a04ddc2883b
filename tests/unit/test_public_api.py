"""The public API: its names, signatures and types, so that no change goes unnoticed."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, get_args, get_origin

import pytest

import aggregator
from aggregator.commandline import metavar
from aggregator.keywords import OwnRouteKeywords, PeriodicKeywords, ProcessKeywords, RouteKeywords
from aggregator.options import Grouping, ProcessOptions, RouteOptions
from aggregator.periodic import Periodic

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

ROOT = Path(__file__).parents[2]

SIGNATURES = """
age(duration: Seconds | None, *, closes: bool = False) -> Completion
constant(text: str) -> Key
crontab(expression: str | None, time_zone: str | None = None, *, closes: bool = False) -> Completion
deadline_share(share: float | None) -> Completion
function(call: Source) -> Key
header(name: str) -> Key
idle(duration: Seconds | None, *, closes: bool = False) -> Completion
interval(every: Seconds | None, *, closes: bool = False) -> Completion
max_bytes(limit: Bytes | None) -> Completion
pointer(path: str) -> Key
predicate(function: str | Callable[[Sequence[Delivery], Delivery], bool] | None, *, early: bool = False) \
-> Completion
property_(name: str) -> Key
sentinel(match: Key | Source, value: str | None = None, *, count: str | None = None, \
grace: Seconds | None = None) -> Completion
sequence(count: Key | Source | None) -> Completion
size(count: int | None) -> Completion
Aggregator.__init__(self, broker: str | None = None, *, environment: bool = True, \
**options: Unpack[ProcessKeywords]) -> None
Aggregator.route(self, queue: Queue | str, *, name: str | None = None, \
correlate: Key | Source | None = None, \
complete: Completion | None = None, sink: str | Sink | WriteFunction | None = None, \
**options: Unpack[OwnRouteKeywords]) -> None
Aggregator.batch(self, queue: Queue | str, *, name: str | None = None, \
correlate: Key | Source | None = None, \
complete: Completion | None = None, **options: Unpack[OwnRouteKeywords]) \
-> Callable[[BatchFunction], BatchFunction]
Aggregator.periodic(self, name: str, **options: Unpack[PeriodicKeywords]) -> None
Aggregator.settings(self) -> Settings
Aggregator.routes(self) -> Mapping[str, Route]
Aggregator.run(self, *, until_empty: bool = False) -> int
Aggregator.serve(self, settings: Settings, *, console: bool = False, child: Child | None = None) -> int
Aggregator.stop(self) -> None
Aggregator.force(self, route: str | None = None, *keys: str | tuple[str, ...] | None) -> int
"""
VALUES = {"routing_key": "Key", "exchange": "Key"}
CLASSES = {
    "Aggregator", "BulkRequest", "Completion", "ConfigurationError", "ConfigurationErrors", "Delivery", "Key",
    "MessageRefusedError", "Route", "Settings", "Sink",
}  # fmt: skip
#: Said by the values of ``complete``, or by arguments of their own.
ARGUMENTS = {"queue", "correlate", "sink"}
CONDITIONS = {
    "size", "bytes", "age", "idle", "interval", "crontab", "deadline_share", "predicate",
    "predicate_early", "sequence", "close_on", "sentinel", "sentinel_count", "sentinel_grace",
}  # fmt: skip


def signatures():
    found = {name: getattr(aggregator, name) for name in aggregator.__all__}
    found = {name: value for name, value in found.items() if inspect.isfunction(value)}
    for name, value in vars(aggregator.Aggregator).items():
        if name == "__init__" or not name.startswith("_"):
            found[f"Aggregator.{name}"] = value.fget if isinstance(value, property) else value
    return [f"{name}{inspect.signature(value)}".replace("'", "") for name, value in found.items()]


def test_the_signatures():
    assert signatures() == SIGNATURES.strip().splitlines()


def test_the_names():
    told = {line.partition("(")[0] for line in SIGNATURES.strip().splitlines() if not line.startswith("Agg")}
    assert set(aggregator.__all__) == told | CLASSES | set(VALUES)
    assert all(isinstance(getattr(aggregator, name), type) for name in CLASSES)
    assert {name: type(getattr(aggregator, name)).__name__ for name in VALUES} == VALUES
    assert set(aggregator.__all__) <= set(dir(aggregator))
    with pytest.raises(AttributeError, match="no attribute 'Agregator'"):
        _ = aggregator.Agregator


def test_values_are_frozen_and_comparable():
    made = aggregator.size(1) | aggregator.age(2, closes=True)
    assert made == aggregator.size(1) | aggregator.age(2, closes=True)
    assert made != aggregator.size(1) | aggregator.age(2)
    assert {made, made} == {made}
    assert aggregator.header("a") + aggregator.routing_key == aggregator.Key(("header:a", "routing_key"))
    with pytest.raises(AttributeError):
        made.said = ()
    with pytest.raises(AttributeError):
        aggregator.routing_key.parts = ()


def test_importing_it_costs_nothing():
    code = (
        "import aggregator, sys; print(sorted({m.partition('.')[0] for m in sys.modules} & {*sys.argv[1:]}))"
    )
    heavy = ["kombu", "pydantic", "structlog", "orjson", "prometheus_client"]
    done = subprocess.run([sys.executable, "-c", code, *heavy], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_describing_routes_needs_no_broker():
    code = (
        "import sys; from aggregator import Aggregator; a = Aggregator('amqp://h'); a.route('q');"
        " a.settings(); print('kombu' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_the_types_are_shipped():
    assert all((ROOT / package / "py.typed").is_file() for package in ("aggregator", "consumers"))


# ── keywords are the options ──


def test_every_option_has_its_keyword_or_its_value():
    route, process = set(RouteOptions.model_fields), set(ProcessOptions.model_fields)
    assert set(RouteKeywords.__annotations__) == route - ARGUMENTS - CONDITIONS - {"broker"}
    assert set(OwnRouteKeywords.__annotations__) == set(RouteKeywords.__annotations__) | {"broker"}
    assert set(ProcessKeywords.__annotations__) == set(RouteKeywords.__annotations__) | process
    assert set(Grouping.model_fields) >= CONDITIONS
    assert set(PeriodicKeywords.__annotations__) == set(Periodic.model_fields) - {"name"}


@pytest.mark.parametrize("name", sorted(ProcessKeywords.__annotations__))
def test_a_keyword_has_the_type_of_its_option(name):
    written = ProcessKeywords.__annotations__[name].__forward_arg__
    field = {**RouteOptions.model_fields, **ProcessOptions.model_fields}[name]
    assert written.endswith(" | None") == takes_none(field), written
    assert written.removesuffix(" | None") == said(name, field)


def takes_none(field: FieldInfo) -> bool:
    return type(None) in get_args(field.annotation)


def said(name: str, field: FieldInfo) -> str:
    """Return the type that code writes for an option."""
    kind = next(one for one in get_args(field.annotation) or (field.annotation,) if one is not type(None))
    while get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    if get_origin(field.annotation) is Literal:
        return str(field.annotation).replace("typing.", "")
    special = {
        "id": "Key | Source",
        "page_hosts": "str | Sequence[str]",
        "page_token": "str",
        "expires": "Key | Source",
        "quiet": "str | Sequence[str]",
        "retry": "str | Sequence[str]",
        "retry_reasons": "str | Sequence[str]",
        "aggregate": "str | AggregateFunction",
        "merge": "Mapping[str, str]",
        "broker_ca": "str | Path",
        "seen": "str",
        "results": "str",
        "control_broker": "str",
    }
    looks = {"DURATION": "Seconds", "SIZE": "Bytes", "N": "int", "PORT": "int", "SHARE": "float"}
    return special.get(name) or looks.get(metavar(field)) or getattr(kind, "__name__", "str")
