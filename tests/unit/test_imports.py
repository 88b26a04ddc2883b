"""Which module may know which: read from the imports themselves."""

from __future__ import annotations

import ast
import functools
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from aggregator.importing import absent

ROOT = Path(__file__).parents[2]
#: Each line may import what stands above it, and nothing beside or below it.
DIRECTION = """
    ending signals topic defaults keywords masking partitioning private timekeeping units urls
    toml_place doctor.finding version
    errors clock backoff breaker concurrency ledger metrics standing ports sinks.base closed history
    push json_pointer summary_figures doctor.running doctor.network doctor.machine
    importing schedule redis_transport retrying faults
    summary_board doctor.showing doctor.files doctor.search
    completion quiet_hours doctor.stores doctor.sinks logs
    delivery correlation content gate request group
    isolation seen results keeper screening revocation expiry
    documents buffer outbox
    settlement merging made push_message templates celery_message
    reading intake pushing
    push_events celery_intake
    aggregation
    making flush entrance
    look
    pipeline
    own keys conditions entities route_map
    option_types
    options
    commandline topology
    redis_rules periodic
    settings reference
    layers rules topology_plan
    topology_reading topology_rules diagnostics
    config
    topology_check
    assembly check
    retuning reporting summary
    commands page.waiting page.markup page.counts page.reasons page.access
    page.view page.pieces
    page.joined page.stages page.tables page.refusals
    page.html
    page.site
    serving
    application __main__
"""
RANK = {
    f"aggregator.{name}": rank for rank, line in enumerate(DIRECTION.split("\n")) for name in line.split()
}
#: What the core may use beside the standard library.
ALLOWED = {"aggregator", "cronsim", "durationpy", "orjson", "prometheus_client", "pydantic",
           "pydantic_settings", "rich", "stamina", "structlog", "tomlkit"}  # fmt: skip
PUSHING = {"aioapns", "certifi", "cryptography", "google", "h2", "jwt", "pycurl", "requests"}
#: What single rooms of it may use beside.
CLIENTS = {
    "aggregator.sinks.elasticsearch": {"elasticsearch", "elastic_transport"},
    "aggregator.sinks.opensearch": {"opensearchpy"},
    "aggregator.sinks.webhook": {"requests"},
    # the project's own publisher is the client of an exchange
    "aggregator.sinks.exchange": {"consumers"},
    "aggregator.testing.gateways": {"cryptography", "h11", "h2", "hpack", "hyperframe", "jwt"},
    "aggregator.sinks.apns": PUSHING,
    "aggregator.sinks.fcm": PUSHING,
    "aggregator.sinks.push": PUSHING,
    "aggregator.stores": {"rbloom", "redis"},
}
#: The core, but for the programs that put all together.
PROGRAMS = {ROOT / "aggregator" / name for name in ("consume.py", "control.py", "doctor/__main__.py")}
CORE = [path for path in sorted(ROOT.glob("aggregator/**/*.py")) if path not in PROGRAMS]


def name_of(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@functools.cache
def imports(path, *, lazy):
    """Return the modules that a file imports; the lazy ones too if asked, those for types alone never."""
    return tuple(_imports(path, lazy=lazy))


def _imports(path, *, lazy):
    todo = [ast.parse(path.read_text())]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not lazy:
            continue
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path.name}: relative imports hide where they lead"
            yield from ([f"{node.module}.{alias.name}" for alias in node.names] + [node.module])
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        todo += ast.iter_child_nodes(node)


def test_every_module_has_its_place():
    modules = {name_of(path) for path in CORE if path.parent.name == "aggregator"} - {"aggregator"}
    assert modules <= set(RANK), modules - set(RANK)


@pytest.mark.parametrize("path", [p for p in CORE if name_of(p) in RANK], ids=name_of)
def test_the_directions(path):
    mine = RANK[name_of(path)]
    wrong = [name for name in imports(path, lazy=True) if RANK.get(name, -1) >= mine]
    assert not wrong, f"{name_of(path)} must not know {wrong}"


@pytest.mark.parametrize("path", CORE, ids=name_of)
def test_the_core_knows_no_broker_and_no_service(path):
    module = name_of(path)
    # a sink knows its own client, and nobody imports a client before the sink is asked for
    own = next((clients for room, clients in CLIENTS.items() if module.startswith(room)), set())
    used = {name.partition(".")[0] for name in imports(path, lazy=True)} - sys.stdlib_module_names
    # texts for people need to know their language
    own |= {"babel"} if module == "aggregator.templates" else set()
    assert used <= ALLOWED | own, used - ALLOWED
    at_once = {name.partition(".")[0] for name in imports(path, lazy=False)}
    assert module.endswith("_client") or module.startswith("aggregator.testing.") or not at_once & own


@pytest.mark.parametrize("path", sorted(ROOT.glob("aggregator/sinks/*.py")), ids=name_of)
def test_a_sink_knows_no_route(path):
    inner = ("buffer", "ledger", "outbox", "flush", "settlement", "intake", "pipeline")
    assert not {f"aggregator.{name}" for name in inner} & set(imports(path, lazy=True))


@pytest.mark.parametrize("path", sorted(ROOT.glob("consumers/**/*.py")), ids=name_of)
def test_consumers_know_the_core_and_no_sink(path):
    known = [name for name in imports(path, lazy=True) if name.startswith(("aggregator.sinks", "producers"))]
    assert not known
    assert "aggregator.consume" not in imports(path, lazy=True)


@pytest.mark.parametrize(
    "path", [*sorted(ROOT.glob("consumers/tube*.py")), ROOT / "consumers/source.py"], ids=name_of
)
def test_tubes_know_no_kombu(path):
    assert not {name for name in imports(path, lazy=True) if name.split(".")[0] in {"kombu", "amqp"}}
    inner = ("worker", "connecting", "inspector", "link", "delivery", "publisher", "dead_letters")
    assert not {f"consumers.{name}" for name in inner} & set(imports(path, lazy=True))


@pytest.mark.parametrize(
    "path",
    [
        path
        for room in ("aggregator", "consumers", "producers")
        for path in sorted(ROOT.glob(f"{room}/**/*.py"))
    ],
    ids=name_of,
)
def test_only_the_harness_knows_the_harness(path):
    known = {name for name in imports(path, lazy=True) if name.startswith("aggregator.testing")}
    assert not known or name_of(path).startswith("aggregator.testing")


@pytest.mark.parametrize("module", ["aggregator.consume", "aggregator.processes.child"])
def test_the_service_starts_without_what_it_may_never_need(module):
    """Each of these takes as long to import as a part of the service itself."""
    program = (
        f"import {module}, aggregator.consume, sys; print(*{{n.partition('.')[0] for n in sys.modules}})"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, cwd=ROOT
    )
    late = {"babel", "elasticsearch", "pygments", "redis", "requests", "rich", "tarantool"}
    assert late & set(done.stdout.split()) == set()


def test_a_library_is_absent_for_a_while():
    sys.modules.pop("graphlib", None)
    with absent("graphlib"), pytest.raises(ImportError):
        importlib.import_module("graphlib")
    assert importlib.import_module("graphlib")
    with absent("graphlib"):
        assert importlib.import_module("graphlib")


def test_every_name_of_the_direction_is_there():
    assert set(RANK) <= {name_of(path) for path in CORE}
